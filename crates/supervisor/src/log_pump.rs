//! A container's output, from its pipes into its log file; it must lose no line when the shim is killed.
//!
//! The pipe's read end is also held by keep, so what was not consumed outlives us. Therefore bytes are first *copied*
//! out of the pipe (tee), only whole lines are taken, they are written to the log, and only then are they consumed. A
//! note on tmpfs (`Pending`) says which write is under way, so that a new shim neither repeats nor drops it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use killick_pod_dir::log::{LINE_BYTES_MAX, LineSplitter, LogFile, Stream};
use killick_pod_dir::log_reader::Record;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, tee};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{pipe2, read};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

/// A pipe's own size: at most so much is looked at in one turn.
const TURN_BYTES_MAX: usize = 64 << 10;
/// What is still taken when the container is gone and somebody else keeps the pipe open.
const DRAIN_TURNS_MAX: usize = 32;
/// Between two tries to write to a log that refuses (a full disk).
const WRITE_RETRY: Duration = Duration::from_secs(1);

/// The write that is under way: stream, where in the log, and how many bytes of the pipe it covers.
#[derive(Debug)]
struct Pending(File);

impl Pending {
    fn open(path: &Path) -> io::Result<Pending> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        Ok(Pending(file))
    }

    fn set(&self, stream: Stream, offset: u64, bytes: usize) -> io::Result<()> {
        let mut note = [0; 17];
        note[0] = match stream {
            Stream::Stdout => 1,
            Stream::Stderr => 2,
        };
        note[1..9].copy_from_slice(&offset.to_le_bytes());
        note[9..].copy_from_slice(&(bytes as u64).to_le_bytes());
        self.0.write_all_at(&note, 0)
    }

    fn clear(&self) -> io::Result<()> {
        self.0.write_all_at(&[0], 0)
    }

    fn get(&self) -> Option<(Stream, u64, usize)> {
        let mut note = [0; 17];
        self.0.read_exact_at(&mut note, 0).ok()?;
        let stream = match note[0] {
            1 => Stream::Stdout,
            2 => Stream::Stderr,
            _ => return None,
        };
        let number = |from: usize| u64::from_le_bytes(note[from..from + 8].try_into().unwrap_or_default());
        Some((stream, number(1), number(9) as usize))
    }
}

/// One stream's read end. A terminal is not a pipe: it is read as it comes.
#[derive(Debug)]
struct Source {
    stream: Stream,
    fd: AsyncFd<OwnedFd>,
    is_pipe: bool,
    splitter: LineSplitter,
}

enum Turn {
    /// Something was taken: ask again.
    Took,
    /// Nothing that can be taken now.
    Nothing,
    End,
}

/// Runs until both streams have ended, or until it is told to finish.
#[derive(Debug)]
pub struct LogPump {
    sources: [Option<Source>; 2],
    log: LogFile,
    pending: Pending,
    copy: (OwnedFd, OwnedFd),
    buffer: Vec<u8>,
}

impl LogPump {
    /// `directory/<attempt>.log` is the log; `pending` is a small file on tmpfs that belongs to this attempt. The read
    /// ends may have been read by an earlier shim.
    pub fn new(
        directory: &Path,
        attempt: u32,
        pending: &Path,
        stdout: OwnedFd,
        stderr: Option<OwnedFd>,
    ) -> io::Result<LogPump> {
        let source = |stream, fd: OwnedFd| -> io::Result<Source> {
            let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
            fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
            let kind = SFlag::from_bits_truncate(fstat(&fd)?.st_mode);
            let is_pipe = kind & SFlag::S_IFMT == SFlag::S_IFIFO;
            Ok(Source { stream, fd: AsyncFd::new(fd)?, is_pipe, splitter: LineSplitter::new(stream) })
        };
        let mut pump = LogPump {
            sources: [Some(source(Stream::Stdout, stdout)?), stderr.map(|fd| source(Stream::Stderr, fd)).transpose()?],
            log: LogFile::open(directory, attempt)?,
            pending: Pending::open(pending)?,
            copy: pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?,
            buffer: Vec::new(),
        };
        pump.settle()?;
        Ok(pump)
    }

    /// Brings log and pipe together after a shim that was killed between writing and consuming.
    fn settle(&mut self) -> io::Result<()> {
        let Some((stream, offset, bytes)) = self.pending.get() else { return Ok(()) };
        if self.log.size() > offset {
            let written = content_of(&self.log.read_from(offset)?);
            match written {
                Some(written) if written.len() == bytes => {
                    let source = self.sources.iter().flatten().find(|source| source.stream == stream);
                    if let Some(source) = source.filter(|source| source.is_pipe) {
                        let held = peek(source.fd.get_ref().as_fd(), &self.copy)?;
                        if held.starts_with(&written) {
                            consume(source.fd.get_ref().as_fd(), bytes)?;
                        }
                    }
                }
                // Half a write: take it back, the bytes are still in the pipe.
                _ => self.log.truncate(offset)?,
            }
        }
        self.pending.clear()
    }

