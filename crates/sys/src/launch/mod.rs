//! A process is born from a list of steps: `plan` says what, `run` does it in the child, `spawn` is the parent's side.

mod arena;
mod bare;
mod copy;
mod copyup;
mod error;
mod exec;
mod gate;
mod inside;
mod knobs;
mod listener;
mod memory;
mod nodes;
mod overlay;
mod plan;
mod recursive;
mod rootfs;
mod run;
mod shared;
mod show;
mod spawn;
mod tail;
mod terminal;
mod user;

pub use error::LaunchError;
pub use gate::{gate_connect, gate_listen, stream_connect};
pub use plan::{
    Device, DeviceKind, Fd, Ids, Mount, MountPoint, MountSource, Overlay, Plan, Propagation, Step, Tree, UserQuery, Who,
};
pub use spawn::{GO, Launch, PidNamespace, Progress, launch};
