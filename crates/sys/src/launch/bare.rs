//! A child without the caller's heap: the steps of an exec as bare system calls.
//!
//! A copied heap costs a page fault for each page that parent or child then writes to, more than all system calls of an
//! exec together. So a plan whose steps need no memory (an exec's with known ids) is laid out beforehand in one
//! mapping, the heap is kept from the child (MADV_DONTFORK), and the child only makes calls: no allocation, no C
//! library. It tells a failure by the number of the call; the words are found by the parent, which has the plan.
//! Every other plan is `run`'s, which can do everything; so is every plan where the kernel lacks something (5.9).

use super::arena::{Arena, Room};
use super::error::LaunchError;
use super::exec;
use super::memory::KeptHeap;
use super::plan::{Fd, Ids, Plan, Step, Who};
use super::run::{FAILED, cwd_error};
use super::tail::raw;
use crate::caps::{self, CapSet};
use crate::error::{Context, Error, Result};
use crate::fd::{self, Message, own};
use crate::ns::{self, NamespaceKind};
use crate::pidfd::PidFd;
use crate::schedule;
use crate::seccomp;
use crate::signal;
use crate::spawn::{CLONE_INTO_CGROUP, CloneArgs};
use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

/// A plan laid out. What it points to lives in the arena.
#[derive(Debug)]
pub(super) struct Bare<'a> {
    _arena: Arena<'a>,
    ops: *const Op,
    count: usize,
    channel: RawFd,
}

/// What the child needs on its stack.
#[derive(Clone, Copy)]
struct Orders {
    ops: *const Op,
    count: usize,
    channel: RawFd,
    in_cgroup: bool,
}

/// One act, and where it comes from: the step's place in the plan, and the act's in the step.
#[derive(Clone, Copy)]
struct Op {
    step: u16,
    part: u16,
    act: Act,
}

#[derive(Clone, Copy)]
enum Act {
    Call {
        number: libc::c_long,
        args: [usize; 5],
        on_error: OnError,
    },
    /// Nothing, when the child was born inside.
    AttachGroup(RawFd),
    /// A refusal is a warning.
    WriteFile {
        path: *const u8,
        text: *const u8,
        length: usize,
    },
    Chdir(*const u8),
    /// Enters the directory as the user where root could not, and sees that it is inside.
    CheckCwd(*const u8),
    DropBounding {
        keep: u64,
    },
    /// The first of these that can be executed.
    Find {
        paths: *const *const u8,
        count: usize,
    },
    Announce,
    Exec {
        argv: *const *const u8,
        envp: *const *const u8,
    },
    Fail,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OnError {
    Fail,
    Warn,
    Ignore,
}

const WORD_BYTES: usize = 16;

/// What the child tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) kind: Kind,
    step: u16,
    part: u16,
    errno: i32,
    /// Which of several things it was.
    more: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Executing,
    Warning,
    Failed,
}

impl Word {
    fn bytes(self) -> [u8; WORD_BYTES] {
        let kind = match self.kind {
            Kind::Executing => 0u8,
            Kind::Warning => 1,
            Kind::Failed => 2,
        };
        let ([a, b], [c, d]) = (self.step.to_ne_bytes(), self.part.to_ne_bytes());
        let ([e, f, g, h], [i, j, k, l]) = (self.errno.to_ne_bytes(), self.more.to_ne_bytes());
        [0, kind, 0, 0, a, b, c, d, e, f, g, h, i, j, k, l]
    }

    /// None: it is one of `run`'s reports, or nothing that we know.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let [0, kind, 0, 0, a, b, c, d, e, f, g, h, i, j, k, l] = *bytes else { return None };
        let kind = match kind {
            0 => Kind::Executing,
            1 => Kind::Warning,
            2 => Kind::Failed,
            _ => return None,
        };
        let (step, part) = (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]));
        let (errno, more) = (i32::from_ne_bytes([e, f, g, h]), u32::from_ne_bytes([i, j, k, l]));
        Some(Word { kind, step, part, errno, more })
    }
}

/// A channel for `Word`s: one read gives one. Both ends never block.
pub(super) fn channel() -> Result<(OwnedFd, OwnedFd)> {
    use nix::fcntl::OFlag;
    nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).call(|| "pipe2(O_CLOEXEC|O_NONBLOCK)".into())
}

