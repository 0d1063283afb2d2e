//! What can go wrong with an image, in words for the person who asked.

use std::io;

/// Each variant is a different thing for the caller to do; the text says what failed, on what and why.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive is not an image, lies about itself, or tries to leave the store.
    #[error("{0}")]
    Archive(String),
    /// A limit with a name was passed.
    #[error("{what} is larger than the limit of {limit} ({name})")]
    TooLarge { what: String, name: &'static str, limit: u64 },
    #[error("no space left on device under {store}; nothing of the image was kept")]
    DiskFull { store: String },
    #[error("image \"{0}\" not found")]
    NotFound(String),
    #[error("image \"{name}\" is used by {users}; delete the pod first")]
    InUse { name: String, users: String },
    #[error(transparent)]
    Reference(#[from] crate::reference::ParseError),
    /// The store on disk is not what it should be.
    #[error("image store {store}: {why}")]
    Damaged { store: String, why: String },
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
}

impl Error {
    /// An archive's own words may be in the text; they shall not move the cursor of a terminal.
    pub(crate) fn archive(text: impl AsRef<str>) -> Error {
        let mut shown = String::new();
        for c in text.as_ref().chars() {
            match c.is_control() {
                true => shown.extend(c.escape_default()),
                false => shown.push(c),
            }
        }
        Error::Archive(shown)
    }
}

/// Adds what was being done to a system call's error.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Io { what: what(), source: source.into() })
    }
}
