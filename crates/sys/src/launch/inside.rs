//! What a process does on its way into a user namespace, and with mounts that have to be made before it goes: inside it
//! has every right over what belongs to that namespace, and none over the host.

use super::error::LaunchError;
use super::plan::{Fd, Ids, Propagation, Step, Tree};
use super::rootfs::open_path;
use super::run::Child;
use crate::error::{Context, Error, Result};
use crate::fd;
use crate::mount::{self, MountAttr};
use crate::ns::{self, NamespaceKind};
use crate::spawn::{Birth, Born, birth, exit_now, set_undumpable};
use nix::errno::Errno;
use nix::unistd::{Gid, Uid};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What is mounted where something is refused inside.
#[derive(Debug, Default)]
pub(super) struct Spares(Vec<(PathBuf, OwnedFd)>);

impl Spares {
    pub(super) fn take(&mut self, at: &Path) -> Option<OwnedFd> {
        let index = self.0.iter().position(|(path, _)| path == at)?;
        Some(self.0.swap_remove(index).1)
    }
}

pub(super) fn step(child: &mut Child<'_>, step: &Step) -> Result<(), LaunchError> {
    match step {
        Step::LeaveGroups => {
            // A user namespace may forbid setgroups; what is left here nobody has there.
            Ok(nix::unistd::setgroups(&[]).call(|| "setgroups([])".into())?)
        }
        Step::RaiseLimits(wanted) => {
            for (resource, name, hard) in wanted {
                super::knobs::raise_limit(*resource, name, *hard)?;
            }
            Ok(())
        }
        Step::ChownStreams { fds, uid, gid } => {
            for stream in fds {
                chown_stream(child.fd(*stream), *uid, *gid);
            }
            Ok(())
        }
        Step::BecomeRoot => become_root(),
        Step::TimeOffsets(text) => Ok(crate::procfs::write("self/timens_offsets", text)?),
        Step::Spare { at, path, flags } => {
            match spare(path, *flags) {
                Ok(tree) => child.spares.0.push((at.clone(), tree)),
                // There is none; whoever would need it says what it was refused.
                Err(error) if matches!(error.errno(), Errno::ENOENT | Errno::ENOTDIR) || error.is_refused() => {}
                Err(error) => return Err(error.into()),
            }
            Ok(())
        }
        Step::IdmapTree { tree, userns, recursive } => idmap_tree(child, *tree, *userns, *recursive),
        Step::JoinedRoot(path) => joined_root(child, path),
        Step::ChrootRoot => chroot(child.root.fd()?),
        Step::ChrootTo(fd) => {
            chroot(child.fd(*fd))?;
            child.root.forget();
            Ok(())
        }
        other => Err(LaunchError::Unsupported(format!("{other:?} is no step of this kind"))),
    }
}

/// Pipes and terminals are given to whoever will open /dev/stdout again, while there is the right to give them.
fn chown_stream(stream: BorrowedFd<'_>, uid: u32, gid: u32) {
    use nix::sys::stat::{SFlag, fstat, major};
    let Ok(stat) = fstat(stream) else { return };
    let kind = stat.st_mode & SFlag::S_IFMT.bits();
    let is_pipe = kind == SFlag::S_IFIFO.bits();
    let is_pty = kind == SFlag::S_IFCHR.bits() && (136..=143).contains(&major(stat.st_rdev));
    if (is_pipe || is_pty) && stat.st_uid != uid {
        let group = is_pipe.then(|| Gid::from_raw(gid));
        let _ = nix::unistd::fchown(stream, Some(Uid::from_raw(uid)), group);
    }
}

/// Root of the user namespace that was just joined: until then this process is nobody there.
fn become_root() -> Result<(), LaunchError> {
    use nix::unistd::{setresgid, setresuid};
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    let unmapped = |what: &str, errno| match errno {
        Errno::EINVAL => {
            LaunchError::Unsupported(format!("the user namespace has no {what} 0: its map must cover container root"))
        }
        _ => Error::new(format!("setres{what}(0, 0, 0)"), errno).into(),
    };
    setresgid(group, group, group).map_err(|errno| unmapped("gid", errno))?;
    setresuid(user, user, user).map_err(|errno| unmapped("uid", errno))?;
    // A change of credentials sets this back to fs.suid_dumpable. It is what keeps root of the same user namespace from
    // tracing us: our memory belongs to the host's namespace until execve.
    Ok(set_undumpable()?)
}

/// In runc's words where the id is at fault.
pub(super) fn switch_error(ids: &Ids, call: &str, errno: Errno) -> LaunchError {
    let Ids { uid, gid, groups } = ids;
    match (call, errno) {
        ("setresuid", Errno::EINVAL) => {
            LaunchError::Unsupported(format!("cannot setuid to unmapped uid {uid} in user namespace"))
        }
        ("setresgid", Errno::EINVAL) => {
            LaunchError::Unsupported(format!("cannot setgid to unmapped gid {gid} in user namespace"))
        }
        ("setgroups", Errno::EINVAL) => LaunchError::Unsupported(format!(
            "cannot set additional groups {groups:?}: not all of them are mapped in the user namespace"
        )),
        ("setgroups", _) => Error::new(format!("setgroups({groups:?})"), errno).into(),
        ("setresgid", _) => Error::new(format!("setresgid({gid})"), errno).into(),
        _ => Error::new(format!("{call}({uid})"), errno).into(),
    }
}

