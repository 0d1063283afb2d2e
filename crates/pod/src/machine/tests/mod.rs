//! The machine against kubelet.md, with a jumping clock.

mod conditions;
mod ends;
mod histories;
mod init;
mod phases;
mod pods;
mod probes;
mod restarts;
mod sandboxes;
mod takeover;
mod tutorial;
