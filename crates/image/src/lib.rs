//! Images: import, unpack, tags, garbage.
//!
//! Knows archives and the store's directory; must not know pods' lives, mounts or registries.
#![forbid(unsafe_code)]

mod archive;
mod config;
mod digest;
mod error;
mod import;
pub mod reference;
mod store;
mod tar;
mod unpack;

pub use config::ImageConfig;
pub use error::Error;
pub use reference::Reference;
pub use store::{Image, Imported, Limits, Listed, Removed, Store, User};