    /// Ends at the end of both streams; after `finish` it takes what is there and ends, whoever holds the pipe.
    pub async fn run(mut self, mut finish: oneshot::Receiver<()>) {
        loop {
            if self.sources.iter().all(Option::is_none) {
                return;
            }
            let [stdout, stderr] = &self.sources;
            let (index, mut guard) = tokio::select! {
                biased;
                _ = &mut finish => break,
                guard = readable(stdout) => (0, guard),
                guard = readable(stderr) => (1, guard),
            };
            let Some(source) = &self.sources[index] else { continue };
            let bytes = match source.take(&self.copy) {
                Ok(taken) => taken,
                Err(_) => {
                    // Not readable any more (a terminal's hang-up answers EIO): the end of this stream.
                    drop(guard);
                    self.sources[index] = None;
                    continue;
                }
            };
            let turn = match &bytes {
                Taken::Nothing => {
                    guard.clear_ready();
                    Turn::Nothing
                }
                Taken::End => Turn::End,
                Taken::Bytes(_) => Turn::Took,
            };
            drop(guard);
            match (turn, bytes) {
                (Turn::End, _) => {
                    let last = self.end(index);
                    self.write_all(index, last, 0).await;
                    self.sources[index] = None;
                }
                (Turn::Took, Taken::Bytes(bytes)) => {
                    let records = self.records(index, &bytes);
                    self.write_all(index, records, bytes.len()).await;
                    // Another stream, another container and the probes have their turn.
                    tokio::task::yield_now().await;
                }
                (Turn::Took | Turn::Nothing, _) => {}
            }
        }
        self.drain();
    }

    fn drain(&mut self) {
        for index in 0..self.sources.len() {
            for _ in 0..DRAIN_TURNS_MAX {
                let Some(source) = &self.sources[index] else { break };
                let (bytes, more) = match source.take(&self.copy) {
                    Ok(Taken::Bytes(bytes)) => (bytes, true),
                    // An unfinished line is all that will come.
                    Ok(Taken::Nothing) if source.is_pipe => {
                        (peek(source.fd.get_ref().as_fd(), &self.copy).unwrap_or_default(), false)
                    }
                    Ok(Taken::Nothing | Taken::End) | Err(_) => (Vec::new(), false),
                };
                let mut records = self.records(index, &bytes);
                if !more {
                    records.append(&mut self.end(index));
                }
                if records.is_empty() || self.write(index, &records, bytes.len()).is_err() || !more {
                    break;
                }
            }
        }
    }

    fn records(&mut self, index: usize, bytes: &[u8]) -> Vec<u8> {
        let mut records = std::mem::take(&mut self.buffer);
        records.clear();
        if let Some(source) = &mut self.sources[index] {
            let now = now_nanos();
            source.splitter.feed(bytes, now, &mut records);
            if source.is_pipe {
                // What was taken ends with a newline, or is a piece of a long line: nothing is held in memory.
                source.splitter.finish(now, &mut records);
            }
        }
        records
    }

    fn end(&mut self, index: usize) -> Vec<u8> {
        let mut records = Vec::new();
        if let Some(source) = &mut self.sources[index] {
            source.splitter.finish(now_nanos(), &mut records);
        }
        records
    }

    /// Writes and consumes; waits for a disk that refuses, with the container's output held back meanwhile.
    async fn write_all(&mut self, index: usize, records: Vec<u8>, bytes: usize) {
        while !records.is_empty() && self.write(index, &records, bytes).is_err() {
            tokio::time::sleep(WRITE_RETRY).await;
        }
        // The buffer is kept, unless it was a large one.
        if records.capacity() <= TURN_BYTES_MAX / 4 {
            self.buffer = records;
        }
    }

    fn write(&mut self, index: usize, records: &[u8], bytes: usize) -> io::Result<()> {
        let Some(source) = &self.sources[index] else { return Ok(()) };
        let now = now_nanos();
        self.log.make_room(now)?;
        if source.is_pipe {
            self.pending.set(source.stream, self.log.size(), bytes)?;
        }
        self.log.write(records, now)?;
        if source.is_pipe {
            consume(source.fd.get_ref().as_fd(), bytes)?;
            self.pending.clear()?;
        }
        Ok(())
    }
}

