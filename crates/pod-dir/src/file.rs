//! Files that are either whole or not there: temporary file, rename; and reading with a limit.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest file of ours that is read into memory: a manifest may have 4 MiB, and JSON of it is larger.
pub const FILE_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("read {}: {why}", path.display())]
    Content { path: PathBuf, why: String },
    #[error("pod {name} in namespace {namespace} exists already (uid {uid})")]
    NameTaken { namespace: String, name: String, uid: String },
    #[error("remove {}: something is still mounted below it ({mount}); unmount it first", path.display())]
    StillMounted { path: PathBuf, mount: String },
}

impl Error {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { what, path, source }
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Whether a file must outlive the power. `Durable` waits for the disk: never in the shim's loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    Volatile,
    Durable,
}

/// Replaces `path` by a file with these bytes; a reader sees the old file or the new one.
pub fn write_whole(path: &Path, bytes: &[u8], mode: u32, durability: Durability) -> Result<(), Error> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".tmp-{}-{unique}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let written = write_new(&temporary, bytes, mode, durability)
        .and_then(|()| fs::rename(&temporary, path).map_err(Error::io("rename to", path)));
    if written.is_err() {
        // The first error is the one to tell; a temporary file that cannot be removed is ignored by every reader.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    if durability == Durability::Durable
        && let Some(parent) = path.parent()
    {
        sync_directory(parent)?;
    }
    Ok(())
}

fn write_new(path: &Path, bytes: &[u8], mode: u32, durability: Durability) -> Result<(), Error> {
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(Error::io("create", path))?;
    file.write_all(bytes).map_err(Error::io("write", path))?;
    if durability == Durability::Durable {
        file.sync_all().map_err(Error::io("fsync", path))?;
    }
    Ok(())
}

pub fn sync_directory(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(Error::io("fsync", path))
}

/// The file's bytes, at most [`FILE_BYTES_MAX`]; only regular files, and no link is followed.
pub fn read_bounded(path: &Path) -> Result<Vec<u8>, Error> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(Error::io("open", path))?;
    let facts = file.metadata().map_err(Error::io("stat", path))?;
    let refused = |why: &str| Error::Content { path: path.to_owned(), why: why.to_owned() };
    if !facts.is_file() {
        return Err(refused("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(refused("larger than 16 MiB"));
    }
    Ok(bytes)
}

pub fn write_json<T: Serialize>(path: &Path, value: &T, mode: u32, durability: Durability) -> Result<(), Error> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| Error::Content { path: path.to_owned(), why: format!("cannot be written: {error}") })?;
    write_whole(path, &bytes, mode, durability)
}

pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let bytes = read_bounded(path)?;
    serde_json::from_slice(&bytes).map_err(|error| Error::Content { path: path.to_owned(), why: error.to_string() })
}

/// Makes a directory and those above it, each with `mode`. One that exists is left as it is.
pub fn make_directories(path: &Path, mode: u32) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(Error::io("mkdir", path))
}

/// Removes a tree; that it is gone already is fine. Refuses when anything is mounted below it: what a mount shows
/// belongs to somebody else.
pub fn remove_tree(path: &Path) -> Result<(), Error> {
    check_unmounted(path)?;
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

pub fn check_unmounted(path: &Path) -> Result<(), Error> {
    match mount_below(path)? {
        Some(mount) => Err(Error::StillMounted { path: path.to_owned(), mount }),
        None => Ok(()),
    }
}

fn mount_below(path: &Path) -> Result<Option<String>, Error> {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(table).map_err(Error::io("read", table))?;
    let real = match fs::canonicalize(path) {
        Ok(real) => real,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("resolve", path)(error)),
    };
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    Ok(points.into_iter().find(|point| Path::new(point).starts_with(&real)))
}

/// mountinfo writes blank, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> String {
    let mut text = field.to_owned();
    for (code, plain) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        text = text.replace(code, plain);
    }
    text
}

/// Longest name of a file on the file systems of this world.
const FILE_NAME_MAX: usize = 255;

/// The parts joined by `_`, and the suffix. A namespace of 63 and a name of 253 characters are too long for a file's
/// name: such a one ends in a hash.
pub fn joined_name(parts: &[&str], suffix: &str) -> String {
    let name = parts.join("_");
    if name.len() + suffix.len() <= FILE_NAME_MAX {
        return name + suffix;
    }
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let kept = name.floor_char_boundary(FILE_NAME_MAX - 17 - suffix.len());
    format!("{}-{hash:016x}{suffix}", &name[..kept])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_is_whole_and_leaves_no_temporary_behind() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("status.json");
        for text in ["one", "two"] {
            write_whole(&path, text.as_bytes(), 0o600, Durability::Durable).unwrap();
            assert_eq!(read_bounded(&path).unwrap(), text.as_bytes());
        }
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_a_directory_and_a_fifo_are_not_read() {
        let scratch = tempfile::tempdir().unwrap();
        let link = scratch.path().join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert!(read_bounded(&link).is_err());
        assert!(read_bounded(scratch.path()).is_err());
        let fifo = scratch.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read_bounded(&fifo).is_err());
    }

    #[test]
    fn names_too_long_for_a_file_stay_distinct() {
        let long = |end: char| joined_name(&["ns", &format!("{}{end}", "x".repeat(252))], ".json");
        assert_eq!(long('a').len(), 255);
        assert_ne!(long('a'), long('b'));
        assert_eq!(joined_name(&["ns", "web"], ".json"), "ns_web.json");
    }

    #[test]
    fn removing_what_is_gone_already_succeeds() {
        let scratch = tempfile::tempdir().unwrap();
        remove_tree(&scratch.path().join("nothing")).unwrap();
    }
}