/// What has come; no bytes: the other end is closed.
pub(super) fn receive(channel: BorrowedFd<'_>) -> Result<Message> {
    let mut bytes = [0; WORD_BYTES];
    let length = nix::unistd::read(channel, &mut bytes).call(|| "read(pipe)".into())?;
    Ok(Message { bytes: bytes[..length].to_vec(), ..Message::default() })
}

/// None: this plan needs `run`.
pub(super) fn prepare<'a>(plan: &Plan, channel: BorrowedFd<'_>, room: &'a mut Room) -> Result<Option<Bare<'a>>> {
    let mut laid_out = lay_out(plan, channel, Arena::within(room));
    if laid_out.is_none() {
        laid_out = lay_out(plan, channel, Arena::mapped(size(plan))?);
    }
    Ok(laid_out)
}

fn lay_out<'a>(plan: &Plan, channel: BorrowedFd<'_>, arena: Arena<'a>) -> Option<Bare<'a>> {
    let mut layout = Layout::new(plan, channel.as_raw_fd(), Some(arena));
    for (index, step) in plan.steps.iter().enumerate() {
        layout.step(index, step);
    }
    let Layout { ops, arena: Some(mut arena), misfit: false, .. } = layout else { return None };
    let (place, count) = (arena.put(&ops), ops.len());
    let fits = !arena.is_full();
    fits.then(|| Bare { _arena: arena, ops: place, count, channel: channel.as_raw_fd() })
}

/// The words for what the child told.
pub(super) fn explain(plan: &Plan, channel: RawFd, word: Word) -> LaunchError {
    let mut layout = Layout::new(plan, channel, None);
    layout.wanted = Some(word);
    if let Some(step) = plan.steps.get(usize::from(word.step)) {
        for step in &plan.steps[..usize::from(word.step)] {
            layout.note(step);
        }
        layout.step(word.step.into(), step);
    }
    layout.said.unwrap_or_else(|| LaunchError::Died(format!("unreadable report: {word:?}")))
}

/// Whether every step is one of those that need no memory, and the kernel has what they need.
pub(super) fn fits(plan: &Plan) -> bool {
    let has_program = plan.steps.iter().any(|step| matches!(step, Step::FindExecutable));
    let known = |step: &Step| match step {
        Step::CloseOtherFds
        | Step::CloseDone
        | Step::ResetSignals
        | Step::Undumpable
        | Step::NewSession
        | Step::AttachTasks(_)
        | Step::AttachGroup(_)
        | Step::AllCpus
        | Step::OomScoreAdj(_)
        | Step::Join { .. }
        | Step::Stdio(_)
        | Step::Rlimit { .. }
        | Step::Umask(_)
        | Step::ChownStdio
        | Step::Chdir(_)
        | Step::DropBounding(_)
        | Step::SwitchUser
        | Step::CheckCwd
        | Step::Capabilities(_)
        | Step::NoNewPrivileges
        | Step::Personality(_)
        | Step::SessionKeyring(_)
        | Step::FindExecutable
        | Step::Announce
        | Step::Fail(_) => true,
        Step::FindUser(Who::Ids(_)) => true,
        // What the kernel returns for a listener would have to be sent.
        Step::Seccomp(filter) => filter.flags & seccomp::FLAG_NEW_LISTENER == 0,
        // Without a HOME the container's passwd has to be read.
        Step::Exec { env, .. } => exec::has_home(env),
        // All others make mounts, read files or wait; what is added later does, until it is added here.
        _ => false,
    };
    let can_call = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));
    can_call && has_program && plan.steps.iter().all(known) && fd::has_close_range()
}

/// Not less than what `prepare` puts into the arena.
fn size(plan: &Plan) -> usize {
    const FOR_EACH: usize = 64;
    // Of a search in PATH each directory with the name, and a pointer.
    let strings = |strings: &[String]| strings.iter().map(|string| string.len() + FOR_EACH).sum::<usize>();
    let of = |step: &Step| match step {
        Step::Seccomp(filter) => size_of_val(filter.program.as_slice()),
        Step::Chdir(path) => 2 * path.as_os_str().len(),
        Step::SessionKeyring(name) => name.len(),
        Step::FindUser(Who::Ids(ids)) => size_of_val(ids.groups.as_slice()),
        Step::Exec { args, env } => {
            let name = args.first().map_or(0, String::len);
            let directories = exec::search_path(env).split(':').count();
            let path = exec::search_path(env).len();
            strings(args) + strings(env) + path + directories * (name + FOR_EACH)
        }
        _ => 0,
    };
    // A step becomes few acts; only the gaps between descriptors and ambient capabilities are more.
    let acts = plan.steps.len() * 4 + (plan.fds.len() + plan.inherited.len()) * 2 + 80 + signal::SIGNAL_MAX as usize;
    plan.steps.iter().map(|step| of(step) + FOR_EACH).sum::<usize>() + acts * (size_of::<Op>() + 32) + 4096
}