/// Starts a pump as a task; `finish_within` ends it.
pub fn spawn(pump: LogPump) -> PumpHandle {
    let (finish, told) = oneshot::channel();
    PumpHandle { finish, task: tokio::spawn(pump.run(told)) }
}

#[derive(Debug)]
pub struct PumpHandle {
    finish: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl PumpHandle {
    /// The container is gone: waits for the end of its streams, but no longer than this; then takes what is there.
    pub async fn finish_within(mut self, patience: Duration) {
        if tokio::time::timeout(patience, &mut self.task).await.is_err() {
            let _ = self.finish.send(());
            let _ = tokio::time::timeout(patience, &mut self.task).await;
            self.task.abort();
        }
    }
}

enum Taken {
    Bytes(Vec<u8>),
    Nothing,
    End,
}

impl Source {
    /// Whole lines, or a full piece of a long one; for a pipe they stay in it until they are consumed.
    fn take(&self, copy: &(OwnedFd, OwnedFd)) -> io::Result<Taken> {
        let fd = self.fd.get_ref().as_fd();
        if !self.is_pipe {
            let mut bytes = vec![0; TURN_BYTES_MAX / 4];
            return match read(fd, &mut bytes) {
                Ok(0) => Ok(Taken::End),
                Ok(count) => {
                    bytes.truncate(count);
                    Ok(Taken::Bytes(bytes))
                }
                Err(Errno::EAGAIN | Errno::EINTR) => Ok(Taken::Nothing),
                Err(errno) => Err(errno.into()),
            };
        }
        // Asked before looking: if nobody could write any more, what is seen afterwards is all there is.
        let ended = hung_up(fd);
        let mut bytes = peek(fd, copy)?;
        if bytes.is_empty() {
            return Ok(if ended { Taken::End } else { Taken::Nothing });
        }
        let whole = match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(newline) => newline + 1,
            None if bytes.len() >= LINE_BYTES_MAX => LINE_BYTES_MAX,
            None if ended => bytes.len(),
            None => return Ok(Taken::Nothing),
        };
        bytes.truncate(whole);
        Ok(Taken::Bytes(bytes))
    }
}

