//! `simulate -f`: a pod's life by the real rules in a made-up world, on a clock that jumps. Nothing is run.

use std::io::Read;
use std::time::Duration;

use killick_pod::manifest::Object;
use killick_pod::simulate::{Script, simulate as run};

use crate::output::{Failure, Out, Result};
use crate::source::{self, Files};

#[derive(Debug, Clone, Default)]
pub struct SimulateOptions {
    pub files: Files,
    pub kube_namespace: Option<String>,
    pub exits: Vec<String>,
    pub probe_traces: Vec<String>,
    pub on_term: Vec<String>,
    pub length: Duration,
}

pub fn simulate(options: &SimulateOptions, stdin: &mut dyn Read, out: &mut Out<'_>) -> Result<()> {
    let mut script = Script::default();
    for (flag, texts, add) in [
        ("exit", &options.exits, Script::add_exit as fn(&mut Script, &str) -> std::result::Result<(), String>),
        ("probe-trace", &options.probe_traces, Script::add_probe_trace),
        ("on-term", &options.on_term, Script::add_on_term),
    ] {
        for text in texts {
            add(&mut script, text)
                .map_err(|why| Failure::error(format!("invalid argument {text:?} for \"--{flag}\" flag: {why}")))?;
        }
    }
    let sourced = source::read(&options.files, options.kube_namespace.as_deref(), stdin)?;
    let pods: Vec<_> = sourced
        .iter()
        .filter_map(|one| match &one.object {
            Object::Pod(pod) => Some(pod),
            Object::Data(_) => None,
        })
        .collect();
    if pods.is_empty() {
        return Err(Failure::error("there is no pod in what was given"));
    }
    for (number, pod) in pods.iter().enumerate() {
        if pods.len() > 1 {
            out.say(format!("{}pod/{}", if number > 0 { "\n" } else { "" }, pod.metadata.name))?;
        }
        for line in run(pod, &script, options.length).map_err(Failure::error)? {
            out.say(line)?;
        }
    }
    Ok(())
}