/// Turns steps into acts, or, without an arena, finds the words for one that failed.
struct Layout<'a, 'r> {
    plan: &'a Plan,
    channel: RawFd,
    arena: Option<Arena<'r>>,
    ops: Vec<Op>,
    at: (u16, u16),
    ids: Ids,
    cwd: PathBuf,
    /// Something cannot be said to the kernel (a NUL byte): `run` has the words for it.
    misfit: bool,
    wanted: Option<Word>,
    said: Option<LaunchError>,
}

impl<'a, 'r> Layout<'a, 'r> {
    fn new(plan: &'a Plan, channel: RawFd, arena: Option<Arena<'r>>) -> Self {
        let (ids, cwd) = (Ids::default(), PathBuf::new());
        let ops = Vec::with_capacity(plan.steps.len() * 3);
        Layout { plan, channel, arena, ops, at: (0, 0), ids, cwd, misfit: false, wanted: None, said: None }
    }

    /// What later steps go by.
    fn note(&mut self, step: &Step) {
        match step {
            Step::FindUser(Who::Ids(ids)) => self.ids = ids.clone(),
            Step::Chdir(path) => self.cwd.clone_from(path),
            _ => {}
        }
    }

    fn add(&mut self, act: Act, words: impl FnOnce(Errno, u32) -> LaunchError) {
        let (step, part) = self.at;
        self.at.1 += 1;
        match self.wanted {
            None => self.ops.push(Op { step, part, act }),
            Some(word) if (word.step, word.part) == (step, part) => {
                self.said = Some(words(Errno::from_raw(word.errno), word.more));
            }
            Some(_) => {}
        }
    }

    fn call(
        &mut self,
        number: libc::c_long,
        args: [usize; 5],
        on_error: OnError,
        words: impl FnOnce(Errno) -> LaunchError,
    ) {
        self.add(Act::Call { number, args, on_error }, |errno, _| words(errno));
    }

    /// A call that must succeed, with its name and arguments.
    fn must(&mut self, number: libc::c_long, args: [usize; 5], words: impl FnOnce() -> String) {
        self.call(number, args, OnError::Fail, |errno| Error::new(words(), errno).into());
    }

    fn prctl(&mut self, option: libc::c_int, value: usize, words: &str) {
        self.must(libc::SYS_prctl, [option as usize, value, 0, 0, 0], || words.to_owned());
    }

    fn put<T: Copy>(&mut self, values: &[T]) -> *const T {
        self.arena.as_mut().map_or(std::ptr::null(), |arena| arena.put(values))
    }

    fn string(&mut self, bytes: &[u8]) -> *const u8 {
        self.misfit |= bytes.contains(&0);
        self.arena.as_mut().map_or(std::ptr::null(), |arena| arena.string(bytes))
    }

    fn strings(&mut self, strings: &[&[u8]]) -> *const *const u8 {
        let mut pointers: Vec<*const u8> = strings.iter().map(|string| self.string(string)).collect();
        pointers.push(std::ptr::null());
        self.put(&pointers)
    }

    fn raw(&self, fd: Fd) -> RawFd {
        self.plan.fds[fd.0].1.as_raw_fd()
    }

    fn describe(&self, fd: Fd) -> String {
        fd::describe(&self.plan.fds[fd.0].1)
    }

