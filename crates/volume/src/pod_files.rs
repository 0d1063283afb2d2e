//! The small files that every container of a pod gets: etc-hosts, resolv.conf, hostname, termination-log.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

/// Makes `dir/name` hold `bytes`. A file that is there keeps its inode, for running containers have it mounted and shall
/// see the change; equal content is not written. A link or anything but a plain file is an error.
pub fn write(dir: &Path, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let path = dir.join(name);
    let mut file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(mode)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(&path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not a file", path.display())));
    }
    let mut current = Vec::new();
    if metadata.len() == bytes.len() as u64 {
        (&mut file).take(metadata.len()).read_to_end(&mut current)?;
    }
    if metadata.len() != bytes.len() as u64 || current != bytes {
        io::Seek::rewind(&mut file)?;
        file.write_all(bytes)?;
        file.set_len(bytes.len() as u64)?;
    }
    if metadata.permissions().mode() & 0o7777 != mode {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}
