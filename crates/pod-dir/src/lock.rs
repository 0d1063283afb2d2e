//! Is a pod's keep alive? It holds an open-file-description lock on `lock` for life, and the kernel drops it with keep.
//! Kernels before 3.15 have no such locks: flock(2) there.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
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
    match fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)) {
        Ok(_) => Ok(lock.l_type != libc::F_UNLCK as libc::c_short),
        Err(Errno::EINVAL) => flock_is_held(file),
        Err(errno) => Err(errno.into()),
    }
}

/// Takes the lock, or says `WouldBlock`. It lives as long as the open file (and its duplicates).
pub fn take(file: &File) -> io::Result<()> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
        Ok(_) => Ok(()),
        Err(Errno::EINVAL) => take_flock(file),
        Err(errno) => Err(errno.into()),
    }
}

/// Before 3.15: flock(2), which belongs to the open file too, but cannot be asked for: a shared one is taken for a
/// moment. Those who ask do not disturb each other; who takes tries again for longer than anybody asks.
fn flock_is_held(file: File) -> io::Result<bool> {
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn take_flock(file: &File) -> io::Result<()> {
    let mut tries = TAKE_TRIES;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if tries > 0 => tries -= 1,
            Err(error) => return Err(error.into()),
            Ok(()) => return Ok(()),
        }
        std::thread::sleep(TAKE_AGAIN);
    }
}

const TAKE_TRIES: u32 = 20;
const TAKE_AGAIN: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::*;

    type Way = (fn(&Path) -> io::Result<bool>, fn(&File) -> io::Result<()>);

    #[test]
    fn a_lock_is_held_until_its_last_open_file_goes() {
        let by_flock = |path: &Path| flock_is_held(File::options().read(true).write(true).open(path)?);
        let ways: [Way; 2] = [(is_held, take), (by_flock, take_flock)];
        for (is_held, take) in ways {
            let scratch = tempfile::tempdir().unwrap();
            let path = scratch.path().join("lock");
            assert!(!super::is_held(&path).unwrap());
            let file = File::create(&path).unwrap();
            assert!(!is_held(&path).unwrap());
            take(&file).unwrap();
            let duplicate = file.try_clone().unwrap();
            assert!(is_held(&path).unwrap());
            let refused = take(&File::options().write(true).open(&path).unwrap()).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
            drop(file);
            assert!(is_held(&path).unwrap());
            drop(duplicate);
            assert!(!is_held(&path).unwrap());
        }
    }
}
