//! User namespaces made, and read, from outside: a helper child steps in and waits, the parent writes or reads its maps
//! and takes the namespace by descriptor. Whoever is to live there joins it later.

use crate::error::{Context, Error, Result};
use crate::fd;
use crate::ns::{self, NamespaceKind};
use crate::pidfd::PidFd;
use crate::spawn::{Birth, Born, birth, exit_now, set_undumpable, wait_readable};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Lines that the kernel takes (4.15; five before).
pub const MAP_LINES_MAX: usize = 340;
/// One write(2) of less than a page.
pub const MAP_BYTES_MAX: usize = 4095;
/// How long a helper may take to step in.
const HELPER_WAIT: Duration = Duration::from_secs(5);

/// `inside` to `inside + count` are `outside` to `outside + count` of the caller's own namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct IdMap {
    pub inside: u32,
    pub outside: u32,
    pub count: u32,
}

/// Both maps of a user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Maps {
    pub uid: Vec<IdMap>,
    pub gid: Vec<IdMap>,
}

/// The id outside for one inside; None when it is not mapped.
pub fn outside(map: &[IdMap], inside: u32) -> Option<u32> {
    map.iter().find_map(|range| {
        let offset = inside.checked_sub(range.inside).filter(|offset| *offset < range.count)?;
        range.outside.checked_add(offset)
    })
}

/// As the kernel reads it.
pub fn map_text(map: &[IdMap]) -> String {
    map.iter().map(|range| format!("{} {} {}\n", range.inside, range.outside, range.count)).collect()
}

fn parse(text: &str) -> Option<Vec<IdMap>> {
    let line = |line: &str| {
        let numbers: Vec<u32> = line.split_whitespace().map(|n| n.parse().ok()).collect::<Option<_>>()?;
        let [inside, outside, count] = numbers.try_into().ok()?;
        Some(IdMap { inside, outside, count })
    };
    text.lines().map(line).collect()
}

/// A child that is where it was sent, and stays until it is dropped. It is ours and unreaped, so its number names
/// nothing else.
struct Helper(PidFd);

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.send_signal(Signal::SIGKILL);
        let _ = self.0.reap_soon();
    }
}

impl Helper {
    fn new(step_in: impl FnOnce() -> Result<()>) -> Result<Self> {
        // Its maps are its owner's to write: ours, whatever it is inside.
        set_undumpable()?;
        let (there, tell) = fd::pipe()?;
        let child = match birth(Birth::default())? {
            Born::Parent { child } => child,
            Born::Child { .. } => {
                drop(there);
                let answer = match step_in() {
                    Ok(()) => 0,
                    Err(error) => error.errno() as i32,
                };
                let _ = nix::unistd::write(&tell, &answer.to_ne_bytes());
                if answer != 0 || crate::spawn::die_with_parent().is_err() {
                    exit_now(1);
                }
                loop {
                    nix::unistd::pause();
                }
            }
        };
        let helper = Helper(child);
        drop(tell);
        wait_readable(there.as_fd(), Instant::now() + HELPER_WAIT)?;
        fd::set_nonblocking(there.as_fd(), true)?;
        let mut answer = [0; 4];
        match nix::unistd::read(&there, &mut answer) {
            Ok(4) => match i32::from_ne_bytes(answer) {
                0 => Ok(helper),
                errno => Err(Error::new("a helper's namespace", Errno::from_raw(errno))),
            },
            Ok(_) => Err(Error::new("a helper's namespace", Errno::ECHILD)),
            Err(Errno::EAGAIN) => Err(Error::new("a helper's namespace", Errno::ETIMEDOUT)),
            Err(errno) => Err(Error::new("a helper's namespace", errno)),
        }
    }