    fn step(&mut self, index: usize, step: &Step) {
        self.at = (u16::try_from(index).unwrap_or(u16::MAX), 0);
        self.note(step);
        match step {
            Step::CloseOtherFds => self.close(true),
            Step::CloseDone => self.close(false),
            Step::ResetSignals => self.reset_signals(),
            Step::Undumpable => self.prctl(libc::PR_SET_DUMPABLE, 0, "prctl(PR_SET_DUMPABLE, 0)"),
            Step::NewSession => self.must(libc::SYS_setsid, [0; 5], || "setsid()".into()),
            Step::AttachTasks(tasks) => {
                let args = [self.raw(*tasks) as usize, b"0".as_ptr() as usize, 1, 0, 0];
                let name = self.wanted.map(|_| self.describe(*tasks)).unwrap_or_default();
                self.call(libc::SYS_write, args, OnError::Fail, |errno| attach_error(&name, errno));
            }
            Step::AttachGroup(procs) => {
                let name = self.wanted.map(|_| self.describe(*procs)).unwrap_or_default();
                self.add(Act::AttachGroup(self.raw(*procs)), |errno, _| attach_error(&name, errno));
            }
            Step::AllCpus => {
                let mask: &'static [usize] = &schedule::ALL_CPUS;
                let args = [0, size_of_val(mask), mask.as_ptr() as usize, 0, 0];
                self.call(libc::SYS_sched_setaffinity, args, OnError::Warn, |errno| {
                    Error::new("sched_setaffinity(0, all)", errno).into()
                });
            }
            Step::OomScoreAdj(score) => {
                let text = score.to_string();
                let (text, length) = (self.put(text.as_bytes()), text.len());
                self.add(Act::WriteFile { path: OOM_SCORE_ADJ.as_ptr().cast(), text, length }, |errno, _| {
                    Error::new(format!("write(/proc/self/oom_score_adj, \"{score}\")"), errno).into()
                });
            }
            Step::Join { target, kinds, each } => self.join(*target, kinds, each),
            Step::Stdio(fds) => {
                for (number, source) in fds.iter().enumerate() {
                    let name = self.wanted.map(|_| self.describe(*source)).unwrap_or_default();
                    let args = [self.raw(*source) as usize, number, 0, 0, 0];
                    self.must(libc::SYS_dup3, args, || format!("dup3({name}, {number}, 0)"));
                }
            }
            Step::Rlimit { resource, name, soft, hard } => {
                let limit = self.put(&[libc::rlimit64 { rlim_cur: *soft, rlim_max: *hard }]);
                let args = [0, *resource as usize, limit as usize, 0, 0];
                self.must(libc::SYS_prlimit64, args, || format!("prlimit64({name}, {soft}, {hard})"));
            }
            Step::Umask(mask) => self.ignore(libc::SYS_umask, [*mask as usize, 0, 0]),
            Step::FindUser(_) => {}
            Step::ChownStdio => self.chown_stdio(),
            Step::Chdir(path) => {
                let place = self.string(path.as_os_str().as_encoded_bytes());
                self.add(Act::Chdir(place), |errno, _| cwd_error(path, errno));
            }
            Step::DropBounding(keep) => self.add(Act::DropBounding { keep: keep.0 }, |errno, _| {
                Error::new(format!("prctl(PR_CAPBSET_DROP, all but {:#x})", keep.0), errno).into()
            }),
            Step::SwitchUser => self.switch_user(),
            Step::CheckCwd => self.check_cwd(),
            Step::Capabilities(sets) => {
                let (header, data) = caps::raw(sets);
                let args = [self.put(&header) as usize, self.put(&data) as usize, 0, 0, 0];
                self.must(libc::SYS_capset, args, || {
                    format!("capset({:#x}, {:#x})", sets.effective.0, sets.permitted.0)
                });
                let (option, clear) = (libc::PR_CAP_AMBIENT as usize, libc::PR_CAP_AMBIENT_CLEAR_ALL as usize);
                self.ignore(libc::SYS_prctl, [option, clear, 0]);
                for number in sets.ambient.numbers() {
                    let args = [option, libc::PR_CAP_AMBIENT_RAISE as usize, number as usize, 0, 0];
                    self.call(libc::SYS_prctl, args, OnError::Warn, |_| {
                        let refused = CapSet::EMPTY.with(number);
                        LaunchError::Unsupported(format!("ambient capabilities {:#x} are refused", refused.0))
                    });
                }
            }
            Step::NoNewPrivileges => self.prctl(libc::PR_SET_NO_NEW_PRIVS, 1, "prctl(PR_SET_NO_NEW_PRIVS, 1)"),
            Step::Personality(domain) => {
                let args = [*domain as usize, 0, 0, 0, 0];
                self.must(libc::SYS_personality, args, || format!("personality({domain:#x})"));
            }
            Step::SessionKeyring(name) => {
                const JOIN_SESSION_KEYRING: usize = 1;
                let args = [JOIN_SESSION_KEYRING, self.string(name.as_bytes()) as usize, 0, 0, 0];
                self.call(libc::SYS_keyctl, args, OnError::Warn, |errno| {
                    Error::new(format!("keyctl(KEYCTL_JOIN_SESSION_KEYRING, {name:?})"), errno).into()
                });
            }
            Step::Seccomp(filter) => {
                let length = filter.program.len();
                let program = self.put(&filter.program).cast_mut().cast();
                let program = libc::sock_fprog { len: u16::try_from(length).unwrap_or(0), filter: program };
                let program = self.put(&[program]) as usize;
                let (number, args) = if filter.flags == 0 {
                    let mode = libc::SECCOMP_MODE_FILTER as usize;
                    (libc::SYS_prctl, [libc::PR_SET_SECCOMP as usize, mode, program, 0, 0])
                } else {
                    let operation = libc::SECCOMP_SET_MODE_FILTER as usize;
                    (libc::SYS_seccomp, [operation, filter.flags as usize, program, 0, 0])
                };
                self.must(number, args, || format!("seccomp(SECCOMP_SET_MODE_FILTER, {length} instructions)"));
            }
            Step::FindExecutable => self.find(),
            Step::Announce => self.add(Act::Announce, |errno, _| Error::new("write(pipe)", errno).into()),
            Step::Exec { args, env } => self.exec(args, env),
            Step::Fail(step) => {
                self.add(Act::Fail, |_, _| Error::new(step.clone(), Errno::ENOTRECOVERABLE).into());
            }
            _ => self.misfit = true,
        }
    }

