//! The Linux kernel in safe words.
#![deny(unsafe_code)]

pub mod seqpacket;
pub mod tty;
