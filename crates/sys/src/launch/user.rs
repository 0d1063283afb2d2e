//! Who a process is: names looked up in the container's own /etc/passwd and /etc/group, which anybody may have
//! written: read inside the root, with limits (CVE-2026-47262), numbers first (CVE-2016-3697).

use super::error::LaunchError;
use super::plan::{Ids, UserQuery};
use crate::path::read_in_root;
use nix::errno::Errno;
use std::os::fd::BorrowedFd;
use std::path::Path;

pub const USER_FILE_BYTES_MAX: u64 = 4 << 20;
/// Of one file; a distribution has fifty, a large site some thousands.
pub const USER_FILE_LINES_MAX: usize = 1 << 16;
/// A group may list thousands of members.
pub const USER_FILE_LINE_BYTES_MAX: usize = 256 << 10;
/// Supplementary groups taken from the image; the kernel's own limit is 65,536.
pub const IMAGE_GROUPS_MAX: usize = 1024;
/// CRI's limit: larger ids have wrapped somewhere (CVE-2024-40635).
const ID_MAX: u32 = i32::MAX as u32;

#[derive(Debug, PartialEq, Eq)]
struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

pub(super) fn find(root: BorrowedFd<'_>, query: &UserQuery) -> Result<Ids, LaunchError> {
    resolve(query, &read(root, "/etc/passwd")?, &read(root, "/etc/group")?)
}

/// The home directory of a uid; None when passwd does not tell.
pub(super) fn home(root: BorrowedFd<'_>, uid: u32) -> Option<String> {
    let passwd = read(root, "/etc/passwd").ok()?;
    let home = passwd_entries(&passwd).find(|entry| entry.uid == uid)?.home.to_owned();
    home.starts_with('/').then_some(home)
}

/// A missing file is an empty one: many images have none.
fn read(root: BorrowedFd<'_>, path: &str) -> Result<String, LaunchError> {
    let refused = |cause: String| Err(LaunchError::UserFile { path: path.into(), cause });
    match read_in_root(root, Path::new(path), USER_FILE_BYTES_MAX) {
        Ok(bytes) if bytes.split(|byte| *byte == b'\n').count() > USER_FILE_LINES_MAX => {
            refused(format!("more than {USER_FILE_LINES_MAX} lines"))
        }
        Ok(bytes) if bytes.split(|byte| *byte == b'\n').any(|line| line.len() > USER_FILE_LINE_BYTES_MAX) => {
            refused(format!("a line of more than {USER_FILE_LINE_BYTES_MAX} bytes"))
        }
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if matches!(error.errno(), Errno::ENOENT | Errno::ENOTDIR) => Ok(String::new()),
        Err(error) if error.errno() == Errno::EFBIG => refused(format!("larger than {USER_FILE_BYTES_MAX} bytes")),
        Err(error) => refused(error.to_string()),
    }
}

fn resolve(query: &UserQuery, passwd: &str, group: &str) -> Result<Ids, LaunchError> {
    let (user, wanted_group) = match query.user.split_once(':') {
        Some((user, group)) => (user, (!group.is_empty()).then_some(group)),
        None => (query.user.as_str(), None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let no_user = || LaunchError::NoUser(user.to_owned());
    let (entry, uid) = match number(user) {
        Some(uid) => (passwd_entries(passwd).find(|entry| entry.uid == uid), uid),
        None => {
            let entry = passwd_entries(passwd).find(|entry| entry.name == user).ok_or_else(no_user)?;
            let uid = entry.uid;
            (Some(entry), uid)
        }
    };
    if uid > ID_MAX {
        return Err(no_user());
    }
    let gid = match (query.gid, wanted_group) {
        (Some(gid), _) => gid,
        (None, Some(name)) => group_id(group, name)?,
        (None, None) => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let mut groups = query.extra_groups.clone();
    if query.image_groups
        && let Some(entry) = &entry
    {
        groups.extend(
            group_entries(group)
                .filter(|(_, _, members)| has(members, entry.name))
                .map(|(_, gid, _)| gid)
                .take(IMAGE_GROUPS_MAX),
        );
    }
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|gid| seen.insert(*gid));
    Ok(Ids { uid, gid, groups })
}

fn has(members: &str, name: &str) -> bool {
    members.split(',').any(|member| member == name)
}

fn group_id(group: &str, name: &str) -> Result<u32, LaunchError> {
    let found = match number(name) {
        Some(gid) => Some(gid),
        None => group_entries(group).find(|(entry, _, _)| *entry == name).map(|(_, gid, _)| gid),
    };
    found.filter(|gid| *gid <= ID_MAX).ok_or_else(|| LaunchError::NoGroup(name.to_owned()))
}

/// Decimal digits only: `+1`, ` 1` and `0x1` are names.
fn number(text: &str) -> Option<u32> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Too large is a number all the same, and no id.
        Some(text.parse().unwrap_or(u32::MAX))
    } else {
        None
    }
}

