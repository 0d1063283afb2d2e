//! Why a process could not be started, in the words that container engines and kubelet's readers know.

use crate::error::Error;
use serde::{Deserialize, Serialize};

/// The texts of the first group are parsed by docker, podman and containerd's clients: keep the words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum LaunchError {
    #[error("exec: {0:?}: executable file not found in $PATH")]
    NotFoundInPath(String),
    #[error("exec: {0:?}: stat {0}: no such file or directory")]
    NoSuchFile(String),
    #[error("exec: {0:?}: permission denied")]
    NotExecutable(String),
    #[error("exec: {0:?}: is a directory")]
    IsDirectory(String),
    #[error("exec {0}: exec format error")]
    BadFormat(String),
    /// The file is there; what its first line or its ELF header names is not.
    #[error("exec {0}: no such file or directory")]
    NoInterpreter(String),

    #[error("chdir to cwd ({path:?}) set in config.json failed: {cause}")]
    Cwd { path: String, cause: String },
    #[error(
        "current working directory is outside of container mount namespace root -- possible container breakout detected"
    )]
    CwdOutside,
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    #[error("{path}: {cause}")]
    UserFile { path: String, cause: String },

    #[error("container not running")]
    NotRunning,
    /// The half-made process ended without a word: most often the OOM killer in a tight cgroup.
    #[error("the process ended before it was ready ({0}); is the memory limit too low?")]
    Died(String),
    #[error("the process was not ready before its deadline")]
    Late,
    /// What the configuration asks for and this kernel or host cannot give.
    #[error("{0}")]
    Unsupported(String),
    /// `mount /data: mount_setattr(…): EINVAL`
    #[error("{doing}: {error}")]
    Step { doing: String, error: Error },
    #[error(transparent)]
    Call(#[from] Error),
}

impl LaunchError {
    /// The exit code that a shell or an engine gives to this failure.
    pub fn exit_code(&self) -> i32 {
        match self {
            LaunchError::NotFoundInPath(_) | LaunchError::NoSuchFile(_) | LaunchError::NoInterpreter(_) => 127,
            LaunchError::NotExecutable(_) | LaunchError::IsDirectory(_) | LaunchError::BadFormat(_) => 126,
            LaunchError::Cwd { .. }
            | LaunchError::CwdOutside
            | LaunchError::NoUser(_)
            | LaunchError::NoGroup(_)
            | LaunchError::UserFile { .. }
            | LaunchError::NotRunning
            | LaunchError::Died(_)
            | LaunchError::Late
            | LaunchError::Unsupported(_)
            | LaunchError::Step { .. }
            | LaunchError::Call(_) => 128,
        }
    }
}