/// All but the user namespace are tried first, with the host's rights; then it; then those that belong to it.
pub(super) fn join_each(each: &[(NamespaceKind, BorrowedFd<'_>)]) -> Result<()> {
    let is_user = |kind: NamespaceKind| kind == NamespaceKind::User;
    let has_user = each.iter().any(|(kind, _)| is_user(*kind));
    let mut left = Vec::new();
    for (kind, namespace) in each.iter().filter(|(kind, _)| !is_user(*kind)) {
        match ns::join(*namespace, *kind) {
            Err(error) if has_user && error.errno() == Errno::EPERM => left.push((*kind, *namespace)),
            other => other?,
        }
    }
    for (kind, namespace) in each.iter().filter(|(kind, _)| is_user(*kind)) {
        ns::join(*namespace, *kind)?;
        set_undumpable()?;
    }
    left.into_iter().try_for_each(|(kind, namespace)| ns::join(namespace, kind))
}

/// A detached copy of something of the host's.
fn spare(path: &Path, flags: u64) -> Result<OwnedFd> {
    let tree = mount::clone_tree(None, path, true)?;
    let private = MountAttr { propagation: Propagation::Private.flag(), ..MountAttr::default() };
    mount::set_attributes(tree.as_fd(), true, private)?;
    let attr = MountAttr { set: mount::attributes(flags), ..MountAttr::default() };
    mount::set_attributes(tree.as_fd(), true, attr)?;
    Ok(tree)
}

fn idmap_tree(child: &Child<'_>, tree: Tree, userns: Fd, recursive: bool) -> Result<(), LaunchError> {
    let Some(mounted) = child.trees.get(&tree) else {
        return Err(Error::new(format!("{tree}: no such tree"), Errno::ENOENT).into());
    };
    mount::set_idmap(mounted.as_fd(), child.fd(userns), recursive).map_err(idmap_error)
}

/// What the kernel means by its answer.
pub(super) fn idmap_error(error: Error) -> LaunchError {
    match error.errno() {
        Errno::EINVAL => LaunchError::Unsupported(format!(
            "id-mapped mount: {error}; its file system (or one below it) cannot be id-mapped on this kernel"
        )),
        Errno::ENOSYS => LaunchError::Unsupported(format!("id-mapped mount: {error}; it needs Linux 5.12")),
        _ => error.into(),
    }
}

/// A root in a mount namespace that others live in: mounted on itself there, and nothing of theirs is changed.
fn joined_root(child: &mut Child<'_>, path: &Path) -> Result<(), LaunchError> {
    let there = open_path(path)?;
    if super::shared::is_shared(there.as_fd())? {
        return Err(LaunchError::Unsupported(format!(
            "root.path {path:?} lies on a shared mount of the joined mount namespace: what is mounted below it would \
             reach other namespaces"
        )));
    }
    mount::bind(path, path, true)?;
    let root = open_path(path)?;
    mount::change(&mount::at(root.as_fd()), libc::MS_PRIVATE | libc::MS_REC)?;
    child.root = super::rootfs::Root::at(root);
    Ok(())
}

fn chroot(root: BorrowedFd<'_>) -> Result<(), LaunchError> {
    nix::unistd::fchdir(root).call(|| format!("fchdir({})", fd::describe(root)))?;
    nix::unistd::chroot(".").call(|| "chroot(.)".into())?;
    Ok(nix::unistd::chdir("/").call(|| "chdir(/)".into())?)
}

/// Where this process ends and a child of our parent goes on, with all that was prepared: the first process of the
/// namespaces that only children enter (PID, time).
pub(super) fn go_on(child: &Child<'_>) -> Result<(), LaunchError> {
    set_undumpable()?;
    let (known_read, known_write) = fd::pipe()?;
    match birth(Birth { sibling: true, ..Birth::default() }) {
        Ok(Born::Child { .. }) => {
            drop(known_write);
            // Nobody lives whom the parent does not know.
            if nix::unistd::read(&known_read, &mut [0]) != Ok(1) {
                exit_now(super::run::FAILED);
            }
            crate::signal::unblock_all()?;
            // The session of its maker ends with it.
            Ok(nix::unistd::setsid().map(drop).call(|| "setsid()".into())?)
        }
        Ok(Born::Parent { child: born }) => {
            child.tell_inside(born.pid(), born.as_fd());
            let _ = nix::unistd::write(&known_write, &[1]);
            exit_now(0)
        }
        Err(error) if error.errno() == Errno::ENOMEM => Err(LaunchError::NotRunning),
        Err(error) => Err(error.into()),
    }
}
