//! The child: does the steps of a plan one after the other and tells the first failure. It is a copy of a
//! single-threaded process, so it may allocate; it shares nothing but the descriptors that the plan names.

use super::error::LaunchError;
use super::knobs::{loopback_up, personality, set_domainname, set_rlimit, sysctl};
use super::memory::Private;
use super::plan::{Fd, Ids, Plan, Step, Tree, Who};
use super::rootfs::Root;
use super::spawn::{GO, Report};
use super::{exec, inside, rootfs, tail, terminal, user};
use crate::caps;
use crate::error::{Context, Error, Result};
use crate::fd;
use crate::lsm::{self, Labelled};
use crate::ns::{self, NamespaceKind};
use crate::schedule;
use crate::signal;
use crate::spawn::{Birth, Born, birth, exit_now, set_undumpable};
use nix::errno::Errno;
use nix::sched::unshare;
use nix::unistd::{Gid, Uid};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What steps leave for later ones.
pub(super) struct Child<'a> {
    pub(super) plan: &'a Plan,
    pub(super) channel: OwnedFd,
    in_cgroup: bool,
    pub(super) root: Root,
    pub(super) trees: BTreeMap<Tree, OwnedFd>,
    pub(super) spares: inside::Spares,
    labels: BTreeMap<Labelled, OwnedFd>,
    pub(super) ids: Ids,
    pub(super) home: Option<String>,
    /// A directory that root could not enter.
    chdir_as_user: Option<PathBuf>,
    executable: Option<PathBuf>,
    /// No descriptor has a number as high as this; 0 before that is known.
    fds_end: i32,
    private: Private,
}

/// The exit code when a step failed; the reason went over the channel.
pub(super) const FAILED: i32 = 127;

pub(super) fn run(plan: &Plan, channel: OwnedFd, in_cgroup: bool) -> i32 {
    let mut child = Child {
        plan,
        channel,
        in_cgroup,
        root: Root::default(),
        trees: BTreeMap::new(),
        spares: inside::Spares::default(),
        labels: BTreeMap::new(),
        ids: Ids::default(),
        home: None,
        chdir_as_user: None,
        executable: None,
        fds_end: 0,
        private: Private::default(),
    };
    if child.is_helper() {
        match Private::note() {
            Ok(private) => child.private = private,
            Err(error) => {
                child.report(&Report::Failed(error.into()), None);
                return FAILED;
            }
        }
    }
    for (index, step) in plan.steps.iter().enumerate() {
        if let Err(error) = child.step(index, step) {
            child.report(&Report::Failed(error), None);
            return FAILED;
        }
    }
    0
}

