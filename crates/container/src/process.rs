//! The last part of every plan: who the process is, what it may do, what it runs. The same for a container's first
//! process and for an exec.

use crate::cgroup::Cgroup;
use crate::rdt::Rdt;
use crate::request::Stdio;
use crate::state::{Rlimit, Settings};
use killick_sys::cgroup::Attach;
use killick_sys::hook::Hooks;
use killick_sys::launch::{Fd, LaunchError, Plan, Step};
use nix::errno::Errno;
use oci_spec::runtime::{PosixRlimit, PosixRlimitType};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Opens a plan: a clean child that is in its cgroups before it does anything that costs.
/// Returns the v2 directory to be born in.
pub(crate) fn begin(
    plan: &mut Plan,
    attach: Option<&Attach>,
    oom_score_adj: Option<i32>,
) -> Result<Option<Fd>, LaunchError> {
    plan.extend([Step::CloseOtherFds, Step::ResetSignals, Step::Undumpable]);
    enter(plan, attach, oom_score_adj)
}

/// How a first process comes into its cgroup.
#[derive(Debug, Default)]
pub(crate) struct Begun {
    pub(crate) born_in: Option<Fd>,
    pub(crate) placing: Placing,
}

/// The first gate: systemd must have put the process into its scope before it goes on. Kept open to the end of the
/// birth: closed with the child's own word unread it would take ours with it (ECONNRESET).
#[derive(Debug, Default)]
pub(crate) struct Placing {
    gate: Option<OwnedFd>,
    is_open: bool,
}

/// As `begin`, for the first process of a cgroup, which may be a scope that systemd has yet to make.
pub(crate) fn begin_first(
    plan: &mut Plan,
    cgroup: Option<&Cgroup>,
    oom_score_adj: Option<i32>,
) -> Result<Begun, LaunchError> {
    if cgroup.is_none_or(|cgroup| !cgroup.awaits_process()) {
        let attach = cgroup.map(Cgroup::attach).transpose().map_err(crate::birth::cgroup_error)?;
        return Ok(Begun { born_in: begin(plan, attach.as_ref(), oom_score_adj)?, placing: Placing::default() });
    }
    plan.extend([Step::CloseOtherFds, Step::ResetSignals, Step::Undumpable]);
    let (ours, theirs) = killick_sys::fd::seqpacket_pair()?;
    let theirs = plan.fd("first gate", theirs);
    plan.push(Step::Rendezvous(theirs));
    Ok(Begun { born_in: enter(plan, None, oom_score_adj)?, placing: Placing { gate: Some(ours), is_open: false } })
}

impl Placing {
    /// Somebody waits.
    pub(crate) fn awaits(&self) -> bool {
        self.gate.is_some() && !self.is_open
    }

    /// The parent's word that systemd has the process. A child that has died says why elsewhere.
    pub(crate) fn let_in(&mut self) -> Result<(), LaunchError> {
        let Some(gate) = self.gate.as_ref().filter(|_| !self.is_open) else { return Ok(()) };
        match killick_sys::fd::send_message(gate.as_fd(), killick_sys::launch::GO, &[]) {
            Err(error) if matches!(error.errno(), Errno::EPIPE | Errno::ECONNRESET) => {}
            sent => {
                sent?;
            }
        }
        self.is_open = true;
        Ok(())
    }
}

fn enter(plan: &mut Plan, attach: Option<&Attach>, oom_score_adj: Option<i32>) -> Result<Option<Fd>, LaunchError> {
    let mut born_in = None;
    if let Some(attach) = attach {
        for (index, tasks) in attach.tasks.iter().enumerate() {
            let fd = plan.fd(format!("tasks {index}"), Arc::clone(tasks));
            plan.push(Step::AttachTasks(fd));
        }
        if let Some(dir) = &attach.dir {
            born_in = Some(plan.fd("cgroup", clone_fd(dir)?));
        }
        if let Some(procs) = &attach.procs {
            let fd = plan.fd("cgroup.procs", clone_fd(procs)?);
            plan.push(Step::AttachGroup(fd));
        }
    }
    // The caller's own mask is not the container's (runc does the same).
    plan.push(Step::AllCpus);
    // While /proc is surely the host's.
    if let Some(score) = oom_score_adj {
        plan.push(Step::OomScoreAdj(score));
    }
    Ok(born_in)
}

