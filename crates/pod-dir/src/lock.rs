//! Is a pod's keep alive? It holds an open-file-description lock on `lock` for life, and the kernel drops it with keep.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};

/// The lock that keep takes: exclusive, over the whole file.
pub fn whole_file(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// True while some process holds the lock. A lock file that is missing is held by nobody. Nothing is taken, so two
/// who ask at once do not disturb each other.
pub fn is_held(path: &Path) -> io::Result<bool> {
    let file = match File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut lock = whole_file(libc::F_WRLCK);
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
}

/// Takes the lock, or says `WouldBlock`. It lives as long as the open file (and its duplicates).
pub fn take(file: &File) -> io::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_until_its_last_open_file_goes() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("lock");
        assert!(!is_held(&path).unwrap());
        let file = File::create(&path).unwrap();
        assert!(!is_held(&path).unwrap());
        take(&file).unwrap();
        let duplicate = file.try_clone().unwrap();
        assert!(is_held(&path).unwrap());
        assert!(take(&File::options().write(true).open(&path).unwrap()).is_err());
        drop(file);
        assert!(is_held(&path).unwrap());
        drop(duplicate);
        assert!(!is_held(&path).unwrap());
    }
}
