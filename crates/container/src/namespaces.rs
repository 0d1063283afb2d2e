//! The namespaces of a configuration: those to join, those to make, and in which order a process gets into them.
//!
//! A user namespace is made first, empty, and joined like any other: what is made after that belongs to it. Namespaces
//! that only children enter (PID inside a user namespace, time) need a second process: the first prepares what takes the
//! host's rights and ends, its sibling goes on inside (`Step::GoOn`).

use crate::id_maps;
use killick_sys::error::{Context, Error};
use killick_sys::launch::{Fd, Ids, LaunchError, PidNamespace, Plan, Step};
use killick_sys::ns::{self, NamespaceKind};
use killick_sys::userns::{self, Maps, outside};
use oci_spec::runtime::{Linux, LinuxNamespaceType, Spec};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(crate) enum Pid {
    Host,
    New,
    /// With where it was opened.
    Joined(OwnedFd, PathBuf),
}

/// Whose mount namespace the root is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MountNamespace {
    New,
    /// Somebody else's, by path: nothing of theirs may be changed, so the root is entered by chroot.
    Joined,
    /// The caller's own.
    Inherited,
}

#[derive(Debug)]
pub(crate) struct UserNamespace {
    pub(crate) fd: OwnedFd,
    pub(crate) maps: Maps,
}

#[derive(Debug)]
pub(crate) struct Namespaces {
    joined: Vec<(NamespaceKind, OwnedFd)>,
    new: Vec<NamespaceKind>,
    pub(crate) pid: Pid,
    pub(crate) mount: MountNamespace,
    pub(crate) user: Option<UserNamespace>,
    /// None: no time namespace of its own.
    pub(crate) time: bool,
    offsets: Option<String>,
    /// All is done outside a joined PID namespace, and the last act is a birth into it (`Step::BirthInside`).
    pub(crate) born_outside: bool,
}

/// A path that is anything else, a pipe for one, must not stop us; setns says what it is.
fn open_namespace(path: &Path) -> Result<OwnedFd, Error> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    options.open(path).map(OwnedFd::from).call(|| format!("open({})", path.display()))
}

/// Opens what is joined and makes the user namespace.
pub(crate) fn of(spec: &Spec) -> Result<Namespaces, LaunchError> {
    let mut found = Namespaces {
        joined: Vec::new(),
        new: Vec::new(),
        pid: Pid::Host,
        mount: MountNamespace::Inherited,
        user: None,
        time: false,
        offsets: None,
        born_outside: false,
    };
    let Some(linux) = spec.linux() else { return Ok(found) };
    for namespace in linux.namespaces().iter().flatten() {
        let kind = kind(namespace.typ());
        let path = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty());
        let opened = path.map(|path| open_namespace(path)).transpose()?;
        match (kind, opened) {
            (NamespaceKind::Pid, Some(fd)) if is_own(&fd, kind)? => {}
            (NamespaceKind::Pid, Some(fd)) => found.pid = Pid::Joined(fd, path.cloned().unwrap_or_default()),
            (NamespaceKind::Pid, None) => found.pid = Pid::New,
            (NamespaceKind::User, opened) => found.user = user(linux, opened)?,
            (NamespaceKind::Mount, Some(fd)) if !is_own(&fd, kind)? => {
                found.mount = MountNamespace::Joined;
                found.joined.push((kind, fd));
            }
            (NamespaceKind::Mount, Some(_)) => {}
            (NamespaceKind::Mount, None) => {
                found.mount = MountNamespace::New;
                found.new.push(kind);
            }
            (kind, Some(fd)) => {
                found.time |= kind == NamespaceKind::Time;
                found.joined.push((kind, fd));
            }
            (kind, None) => {
                found.time |= kind == NamespaceKind::Time;
                found.new.push(kind);
            }
        }
    }
    if found.is_new(NamespaceKind::Time) {
        if ns::open_own(NamespaceKind::Time).is_err() {
            return Err(LaunchError::Unsupported(
                "linux.namespaces: time namespaces aren't enabled in the kernel (Linux 5.6)".into(),
            ));
        }
        found.offsets = offsets(linux);
    }
    Ok(found)
}

fn kind(kind: LinuxNamespaceType) -> NamespaceKind {
    match kind {
        LinuxNamespaceType::Mount => NamespaceKind::Mount,
        LinuxNamespaceType::Cgroup => NamespaceKind::Cgroup,
        LinuxNamespaceType::Uts => NamespaceKind::Uts,
        LinuxNamespaceType::Ipc => NamespaceKind::Ipc,
        LinuxNamespaceType::User => NamespaceKind::User,
        LinuxNamespaceType::Pid => NamespaceKind::Pid,
        LinuxNamespaceType::Network => NamespaceKind::Network,
        LinuxNamespaceType::Time => NamespaceKind::Time,
    }
}

fn is_own(fd: &OwnedFd, kind: NamespaceKind) -> Result<bool, Error> {
    crate::bundle::is_own_namespace(fd.as_fd(), kind)
}

/// None: it is the caller's own.
fn user(linux: &Linux, opened: Option<OwnedFd>) -> Result<Option<UserNamespace>, LaunchError> {
    let listed = id_maps::maps(linux.uid_mappings().as_ref(), linux.gid_mappings().as_ref());
    let Some(fd) = opened else {
        if ns::open_own(NamespaceKind::User).is_err() {
            return Err(LaunchError::Unsupported(
                "linux.namespaces: user namespaces aren't enabled in the kernel".into(),
            ));
        }
        let fd = userns::create(&listed)
            .map_err(|error| LaunchError::Step { doing: "make the user namespace".into(), error })?;
        return Ok(Some(UserNamespace { fd, maps: listed }));
    };
    if is_own(&fd, NamespaceKind::User)? {
        return Ok(None);
    }
    let maps = userns::maps_of(fd.as_fd())
        .map_err(|error| LaunchError::Step { doing: "join the user namespace".into(), error })?;
    if !listed.uid.is_empty() && listed != maps {
        return Err(LaunchError::Unsupported(
            "linux.namespaces: both user namespace path and non-matching mapping specified".into(),
        ));
    }
    Ok(Some(UserNamespace { fd, maps }))
}

