//! A pod's network: the built-in bridge.
#![forbid(unsafe_code)]
