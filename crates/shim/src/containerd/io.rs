//! A process's streams: what containerd named (fifos, a file, nothing) and the process are joined by copies that run on
//! the one loop.
//!
//! Between process and fifo stands a pipe of ours. The shim holds both sides of each output fifo, so a daemon that goes
//! away is not an EPIPE for the container, and reads on when it is back. From pipe to fifo nothing is copied through our
//! memory (splice).

use std::cell::{Cell, RefCell};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use killick_container::Stdio;
use killick_sys::fd;
use killick_sys::tty::{WindowSize, set_window_size};
use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

/// As much as a pipe holds.
const CHUNK_BYTES: usize = 64 << 10;
/// For what cannot be spliced; kept small, because each such stream has one.
const BUFFER_BYTES: usize = 16 << 10;

/// What containerd named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub terminal: bool,
}

/// Where output goes, by the scheme of stdout's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scheme {
    Null,
    Fifo,
    File,
}

impl Names {
    pub fn scheme(&self) -> Result<Scheme, String> {
        let name = match self.stdout.is_empty() {
            true => &self.stderr,
            false => &self.stdout,
        };
        match name.split_once("://") {
            None if name.is_empty() => Ok(Scheme::Null),
            None | Some(("fifo", _)) => Ok(Scheme::Fifo),
            Some(("file", _)) => Ok(Scheme::File),
            Some((scheme, _)) => Err(format!("unknown STDIO scheme {scheme:?}: fifo, file, or none")),
        }
    }
}

fn path_of(name: &str) -> &str {
    name.split_once("://").map_or(name, |(_, path)| path)
}

/// A process's streams while it lives, and until they are drained.
#[derive(Debug)]
pub struct Io {
    /// The writing side of the stdin fifo: as long as it is held, a client that goes away is no end of input.
    stdin_held: RefCell<Option<OwnedFd>>,
    outputs: watch::Sender<usize>,
    tasks: RefCell<Vec<tokio::task::AbortHandle>>,
    terminal: RefCell<Option<Rc<OwnedFd>>>,
    size: Cell<Option<WindowSize>>,
    waiting: RefCell<Option<Waiting>>,
}

/// A terminal's other ends, until the birth has made it.
#[derive(Debug)]
struct Waiting {
    stdin: Option<OwnedFd>,
    stdout: Option<Sink>,
}

#[derive(Debug)]
enum Sink {
    Fifo(OwnedFd),
    File(std::fs::File),
}

impl Io {
    /// Opens what is named and starts the copies. The `Stdio` is for the birth.
    pub fn open(names: &Names) -> Result<(Rc<Io>, Stdio), String> {
        let scheme = names.scheme()?;
        let io = Rc::new(Io {
            stdin_held: RefCell::default(),
            outputs: watch::Sender::new(0),
            tasks: RefCell::default(),
            terminal: RefCell::default(),
            size: Cell::new(None),
            waiting: RefCell::default(),
        });
        let stdin = io.open_stdin(&names.stdin)?;
        if names.terminal {
            let stdout = sink(&names.stdout, &scheme)?;
            *io.waiting.borrow_mut() = Some(Waiting { stdin, stdout });
            return Ok((io, Stdio::Terminal { rows: 0, columns: 0 }));
        }
        let child_in = match stdin {
            Some(fifo) => {
                let (theirs, ours) = fd::pipe().map_err(text)?;
                io.copy(fifo, Sink::Fifo(ours), Direction::In)?;
                theirs
            }
            None => null()?,
        };
        let output = |name: &str| -> Result<OwnedFd, String> {
            match sink(name, &scheme)? {
                Some(sink) => {
                    let (ours, theirs) = fd::pipe().map_err(text)?;
                    io.copy(ours, sink, Direction::Out)?;
                    Ok(theirs)
                }
                None => null(),
            }
        };
        let (stdout, stderr) = (output(&names.stdout)?, output(&names.stderr)?);
        Ok((io, Stdio::Streams { stdin: child_in, stdout, stderr }))
    }