fn offsets(linux: &Linux) -> Option<String> {
    let mut lines: Vec<String> = linux
        .time_offsets()
        .iter()
        .flatten()
        .map(|(clock, offset)| format!("{clock} {} {}\n", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0)))
        .collect();
    lines.sort();
    (!lines.is_empty()).then(|| lines.concat())
}

impl Namespaces {
    pub(crate) fn is_new(&self, kind: NamespaceKind) -> bool {
        match kind {
            NamespaceKind::Pid => matches!(self.pid, Pid::New),
            kind => self.new.contains(&kind),
        }
    }

    pub(crate) fn is_joined(&self, kind: NamespaceKind) -> bool {
        match kind {
            NamespaceKind::Pid => matches!(self.pid, Pid::Joined(..)),
            kind => self.joined.iter().any(|(joined, _)| *joined == kind),
        }
    }

    /// For kernels without that kind.
    pub(crate) fn leave_out(&mut self, kind: NamespaceKind) {
        self.new.retain(|new| *new != kind);
    }

    /// Whose the container's cgroup is to be (runtime-spec, "Cgroup ownership"): of the container's root, where it has
    /// a cgroup namespace of its own and a cgroup file system to write to.
    pub(crate) fn cgroup_owner(&self, spec: &Spec) -> Option<u32> {
        let is_cgroup = |kind: Option<&str>| matches!(kind, Some("cgroup" | "cgroup2"));
        let mut mounts = spec.mounts().iter().flatten().filter(|mount| is_cgroup(mount.typ().as_deref()));
        let is_writable = mounts.any(|mount| {
            crate::options::parse(mount.options().as_deref().unwrap_or_default()).set & libc::MS_RDONLY == 0
        });
        let user = self.user.as_ref().filter(|_| is_writable && self.is_new(NamespaceKind::Cgroup))?;
        outside(&user.maps.uid, 0)
    }

    /// Whether a second process has to go on where the first was.
    pub(crate) fn goes_on(&self) -> bool {
        (self.is_new(NamespaceKind::Time) && !self.born_outside)
            || (self.user.is_some() && self.is_new(NamespaceKind::Pid))
    }

    /// Where the first child is born. One that makes way for another stays outside: it is told by the host's number.
    pub(crate) fn born_in(&self) -> PidNamespace<'_> {
        match &self.pid {
            _ if self.goes_on() || self.born_outside => PidNamespace::Inherit,
            Pid::Host => PidNamespace::Inherit,
            Pid::New => PidNamespace::New,
            Pid::Joined(namespace, _) => PidNamespace::Inside(namespace.as_fd()),
        }
    }

    /// Into what is joined, and out of everything else. The host's rights end here.
    pub(crate) fn plan_leave(&self, plan: &mut Plan) -> Result<(), LaunchError> {
        let clone = crate::process::clone_fd;
        if let (true, Pid::Joined(namespace, _)) = (self.goes_on() || self.born_outside, &self.pid) {
            let fd = plan.fd("PID namespace", clone(namespace)?);
            plan.push(Step::PidForChildren(fd));
        }
        let mut each = Vec::new();
        if let Some(user) = &self.user {
            plan.push(Step::LeaveGroups);
            each.push((NamespaceKind::User, plan.fd("user namespace", clone(&user.fd)?)));
        }
        for (kind, fd) in &self.joined {
            each.push((*kind, plan.fd(format!("{} namespace", kind.proc_name()), clone(fd)?)));
        }
        if !each.is_empty() {
            plan.push(Step::Join { target: None, kinds: Vec::new(), each });
        }
        let mut unshare = self.new.clone();
        if self.goes_on() && self.is_new(NamespaceKind::Pid) {
            unshare.push(NamespaceKind::Pid);
        }
        plan.push(Step::Unshare(unshare));
        plan.extend(self.offsets.clone().map(Step::TimeOffsets));
        Ok(())
    }

    /// After what still wants the host's ids (sysctls).
    pub(crate) fn plan_go_on(&self, plan: &mut Plan) {
        if self.user.is_some() {
            plan.push(Step::BecomeRoot);
        }
        if self.goes_on() {
            plan.push(Step::GoOn);
        }
    }
}

/// What takes the host's rights and would be refused inside: hard limits, and the streams' owner.
pub(crate) fn plan_before_user(plan: &mut Plan, maps: &Maps, settings: &crate::state::Settings, fds: Option<[Fd; 3]>) {
    let limits: Vec<_> =
        settings.rlimits.iter().map(|limit| (limit.resource, limit.name.clone(), limit.hard)).collect();
    if !limits.is_empty() {
        plan.push(Step::RaiseLimits(limits));
    }
    let (uid, gid) = match settings.user.who() {
        killick_sys::launch::Who::Ids(Ids { uid, gid, .. }) => (uid, gid),
        killick_sys::launch::Who::Query(_) => (0, 0),
    };
    if let (Some(fds), Some(uid), Some(gid)) = (fds, outside(&maps.uid, uid), outside(&maps.gid, gid)) {
        plan.push(Step::ChownStreams { fds, uid, gid });
    }
}
