//! Hooks: programs that a configuration wants run at a moment of a container's life, with its state on their stdin.

use crate::pidfd::Exit;
use crate::program::{self, Program};
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    pub path: PathBuf,
    /// With argv[0]; empty: the path.
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub timeout: Option<Duration>,
}

/// All hooks of one kind, as they are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hooks {
    /// `createRuntime`
    pub kind: String,
    pub hooks: Vec<Hook>,
    /// The state without a pid, which is told when they run.
    pub state: serde_json::Map<String, serde_json::Value>,
    pub cwd: Option<PathBuf>,
}

impl Hooks {
    /// One after the other; the first that fails ends it, with runc's words.
    pub fn run(&self, pid: Option<i32>) -> Result<(), String> {
        let mut state = self.state.clone();
        if let Some(pid) = pid {
            state.insert("pid".into(), pid.into());
        }
        let state = serde_json::Value::Object(state).to_string();
        for (index, hook) in self.hooks.iter().enumerate() {
            hook.run(self.cwd.clone(), state.as_bytes())
                .map_err(|why| format!("error running {} hook #{index}: {why}", self.kind))?;
        }
        Ok(())
    }
}

impl Hook {
    fn run(&self, cwd: Option<PathBuf>, state: &[u8]) -> Result<(), String> {
        let program = Program { path: self.path.clone(), args: self.args.clone(), env: self.env.clone(), cwd };
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        let output = program::run(&program, state, deadline).map_err(|error| error.to_string())?;
        let how = match output.exit {
            Some(Exit::Code(0)) => return Ok(()),
            Some(Exit::Code(code)) => format!("exit status {code}"),
            Some(Exit::Signal { signal, .. }) => format!("signal {signal}"),
            None => {
                let timeout = self.timeout.unwrap_or_default().as_secs_f64();
                format!("hook ran past specified timeout of {timeout:.1}s")
            }
        };
        Err(format!("{how}, stdout: {}, stderr: {}", output.stdout.trim_end(), output.stderr.trim_end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout: Option<Duration>) -> Hooks {
        let hook = Hook {
            path: "/bin/sh".into(),
            args: ["sh", "-c", script].map(String::from).to_vec(),
            env: vec!["PATH=/bin:/usr/bin".into()],
            timeout,
        };
        Hooks { kind: "poststop".into(), hooks: vec![hook], state: serde_json::Map::new(), cwd: None }
    }

    #[test]
    fn a_hook_gets_the_state_and_its_failure_says_what_it_printed() {
        assert_eq!(shell("test \"$(cat)\" = '{\"pid\":7}'", None).run(Some(7)), Ok(()));
        assert_eq!(shell("exit 0", None).run(None), Ok(()), "one that never reads its input");
        let failed = shell("echo out; echo err >&2; exit 3", None).run(None).unwrap_err();
        assert_eq!(failed, "error running poststop hook #0: exit status 3, stdout: out, stderr: err");
    }

    #[test]
    fn a_hook_that_takes_too_long_is_killed() {
        let started = Instant::now();
        let failed = shell("exec sleep 60", Some(Duration::from_millis(100))).run(None).unwrap_err();
        assert!(failed.contains("hook ran past specified timeout of 0.1s"), "{failed}");
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_large_state_and_a_large_output_do_not_block() {
        let mut hooks = shell("cat >/dev/null; head -c 300000 /dev/zero", None);
        hooks.state.insert("annotations".into(), "x".repeat(200_000).into());
        assert_eq!(hooks.run(None), Ok(()));
    }
}