async fn readable(source: &Option<Source>) -> tokio::io::unix::AsyncFdReadyGuard<'_, OwnedFd> {
    match source {
        // A failing reactor cannot be told apart from silence here, and silence is the harmless one.
        Some(source) => match source.fd.readable().await {
            Ok(guard) => guard,
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// A copy of what the pipe holds; the pipe keeps it.
fn peek(fd: BorrowedFd<'_>, copy: &(OwnedFd, OwnedFd)) -> io::Result<Vec<u8>> {
    let count = match tee(fd, &copy.1, TURN_BYTES_MAX, SpliceFFlags::SPLICE_F_NONBLOCK) {
        Ok(count) => count,
        Err(Errno::EAGAIN) => return Ok(Vec::new()),
        Err(errno) => return Err(errno.into()),
    };
    read_exactly(copy.0.as_fd(), count)
}

fn consume(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    read_exactly(fd, bytes).map(drop)
}

fn read_exactly(fd: BorrowedFd<'_>, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    let mut filled = 0;
    while filled < count {
        match read(fd, &mut bytes[filled..]) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(Errno::EINTR) => {}
            // A container can open its own output for reading and take bytes that we have seen: then they are gone.
            Err(Errno::EAGAIN) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut asked = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut asked, PollTimeout::ZERO).is_ok()
        && asked[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

/// The bytes that the records at the end of a log stand for; `None` when the last one is not whole.
fn content_of(records: &[u8]) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    for line in records.strip_suffix(b"\n")?.split(|byte| *byte == b'\n') {
        let mut record = Record::parse(line)?;
        content.append(&mut record.content);
        if !record.partial {
            content.push(b'\n');
        }
    }
    Some(content)
}

/// Wall time, for display in the log.
fn now_nanos() -> i128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i128)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    fn texts(directory: &Path) -> Vec<String> {
        let log = std::fs::read(directory.join("0.log")).unwrap_or_default();
        log.split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| {
                let record = Record::parse(line).unwrap();
                let tag = if record.partial { "P" } else { "F" };
                let stream = if record.stderr { "err" } else { "out" };
                format!("{stream} {tag} {}", String::from_utf8(record.content).unwrap())
            })
            .collect()
    }

    fn pump(directory: &Path, out: &OwnedFd, err: Option<&OwnedFd>) -> LogPump {
        let stderr = err.map(|fd| fd.try_clone().unwrap());
        LogPump::new(directory, 0, &directory.join("pending"), out.try_clone().unwrap(), stderr).unwrap()
    }

    #[test]
    fn whole_lines_of_both_streams_are_written_and_the_end_is_partial() {
        let directory = tempfile::tempdir().unwrap();
        runtime().block_on(async {
            let (out, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
            let (err, err_writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
            let handle = spawn(pump(directory.path(), &out, Some(&err)));
            let mut writer = File::from(writer);
            writer.write_all(b"one\ntw").unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(texts(directory.path()), ["out F one"], "an unfinished line stays in the pipe");
            writer.write_all(b"o\nrest").unwrap();
            File::from(err_writer).write_all(b"wrong\n").unwrap();
            drop(writer);
            handle.finish_within(Duration::from_secs(5)).await;
        });
        let mut seen = texts(directory.path());
        seen.sort();
        assert_eq!(seen, ["err F wrong", "out F one", "out F two", "out P rest"]);
    }

    #[test]
    fn a_long_line_is_cut_and_comes_back_whole() {
        let directory = tempfile::tempdir().unwrap();
        let line: String = ('a'..='z').cycle().take(100_000).collect();
        runtime().block_on(async {
            let (out, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
            let handle = spawn(pump(directory.path(), &out, None));
            let text = format!("{line}\nnext\n");
            let feeder = tokio::spawn(async move {
                let mut rest = text.as_bytes();
                fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
                while !rest.is_empty() {
                    match nix::unistd::write(&writer, rest) {
                        Ok(count) => rest = &rest[count..],
                        Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                    }
                }
            });
            feeder.await.unwrap();
            handle.finish_within(Duration::from_secs(5)).await;
        });
        let log = std::fs::read(directory.path().join("0.log")).unwrap();
        assert_eq!(content_of(&log).unwrap(), format!("{line}\nnext\n").into_bytes());
    }

    #[test]
    fn a_pipe_that_somebody_keeps_open_does_not_hold_the_end() {
        let directory = tempfile::tempdir().unwrap();
        runtime().block_on(async {
            let (out, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
            let handle = spawn(pump(directory.path(), &out, None));
            let mut kept = File::from(writer);
            kept.write_all(b"said\nunfinished").unwrap();
            handle.finish_within(Duration::from_millis(100)).await;
            drop(kept);
        });
        assert_eq!(texts(directory.path()), ["out F said", "out P unfinished"]);
    }

    /// The shim is killed at each point of a write; the next one continues from what is there.
    #[test]
    fn a_kill_at_any_point_of_a_write_neither_loses_nor_repeats_a_line() {
        for point in 0..4 {
            let directory = tempfile::tempdir().unwrap();
            runtime().block_on(async {
                let (out, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
                let mut writer = File::from(writer);
                writer.write_all(b"a\nb\n").unwrap();
                let mut first = pump(directory.path(), &out, None);
                let bytes = peek(out.as_fd(), &first.copy).unwrap();
                let records = first.records(0, &bytes);
                if point >= 1 {
                    first.pending.set(Stream::Stdout, first.log.size(), bytes.len()).unwrap();
                }
                match point {
                    2 => first.log.write(&records[..records.len() / 2], 0).unwrap(),
                    3 => first.log.write(&records, 0).unwrap(),
                    _ => {}
                }
                drop(first);
                writer.write_all(b"c\n").unwrap();
                drop(writer);
                spawn(pump(directory.path(), &out, None)).finish_within(Duration::from_secs(5)).await;
            });
            assert_eq!(texts(directory.path()), ["out F a", "out F b", "out F c"], "killed at point {point}");
        }
    }

    #[test]
    fn a_kill_between_consuming_and_clearing_the_note_does_not_drop_the_next_lines() {
        let directory = tempfile::tempdir().unwrap();
        runtime().block_on(async {
            let (out, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
            let mut writer = File::from(writer);
            writer.write_all(b"a\nb\n").unwrap();
            let mut first = pump(directory.path(), &out, None);
            let bytes = peek(out.as_fd(), &first.copy).unwrap();
            let records = first.records(0, &bytes);
            first.pending.set(Stream::Stdout, 0, bytes.len()).unwrap();
            first.log.write(&records, 0).unwrap();
            consume(out.as_fd(), bytes.len()).unwrap();
            drop(first);
            writer.write_all(b"c\nd\n").unwrap();
            drop(writer);
            spawn(pump(directory.path(), &out, None)).finish_within(Duration::from_secs(5)).await;
        });
        assert_eq!(texts(directory.path()), ["out F a", "out F b", "out F c", "out F d"]);
    }
}