    /// A file of its own /proc directory, which must be procfs and nothing mounted over it.
    fn open(&self, name: &str, options: &std::fs::OpenOptions) -> Result<std::fs::File> {
        let path = format!("/proc/{}/{name}", self.0.pid());
        let file = options.open(&path).call(|| format!("open({path})"))?;
        match crate::mount::fs_magic(&file)? {
            libc::PROC_SUPER_MAGIC => Ok(file),
            _ => Err(Error::new(format!("open({path}): not procfs"), Errno::ENOTSUP)),
        }
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let mut file = self.open(name, std::fs::OpenOptions::new().write(true))?;
        file.write_all(text.as_bytes()).call(|| format!("write(/proc/{}/{name}, {text:?})", self.0.pid()))
    }

    fn read(&self, name: &str) -> Result<Vec<IdMap>> {
        let mut text = String::new();
        let mut file = self.open(name, std::fs::OpenOptions::new().read(true))?;
        file.read_to_string(&mut text).call(|| format!("read(/proc/{}/{name})", self.0.pid()))?;
        parse(&text).ok_or_else(|| Error::new(format!("read(/proc/{}/{name}): {text:?}", self.0.pid()), Errno::EINVAL))
    }
}

/// A new user namespace with these maps, which nobody lives in yet. ENOSPC: `/proc/sys/user/max_user_namespaces`;
/// EINVAL: the kernel has none.
pub fn create(maps: &Maps) -> Result<OwnedFd> {
    let call = || "unshare(CLONE_NEWUSER)".to_owned();
    let helper = Helper::new(|| unshare(CloneFlags::CLONE_NEWUSER).call(call))
        .map_err(|error| Error::new(call(), error.errno()))?;
    // setgroups stays allowed: we have the right to map groups, so nobody gains by giving one up.
    helper.write("uid_map", &map_text(&maps.uid))?;
    helper.write("gid_map", &map_text(&maps.gid))?;
    ns::open_of(helper.0.pid(), NamespaceKind::User)
}

/// The maps of an existing namespace, in ids of our own.
pub fn maps_of(namespace: BorrowedFd<'_>) -> Result<Maps> {
    let own = ns::open_own(NamespaceKind::User)?;
    if ns::identity(own.as_fd())? == ns::identity(namespace)? {
        let all = IdMap { inside: 0, outside: 0, count: u32::MAX };
        return Ok(Maps { uid: vec![all], gid: vec![all] });
    }
    let helper = Helper::new(|| ns::join(namespace, NamespaceKind::User))
        .map_err(|error| Error::new(format!("setns({}, CLONE_NEWUSER)", namespace.as_raw_fd()), error.errno()))?;
    Ok(Maps { uid: helper.read("uid_map")?, gid: helper.read("gid_map")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maps() -> Maps {
        let map = |inside, outside, count| IdMap { inside, outside, count };
        Maps { uid: vec![map(0, 100_000, 1000), map(1000, 300_000, 1)], gid: vec![map(0, 200_000, 65_536)] }
    }

    #[test]
    fn an_id_is_found_in_its_range_or_not_at_all() {
        let maps = maps();
        for (inside, expected) in
            [(0, Some(100_000)), (999, Some(100_999)), (1000, Some(300_000)), (1001, None), (u32::MAX, None)]
        {
            assert_eq!(outside(&maps.uid, inside), expected, "{inside}");
        }
    }

    #[test]
    fn a_namespace_has_the_maps_that_it_was_made_with() {
        assert!(nix::unistd::geteuid().is_root(), "kernel tests need root");
        let made = create(&maps()).unwrap();
        assert_eq!(maps_of(made.as_fd()).unwrap(), maps());
        let own = ns::open_own(NamespaceKind::User).unwrap();
        assert_eq!(outside(&maps_of(own.as_fd()).unwrap().uid, 7), Some(7));
        let map = IdMap { inside: 0, outside: 1, count: 2 };
        let twice = Maps { uid: vec![map, map], gid: vec![map] };
        assert_eq!(create(&twice).unwrap_err().errno(), Errno::EINVAL, "ranges that overlap");
        let net = ns::open_own(NamespaceKind::Network).unwrap();
        assert_eq!(maps_of(net.as_fd()).unwrap_err().errno(), Errno::EINVAL, "another kind of namespace");
    }
}
