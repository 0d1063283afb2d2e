//! Finding and starting the program, with the container's credentials and the engines' words for what fails.

use super::error::LaunchError;
use crate::error::{Error, Result, check};
use crate::execute::{Words, by_descriptor};
use nix::errno::Errno;
use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Searched when the container has no PATH (crun does the same; runc would find nothing).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The file that `args[0]` names. With a slash it is taken as it is; else PATH is searched: a candidate that may not
/// be executed is remembered and wins over "not found".
pub(super) fn find(args: &[String], env: &[String]) -> Result<PathBuf, LaunchError> {
    let name = args.first().map(String::as_str).unwrap_or_default();
    let mut refusal = None;
    for candidate in candidates(name, env) {
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
            Err(errno) => drop(refusal.get_or_insert((candidate, errno))),
        }
    }
    Err(not_found(name, refusal.as_ref().map(|(path, errno)| (path.as_path(), *errno))))
}

/// The directories of PATH.
pub(super) fn search_path(env: &[String]) -> &str {
    env.iter().rev().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH)
}

/// What `name` may mean, in order.
pub(super) fn candidates(name: &str, env: &[String]) -> Vec<PathBuf> {
    if name.contains('/') {
        return vec![name.into()];
    }
    let directories = search_path(env).split(':').filter(|_| !name.is_empty());
    directories.map(|directory| Path::new(if directory.is_empty() { "." } else { directory }).join(name)).collect()
}

/// None of them can be executed: the first that is there and may not be is told.
pub(super) fn not_found(name: &str, refusal: Option<(&Path, Errno)>) -> LaunchError {
    match refusal {
        Some((path, errno)) => refused(&path.display().to_string(), errno),
        None if name.contains('/') => LaunchError::NoSuchFile(name.into()),
        None => LaunchError::NotFoundInPath(name.into()),
    }
}

fn refused(name: &str, errno: Errno) -> LaunchError {
    if errno == Errno::EISDIR { LaunchError::IsDirectory(name.into()) } else { LaunchError::NotExecutable(name.into()) }
}

/// Real and effective ids are equal by now, so access(2) asks for the right user.
fn executable(path: &Path) -> Result<(), Errno> {
    use nix::unistd::{AccessFlags, access};
    let is_dir = nix::sys::stat::stat(path)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    if is_dir {
        return Err(Errno::EISDIR);
    }
    access(path, AccessFlags::X_OK)
}

fn c_strings<'a>(strings: impl IntoIterator<Item = &'a str>) -> Result<Vec<CString>, LaunchError> {
    let convert = |string: &str| {
        CString::new(string).map_err(|_| LaunchError::Unsupported(format!("{string:?}: a NUL byte in an argument")))
    };
    strings.into_iter().map(convert).collect()
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// An empty HOME is none.
pub(super) fn has_home(env: &[String]) -> bool {
    env.iter().any(|variable| variable.len() > 5 && variable.starts_with("HOME="))
}

/// Path, arguments and environment as execve takes them. `home` is added when env has no HOME, or an empty one.
pub(super) fn command_line(
    path: &Path,
    args: &[String],
    env: &[String],
    home: Option<&str>,
) -> Result<(CString, Vec<CString>, Vec<CString>), LaunchError> {
    let has_home = has_home(env);
    let home = if has_home { None } else { Some(format!("HOME={}", home.unwrap_or("/"))) };
    let kept = env.iter().map(String::as_str).filter(|variable| has_home || *variable != "HOME=");
    let path_c =
        CString::new(path.as_os_str().as_bytes()).map_err(|_| LaunchError::NoSuchFile(path.display().to_string()))?;
    Ok((path_c, c_strings(args.iter().map(String::as_str))?, c_strings(kept.chain(home.as_deref()))?))
}

/// Returns only when it fails.
#[allow(unsafe_code)]
pub(super) fn exec(path: &Path, args: &[String], env: &[String], home: Option<&str>) -> LaunchError {
    let (path_c, args_c, env_c) = match command_line(path, args, env, home) {
        Ok(converted) => converted,
        Err(error) => return error,
    };
    let (argv, envp) = (pointers(&args_c), pointers(&env_c));
    // SAFETY: both arrays end with null and, like their strings, outlive the call.
    unsafe { libc::execve(path_c.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    let errno = Errno::last();
    exec_error(path, errno, || path.exists())
}

/// What execve's refusal means.
pub(super) fn exec_error(path: &Path, errno: Errno, is_there: impl FnOnce() -> bool) -> LaunchError {
    let name = path.display().to_string();
    match errno {
        // It was there a moment ago: what is missing is its interpreter.
        Errno::ENOENT if is_there() => LaunchError::NoInterpreter(name),
        Errno::ENOENT => LaunchError::NoSuchFile(name),
        Errno::EACCES | Errno::EPERM => LaunchError::NotExecutable(name),
        Errno::ENOEXEC => LaunchError::BadFormat(name),
        _ => Error::new(format!("execve({name:?})"), errno).into(),
    }
}

/// Runs what a descriptor is open on, with an empty environment.
pub(super) fn exec_fd(program: BorrowedFd<'_>, args: &[String]) -> LaunchError {
    match c_strings(args.iter().map(String::as_str)) {
        Ok(args) => by_descriptor(program, &Words::new(args), &Words::new(Vec::new())).into(),
        Err(error) => error,
    }
}

/// Runs a program of the root, with an empty environment.
#[allow(unsafe_code)]
pub(super) fn exec_path(path: &Path, args: &[String]) -> LaunchError {
    let name = path.display().to_string();
    let (path_c, args) = match (CString::new(name.as_str()), c_strings(args.iter().map(String::as_str))) {
        (Ok(path), Ok(args)) => (path, Words::new(args)),
        (Ok(_), Err(error)) => return error,
        (Err(_), _) => return LaunchError::NoSuchFile(name),
    };
    let none = Words::new(Vec::new());
    // SAFETY: both arrays end with null and, like their strings, outlive the call.
    unsafe { libc::execve(path_c.as_ptr(), args.as_ptr(), none.as_ptr()) };
    Error::last(format!("execve({name:?})")).into()
}

/// Makes `number` (0, 1 or 2) the same open file, to be inherited.
#[allow(unsafe_code)]
pub(super) fn dup_onto(source: BorrowedFd<'_>, number: i32) -> Result<()> {
    // SAFETY: the plan's descriptors are all above 2, so only the caller's old stdio is replaced.
    let done = unsafe { libc::dup2(source.as_raw_fd(), number) };
    check(done.into(), || format!("dup2({}, {number})", crate::fd::describe(source))).map(drop)
}