    /// A call whose failure does not matter.
    fn ignore(&mut self, number: libc::c_long, args: [usize; 3]) {
        let [a, b, c] = args;
        self.call(number, [a, b, c, 0, 0], OnError::Ignore, |errno| Error::new("", errno).into());
    }

    fn close(&mut self, keep_plan: bool) {
        let stays = (0..3).chain(self.plan.inherited.iter().copied()).chain([self.channel]);
        let plan = self.plan.fds.iter().filter(|_| keep_plan).map(|(_, fd)| fd.as_raw_fd());
        for (first, last) in fd::gaps(stays.chain(plan)) {
            let args = [first as usize, last as usize, 0, 0, 0];
            self.must(libc::SYS_close_range, args, || format!("close_range({first}, {last}, 0)"));
        }
    }

    /// Caught ones were reset by the clone (CLONE_CLEAR_SIGHAND).
    fn reset_signals(&mut self) {
        let default = self.put(&[0usize; 4]) as usize;
        let ignored = signal::ignored_from_start();
        for signal in (1..=signal::SIGNAL_MAX).filter(|signal| ignored >> (signal - 1) & 1 == 1) {
            let args = [signal as usize, default, 0, size_of::<u64>(), 0];
            self.call(libc::SYS_rt_sigaction, args, OnError::Ignore, |errno| Error::new("", errno).into());
        }
        let args = [libc::SIG_SETMASK as usize, default, 0, size_of::<u64>(), 0];
        self.must(libc::SYS_rt_sigprocmask, args, || "rt_sigprocmask(SIG_SETMASK, [])".into());
    }

    fn join(&mut self, target: Option<Fd>, kinds: &[NamespaceKind], each: &[(NamespaceKind, Fd)]) {
        let mut joins = Vec::new();
        match target.filter(|_| !kinds.is_empty()) {
            Some(target) => joins.push((target, ns::flags(kinds).bits(), ns::flag_names(kinds))),
            None => {
                let mut each = each.to_vec();
                each.sort_unstable_by_key(|(kind, _)| *kind);
                joins.extend(each.iter().map(|(kind, fd)| (*fd, kind.flag().bits(), kind.flag_name().to_owned())));
            }
        }
        for (fd, flags, names) in joins {
            let name = self.wanted.map(|_| self.describe(fd)).unwrap_or_default();
            let args = [self.raw(fd) as usize, flags as usize, 0, 0, 0];
            self.call(libc::SYS_setns, args, OnError::Fail, |errno| match errno {
                Errno::ESRCH => LaunchError::NotRunning,
                _ => Error::new(format!("setns({name}, {names})"), errno).into(),
            });
        }
    }

    /// As `run` does it, with what the streams are asked here: they are the same files.
    fn chown_stdio(&mut self) {
        let plan = self.plan;
        let stdio = plan.steps.iter().find_map(|step| match step {
            Step::Stdio(fds) => Some(fds),
            _ => None,
        });
        for (number, fd) in stdio.into_iter().flatten().enumerate() {
            if let Some(group) = super::run::chown_of(plan.fds[fd.0].1.as_fd(), &self.ids) {
                let group = group.map_or(u32::MAX, |group| group.as_raw());
                self.ignore(libc::SYS_fchown, [number, self.ids.uid as usize, group as usize]);
            }
        }
    }