    fn open_stdin(&self, name: &str) -> Result<Option<OwnedFd>, String> {
        if name.is_empty() {
            return Ok(None);
        }
        let path = path_of(name);
        // Reading first: then there is a reader, and the writing side opens at once.
        let reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let reader = reader.map_err(|error| format!("open stdin {path}: {error}"))?;
        if reader.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo()) {
            let writer = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path);
            let writer = writer.map_err(|error| format!("open stdin {path}: {error}"))?;
            *self.stdin_held.borrow_mut() = Some(writer.into());
        }
        Ok(Some(reader.into()))
    }

    fn copy(self: &Rc<Self>, from: OwnedFd, to: Sink, direction: Direction) -> Result<(), String> {
        fd::set_nonblocking(from.as_fd(), true).map_err(text)?;
        let from = Watched::new(Rc::new(from), Interest::READABLE)?;
        if direction == Direction::Out {
            self.outputs.send_modify(|count| *count += 1);
        }
        let io = Rc::clone(self);
        let task = async move {
            let counted = Counted { io: (direction == Direction::Out).then_some(io) };
            match to {
                Sink::Fifo(to) => {
                    let ready = fd::set_nonblocking(to.as_fd(), true).map_err(text);
                    if let Ok(to) = ready.and_then(|()| Watched::new(Rc::new(to), Interest::WRITABLE)) {
                        splice_all(&from, &to).await;
                    }
                }
                Sink::File(to) => write_all_to_file(&from, to).await,
            }
            drop(counted);
        };
        self.tasks.borrow_mut().push(tokio::task::spawn_local(task).abort_handle());
        Ok(())
    }

    /// The birth has made the terminal.
    pub fn set_terminal(self: &Rc<Self>, master: OwnedFd) -> Result<(), String> {
        let master = Rc::new(master);
        if let Some(size) = self.size.take() {
            set_window_size(master.as_fd(), size).map_err(|error| format!("resize the terminal: {error}"))?;
        }
        *self.terminal.borrow_mut() = Some(Rc::clone(&master));
        fd::set_nonblocking(master.as_fd(), true).map_err(text)?;
        let Some(Waiting { stdin, stdout }) = self.waiting.borrow_mut().take() else { return Ok(()) };
        let both = Rc::new(Watched::new(master, Interest::READABLE | Interest::WRITABLE)?);
        if let Some(stdin) = stdin {
            fd::set_nonblocking(stdin.as_fd(), true).map_err(text)?;
            let from = Watched::new(Rc::new(stdin), Interest::READABLE)?;
            let to = Rc::clone(&both);
            let task = async move { copy_all(&from, &to).await };
            self.tasks.borrow_mut().push(tokio::task::spawn_local(task).abort_handle());
        }
        self.outputs.send_modify(|count| *count += 1);
        let counted = Counted { io: Some(Rc::clone(self)) };
        let task = async move {
            match stdout {
                Some(Sink::Fifo(to)) => {
                    if let Ok(to) = Watched::new(Rc::new(to), Interest::WRITABLE) {
                        copy_all(&both, &to).await;
                    }
                }
                Some(Sink::File(to)) => write_all_to_file(&both, to).await,
                None => discard_all(&both).await,
            }
            drop(counted);
        };
        self.tasks.borrow_mut().push(tokio::task::spawn_local(task).abort_handle());
        Ok(())
    }

    /// No terminal: nothing to do, and no error.
    pub fn resize(&self, columns: u32, rows: u32) -> Result<(), String> {
        let small = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        let size = WindowSize { rows: small(rows), columns: small(columns) };
        match self.terminal.borrow().as_ref() {
            Some(master) => {
                set_window_size(master.as_fd(), size).map_err(|error| format!("resize the terminal: {error}"))
            }
            None => {
                // Kept for a terminal that is still to be made.
                self.size.set(Some(size));
                Ok(())
            }
        }
    }

    /// What is in the fifo still reaches the process, then the end of input.
    pub fn close_stdin(&self) {
        self.stdin_held.borrow_mut().take();
    }

    /// Waits until all output has gone where it goes; what a straggler still holds open is cut off at the deadline.
    pub async fn drain(&self, deadline: Duration) {
        let mut outputs = self.outputs.subscribe();
        let _ = tokio::time::timeout(deadline, outputs.wait_for(|count| *count == 0)).await;
        self.close();
    }

    /// Lets everything go.
    pub fn close(&self) {
        self.close_stdin();
        for task in self.tasks.borrow_mut().drain(..) {
            task.abort();
        }
        self.terminal.borrow_mut().take();
        self.waiting.borrow_mut().take();
    }
}

