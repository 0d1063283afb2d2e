//! The six hooks of a configuration: which run where, with which state and which environment (oci.md §1.12).

use killick_sys::hook::{Hook, Hooks as Run};
use oci_spec::runtime::{Hook as OciHook, Spec};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// In the order in which a container's life meets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Deprecated; as createRuntime, before it.
    Prestart,
    /// By the runtime, in its namespaces, once the container's mounts are made.
    CreateRuntime,
    /// By the first process, in the container's namespaces; its path is the host's.
    CreateContainer,
    /// By the first process, after the start signal, as the container's user in the container's root.
    StartContainer,
    /// By the runtime, once the program runs.
    Poststart,
    /// By the runtime, after everything is removed.
    Poststop,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Prestart => "prestart",
            Kind::CreateRuntime => "createRuntime",
            Kind::CreateContainer => "createContainer",
            Kind::StartContainer => "startContainer",
            Kind::Poststart => "poststart",
            Kind::Poststop => "poststop",
        }
    }

    /// `status` of the state that such a hook reads.
    fn status(self) -> &'static str {
        match self {
            Kind::Prestart | Kind::CreateRuntime | Kind::CreateContainer => "creating",
            Kind::StartContainer => "created",
            Kind::Poststart => "running",
            Kind::Poststop => "stopped",
        }
    }

    #[allow(deprecated, reason = "prestart is deprecated, not gone")]
    fn of(self, spec: &Spec) -> Vec<OciHook> {
        let Some(hooks) = spec.hooks() else { return Vec::new() };
        let listed = match self {
            Kind::Prestart => hooks.prestart(),
            Kind::CreateRuntime => hooks.create_runtime(),
            Kind::CreateContainer => hooks.create_container(),
            Kind::StartContainer => hooks.start_container(),
            Kind::Poststart => hooks.poststart(),
            Kind::Poststop => hooks.poststop(),
        };
        listed.clone().unwrap_or_default()
    }
}

/// The state that hooks read: all of it but status and pid.
pub fn state(oci_version: &str, id: &str, bundle: &Path, spec: &Spec) -> Map<String, Value> {
    let mut state = Map::new();
    state.insert("ociVersion".into(), oci_version.into());
    state.insert("id".into(), id.into());
    state.insert("bundle".into(), bundle.display().to_string().into());
    if let Some(annotations) = spec.annotations().as_ref().filter(|annotations| !annotations.is_empty()) {
        state.insert(
            "annotations".into(),
            annotations.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        );
    }
    state
}

/// The hooks of one kind, ready to run; None when there are none. A hook without an environment gets `environment`:
/// the runtime's own on the host, the process's for startContainer, nothing for createContainer.
pub fn of(
    kind: Kind,
    spec: &Spec,
    state: &Map<String, Value>,
    environment: &[String],
    cwd: Option<PathBuf>,
) -> Option<Run> {
    let hooks: Vec<Hook> = kind.of(spec).iter().map(|hook| convert(hook, environment)).collect();
    if hooks.is_empty() {
        return None;
    }
    let mut state = state.clone();
    state.insert("status".into(), kind.status().into());
    Some(Run { kind: kind.name().into(), hooks, state, cwd })
}

/// Runs the hooks of one kind, here and now, for a container with this first process (none for poststop). They find the
/// runtime's environment and stand in the bundle, if it is still there.
pub fn run(
    kind: Kind,
    spec: &Spec,
    state: &Map<String, Value>,
    environment: &[String],
    bundle: &Path,
    pid: Option<i32>,
) -> Result<(), String> {
    let cwd = Some(bundle.to_owned()).filter(|bundle| bundle.is_dir());
    match of(kind, spec, state, environment, cwd) {
        Some(hooks) => hooks.run(pid),
        None => Ok(()),
    }
}

fn convert(hook: &OciHook, environment: &[String]) -> Hook {
    Hook {
        path: hook.path().clone(),
        args: hook.args().clone().unwrap_or_default(),
        env: hook.env().clone().unwrap_or_else(|| environment.to_vec()),
        timeout: hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs),
    }
}
