//! The size of a terminal's window. Raw mode is nix's business and needs nothing from here.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    pub rows: u16,
    pub columns: u16,
}

nix::ioctl_read_bad!(tiocgwinsz, libc::TIOCGWINSZ, libc::winsize);
nix::ioctl_write_ptr_bad!(tiocswinsz, libc::TIOCSWINSZ, libc::winsize);

/// The window size of a terminal; an error when `fd` is none.
pub fn window_size(fd: BorrowedFd<'_>) -> io::Result<WindowSize> {
    let mut raw = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes one `winsize`, and `raw` is one that outlives the call.
    unsafe { tiocgwinsz(fd.as_raw_fd(), &mut raw) }?;
    Ok(WindowSize { rows: raw.ws_row, columns: raw.ws_col })
}

/// Sets it; on a pty's master this also tells the foreground processes (SIGWINCH).
pub fn set_window_size(fd: BorrowedFd<'_>, size: WindowSize) -> io::Result<()> {
    let raw = libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel reads one `winsize`, and `raw` is one that outlives the call.
    unsafe { tiocswinsz(fd.as_raw_fd(), &raw) }?;
    Ok(())
}
