//! A launch as a value: a list of steps that can be printed, compared with a golden file and made to fail at step
//! *n*. Nothing here touches the kernel; `run` does what is written.

use crate::caps::{CapSet, CapSets};
use crate::hook::Hooks;
use crate::lsm::Labelled;
use crate::ns::NamespaceKind;
use crate::numa::MemoryPolicy;
use crate::schedule::SchedAttr;
use crate::seccomp::Filter;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

/// Steps and the descriptors that they name.
#[derive(Debug, Default)]
pub struct Plan {
    pub(crate) fds: Vec<(String, Arc<OwnedFd>)>,
    pub(crate) steps: Vec<Step>,
    /// Descriptors 3 and up that the caller inherited and passes on, at their places.
    pub(crate) inherited: Vec<i32>,
}

/// A descriptor of the plan, by place; printed by its name, so that plans do not depend on numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fd(pub(crate) usize);

/// A mount tree that an earlier step made detached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tree(pub u16);

impl Plan {
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the plan a descriptor to keep open in the child.
    pub fn fd(&mut self, name: impl Into<String>, fd: impl Into<Arc<OwnedFd>>) -> Fd {
        let fd: Arc<OwnedFd> = fd.into();
        let fd = if fd.as_raw_fd() > 2 { fd } else { fd.try_clone().map_or(fd, Arc::new) };
        self.fds.push((name.into(), fd));
        Fd(self.fds.len() - 1)
    }

    /// These stay open in the program: the caller has inherited them, without CLOEXEC.
    pub fn keep_inherited(&mut self, numbers: Vec<i32>) {
        self.inherited = numbers;
    }

    /// For a container that has nothing to run yet: it waits, and is never let go.
    pub fn without_program(&mut self) {
        self.steps.retain(|step| !matches!(step, Step::FindExecutable));
    }

    pub fn push(&mut self, step: Step) {
        self.steps.push(step);
    }

    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// For tests: the step that will be refused instead of done.
    pub fn fail_at(&mut self, index: usize) {
        self.steps[index] = Step::Fail(self.describe(&self.steps[index]));
    }

    pub fn extend(&mut self, steps: impl IntoIterator<Item = Step>) {
        self.steps.extend(steps);
    }

    pub fn describe(&self, step: &Step) -> String {
        super::show::shown(self, step)
    }
}

/// The numbers 0 to 2 will be the container's stdio. (try_clone takes the first free number from 3.)
pub(super) fn above_stdio(fd: OwnedFd) -> OwnedFd {
    if fd.as_raw_fd() > 2 { fd } else { fd.try_clone().unwrap_or(fd) }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Private,
    Slave,
    Shared,
    Unbindable,
}

/// What a mount point is made as when it is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountPoint {
    Directory,
    File,
    /// /proc and /sys: a real directory or nothing, never a symlink (CVE-2019-19921, CVE-2023-27561).
    OrdinaryDirectory,
    /// What is there, even if it is a link, or a directory or file where nothing is.
    NotFollowed {
        directory: bool,
    },
    /// A mount that is there.
    Mounted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// A new instance.
    Filesystem { fstype: String, source: String, data: String },
    /// Classic: a path of the host, still visible. With an fd, what is found there must be what the fd is open on.
    Bind { path: PathBuf, verify: Option<Fd>, recursive: bool },
    /// Made earlier by `CloneTree`.
    Tree(Tree),
    /// What is mounted there, changed: the file system with its data, or the mount itself.
    Remount { data: String, bind: bool },
}

/// A mount inside the container's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub destination: PathBuf,
    pub source: MountSource,
    pub point: MountPoint,
    /// `MS_*` of the mount itself; for a bind they are applied afterwards.
    pub set: u64,
    /// `MS_*` that a bind must not have, whatever its source has.
    pub clear: u64,
    pub propagation: Option<Propagation>,
    /// `MOUNT_ATTR_*` for the whole tree (rro and its kin).
    pub recursive_set: u64,
    pub recursive_clear: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    Char,
    Block,
    Fifo,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub path: PathBuf,
    pub kind: DeviceKind,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// Numeric ids of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ids {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// A user to be looked up in the container's own /etc/passwd and /etc/group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserQuery {
    /// As in an image's `User`: "", "nginx", "101", "nginx:www", "101:102".
    pub user: String,
    /// Wins over the group that `user` or passwd names.
    pub gid: Option<u32>,
    pub extra_groups: Vec<u32>,
    /// Also the groups of /etc/group that list the user (`supplementalGroupsPolicy: Merge`).
    pub image_groups: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    Ids(Ids),
    Query(UserQuery),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Topmost first, as the kernel lists them.
    pub lowers: Vec<PathBuf>,
    /// None: read-only.
    pub upper: Option<(PathBuf, PathBuf)>,
    /// Where the classic call mounts it, and where a copy is made when overlay is refused.
    pub at: PathBuf,
}

