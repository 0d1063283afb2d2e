//! Termination messages: the file that a container may write before it ends, and what is read from it afterwards
//! (kubelet: termination message path, policy and limits).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use killick_pod::spec::TerminationMessagePolicy;
use killick_pod_dir::log_reader::{LogReader, Selection};

/// Read from the end of the file.
pub const MESSAGE_BYTES_MAX: u64 = 4096;
/// All containers of a pod together; each has an equal part.
pub const POD_BYTES_MAX: u64 = 12 << 10;
/// `FallbackToLogsOnError`: so much of the log's end.
pub const FALLBACK_LINES_MAX: usize = 80;
pub const FALLBACK_BYTES_MAX: usize = 2048;

/// Makes the attempt's empty file, writable by any user of the container; it is bind-mounted at
/// `terminationMessagePath`.
pub fn create(directory: &Path) -> io::Result<PathBuf> {
    std::fs::create_dir_all(directory)?;
    let path = directory.join("termination-log");
    let file = OpenOptions::new().write(true).create(true).truncate(true).custom_flags(libc::O_NOFOLLOW).open(&path)?;
    // An explicit mode: the umask must not decide whether a container can write.
    file.set_permissions(std::fs::Permissions::from_mode(0o666))?;
    Ok(path)
}

/// What the container said, by its policy; `containers` is how many share the pod's limit. `log` is the attempt's log.
pub fn read(
    path: &Path,
    policy: TerminationMessagePolicy,
    exit_code: i32,
    containers: usize,
    log: &Path,
) -> Option<String> {
    let limit = MESSAGE_BYTES_MAX.min(POD_BYTES_MAX / containers.max(1) as u64);
    let text = match read_end(path, limit) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Some(format!("Error on reading termination log {}: {error}", path.display())),
    };
    let text = match policy {
        TerminationMessagePolicy::FallbackToLogsOnError if text.is_empty() && exit_code != 0 => {
            log_end(log, FALLBACK_BYTES_MAX.min(limit as usize))
        }
        TerminationMessagePolicy::File | TerminationMessagePolicy::FallbackToLogsOnError => text,
    };
    if text.is_empty() { None } else { Some(text) }
}

/// The last bytes of a file that the container wrote: only an ordinary file is read, and never more than the limit.
fn read_end(path: &Path, limit: u64) -> io::Result<String> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let mut file: File = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not an ordinary file"));
    }
    file.seek(SeekFrom::Start(metadata.len().saturating_sub(limit)))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(text_within(&bytes, limit as usize))
}

fn log_end(log: &Path, limit: usize) -> String {
    let selection = Selection { tail: Some(FALLBACK_LINES_MAX), since_nanos: None };
    let mut bytes = Vec::new();
    for record in LogReader::new(log).begin(&selection).unwrap_or_default() {
        bytes.extend_from_slice(&record.content);
        if !record.partial {
            bytes.push(b'\n');
        }
    }
    let start = bytes.len().saturating_sub(limit);
    text_within(&bytes[start..], limit)
}

/// As text of at most so many bytes: what is no UTF-8 becomes the replacement character, which is longer.
fn text_within(bytes: &[u8], limit: usize) -> String {
    let mut text = String::from_utf8_lossy(bytes).into_owned();
    if text.len() > limit {
        let mut start = text.len() - limit;
        while !text.is_char_boundary(start) {
            start += 1;
        }
        text.drain(..start);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use TerminationMessagePolicy::{FallbackToLogsOnError, File as FromFile};

    fn check(
        content: &[u8],
        log: &str,
        policy: TerminationMessagePolicy,
        code: i32,
        containers: usize,
    ) -> Option<String> {
        let directory = tempfile::tempdir().unwrap();
        let path = create(directory.path()).unwrap();
        std::fs::write(&path, content).unwrap();
        let records: String =
            log.lines().map(|line| format!("2024-01-02T03:04:05.000000000Z stdout F {line}\n")).collect();
        let log = directory.path().join("0.log");
        std::fs::write(&log, records).unwrap();
        read(&path, policy, code, containers, &log)
    }

    #[test]
    fn the_policy_and_the_limits_are_kubelets() {
        let lines = |count: usize| (0..count).map(|number| format!("line {number}\n")).collect::<String>();
        assert_eq!(check(b"", "said\n", FromFile, 1, 1), None);
        assert_eq!(check(b"bye", "said\n", FromFile, 0, 1), Some("bye".into()));
        assert_eq!(check(b"bye", "said\n", FallbackToLogsOnError, 1, 1), Some("bye".into()));
        assert_eq!(check(b"", "said\n", FallbackToLogsOnError, 1, 1), Some("said\n".into()));
        assert_eq!(check(b"", "said\n", FallbackToLogsOnError, 0, 1), None);
        assert_eq!(check(&[b'x'; 9000], "", FromFile, 1, 1).map(|text| text.len()), Some(4096));
        assert_eq!(check(&[b'x'; 9000], "", FromFile, 1, 6).map(|text| text.len()), Some(2048));
        let last = check(b"", &lines(100), FallbackToLogsOnError, 1, 1).unwrap();
        assert!(last.starts_with("line 20\n") && last.ends_with("line 99\n"), "{last}");
        let cut = check(b"", &"y".repeat(5000), FallbackToLogsOnError, 1, 1).unwrap();
        assert_eq!(cut.len(), 2048);
        assert!(check(&[0xff; 5000], "", FromFile, 1, 1).unwrap().len() <= 4096);
    }

    #[test]
    fn what_is_no_ordinary_file_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("termination-log");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(create(directory.path()).is_err());
        let text = read(&path, FromFile, 1, 1, &path).unwrap();
        assert!(text.starts_with("Error on reading termination log"), "{text}");
    }
}
