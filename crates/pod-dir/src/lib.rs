//! What the shim and the CLI share: the pod's directory, its files, and the words on its control socket.
//!
//! Everything here is read with suspicion: a file may be half written by a crash, left by another version, or missing.
//! Nothing here decides what a pod should do, and nothing reads a clock.
#![forbid(unsafe_code)]

pub mod base64;
pub mod control;
pub mod dir;
pub mod events;
pub mod exits;
pub mod file;
pub mod lock;
pub mod log;
pub mod log_reader;
pub mod objects;
pub mod record;
pub mod roots;
pub mod status_file;
pub mod timestamp;

pub use dir::{Listed, PodDir};
pub use file::Error;
pub use roots::Roots;
pub use status_file::StatusFile;