/// One act of the child. Order and arguments are decided by whoever writes the plan.
#[derive(Debug, Clone)]
pub enum Step {
    /// Closes every descriptor that the plan does not name; 0, 1 and 2 stay until `Stdio` replaces them.
    CloseOtherFds,
    /// Closes the plan's own too: what follows lives among the container's files (CVE-2024-21626).
    CloseDone,
    ResetSignals,
    Undumpable,
    DieWithParent,
    NewSession,
    /// v1: this thread into the group whose `tasks` file this is.
    AttachTasks(Fd),
    /// v2: writes to `cgroup.procs` below the directory, unless born inside.
    AttachGroup(Fd),
    /// A refusal is a warning: some hosts do not let anybody lower it.
    OomScoreAdj(i32),
    Join {
        target: Option<Fd>,
        kinds: Vec<NamespaceKind>,
        each: Vec<(NamespaceKind, Fd)>,
    },
    Unshare(Vec<NamespaceKind>),
    LoopbackUp,
    Hostname(String),
    Domainname(String),
    Sysctl {
        name: String,
        value: String,
    },

    /// Host side: directories that are ours alone, 0755 parents 0711.
    MakeDirectories(Vec<PathBuf>),
    /// Classic: the mount that holds this path stops telling others what is mounted on it.
    PrivateMountOf(PathBuf),
    /// Everything here becomes a slave or private, recursively.
    PropagateRoot(Propagation),
    OverlayAt(Overlay),
    OverlayTree {
        overlay: Overlay,
        tree: Tree,
    },
    /// A directory that is the root as it is.
    BindRoot {
        path: PathBuf,
    },
    TmpfsRoot {
        data: String,
        at: PathBuf,
    },
    /// Classic: a procfs of this process's PID namespace.
    ProcAt(PathBuf),
    CloneTree {
        tree: Tree,
        path: PathBuf,
        fd: Option<Fd>,
        recursive: bool,
        set: u64,
        clear: u64,
        propagation: Propagation,
        recursive_set: u64,
        recursive_clear: u64,
    },
    /// A mount that the parent made detached, for this child alone.
    AdoptTree {
        tree: Tree,
        fd: Fd,
        set: u64,
        clear: u64,
    },
    /// An empty tmpfs that belongs to no place.
    TmpfsTree {
        tree: Tree,
        data: String,
    },
    /// The root that following steps work in.
    OpenRoot(PathBuf),
    /// Mounts the tree over `/` and takes it as the root.
    AttachRoot(Tree),
    Mount(Mount),
    Device(Device),
    Symlink {
        path: PathBuf,
        target: PathBuf,
        replace: bool,
    },
    /// Inside the root, with its parents; what cannot be made is for a later step to miss.
    MakeDirectory(PathBuf),
    ReadonlyPath(PathBuf),
    MaskPath(PathBuf),
    /// A tmpfs that had to be written to first.
    RemountReadonly(PathBuf),
    PivotRoot,
    /// Without pivot_root (an initramfs refuses it): the root is moved over the old one, which stays below. `attached`: it
    /// lies there already.
    MoveRoot {
        attached: bool,
    },
    /// A directory inside is all that this process sees; who joins its mount namespace sees the whole.
    Chroot(PathBuf),
    ReadonlyRoot,

