//! The machine against kubelet.md, with a jumping clock.

mod pods;
mod tutorial;
