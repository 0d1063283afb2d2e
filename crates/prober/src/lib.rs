//! One probe, once, in a given place, before a deadline.
#![forbid(unsafe_code)]