    /// A pty of the container's own devpts becomes stdio; the master goes to the parent.
    Terminal {
        console: bool,
        rows: u16,
        columns: u16,
    },
    Stdio([Fd; 3]),
    Rlimit {
        resource: u32,
        name: String,
        soft: u64,
        hard: u64,
    },
    Umask(u32),
    FindUser(Who),
    ChownStdio,
    Chdir(PathBuf),
    DropBounding(CapSet),
    SwitchUser,
    /// Where the directory was closed to root, and again to see that it is inside.
    CheckCwd,
    Capabilities(CapSets),
    NoNewPrivileges,
    Seccomp(Filter),
    /// Fails now rather than at `Exec`, with the words of the container engines.
    FindExecutable,
    /// Tells the parent that all is ready and waits for its word.
    Gate,
    /// Tells the parent that all is ready, and waits on a listening socket for another process's word, which hears
    /// from here on what the parent would have heard.
    GateSocket(Fd),
    /// Tells the other end, and waits for its word: the runtime's own hooks run meanwhile.
    Rendezvous(Fd),
    /// Hooks that this process runs itself.
    Hooks(Hooks),
    /// `/` and, with MS_REC, all below it.
    PropagateFlags(u64),
    Personality(u64),
    Scheduler(SchedAttr),
    /// Class in the upper three bits, level in the rest.
    IoPriority(u16),
    Affinity(Vec<usize>),
    /// All cpus that the cgroup allows, whatever the caller was bound to; a refusal is a warning.
    AllCpus,
    MemoryPolicy(MemoryPolicy),
    /// While /proc is the host's; `Label` writes to it.
    OpenLabel(Labelled),
    /// Before `CloseDone`.
    Label {
        what: Labelled,
        label: String,
    },
    /// A session keyring of the container's, not the caller's; a refusal is a warning.
    SessionKeyring(String),
    /// Tells the parent that what follows is execve: from here a closed channel means that it succeeded. Before the
    /// last filter, which may forbid to speak.
    Announce,
    /// Supplementary groups are left while that is surely allowed.
    LeaveGroups,
    /// Hard limits (resource, name, value) that are lower now: inside a user namespace nobody may raise them.
    RaiseLimits(Vec<(u32, String, u64)>),
    /// Pipes and terminals to the host's ids of a container's user.
    ChownStreams {
        fds: [Fd; 3],
        uid: u32,
        gid: u32,
    },
    /// Ids 0 of the user namespace that was joined.
    BecomeRoot,
    /// `/proc/self/timens_offsets`, before anybody lives in the new time namespace.
    TimeOffsets(String),
    /// Something of the host's, cloned while it is in sight: mounted at this place of the root when what should be made
    /// there is refused.
    Spare {
        at: PathBuf,
        path: PathBuf,
        flags: u64,
    },
    /// A tree made earlier shows its owners by the maps of that user namespace.
    IdmapTree {
        tree: Tree,
        userns: Fd,
        recursive: bool,
    },
    /// The root, where it lies in a mount namespace that is somebody else's too.
    JoinedRoot(PathBuf),
    /// chroot instead of pivot_root: the mount namespace is not the container's.
    ChrootRoot,
    /// Another process's root.
    ChrootTo(Fd),
    /// This process ends; its only child, our parent's by CLONE_PARENT, goes on in the namespaces that only children
    /// enter.
    GoOn,
    /// Children of this process are born in that PID namespace; it stays outside itself.
    PidForChildren(Fd),
    /// Last act of a child that stayed outside: its only child, our parent's by CLONE_PARENT, goes on inside.
    BirthInside,
    Exec {
        args: Vec<String>,
        env: Vec<String>,
    },
    /// Runs this descriptor as a program (pause from its memfd).
    ExecFd {
        program: Fd,
        args: Vec<String>,
    },
    /// The descriptor's content as a program inside the root, for kernels without execveat.
    CopyProgram {
        program: Fd,
        path: PathBuf,
    },
    /// As `ExecFd`, of a program inside the root.
    ExecPath {
        path: PathBuf,
        args: Vec<String>,
    },
    /// A step that a test made fail.
    Fail(String),
}

impl Propagation {
    pub(crate) fn flag_name(self) -> &'static str {
        match self {
            Propagation::Private => "MS_PRIVATE",
            Propagation::Slave => "MS_SLAVE",
            Propagation::Shared => "MS_SHARED",
            Propagation::Unbindable => "MS_UNBINDABLE",
        }
    }

    pub(crate) fn flag(self) -> u64 {
        match self {
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Slave => libc::MS_SLAVE,
            Propagation::Shared => libc::MS_SHARED,
            Propagation::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

impl Overlay {
    /// The mount data, with absolute paths.
    pub(crate) fn data(&self) -> String {
        let lowers: Vec<_> = self.lowers.iter().map(|path| path.display().to_string()).collect();
        let mut data = format!("lowerdir={}", lowers.join(":"));
        if let Some((upper, work)) = &self.upper {
            data.push_str(&format!(",upperdir={},workdir={}", upper.display(), work.display()));
        }
        data
    }
}