/// Its shares of cache and bandwidth, from here on.
pub(crate) fn join_rdt(plan: &mut Plan, rdt: Option<&Rdt>) -> Result<(), LaunchError> {
    let tasks = rdt.map(Rdt::tasks).transpose().map_err(LaunchError::Unsupported)?;
    for tasks in tasks.into_iter().flatten() {
        let fd = plan.fd("resctrl tasks", tasks);
        plan.push(Step::AttachTasks(fd));
    }
    Ok(())
}

pub(crate) fn clone_fd(fd: &std::os::fd::OwnedFd) -> Result<std::os::fd::OwnedFd, LaunchError> {
    fd.try_clone().map_err(|error| killick_sys::error::Error::from_io("fcntl(F_DUPFD_CLOEXEC)", &error).into())
}

/// The streams become descriptors of the plan; a terminal needs none.
pub(crate) enum PlannedStdio {
    Streams([Fd; 3]),
    Terminal { rows: u16, columns: u16 },
}

pub(crate) fn plan_stdio(plan: &mut Plan, stdio: Stdio) -> PlannedStdio {
    match stdio {
        Stdio::Streams { stdin, stdout, stderr } => {
            PlannedStdio::Streams([plan.fd("stdin", stdin), plan.fd("stdout", stdout), plan.fd("stderr", stderr)])
        }
        Stdio::Terminal { rows, columns } => PlannedStdio::Terminal { rows, columns },
    }
}

/// What a first process waits for, and an exec does not.
pub(crate) enum Gate {
    /// Opened by its maker; startContainer hooks run before the program.
    Wait {
        hooks: Option<Hooks>,
    },
    /// Another process opens it.
    Socket {
        listener: Fd,
        hooks: Option<Hooks>,
    },
    None,
}

/// From inside the finished root to execve.
pub(crate) fn finish(plan: &mut Plan, settings: &Settings, stdio: &PlannedStdio, gate: Gate, args: Vec<String>) {
    if let PlannedStdio::Streams(fds) = stdio {
        plan.push(Step::Stdio(*fds));
    }
    plan.extend(settings.labels.steps());
    plan.push(Step::CloseDone);
    plan.extend([
        Step::FindUser(settings.user.who()),
        Step::ChownStdio,
        Step::Chdir(settings.cwd.clone()),
        Step::Umask(settings.umask),
    ]);
    // After the last file is opened (NOFILE), while hard limits may still be raised.
    for Rlimit { resource, name, soft, hard } in &settings.rlimits {
        plan.push(Step::Rlimit { resource: *resource, name: name.clone(), soft: *soft, hard: *hard });
    }
    plan.push(Step::DropBounding(settings.capabilities.bounding));
    // Without no_new_privs a filter needs CAP_SYS_ADMIN: it is loaded while that is there, and must allow what follows.
    // With no_new_privs it comes last, and need allow nothing of ours but execve.
    let early = settings.seccomp.clone().filter(|_| !settings.no_new_privileges);
    // A filter with a listener is given to whoever answers while the container is made, and startContainer hooks are
    // under it.
    let listens = settings.seccomp.as_ref().is_some_and(|filter| filter.listens());
    let mut late = settings.seccomp.clone().filter(|_| settings.no_new_privileges);
    plan.extend(early.map(Step::Seccomp));
    plan.extend([Step::SwitchUser, Step::CheckCwd, Step::Capabilities(settings.capabilities)]);
    if settings.no_new_privileges {
        plan.push(Step::NoNewPrivileges);
    }
    plan.push(Step::FindExecutable);
    plan.extend(late.take_if(|_| listens).map(Step::Seccomp));
    if settings.born_outside {
        plan.push(Step::BirthInside);
    }
    match gate {
        Gate::Wait { hooks } => {
            plan.push(Step::Gate);
            plan.extend(hooks.map(Step::Hooks));
        }
        Gate::Socket { listener, hooks } => {
            plan.push(Step::GateSocket(listener));
            plan.extend(hooks.map(Step::Hooks));
        }
        Gate::None => {}
    }
    plan.push(Step::Announce);
    plan.extend(late.map(Step::Seccomp));
    plan.push(Step::Exec { args, env: settings.env.clone() });
}