/// One output less, also when its task is aborted.
#[derive(Debug)]
struct Counted {
    io: Option<Rc<Io>>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(io) = &self.io {
            io.outputs.send_modify(|count| *count -= 1);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    In,
    Out,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn null() -> Result<OwnedFd, String> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    null.map(OwnedFd::from).map_err(|error| format!("open /dev/null: {error}"))
}

fn sink(name: &str, scheme: &Scheme) -> Result<Option<Sink>, String> {
    if name.is_empty() {
        return Ok(None);
    }
    let path = path_of(name);
    match scheme {
        Scheme::Null => Ok(None),
        Scheme::Fifo => {
            // Both sides: see the module.
            let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path);
            let file = file.map_err(|error| format!("open {path}: {error}"))?;
            let is_fifo = file.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo());
            Ok(Some(if is_fifo { Sink::Fifo(file.into()) } else { Sink::File(file) }))
        }
        Scheme::File => {
            if let Some(parent) = Path::new(path).parent() {
                std::fs::create_dir_all(parent).map_err(|error| format!("mkdir {}: {error}", parent.display()))?;
            }
            let file = OpenOptions::new().append(true).create(true).mode(0o644).open(path);
            file.map(|file| Some(Sink::File(file))).map_err(|error| format!("open {path}: {error}"))
        }
    }
}

/// A descriptor on the loop.
#[derive(Debug)]
struct Watched(AsyncFd<Shared>);

#[derive(Debug)]
struct Shared(Rc<OwnedFd>);

impl AsRawFd for Shared {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Watched {
    fn new(fd: Rc<OwnedFd>, interest: Interest) -> Result<Watched, String> {
        AsyncFd::with_interest(Shared(fd), interest).map(Watched).map_err(|error| format!("watch a stream: {error}"))
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().0.as_fd()
    }

    fn is_ready(&self, events: PollFlags) -> bool {
        let mut polled = [PollFd::new(self.fd(), events)];
        poll(&mut polled, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }

    /// Reads what is there; zero at the end. A terminal without an open slave says EIO: that is its end.
    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut guard = self.0.readable().await?;
            match guard.try_io(|inner| nix::unistd::read(inner.get_ref().0.as_ref(), buffer).map_err(io::Error::from)) {
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Ok(0),
                Ok(done) => return done,
                Err(_would_block) => {}
            }
        }
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut guard = self.0.writable().await?;
            match guard.try_io(|inner| nix::unistd::write(inner.get_ref().0.as_ref(), bytes).map_err(io::Error::from)) {
                Ok(written) => bytes = &bytes[written?..],
                Err(_would_block) => {}
            }
        }
        Ok(())
    }
}

/// From pipe to pipe until the end, or until the other side is gone.
async fn splice_all(from: &Watched, to: &Watched) {
    loop {
        let Ok(mut readable) = from.0.readable().await else { return };
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
        match splice(from.fd(), None, to.fd(), None, CHUNK_BYTES, flags) {
            Ok(0) => return,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                // Either is not ready: which one decides what to wait for.
                if !from.is_ready(PollFlags::POLLIN) {
                    readable.clear_ready();
                    continue;
                }
                let Ok(mut writable) = to.0.writable().await else { return };
                if !to.is_ready(PollFlags::POLLOUT) {
                    writable.clear_ready();
                }
            }
            Err(_) => return,
        }
    }
}

async fn copy_all(from: &Watched, to: &Watched) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count) = from.read(&mut buffer).await {
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

async fn write_all_to_file(from: &Watched, mut to: std::fs::File) {
    use std::io::Write;
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count) = from.read(&mut buffer).await {
        // A full disk loses output; the container goes on.
        if count == 0 {
            return;
        }
        let _ = to.write_all(&buffer[..count]);
    }
}

async fn discard_all(from: &Watched) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while from.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
}