fn passwd_entries(text: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let uid = number(fields.nth(1)?)?;
        let gid = number(fields.next()?)?;
        let home = fields.nth(1).unwrap_or_default();
        Some(PasswdEntry { name, uid, gid, home })
    })
}

fn group_entries(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let gid = number(fields.nth(1)?)?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# a comment\n1000:x:0:0:trap:/:/bin/sh\n\
                          nginx:x:101:102:nginx:/var/cache/nginx:/sbin/nologin\nbroken:x:y:1\n";
    const GROUP: &str = "root:x:0:\nadm:x:4:root,nginx\nwww:x:33:nginx\nnginx:x:102:\n";

    fn check(user: &str, expected: &str) {
        let query = UserQuery { user: user.into(), image_groups: true, ..UserQuery::default() };
        let shown = match resolve(&query, PASSWD, GROUP) {
            Ok(ids) => format!("{}:{} {:?}", ids.uid, ids.gid, ids.groups),
            Err(error) => error.to_string(),
        };
        assert_eq!(shown, expected, "{user:?}");
    }

    #[test]
    fn users_are_found_as_docker_and_containerd_find_them() {
        check("", "0:0 [4]");
        check("nginx", "101:102 [4, 33]");
        check("101", "101:102 [4, 33]");
        check("nginx:www", "101:33 [4, 33]");
        check("101:7", "101:7 [4, 33]");
        check("5", "5:0 []");
        check("5:6", "5:6 []");
        check("1000", "1000:0 []");
        check("nosuch", "unable to find user nosuch: no matching entries in passwd file");
        check("0x1", "unable to find user 0x1: no matching entries in passwd file");
        check("-1", "unable to find user -1: no matching entries in passwd file");
        check("4294967296", "unable to find user 4294967296: no matching entries in passwd file");
        check("2147483648", "unable to find user 2147483648: no matching entries in passwd file");
        check("nginx:nosuch", "unable to find group nosuch: no matching entries in group file");
    }

    /// The image's files may be anything: what they are decides, and nothing blocks, follows them out or eats memory.
    #[test]
    fn a_hostile_passwd_is_an_error_that_names_it_and_never_a_user() {
        use std::os::fd::{AsFd, OwnedFd};
        type Make = fn(&Path);
        let query = UserQuery { user: "nginx".into(), ..UserQuery::default() };
        let cases: [(&str, Make, &str); 9] = [
            ("none", |_| {}, "unable to find user nginx: no matching entries in passwd file"),
            ("fifo", |at| nix::unistd::mkfifo(at, nix::sys::stat::Mode::S_IRWXU).unwrap(), "EINVAL"),
            ("directory", |at| std::fs::create_dir(at).unwrap(), "EINVAL"),
            ("itself", |at| std::os::unix::fs::symlink("/etc/passwd", at).unwrap(), "ELOOP"),
            ("outside", |at| std::os::unix::fs::symlink("../../../../../../etc/shadow", at).unwrap(), "unable to find"),
            ("magic", |at| std::os::unix::fs::symlink("/proc/self/fd/0", at).unwrap(), "unable to find user"),
            (
                "huge",
                |at| std::fs::File::create(at).unwrap().set_len(1 << 40).unwrap(),
                "/etc/passwd: larger than 4194304 bytes",
            ),
            ("lines", |at| std::fs::write(at, "a\n".repeat(70_000)).unwrap(), "/etc/passwd: more than 65536 lines"),
            (
                "line",
                |at| std::fs::write(at, "a".repeat(300_000)).unwrap(),
                "/etc/passwd: a line of more than 262144 bytes",
            ),
        ];
        for (name, make, expected) in cases {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("etc")).unwrap();
            make(&dir.path().join("etc/passwd"));
            let root = OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
            let error = find(root.as_fd(), &query).unwrap_err().to_string();
            assert!(error.contains(expected), "{name}: {error}");
            // Who needs no look-up does not care.
            assert_eq!(home(root.as_fd(), 101), None, "{name}");
        }
    }

    #[test]
    fn run_as_group_wins_and_strict_takes_no_group_of_the_image() {
        let query = UserQuery { user: "nginx".into(), gid: Some(9), extra_groups: vec![7, 7, 8], image_groups: false };
        let ids = resolve(&query, PASSWD, GROUP).unwrap();
        assert_eq!(ids, Ids { uid: 101, gid: 9, groups: vec![7, 8] });
    }
}
