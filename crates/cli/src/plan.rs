//! `plan -f`: what `apply` would do on this machine. What the host can do is asked of the shim; nothing is touched.

use std::ffi::OsStr;
use std::io::Read;

use killick_image::Store;
use killick_pod::manifest::Object;
use killick_pod::plan::{HostFacts, plan as plan_of};
use killick_pod::spec::Pod;
use serde_json::Value;

use crate::context::Context;
use crate::output::{Out, Result};
use crate::source::{self, Files};

/// The node's settings, of which a plan shows the network's.
const CONFIG: &str = "/etc/killick/config.json";

pub fn plan(
    context: &Context,
    files: &Files,
    kube_namespace: Option<&str>,
    stdin: &mut dyn Read,
    out: &mut Out<'_>,
) -> Result<()> {
    let sourced = source::read(files, kube_namespace, stdin)?;
    let facts = facts(context, out);
    for (number, one) in sourced.iter().enumerate() {
        if number > 0 {
            out.say("")?;
        }
        match &one.object {
            Object::Pod(pod) => {
                let mut pod = pod.clone();
                pod.spec.node_name.get_or_insert_with(|| facts.node.clone());
                out.print(&plan_of(&pod, &facts))?;
                for image in missing_images(context, &pod) {
                    out.say(format!("\nMissing\n  image {image} is not here: killick image import FILE"))?;
                }
            }
            Object::Data(data) => {
                let kind = format!("{:?}", data.kind).to_lowercase();
                let keys = data.data.len() + data.binary_data.len();
                out.say(format!("{kind}/{} in namespace {}: stored, {keys} keys", data.name, data.namespace))?;
            }
        }
    }
    Ok(())
}

/// Images that no import has brought. Where there is no store yet (or it is not ours to read) nothing is said.
fn missing_images(context: &Context, pod: &Pod) -> Vec<String> {
    let root = context.roots.images();
    let Some(store) = root.is_dir().then(|| Store::open(root).ok()).flatten() else { return Vec::new() };
    let containers = pod.spec.init_containers.iter().chain(&pod.spec.containers);
    let mut images: Vec<String> = containers
        .filter(|container| matches!(store.resolve(&container.image), Ok(None)))
        .map(|container| container.image.clone())
        .collect();
    images.dedup();
    images
}

/// A host that cannot be asked is planned for with what is usual, and that is said.
fn facts(context: &Context, out: &mut Out<'_>) -> HostFacts {
    let (text, result) = context.run_shim([OsStr::new("pod"), OsStr::new("facts")]);
    if let Err(failure) = result {
        out.warn(format!("Warning: what this host can do is not known: {}", failure.text));
    }
    let mut facts = HostFacts::from_json(&serde_json::from_str(&text).unwrap_or(Value::Null));
    facts.cgroup_root = context.roots.cgroup_root();
    facts.node = context.node_name();
    facts.memory_bytes = memory_bytes().unwrap_or_default();
    let config = std::fs::read_to_string(CONFIG).unwrap_or_default();
    let config: Value = serde_json::from_str(&config).unwrap_or(Value::Null);
    for (key, field) in [("bridge", &mut facts.bridge), ("subnet", &mut facts.subnet)] {
        if let Some(text) = config[key].as_str() {
            *field = text.to_owned();
        }
    }
    facts
}

fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