/// A variable for each name, the last one's value, in the order of the last ones (runc 1.3).
pub(crate) fn deduplicate(env: impl IntoIterator<Item = String>) -> Result<Vec<String>, LaunchError> {
    let mut kept: Vec<String> = Vec::new();
    for variable in env {
        let Some((name, _)) = variable.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(LaunchError::Unsupported(format!("invalid environment variable {variable:?}")));
        };
        if variable.contains('\0') {
            return Err(LaunchError::Unsupported(format!("environment variable {name:?} has a NUL byte")));
        }
        let prefix = format!("{name}=");
        kept.retain(|other| !other.starts_with(&prefix));
        kept.push(variable);
    }
    Ok(kept)
}

pub(crate) fn rlimits(rlimits: &[PosixRlimit]) -> Result<Vec<Rlimit>, LaunchError> {
    let mut converted: Vec<Rlimit> = Vec::new();
    for limit in rlimits {
        let (resource, name) = rlimit_number(limit.typ());
        if converted.iter().any(|other| other.resource == resource) {
            return Err(LaunchError::Unsupported(format!("rlimit {name} is given twice")));
        }
        converted.push(Rlimit { resource, name: name.into(), soft: limit.soft(), hard: limit.hard() });
    }
    Ok(converted)
}

fn rlimit_number(kind: PosixRlimitType) -> (u32, &'static str) {
    match kind {
        PosixRlimitType::RlimitCpu => (libc::RLIMIT_CPU, "RLIMIT_CPU"),
        PosixRlimitType::RlimitFsize => (libc::RLIMIT_FSIZE, "RLIMIT_FSIZE"),
        PosixRlimitType::RlimitData => (libc::RLIMIT_DATA, "RLIMIT_DATA"),
        PosixRlimitType::RlimitStack => (libc::RLIMIT_STACK, "RLIMIT_STACK"),
        PosixRlimitType::RlimitCore => (libc::RLIMIT_CORE, "RLIMIT_CORE"),
        PosixRlimitType::RlimitRss => (libc::RLIMIT_RSS, "RLIMIT_RSS"),
        PosixRlimitType::RlimitNproc => (libc::RLIMIT_NPROC, "RLIMIT_NPROC"),
        PosixRlimitType::RlimitNofile => (libc::RLIMIT_NOFILE, "RLIMIT_NOFILE"),
        PosixRlimitType::RlimitMemlock => (libc::RLIMIT_MEMLOCK, "RLIMIT_MEMLOCK"),
        PosixRlimitType::RlimitAs => (libc::RLIMIT_AS, "RLIMIT_AS"),
        PosixRlimitType::RlimitLocks => (libc::RLIMIT_LOCKS, "RLIMIT_LOCKS"),
        PosixRlimitType::RlimitSigpending => (libc::RLIMIT_SIGPENDING, "RLIMIT_SIGPENDING"),
        PosixRlimitType::RlimitMsgqueue => (libc::RLIMIT_MSGQUEUE, "RLIMIT_MSGQUEUE"),
        PosixRlimitType::RlimitNice => (libc::RLIMIT_NICE, "RLIMIT_NICE"),
        PosixRlimitType::RlimitRtprio => (libc::RLIMIT_RTPRIO, "RLIMIT_RTPRIO"),
        PosixRlimitType::RlimitRttime => (libc::RLIMIT_RTTIME, "RLIMIT_RTTIME"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_variable_of_a_name_wins() {
        let env = ["A=1", "B=2", "A=3"].map(String::from);
        assert_eq!(deduplicate(env).unwrap(), ["B=2", "A=3"]);
        assert!(deduplicate(["novalue".to_owned()]).is_err());
        assert!(deduplicate(["=x".to_owned()]).is_err());
        assert!(deduplicate(["A=x\0y".to_owned()]).is_err());
    }
}
