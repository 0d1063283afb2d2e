//! An OCI configuration becomes a process.
//!
//! `sandbox::create` makes pause; `create` a container in its namespaces, which waits at a gate; `exec` adds a process
//! to it. Each returns at once: the birth goes on in a child, and `channel` and `progress` tell how. What a container
//! did before a crash of ours is found again with `reopen`. Nothing here knows pods, probes or YAML.
//!
//! ```no_run
//! # use killick_container::*; use killick_sys::{facts::Facts, launch::Progress}; use std::time::{Duration, Instant};
//! # fn f(request: CreateRequest<'_>) -> Result<(), killick_sys::launch::LaunchError> {
//! let mut created = create(&Facts::detect(), request)?;
//! assert_eq!(created.wait(Instant::now() + Duration::from_secs(10)), Progress::AtGate);
//! created.start()?;
//! assert_eq!(created.wait(Instant::now() + Duration::from_secs(10)), Progress::Running);
//! let container = created.into_container()?;
//! container.process().wait_blocking()?;
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod attributes;
mod birth;
pub mod bundle;
pub mod caps;
pub mod cgroup;
pub mod config;
pub mod devices;
mod exec;
pub mod features;
pub mod hooks;
#[doc(hidden)]
pub mod hostile;
mod id_maps;
mod labels;
mod meeting;
pub mod memory_policy;
mod mounts;
mod namespaces;
mod net_devices;
mod options;
mod pid_namespace;
mod process;
pub mod rdt;
mod request;
pub mod resources;
pub mod rootfs_mounts;
pub mod sandbox;
mod scheduling;
pub mod seccomp;
mod shape;
pub mod signal;
mod state;
pub mod support;
pub mod systemd;
pub mod update;

pub use birth::{Created, create, create_with, may_ptrace};
pub use exec::{Exec, ProcessRequest, exec, exec_process, exec_with};
pub use killick_sys::launch::{LaunchError, Progress, UserQuery};
pub use request::{CreateRequest, ExecRequest, Join, PidMode, Ptrace, Rootfs, Stdio, UserRequest};
pub use sandbox::Sandbox;
pub use scheduling::cpu_mask;
pub use state::{Container, Record, reopen};