    fn switch_user(&mut self) {
        let Ids { uid, gid, groups } = self.ids.clone();
        let list = self.put(&groups) as usize;
        self.prctl(libc::PR_SET_KEEPCAPS, 1, "prctl(PR_SET_KEEPCAPS, 1)");
        self.must(libc::SYS_setgroups, [groups.len(), list, 0, 0, 0], || format!("setgroups({groups:?})"));
        let three = |id: u32| [id as usize, id as usize, id as usize, 0, 0];
        self.must(libc::SYS_setresgid, three(gid), || format!("setresgid({gid})"));
        self.must(libc::SYS_setresuid, three(uid), || format!("setresuid({uid})"));
        self.prctl(libc::PR_SET_KEEPCAPS, 0, "prctl(PR_SET_KEEPCAPS, 0)");
        // A change of credentials sets this back to fs.suid_dumpable.
        self.prctl(libc::PR_SET_DUMPABLE, 0, "prctl(PR_SET_DUMPABLE, 0)");
    }

    fn check_cwd(&mut self) {
        let cwd = self.cwd.clone();
        let place = self.string(cwd.as_os_str().as_encoded_bytes());
        self.add(Act::CheckCwd(place), |errno, more| match more {
            CWD_CLOSED => cwd_error(&cwd, errno),
            _ if errno == Errno::ENOENT => LaunchError::CwdOutside,
            _ => Error::new("getcwd()", errno).into(),
        });
    }

    fn find(&mut self) {
        let Some((args, env)) = command(self.plan) else { return };
        let name = args.first().map(String::as_str).unwrap_or_default();
        let found = exec::candidates(name, env);
        let bytes: Vec<&[u8]> = found.iter().map(|path| path.as_os_str().as_encoded_bytes()).collect();
        let paths = self.strings(&bytes);
        self.add(Act::Find { paths, count: found.len() }, |errno, more| {
            exec::not_found(name, found.get(more as usize).map(|path| (path.as_path(), errno)))
        });
    }

    fn exec(&mut self, args: &[String], env: &[String]) {
        let args_bytes: Vec<&[u8]> = args.iter().map(|string| string.as_bytes()).collect();
        let env_bytes: Vec<&[u8]> = env.iter().map(|string| string.as_bytes()).collect();
        let (argv, envp) = (self.strings(&args_bytes), self.strings(&env_bytes));
        let name = args.first().map(String::as_str).unwrap_or_default();
        self.add(Act::Exec { argv, envp }, |errno, more| {
            let found = exec::candidates(name, env);
            let path = found.get(more as usize).map_or(Path::new(name), PathBuf::as_path);
            exec::exec_error(path, errno, || true)
        });
    }
}

const OOM_SCORE_ADJ: &std::ffi::CStr = c"/proc/self/oom_score_adj";
/// `Word::more` of `CheckCwd`: the user may not enter it either.
const CWD_CLOSED: u32 = 1;

fn attach_error(name: &str, errno: Errno) -> LaunchError {
    match errno {
        // The group was removed: its container is gone.
        Errno::ENODEV | Errno::ENOENT => LaunchError::NotRunning,
        _ => Error::new(format!("write({name}, \"0\")"), errno).into(),
    }
}

fn command(plan: &Plan) -> Option<(&[String], &[String])> {
    plan.steps.iter().find_map(|step| match step {
        Step::Exec { args, env } => Some((args.as_slice(), env.as_slice())),
        _ => None,
    })
}

const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;

impl Bare<'_> {
    /// The child, or why the kernel made none. Where it is not taken into the cgroup it enters it itself.
    pub(super) fn bear(&self, cgroup: Option<BorrowedFd<'_>>) -> Result<PidFd, Errno> {
        let orders = Orders { ops: self.ops, count: self.count, channel: self.channel, in_cgroup: false };
        let _heap = KeptHeap::keep();
        if let Some(cgroup) = cgroup {
            match clone(Orders { in_cgroup: true, ..orders }, Some(cgroup)) {
                Err(Errno::E2BIG | Errno::EINVAL | Errno::EBUSY | Errno::EOPNOTSUPP | Errno::EBADF) => {}
                other => return other,
            }
        }
        clone(orders, None)
    }
}

