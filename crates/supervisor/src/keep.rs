//! The shim's side of its talk with keep (crates/pause): what must outlive the shim is put there.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use killick_sys::fd::{receive_message, send_message};
use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{MsgFlags, recv, setsockopt};
use nix::sys::time::{TimeVal, TimeValLike};

/// Most descriptors that keep holds.
const HELD_MAX: u64 = 256;
const MESSAGE_BYTES: usize = 16;
const ANSWER_SECONDS_MAX: i64 = 5;

/// Numbers in which keep gives a started shim its descriptors.
pub const SOCKET_FD: i32 = 3;
pub const LOCK_FD: i32 = 4;
pub const READY_FD: i32 = 5;

#[derive(Debug, Clone, Copy)]
enum Word {
    Hello = 1,
    Put = 2,
    Drop = 3,
    Get = 4,
}

/// A conversation with keep. Each call waits for its answer: keep does nothing else that could take long.
#[derive(Debug)]
pub struct Keep {
    socket: OwnedFd,
}

impl Keep {
    pub fn new(socket: OwnedFd) -> Result<Keep, String> {
        // A keep that was stopped must not stop the pod.
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS_MAX))
            .map_err(|errno| format!("keep: setsockopt(SO_RCVTIMEO): {errno}"))?;
        Ok(Keep { socket })
    }

    /// To be asked when the socket is readable: keep never speaks unasked.
    pub fn has_ended(&self) -> bool {
        let mut byte = [0u8; 1];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        matches!(recv(self.socket.as_raw_fd(), &mut byte, flags), Ok(0) | Err(Errno::ECONNRESET))
    }

    /// From now on keep starts a new shim when this one dies.
    pub fn hello(&self) -> Result<(), String> {
        self.ask(Word::Hello, 0, None).map(drop)
    }

    /// keep holds a duplicate under `key`, in place of an older one.
    pub fn put(&self, key: u64, fd: BorrowedFd<'_>) -> Result<(), String> {
        match self.ask(Word::Put, key, Some(fd))? {
            Answer { refused: true, .. } => Err(format!("keep holds {HELD_MAX} descriptors already")),
            _ => Ok(()),
        }
    }

    pub fn drop_key(&self, key: u64) -> Result<(), String> {
        self.ask(Word::Drop, key, None).map(drop)
    }

    /// Everything that keep holds.
    pub fn list(&self) -> Result<Vec<(u64, OwnedFd)>, String> {
        let mut held = Vec::new();
        for index in 0..HELD_MAX {
            match self.ask(Word::Get, index, None)? {
                Answer { refused: false, key, fd: Some(fd) } => held.push((key, fd)),
                _ => break,
            }
        }
        Ok(held)
    }

    fn ask(&self, word: Word, key: u64, fd: Option<BorrowedFd<'_>>) -> Result<Answer, String> {
        let mut request = [0u8; MESSAGE_BYTES];
        request[..4].copy_from_slice(&(word as u32).to_ne_bytes());
        request[8..].copy_from_slice(&key.to_ne_bytes());
        send_message(self.socket.as_fd(), &request, fd.as_slice()).map_err(|error| format!("keep: {error}"))?;
        let mut message =
            receive_message(self.socket.as_fd(), MESSAGE_BYTES).map_err(|error| format!("keep: {error}"))?;
        let (Some(word), Some(key)) = (message.bytes.first_chunk::<4>(), message.bytes.last_chunk::<8>()) else {
            return Err("keep has ended".to_owned());
        };
        let refused = u32::from_ne_bytes(*word) != 0;
        Ok(Answer { refused, key: u64::from_ne_bytes(*key), fd: message.fds.pop() })
    }
}

impl AsFd for Keep {
    /// Readable when keep has ended: it never speaks unasked.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

struct Answer {
    refused: bool,
    key: u64,
    fd: Option<OwnedFd>,
}
