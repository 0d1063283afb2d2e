//! Plans as text, one line for each step, as strace would have it; the golden files of the tests are made of these.

use super::plan::{Device, DeviceKind, Fd, MountSource, Plan, Step, Tree, Who};
use crate::lsm;
use crate::ns::flag_names;
use std::fmt;

pub(super) fn shown(plan: &Plan, step: &Step) -> String {
    Shown { plan, step }.to_string()
}

/// One line for each step.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{}", Shown { plan: self, step }))
    }
}

struct Shown<'a> {
    plan: &'a Plan,
    step: &'a Step,
}

impl Shown<'_> {
    fn name(&self, fd: Fd) -> &str {
        &self.plan.fds[fd.0].0
    }
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tree{}", self.0)
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            Step::CloseOtherFds => {
                let names: Vec<&str> = self.plan.fds.iter().map(|(name, _)| name.as_str()).collect();
                write!(f, "close_range(all but {})", names.join(", "))
            }
            Step::CloseDone => write!(f, "close_range(all but the channel and stdio)"),
            Step::ResetSignals => write!(f, "rt_sigaction(all, SIG_DFL)"),
            Step::Undumpable => write!(f, "prctl(PR_SET_DUMPABLE, 0)"),
            Step::DieWithParent => write!(f, "prctl(PR_SET_PDEATHSIG, SIGKILL)"),
            Step::NewSession => write!(f, "setsid()"),
            Step::AttachTasks(fd) => write!(f, "write(<{}>, \"0\")", self.name(*fd)),
            Step::AttachGroup(fd) => write!(f, "write(<{}>/cgroup.procs, \"0\")", self.name(*fd)),
            Step::OomScoreAdj(score) => write!(f, "write(/proc/self/oom_score_adj, \"{score}\")"),
            Step::Join { target, kinds, each } => {
                let target = target.map_or("each", |fd| self.name(fd));
                let mut kinds = kinds.clone();
                kinds.extend(each.iter().map(|(kind, _)| *kind));
                kinds.sort_unstable();
                kinds.dedup();
                write!(f, "setns(<{target}>, {})", flag_names(&kinds))
            }
            Step::Unshare(kinds) => write!(f, "unshare({})", flag_names(kinds)),
            Step::LoopbackUp => write!(f, "ioctl(lo, SIOCSIFFLAGS, IFF_UP)"),
            Step::Hostname(name) => write!(f, "sethostname({name:?})"),
            Step::Domainname(name) => write!(f, "setdomainname({name:?})"),
            Step::Sysctl { name, value } => write!(f, "write(/proc/sys/{}, {value:?})", name.replace('.', "/")),
            Step::MakeDirectories(paths) => {
                let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
                write!(f, "mkdir({})", paths.join(", "))
            }
            Step::PrivateMountOf(path) => write!(f, "mount(the mount of {}, MS_PRIVATE)", path.display()),
            Step::PropagateRoot(kind) => write!(f, "mount(/, MS_REC|{})", kind.flag_name()),
            Step::OverlayAt(overlay) => write!(f, "mount(overlay, {}, {})", overlay.at.display(), overlay.data()),
            Step::OverlayTree { overlay, tree } => write!(f, "{tree} = fsmount(overlay, {})", overlay.data()),
            Step::BindRoot { path } => write!(f, "mount({0}, {0}, MS_BIND|MS_REC)", path.display()),
            Step::ProcAt(at) => write!(f, "mount(proc, {})", at.display()),
            Step::AdoptTree { tree, fd, set, clear: _ } => {
                write!(f, "{tree} = <{}> with {}", self.name(*fd), crate::mount::flag_list(*set))
            }
            Step::TmpfsRoot { data, at } => write!(f, "mount(tmpfs, {}, {data})", at.display()),
            Step::CloneTree {
                tree,
                path,
                fd: _,
                recursive,
                set,
                clear,
                propagation,
                recursive_set,
                recursive_clear,
            } => {
                let recursive = if *recursive { "|AT_RECURSIVE" } else { "" };
                write!(f, "{tree} = open_tree({}, OPEN_TREE_CLONE{recursive})", path.display())?;
                write!(f, " {}", propagation.flag_name())?;
                show_flags(f, *set, *clear)?;
                show_attributes(f, *recursive_set, *recursive_clear)
            }
            Step::TmpfsTree { tree, data } => write!(f, "{tree} = fsmount(tmpfs, {data})"),
            Step::OpenRoot(path) => write!(f, "root = open({}, O_PATH)", path.display()),
            Step::AttachRoot(tree) => write!(f, "root = move_mount({tree}, /)"),
            Step::Mount(mount) => {
                match &mount.source {
                    MountSource::Filesystem { fstype, source, data } => {
                        write!(f, "mount({source}, root{}, {fstype}, {data:?})", mount.destination.display())?;
                    }
                    MountSource::Bind { path, verify, recursive } => {
                        let recursive = if *recursive { "|MS_REC" } else { "" };
                        let verified = if verify.is_some() { " verified" } else { "" };
                        let destination = mount.destination.display();
                        write!(f, "mount({}, root{destination}, MS_BIND{recursive}){verified}", path.display())?;
                    }
                    MountSource::Remount { data, bind } => {
                        let bind = if *bind { "|MS_BIND" } else { "" };
                        write!(f, "mount(root{}, MS_REMOUNT{bind}, {data:?})", mount.destination.display())?;
                    }
                    MountSource::Tree(tree) => write!(f, "move_mount({tree}, root{})", mount.destination.display())?,
                }
                if let Some(propagation) = mount.propagation {
                    write!(f, " {}", propagation.flag_name())?;
                }
                show_flags(f, mount.set, mount.clear)?;
                show_attributes(f, mount.recursive_set, mount.recursive_clear)
            }
            Step::Device(device) => {
                let kind = match device.kind {
                    DeviceKind::Char => "S_IFCHR",
                    DeviceKind::Block => "S_IFBLK",
                    DeviceKind::Fifo => "S_IFIFO",
                };
                let Device { path, major, minor, mode, uid, gid, .. } = device;
                write!(f, "mknod(root{}, {kind}|{mode:04o}, {major}:{minor}) {uid}:{gid}", path.display())
            }
            Step::Symlink { path, target, replace } => {
                let replace = if *replace { " replacing" } else { "" };
                write!(f, "symlink({}, root{}){replace}", target.display(), path.display())
            }
            Step::MakeDirectory(path) => write!(f, "mkdir(root{}, 0755)", path.display()),
            Step::ReadonlyPath(path) => write!(f, "readonly root{}", path.display()),
            Step::MaskPath(path) => write!(f, "mask root{}", path.display()),
            Step::RemountReadonly(path) => write!(f, "remount root{} MS_RDONLY", path.display()),
            Step::MoveRoot { attached: true } => write!(f, "chroot(root)"),
            Step::MoveRoot { attached: false } => write!(f, "mount(root, /, MS_MOVE) chroot(root)"),
            Step::PivotRoot => write!(f, "pivot_root(root, .)"),
            Step::Chroot(path) => write!(f, "chroot({})", path.display()),
            Step::ReadonlyRoot => write!(f, "remount / MS_RDONLY"),
            Step::Terminal { console, rows, columns } => {
                let console = if *console { ", /dev/console" } else { "" };
                write!(f, "terminal(/dev/pts/ptmx, {rows}x{columns}{console})")
            }
            Step::Stdio(fds) => {
                let [stdin, stdout, stderr] = fds.map(|fd| self.name(fd));
                write!(f, "dup3({stdin} -> 0, {stdout} -> 1, {stderr} -> 2)")
            }
            Step::Rlimit { name, soft, hard, .. } => write!(f, "prlimit({name}, {soft}, {hard})"),
            Step::Umask(mask) => write!(f, "umask({mask:04o})"),
            Step::FindUser(Who::Ids(ids)) => write!(f, "user {}:{} groups {:?}", ids.uid, ids.gid, ids.groups),
            Step::FindUser(Who::Query(query)) => write!(f, "user {:?} from root/etc/passwd", query.user),
            Step::ChownStdio => write!(f, "fchown(0, 1, 2)"),
            Step::Chdir(path) => write!(f, "chdir({})", path.display()),
            Step::DropBounding(keep) => write!(f, "prctl(PR_CAPBSET_DROP, all but {:#x})", keep.0),
            Step::SwitchUser => write!(f, "setgroups, setresgid, setresuid with PR_SET_KEEPCAPS"),
            Step::CheckCwd => write!(f, "getcwd()"),
            Step::Capabilities(sets) => write!(
                f,
                "capset(effective={:#x}, permitted={:#x}, inheritable={:#x}) ambient={:#x}",
                sets.effective.0, sets.permitted.0, sets.inheritable.0, sets.ambient.0
            ),
            Step::NoNewPrivileges => write!(f, "prctl(PR_SET_NO_NEW_PRIVS, 1)"),
            Step::Seccomp(filter) if filter.listens() => write!(f, "seccomp(SECCOMP_SET_MODE_FILTER, NEW_LISTENER)"),
            Step::Seccomp(_) => write!(f, "seccomp(SECCOMP_SET_MODE_FILTER)"),
            Step::FindExecutable => write!(f, "find the executable"),
            Step::Gate => write!(f, "gate"),
            Step::GateSocket(fd) => write!(f, "gate at <{}>", self.name(*fd)),
            Step::Rendezvous(fd) => write!(f, "rendezvous at <{}>", self.name(*fd)),
            Step::Hooks(hooks) => write!(f, "{} {} hook(s)", hooks.hooks.len(), hooks.kind),
            Step::PropagateFlags(flags) => write!(f, "mount(/, {flags:#x})"),
            Step::Scheduler(attr) => write!(f, "sched_setattr(policy={}, nice={})", attr.policy, attr.nice),
            Step::IoPriority(priority) => write!(f, "ioprio_set({priority:#x})"),
            Step::Affinity(cpus) => write!(f, "sched_setaffinity({cpus:?})"),
            Step::OpenLabel(what) => write!(f, "open(attr of {what:?})"),
            Step::Label { what, label } if label.is_empty() => write!(f, "{}", lsm::shown(*what, "")),
            Step::Label { what, label } => write!(f, "{}", lsm::describe(*what, label)),
            Step::AllCpus => write!(f, "sched_setaffinity(all)"),
            Step::MemoryPolicy(policy) => write!(f, "set_mempolicy({:#x}, nodes {:?})", policy.mode, policy.nodes),
            Step::SessionKeyring(name) => write!(f, "keyctl(KEYCTL_JOIN_SESSION_KEYRING, {name:?})"),
            Step::Personality(domain) => write!(f, "personality({domain:#x})"),
            Step::Announce => write!(f, "announce execve"),
            Step::LeaveGroups => write!(f, "setgroups([])"),
            Step::RaiseLimits(limits) => {
                let limits: Vec<String> = limits.iter().map(|(_, name, hard)| format!("{name} {hard}")).collect();
                write!(f, "raise hard limits: {}", limits.join(", "))
            }
            Step::ChownStreams { uid, gid, .. } => write!(f, "fchown(stdio, {uid}, {gid})"),
            Step::BecomeRoot => write!(f, "setresgid(0), setresuid(0)"),
            Step::TimeOffsets(text) => write!(f, "write(/proc/self/timens_offsets, {text:?})"),
            Step::Spare { at, path, flags } => {
                write!(
                    f,
                    "spare for root{} = open_tree({}, OPEN_TREE_CLONE|AT_RECURSIVE)",
                    at.display(),
                    path.display()
                )?;
                show_flags(f, *flags, 0)
            }
            Step::IdmapTree { tree, userns, recursive } => {
                let recursive = if *recursive { ", AT_RECURSIVE" } else { "" };
                write!(f, "mount_setattr({tree}, MOUNT_ATTR_IDMAP, <{}>{recursive})", self.name(*userns))
            }
            Step::JoinedRoot(path) => write!(f, "root = mount({0}, {0}, MS_BIND|MS_REC)", path.display()),
            Step::ChrootRoot => write!(f, "chroot(root)"),
            Step::ChrootTo(fd) => write!(f, "chroot(<{}>)", self.name(*fd)),
            Step::GoOn => write!(f, "clone3(CLONE_PARENT|CLONE_PIDFD), go on in the child"),
            Step::PidForChildren(fd) => write!(f, "setns(<{}>, CLONE_NEWPID) for children", self.name(*fd)),
            Step::BirthInside => write!(f, "clone3(CLONE_PARENT|CLONE_PIDFD)"),
            Step::Exec { args, env } => write!(f, "execve({args:?}, {} variables)", env.len()),
            Step::CopyProgram { program, path } => {
                write!(f, "copy <{}> to root{}", self.name(*program), path.display())
            }
            Step::ExecPath { path, args } => write!(f, "execve({}, {args:?})", path.display()),
            Step::ExecFd { program, args } => write!(f, "execveat(<{}>, {args:?})", self.name(*program)),
            Step::Fail(step) => write!(f, "refused: {step}"),
        }
    }
}

const FLAG_NAMES: [(u64, &str); 9] = [
    (libc::MS_RDONLY, "ro"),
    (libc::MS_NOSUID, "nosuid"),
    (libc::MS_NODEV, "nodev"),
    (libc::MS_NOEXEC, "noexec"),
    (libc::MS_NOATIME, "noatime"),
    (libc::MS_NODIRATIME, "nodiratime"),
    (libc::MS_RELATIME, "relatime"),
    (libc::MS_STRICTATIME, "strictatime"),
    (256, "nosymfollow"),
];

fn show_flags(f: &mut fmt::Formatter<'_>, set: u64, clear: u64) -> fmt::Result {
    for (flag, name) in FLAG_NAMES {
        if set & flag != 0 {
            write!(f, " {name}")?;
        }
        if clear & flag != 0 {
            write!(f, " -{name}")?;
        }
    }
    Ok(())
}

fn show_attributes(f: &mut fmt::Formatter<'_>, set: u64, clear: u64) -> fmt::Result {
    if set | clear != 0 { write!(f, " recursively {set:#x} -{clear:#x}") } else { Ok(()) }
}
