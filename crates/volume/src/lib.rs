//! A pod's volumes on disk.
#![forbid(unsafe_code)]
