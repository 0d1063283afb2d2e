//! Images: import, unpack, tags, garbage.
#![forbid(unsafe_code)]
