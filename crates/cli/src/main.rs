//! killick: pods for people.
#![forbid(unsafe_code)]

fn main() {}