/// `orders` lie on the stack, which the child has, and point into the arena, which it has too.
fn clone(orders: Orders, cgroup: Option<BorrowedFd<'_>>) -> Result<PidFd, Errno> {
    let mut pidfd: RawFd = -1;
    let mut flags = libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND;
    if cgroup.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    let args = CloneArgs {
        flags,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.map_or(0, |cgroup| cgroup.as_raw_fd() as u64),
        ..CloneArgs::default()
    };
    match raw(libc::SYS_clone3, [&raw const args as usize, size_of::<CloneArgs>(), 0, 0, 0, 0]) {
        0 => run(&orders),
        pid if pid > 0 => Ok(PidFd::adopt(pid as i32, Some(own(pidfd)))),
        error => Err(Errno::from_raw(-error as i32)),
    }
}

/// The child. Nothing here may allocate or panic.
fn run(orders: &Orders) -> ! {
    let mut child = Child { orders: *orders, cwd_refused: false, found: 0, path: std::ptr::null() };
    let mut at = 0;
    while at < orders.count {
        let op = op(orders.ops, at);
        match child.act(&op.act) {
            Outcome::Done => {}
            Outcome::Announce => child.tell(op, Kind::Executing, 0, 0),
            Outcome::Warn(errno) => child.tell(op, Kind::Warning, errno, 0),
            Outcome::Failed(errno, more) => {
                child.tell(op, Kind::Failed, errno, more);
                break;
            }
        }
        at += 1;
    }
    loop {
        raw(libc::SYS_exit_group, [FAILED as usize, 0, 0, 0, 0, 0]);
    }
}

#[allow(unsafe_code)]
fn op<'a>(ops: *const Op, at: usize) -> &'a Op {
    // SAFETY: the caller counts to the number of acts that were laid out there, in memory that stays until the end.
    unsafe { &*ops.wrapping_add(at) }
}

struct Child {
    orders: Orders,
    cwd_refused: bool,
    /// The place of the program in the list, and its path.
    found: u32,
    path: *const u8,
}

enum Outcome {
    Done,
    Announce,
    Warn(i32),
    /// errno, and `Word::more`.
    Failed(i32, u32),
}

/// 0 and up, or -errno.
fn call(number: libc::c_long, [a, b, c, d, e]: [usize; 5]) -> isize {
    raw(number, [a, b, c, d, e, 0])
}

fn done_or_failed(returned: isize) -> Outcome {
    if returned < 0 { Outcome::Failed(-returned as i32, 0) } else { Outcome::Done }
}

impl Child {
    fn act(&mut self, act: &Act) -> Outcome {
        match *act {
            Act::Call { number, args, on_error } => match (call(number, args), on_error) {
                (0.., _) | (_, OnError::Ignore) => Outcome::Done,
                (error, OnError::Warn) => Outcome::Warn(-error as i32),
                (error, OnError::Fail) => Outcome::Failed(-error as i32, 0),
            },
            Act::AttachGroup(_) if self.orders.in_cgroup => Outcome::Done,
            Act::AttachGroup(procs) => {
                done_or_failed(call(libc::SYS_write, [procs as usize, b"0".as_ptr() as usize, 1, 0, 0]))
            }
            Act::WriteFile { path, text, length } => self.write_file(path, text, length),
            Act::Chdir(path) => match -call(libc::SYS_chdir, [path as usize, 0, 0, 0, 0]) as i32 {
                libc::EACCES | libc::EPERM => {
                    self.cwd_refused = true;
                    Outcome::Done
                }
                errno @ 1.. => Outcome::Failed(errno, 0),
                _ => Outcome::Done,
            },
            Act::CheckCwd(path) => self.check_cwd(path),
            Act::DropBounding { keep } => self.drop_bounding(keep),
            Act::Find { paths, count } => self.find(paths, count),
            Act::Announce => Outcome::Announce,
            Act::Exec { argv, envp } => {
                let args = [self.path as usize, argv as usize, envp as usize, 0, 0];
                Outcome::Failed(-call(libc::SYS_execve, args) as i32, self.found)
            }
            Act::Fail => Outcome::Failed(libc::ENOTRECOVERABLE, 0),
        }
    }

