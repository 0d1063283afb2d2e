//! Writing a container's log in CRI's form: `<time> <stream> <tag> <content>`, cut at 16 KiB, rotated.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::timestamp;

/// Longest content of one record; longer lines are cut and the pieces tagged `P`.
pub const LINE_BYTES_MAX: usize = 16 << 10;
/// A file of this size is put aside (kubelet's containerLogMaxSize).
pub const LOG_BYTES_MAX: u64 = 10 << 20;
/// Files kept for one attempt, the current one included (containerLogMaxFiles).
pub const LOG_FILES_MAX: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Bytes of one stream in, whole records out. Holds at most one line's beginning.
#[derive(Debug)]
pub struct LineSplitter {
    stream: Stream,
    held: Vec<u8>,
}

impl LineSplitter {
    pub fn new(stream: Stream) -> LineSplitter {
        LineSplitter { stream, held: Vec::new() }
    }

    /// Appends to `out` the records that `bytes` completes.
    pub fn feed(&mut self, bytes: &[u8], now_nanos: i128, out: &mut Vec<u8>) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.take_in(&rest[..end], now_nanos, out);
            self.emit(b'F', now_nanos, out);
            rest = &rest[end + 1..];
        }
        self.take_in(rest, now_nanos, out);
    }

    /// The stream has ended: what has no newline is written as a partial record.
    pub fn finish(&mut self, now_nanos: i128, out: &mut Vec<u8>) {
        if !self.held.is_empty() {
            self.emit(b'P', now_nanos, out);
        }
    }

    fn take_in(&mut self, mut bytes: &[u8], now_nanos: i128, out: &mut Vec<u8>) {
        while self.held.len() + bytes.len() > LINE_BYTES_MAX {
            let (piece, rest) = bytes.split_at(LINE_BYTES_MAX - self.held.len());
            self.held.extend_from_slice(piece);
            self.emit(b'P', now_nanos, out);
            bytes = rest;
        }
        self.held.extend_from_slice(bytes);
    }

    fn emit(&mut self, tag: u8, now_nanos: i128, out: &mut Vec<u8>) {
        out.extend_from_slice(timestamp::text_nanos(now_nanos).as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.stream.name().as_bytes());
        out.extend_from_slice(&[b' ', tag, b' ']);
        out.append(&mut self.held);
        out.push(b'\n');
        // A long line must not hold its memory for the container's life.
        self.held.shrink_to(1024);
    }
}

/// One attempt's log file: `<dir>/<attempt>.log`, put aside as `<attempt>.log.<time>` when it is large.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    size: u64,
    size_max: u64,
    rotations: u32,
}

impl LogFile {
    /// Opens for appending (a take-over goes on in the same file); makes the directory.
    pub fn open(directory: &Path, attempt: u32) -> io::Result<LogFile> {
        LogFile::open_with_limit(directory, attempt, LOG_BYTES_MAX)
    }

    pub fn open_with_limit(directory: &Path, attempt: u32, size_max: u64) -> io::Result<LogFile> {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        let path = directory.join(format!("{attempt}.log"));
        let file = open_append(&path)?;
        let size = file.metadata()?.len();
        Ok(LogFile { path, file, size, size_max, rotations: 0 })
    }

    /// Writes whole records; rotates before them when the file has become too large. What could be written only in
    /// part (a full disk) is taken back, so that it can be written again.
    pub fn write(&mut self, records: &[u8], now_nanos: i128) -> io::Result<()> {
        self.make_room(now_nanos)?;
        if let Err(error) = self.file.write_all(records) {
            self.file.set_len(self.size)?;
            return Err(error);
        }
        self.size += records.len() as u64;
        Ok(())
    }

    /// Rotates when the file has become too large: the next `write` then begins at `size()`.
    pub fn make_room(&mut self, now_nanos: i128) -> io::Result<()> {
        if self.size >= self.size_max { self.rotate(now_nanos) } else { Ok(()) }
    }

    /// Bytes in the current file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The current file's bytes from an offset on.
    pub fn read_from(&self, offset: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(offset))?;
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Takes back what was written after an offset.
    pub fn truncate(&mut self, offset: u64) -> io::Result<()> {
        self.file.set_len(offset)?;
        self.size = offset;
        Ok(())
    }

    fn rotate(&mut self, now_nanos: i128) -> io::Result<()> {
        let stamp: String = timestamp::text_nanos(now_nanos).chars().filter(char::is_ascii_digit).take(14).collect();
        let (day, second) = stamp.split_at(stamp.len().min(8));
        self.rotations += 1;
        let aside = suffixed(&self.path, &format!(".{day}-{second}.{:04}", self.rotations % 10_000));
        fs::rename(&self.path, aside)?;
        self.file = open_append(&self.path)?;
        self.size = 0;
        let old = rotated(&self.path)?;
        for extra in &old[..old.len().saturating_sub(LOG_FILES_MAX - 1)] {
            fs::remove_file(extra)?;
        }
        Ok(())
    }
}

/// The files put aside for this log, oldest first.
pub fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let is_ours = entry
            .file_name()
            .to_str()
            .is_some_and(|other| other.strip_prefix(name).is_some_and(|rest| rest.starts_with('.') && rest.len() > 1));
        if is_ours {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(libc::O_NOFOLLOW).open(path)
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i128 = 1_704_164_645_000_000_001;
    const HEAD: &str = "2024-01-02T03:04:05.000000001Z stdout ";

    fn split(chunks: &[&[u8]], finish: bool) -> String {
        let mut splitter = LineSplitter::new(Stream::Stdout);
        let mut out = Vec::new();
        for chunk in chunks {
            splitter.feed(chunk, NOW, &mut out);
        }
        if finish {
            splitter.finish(NOW, &mut out);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_whole_however_the_bytes_arrive() {
        assert_eq!(split(&[b"a\nb", b"c\n\n"], false), format!("{HEAD}F a\n{HEAD}F bc\n{HEAD}F \n"));
        assert_eq!(split(&[b"no newline"], false), "");
        assert_eq!(split(&[b"no newline"], true), format!("{HEAD}P no newline\n"));
    }

    #[test]
    fn a_line_is_cut_only_when_it_is_longer_than_the_limit() {
        let line = "x".repeat(LINE_BYTES_MAX);
        assert_eq!(split(&[line.as_bytes(), b"\n"], false), format!("{HEAD}F {line}\n"));
        assert_eq!(split(&[line.as_bytes(), b"yz\n"], false), format!("{HEAD}P {line}\n{HEAD}F yz\n"));
        let long = "x".repeat(3 * LINE_BYTES_MAX + 1);
        assert_eq!(split(&[long.as_bytes()], true).matches(" P ").count(), 4);
    }

    #[test]
    fn rotation_keeps_five_files_and_loses_nothing_of_the_newest() {
        let scratch = tempfile::tempdir().unwrap();
        let mut log = LogFile::open_with_limit(&scratch.path().join("web"), 0, 100).unwrap();
        for number in 0..100 {
            log.write(format!("{HEAD}F line {number}\n").as_bytes(), NOW + number).unwrap();
        }
        let path = scratch.path().join("web/0.log");
        assert_eq!(rotated(&path).unwrap().len(), LOG_FILES_MAX - 1);
        assert!(fs::read_to_string(&path).unwrap().ends_with("line 99\n"));
    }
}