impl Child<'_> {
    fn step(&mut self, index: usize, step: &Step) -> Result<(), LaunchError> {
        match step {
            Step::CloseOtherFds => {
                let plan = self.plan.fds.iter().map(|(_, fd)| fd.as_raw_fd());
                let keep: Vec<_> = plan.chain(self.kept()).collect();
                // The lowest free number is always given out, and no step opens more than a few.
                let opened_max = self.plan.steps.len() as i32 * 4 + 64;
                self.fds_end = keep.iter().max().map_or(0, |last| last + 1) + opened_max;
                Ok(fd::close_all_except(&keep)?)
            }
            Step::CloseDone => {
                let used = self.plan.steps.iter().filter_map(|step| match step {
                    Step::ExecFd { program: fd, .. } | Step::GateSocket(fd) => Some(self.fd(*fd).as_raw_fd()),
                    _ => None,
                });
                let keep: Vec<_> = used.chain(self.kept()).collect();
                self.root.forget();
                self.trees.clear();
                self.spares = inside::Spares::default();
                self.labels.clear();
                match self.fds_end {
                    0 => fd::close_all_except(&keep)?,
                    end => fd::close_all_except_below(&keep, end)?,
                }
                Ok(())
            }
            Step::ResetSignals => {
                signal::reset_dispositions();
                if self.waits_at_a_gate() {
                    signal::end_on_termination()?;
                }
                Ok(signal::unblock_all()?)
            }
            Step::Undumpable => Ok(set_undumpable()?),
            Step::DieWithParent => Ok(crate::spawn::die_with_parent()?),
            Step::NewSession => Ok(nix::unistd::setsid().map(drop).call(|| "setsid()".into())?),
            Step::AttachTasks(tasks) => self.attach(self.fd(*tasks)),
            Step::AttachGroup(_) if self.in_cgroup => Ok(()),
            Step::AttachGroup(procs) => self.attach(self.fd(*procs)),
            Step::OomScoreAdj(score) => {
                if let Err(error) = fs::write("/proc/self/oom_score_adj", score.to_string())
                    .call(|| format!("write(/proc/self/oom_score_adj, \"{score}\")"))
                {
                    self.warn(error.to_string());
                }
                Ok(())
            }
            Step::Join { target, kinds, each } => self.join(*target, kinds, each),
            Step::PidForChildren(target) => {
                ns::join(self.fd(*target), NamespaceKind::Pid).map_err(|error| match error.errno() {
                    Errno::ESRCH => LaunchError::NotRunning,
                    _ => LaunchError::Call(error),
                })
            }
            Step::Unshare(kinds) => {
                Ok(unshare(ns::flags(kinds)).call(|| format!("unshare({})", ns::flag_names(kinds)))?)
            }
            Step::LoopbackUp => Ok(loopback_up()?),
            Step::Hostname(name) => Ok(nix::unistd::sethostname(name).call(|| format!("sethostname({name:?})"))?),
            Step::Domainname(name) => Ok(set_domainname(name)?),
            Step::Sysctl { name, value } => sysctl(name, value),

            Step::MakeDirectories(_)
            | Step::PrivateMountOf(_)
            | Step::PropagateRoot(_)
            | Step::OverlayAt(_)
            | Step::OverlayTree { .. }
            | Step::BindRoot { .. }
            | Step::TmpfsRoot { .. }
            | Step::ProcAt(_)
            | Step::CloneTree { .. }
            | Step::TmpfsTree { .. }
            | Step::AdoptTree { .. }
            | Step::OpenRoot(_)
            | Step::AttachRoot(_)
            | Step::Mount(_)
            | Step::Device(_)
            | Step::Symlink { .. }
            | Step::MakeDirectory(_)
            | Step::CopyProgram { .. }
            | Step::ReadonlyPath(_)
            | Step::MaskPath(_)
            | Step::RemountReadonly(_)
            | Step::PivotRoot
            | Step::MoveRoot { .. }
            | Step::Chroot(_)
            | Step::ReadonlyRoot => rootfs::step(self, step),

            Step::Terminal { console, rows, columns } => {
                let master = terminal::open(self, *console, *rows, *columns)?;
                self.report(&Report::Terminal, Some(master.as_fd()));
                Ok(())
            }
            Step::Stdio(fds) => self.stdio(*fds),
            Step::Rlimit { resource, name, soft, hard } => Ok(set_rlimit(*resource, name, *soft, *hard)?),
            Step::Umask(mask) => {
                nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(*mask));
                Ok(())
            }
            Step::FindUser(who) => {
                let root = self.root.fd()?;
                self.ids = match who {
                    Who::Ids(ids) => ids.clone(),
                    Who::Query(query) => user::find(root, query)?,
                };
                if !exec::has_home(self.command().1) {
                    self.home = Some(user::home(root, self.ids.uid).unwrap_or_else(|| "/".into()));
                }
                // A first process's are kept for those that follow it.
                if self.plan.steps.iter().any(|step| matches!(step, Step::Gate)) {
                    self.report(&Report::User(self.ids.clone(), self.home.clone()), None);
                }
                Ok(())
            }
            Step::ChownStdio => {
                self.chown_stdio();
                Ok(())
            }
            Step::Chdir(path) => self.chdir(path),
            Step::DropBounding(keep) => Ok(caps::drop_bounding(caps::bounding().difference(*keep))
                .call(|| format!("prctl(PR_CAPBSET_DROP, all but {:#x})", keep.0))?),
            Step::SwitchUser => self.switch_user(),
            Step::CheckCwd => self.check_cwd(),
            Step::Capabilities(sets) => {
                caps::set(sets).call(|| format!("capset({:#x}, {:#x})", sets.effective.0, sets.permitted.0))?;
                let refused = caps::set_ambient(sets.ambient);
                if !refused.is_empty() {
                    self.warn(format!("ambient capabilities {:#x} are refused", refused.0));
                }
                Ok(())
            }
            Step::NoNewPrivileges => {
                Ok(nix::sys::prctl::set_no_new_privs().call(|| "prctl(PR_SET_NO_NEW_PRIVS, 1)".into())?)
            }
            Step::Seccomp(filter) if filter.listens() => self.load_listener(filter),
            Step::Seccomp(filter) => Ok(filter
                .load()
                .call(|| format!("seccomp(SECCOMP_SET_MODE_FILTER, {} instructions)", filter.program.len()))?),
            Step::FindExecutable => {
                let (args, env) = self.command();
                self.executable = Some(exec::find(args, env)?);
                Ok(())
            }
            Step::Gate => {
                self.report(&Report::Gate, None);
                match fd::receive_message(self.channel.as_fd(), GO.len()) {
                    Ok(message) if message.bytes == GO => Ok(()),
                    // The parent is gone, or has changed its mind: there is nobody to tell.
                    Ok(_) | Err(_) => exit_now(FAILED),
                }
            }
            Step::GateSocket(listener) => {
                self.report(&Report::Gate, None);
                self.wait_at_socket(*listener);
                Ok(())
            }
            Step::Rendezvous(with) => self.rendezvous(*with),
            Step::Hooks(hooks) => hooks.run(Some(nix::unistd::getpid().as_raw())).map_err(LaunchError::Unsupported),
            Step::PropagateFlags(flags) => Ok(crate::mount::change(Path::new("/"), *flags)?),
            Step::Scheduler(attr) => Ok(schedule::set_scheduler(attr)?),
            Step::IoPriority(priority) => Ok(schedule::set_io_priority(*priority)?),
            Step::Affinity(cpus) => Ok(schedule::set_affinity(cpus)?),
            Step::AllCpus => {
                if let Err(error) = schedule::all_cpus() {
                    self.warn(error.to_string());
                }
                Ok(())
            }
            Step::OpenLabel(what) => {
                self.labels.insert(*what, lsm::open(*what)?);
                Ok(())
            }
            Step::Label { what, label } => match self.labels.get(what) {
                Some(file) => Ok(lsm::write(file, *what, label)?),
                None => Err(Error::new(lsm::describe(*what, label), Errno::EBADF).into()),
            },
            Step::MemoryPolicy(policy) => Ok(crate::numa::set_policy(policy)?),
            Step::SessionKeyring(name) => {
                if let Err(error) = schedule::join_session_keyring(name) {
                    self.warn(error.to_string());
                }
                Ok(())
            }
            Step::Personality(domain) => Ok(personality(*domain)?),
            Step::Announce => {
                self.report(&Report::Executing, None);
                Ok(())
            }
            Step::LeaveGroups
            | Step::RaiseLimits(_)
            | Step::ChownStreams { .. }
            | Step::BecomeRoot
            | Step::TimeOffsets(_)
            | Step::Spare { .. }
            | Step::IdmapTree { .. }
            | Step::JoinedRoot(_)
            | Step::ChrootRoot
            | Step::ChrootTo(_) => inside::step(self, step),
            Step::GoOn => inside::go_on(self),
            Step::BirthInside => self.birth_inside(index),
            Step::Exec { args, env } => {
                let path = match &self.executable {
                    Some(path) => path.clone(),
                    None => exec::find(args, env)?,
                };
                Err(exec::exec(&path, args, env, self.home.as_deref()))
            }
            Step::ExecFd { program, args } => Err(exec::exec_fd(self.fd(*program), args)),
            Step::ExecPath { path, args } => Err(exec::exec_path(path, args)),
            Step::Fail(step) => Err(LaunchError::Call(Error::new(step.clone(), Errno::ENOTRECOVERABLE))),
        }
    }

    /// Whether this very process is a first one that waits before it becomes its program.
    fn waits_at_a_gate(&self) -> bool {
        let waits = |step: &Step| matches!(step, Step::Gate | Step::GateSocket(_));
        self.plan.steps.iter().any(waits) && !self.is_helper()
    }

    /// What is open in the program, and the way to tell of it.
    fn kept(&self) -> impl Iterator<Item = i32> + '_ {
        (0..3).chain(self.plan.inherited.iter().copied()).chain([self.channel.as_raw_fd()])
    }

    /// Whether another process will go on in this one's place.
    pub(super) fn is_helper(&self) -> bool {
        self.plan.steps.iter().any(|step| matches!(step, Step::BirthInside))
    }

    pub(super) fn fd(&self, fd: Fd) -> BorrowedFd<'_> {
        self.plan.fds[fd.0].1.as_fd()
    }

    pub(super) fn warn(&self, text: String) {
        self.report(&Report::Warning(text), None);
    }

    /// The process that goes on in our place.
    pub(super) fn tell_inside(&self, pid: i32, pidfd: Option<BorrowedFd<'_>>) {
        self.report(&Report::Inside { pid }, pidfd);
    }

    /// Nobody listening any more is no reason to stop: the parent's death shows at the gate.
    pub(super) fn report(&self, report: &Report, with: Option<BorrowedFd<'_>>) {
        let bytes = serde_json::to_vec(report).unwrap_or_default();
        let _ = fd::send_message(self.channel.as_fd(), &bytes, with.as_slice());
    }

    fn attach(&self, file: BorrowedFd<'_>) -> Result<(), LaunchError> {
        match nix::unistd::write(file, b"0") {
            Ok(_) => Ok(()),
            // The group was removed: its container is gone.
            Err(Errno::ENODEV | Errno::ENOENT) => Err(LaunchError::NotRunning),
            Err(errno) => Err(Error::new(format!("write({}, \"0\")", fd::describe(file)), errno).into()),
        }
    }

    fn join(
        &self,
        target: Option<Fd>,
        kinds: &[NamespaceKind],
        each: &[(NamespaceKind, Fd)],
    ) -> Result<(), LaunchError> {
        if let Some(target) = target
            && !kinds.is_empty()
        {
            match ns::join_by_pidfd(self.fd(target), kinds) {
                Ok(()) => return Ok(()),
                Err(error) if error.errno() == Errno::ESRCH => return Err(LaunchError::NotRunning),
                // Before 5.8 setns takes no pidfd.
                Err(error) if !each.is_empty() && matches!(error.errno(), Errno::EINVAL | Errno::ENOSYS) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut each = each.to_vec();
        each.sort_unstable_by_key(|(kind, _)| *kind);
        let each: Vec<_> = each.into_iter().map(|(kind, namespace)| (kind, self.fd(namespace))).collect();
        Ok(inside::join_each(&each)?)
    }

    fn stdio(&self, fds: [Fd; 3]) -> Result<(), LaunchError> {
        for (number, source) in fds.into_iter().enumerate() {
            exec::dup_onto(self.fd(source), number as i32)?;
        }
        Ok(())
    }

    /// So that a process that is not root can open /dev/stdout again; a refusal (a read-only file system, a user
    /// namespace) does not matter.
    fn chown_stdio(&self) {
        for stream in [std::io::stdin().as_fd(), std::io::stdout().as_fd(), std::io::stderr().as_fd()] {
            if let Some(group) = chown_of(stream, &self.ids) {
                let _ = nix::unistd::fchown(stream, Some(Uid::from_raw(self.ids.uid)), group);
            }
        }
    }

    fn chdir(&mut self, path: &Path) -> Result<(), LaunchError> {
        match nix::unistd::chdir(path) {
            Ok(()) => Ok(()),
            Err(Errno::EACCES | Errno::EPERM) => {
                self.chdir_as_user = Some(path.to_owned());
                Ok(())
            }
            Err(errno) => Err(cwd_error(path, errno)),
        }
    }

    fn check_cwd(&mut self) -> Result<(), LaunchError> {
        if let Some(path) = self.chdir_as_user.take() {
            nix::unistd::chdir(&path).map_err(|errno| cwd_error(&path, errno))?;
        }
        match is_cwd_inside() {
            Ok(true) => Ok(()),
            Ok(false) | Err(Errno::ENOENT) => Err(LaunchError::CwdOutside),
            Err(errno) => Err(Error::new("getcwd()", errno).into()),
        }
    }

    fn switch_user(&self) -> Result<(), LaunchError> {
        use nix::unistd::{getgroups, setgroups, setresgid, setresuid};
        let Ids { uid, gid, groups } = &self.ids;
        let failed = |call: &'static str| move |errno| inside::switch_error(&self.ids, call, errno);
        let (user, group) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
        caps::keep_caps(true).call(|| "prctl(PR_SET_KEEPCAPS, 1)".into())?;
        let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
        match setgroups(&groups) {
            // A user namespace that forbids it; there are none to leave.
            Err(Errno::EPERM) if groups.is_empty() && getgroups().is_ok_and(|groups| groups.is_empty()) => {}
            other => other.map_err(failed("setgroups"))?,
        }
        setresgid(group, group, group).map_err(failed("setresgid"))?;
        setresuid(user, user, user).map_err(failed("setresuid"))?;
        caps::keep_caps(false).call(|| "prctl(PR_SET_KEEPCAPS, 0)".into())?;
        // A change of credentials sets this back to fs.suid_dumpable.
        Ok(set_undumpable()?)
    }

    /// args and env of the plan's `Exec`.
    fn command(&self) -> (&[String], &[String]) {
        let found = self.plan.steps.iter().find_map(|step| match step {
            Step::Exec { args, env } => Some((args.as_slice(), env.as_slice())),
            _ => None,
        });
        found.unwrap_or_default()
    }

    fn birth_inside(&mut self, index: usize) -> Result<(), LaunchError> {
        set_undumpable()?;
        let (before, rest) = (&self.plan.steps[..index], &self.plan.steps[index + 1..]);
        if tail::is_simple(rest)
            && let Some(path) = &self.executable
        {
            let listener = rest.iter().find_map(|step| match step {
                Step::GateSocket(listener) => Some(self.fd(*listener).as_raw_fd()),
                _ => None,
            });
            let channels = (self.channel.as_raw_fd(), listener);
            let inside = tail::birth(&self.private, (before, rest), channels, path, self.home.as_deref())?;
            let pidfd = inside.pidfd.as_ref().map(|pidfd| pidfd.as_fd());
            self.report(&Report::Inside { pid: inside.pid }, pidfd);
            let _ = nix::unistd::write(&inside.known, &[1]);
            exit_now(0)
        }
        let (known_read, known_write) = fd::pipe()?;
        match birth(Birth { sibling: true, ..Birth::default() }) {
            Ok(Born::Child { .. }) => {
                drop(known_write);
                if nix::unistd::read(&known_read, &mut [0]) != Ok(1) {
                    exit_now(FAILED);
                }
                signal::unblock_all()?;
                nix::unistd::setsid().call(|| "setsid()".into())?;
                if before.iter().any(|step| matches!(step, Step::Terminal { .. })) {
                    terminal::take_control()?;
                }
                Ok(())
            }
            Ok(Born::Parent { child }) => {
                self.report(&Report::Inside { pid: child.pid() }, child.as_fd());
                let _ = nix::unistd::write(&known_write, &[1]);
                exit_now(0)
            }
            Err(error) if error.errno() == Errno::ENOMEM => Err(LaunchError::NotRunning),
            Err(error) => Err(error.into()),
        }
    }
}

/// The kernel writes "(unreachable)" before what is outside the root. Asked of the kernel, not of the C library, which
/// answers by climbing instead, and would find an inside where there is none (CVE-2024-21626).
#[allow(unsafe_code)]
fn is_cwd_inside() -> Result<bool, Errno> {
    let mut path = [0u8; libc::PATH_MAX as usize];
    // SAFETY: pointer and length are the buffer's.
    let length = unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) };
    Errno::result(length).map(|_| path[0] == b'/')
}

/// Whether a stream is to be given to the user, and with which group. Sockets, files and the null device stay as they
/// are.
pub(super) fn chown_of(stream: BorrowedFd<'_>, ids: &Ids) -> Option<Option<Gid>> {
    use nix::sys::stat::{SFlag, fstat};
    let stat = fstat(stream).ok()?;
    let kind = stat.st_mode & SFlag::S_IFMT.bits();
    let major = nix::sys::stat::major(stat.st_rdev);
    let is_pipe = kind == SFlag::S_IFIFO.bits();
    // Unix98 pty slaves have the majors 136 to 143.
    let is_pty = kind == SFlag::S_IFCHR.bits() && (136..=143).contains(&major);
    ((is_pipe || is_pty) && stat.st_uid != ids.uid).then(|| (!is_pty).then(|| Gid::from_raw(ids.gid)))
}

pub(super) fn cwd_error(path: &Path, errno: Errno) -> LaunchError {
    let cause = errno.desc().to_lowercase();
    LaunchError::Cwd { path: path.display().to_string(), cause: format!("chdir {}: {cause}", path.display()) }
}