    fn write_file(&self, path: *const u8, text: *const u8, length: usize) -> Outcome {
        let flags = (libc::O_WRONLY | libc::O_CLOEXEC) as usize;
        let file = call(libc::SYS_openat, [libc::AT_FDCWD as usize, path as usize, flags, 0, 0]);
        if file < 0 {
            return Outcome::Warn(-file as i32);
        }
        let written = call(libc::SYS_write, [file as usize, text as usize, length, 0, 0]);
        call(libc::SYS_close, [file as usize, 0, 0, 0, 0]);
        if written < 0 { Outcome::Warn(-written as i32) } else { Outcome::Done }
    }

    /// The kernel writes "(unreachable)" before what is outside the root.
    #[allow(unsafe_code)]
    fn check_cwd(&self, path: *const u8) -> Outcome {
        if self.cwd_refused {
            let entered = call(libc::SYS_chdir, [path as usize, 0, 0, 0, 0]);
            if entered < 0 {
                return Outcome::Failed(-entered as i32, CWD_CLOSED);
            }
        }
        let mut buffer = std::mem::MaybeUninit::<[u8; libc::PATH_MAX as usize]>::uninit();
        let start = buffer.as_mut_ptr().cast::<u8>();
        let length = call(libc::SYS_getcwd, [start as usize, libc::PATH_MAX as usize, 0, 0, 0]);
        if length < 1 {
            return Outcome::Failed(-length as i32, 0);
        }
        // SAFETY: the kernel wrote at least this byte.
        let first = unsafe { start.read() };
        if first == b'/' { Outcome::Done } else { Outcome::Failed(libc::ENOENT, 0) }
    }

    /// To drop what is not set changes nothing, and is cheaper than to ask first; a number that the kernel does not
    /// know ends the list.
    fn drop_bounding(&self, keep: u64) -> Outcome {
        for number in (0..64).filter(|number| keep >> number & 1 == 0) {
            let dropped = call(libc::SYS_prctl, [libc::PR_CAPBSET_DROP as usize, number, 0, 0, 0]);
            match -dropped as i32 {
                ..=0 => {}
                libc::EINVAL => break,
                // Who may not drop has perhaps nothing to drop.
                errno => {
                    if call(libc::SYS_prctl, [libc::PR_CAPBSET_READ as usize, number, 0, 0, 0]) == 1 {
                        return Outcome::Failed(errno, 0);
                    }
                }
            }
        }
        Outcome::Done
    }

    fn find(&mut self, paths: *const *const u8, count: usize) -> Outcome {
        let mut refusal = (libc::ENOENT, u32::MAX);
        for at in 0..count {
            let path = path(paths, at);
            match executable(path) {
                0 => {
                    (self.found, self.path) = (at as u32, path);
                    return Outcome::Done;
                }
                libc::ENOENT | libc::ENOTDIR | libc::ELOOP => {}
                errno if refusal.1 == u32::MAX => refusal = (errno, at as u32),
                _ => {}
            }
        }
        Outcome::Failed(refusal.0, refusal.1)
    }

    fn tell(&self, op: &Op, kind: Kind, errno: i32, more: u32) {
        let bytes = Word { kind, step: op.step, part: op.part, errno, more }.bytes();
        call(libc::SYS_write, [self.orders.channel as usize, bytes.as_ptr() as usize, bytes.len(), 0, 0]);
    }
}

#[allow(unsafe_code)]
fn path(paths: *const *const u8, at: usize) -> *const u8 {
    // SAFETY: the caller counts to the number of paths that were laid out there.
    unsafe { *paths.wrapping_add(at) }
}

/// As `exec::executable`: 0 or errno.
#[allow(unsafe_code)]
fn executable(path: *const u8) -> i32 {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    let (here, place) = (libc::AT_FDCWD as usize, stat.as_mut_ptr());
    let found = call(libc::SYS_newfstatat, [here, path as usize, place as usize, 0, 0]);
    if found < 0 {
        return -found as i32;
    }
    // SAFETY: the kernel filled it.
    let mode = unsafe { (*place).st_mode };
    if mode & libc::S_IFMT == libc::S_IFDIR {
        return libc::EISDIR;
    }
    -call(libc::SYS_faccessat, [here, path as usize, libc::X_OK as usize, 0, 0]) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_survives_its_journey_and_of_another_length_is_none() {
        let word = Word { kind: Kind::Failed, step: 7, part: 3, errno: libc::ENOENT, more: u32::MAX };
        assert_eq!(Word::read(&word.bytes()), Some(word));
        assert_eq!(Word::read(&word.bytes()[..15]), None);
    }
}
