//! `wait`: until pods are in a condition, there, or gone.

use std::time::{Duration, Instant};

use crate::context::{Context, PodView};
use crate::jsonpath::{Path, text};
use crate::output::{Failure, Out, Result};
use crate::resource::{Resource, Wanted};
use crate::select::LabelSelector;

const POLL: Duration = Duration::from_millis(50);
/// A negative timeout means a week, as kubectl has it.
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Debug, Clone, PartialEq)]
pub enum For {
    Delete,
    Create,
    Condition { kind: String, status: String },
    Field { path: Path, value: Option<String> },
}

impl For {
    /// `delete`, `create`, `condition=Ready`, `condition=Ready=false`, `jsonpath={.status.phase}=Running`
    pub fn parse(given: &str) -> Result<For> {
        let unknown = || Failure::error(format!("unrecognized condition: {given:?}"));
        if given.eq_ignore_ascii_case("delete") {
            return Ok(For::Delete);
        }
        if given.eq_ignore_ascii_case("create") {
            return Ok(For::Create);
        }
        match given.split_once('=') {
            Some(("condition", condition)) => {
                let (kind, status) = condition.split_once('=').unwrap_or((condition, "true"));
                Ok(For::Condition { kind: kind.to_owned(), status: status.to_owned() })
            }
            Some(("jsonpath", expression)) => {
                let expression = expression.trim_matches('\'');
                let (path, rest) = expression.rsplit_once('}').ok_or_else(unknown)?;
                let path = path.trim_start_matches('\'').strip_prefix('{').and_then(Path::parse).ok_or_else(unknown)?;
                let value = rest.trim_start_matches('\'').strip_prefix('=');
                Ok(For::Field { path, value: value.map(|value| value.trim_matches('\'').to_owned()) })
            }
            _ => Err(unknown()),
        }
    }

    fn holds(&self, view: Option<&PodView>) -> bool {
        let Some(view) = view else { return *self == For::Delete };
        match self {
            For::Delete => false,
            For::Create => true,
            For::Condition { kind, status } => view.status.conditions.iter().any(|condition| {
                condition.kind.eq_ignore_ascii_case(kind) && condition.status.eq_ignore_ascii_case(status)
            }),
            For::Field { path, value } => {
                let object = view.json();
                let found = path.find(&object, &object);
                match value {
                    None => !found.is_empty(),
                    Some(wanted) => found.iter().any(|found| text(found) == *wanted),
                }
            }
        }
    }
}

#[derive(Debug, Clone)]
pub struct WaitOptions {
    pub kube_namespace: String,
    pub condition: For,
    /// None: a week. Zero: one look.
    pub timeout: Option<Duration>,
    pub labels: LabelSelector,
    pub all: bool,
}

pub fn wait(context: &Context, wanted: &[Wanted], options: &WaitOptions, out: &mut Out<'_>) -> Result<()> {
    if let Some(other) = wanted.iter().find(|wanted| wanted.resource != Resource::Pod) {
        return Err(Failure::error(format!("only pods are waited for, not {}", other.resource.plural())));
    }
    context.revive(out)?;
    let mut names: Vec<String> = wanted.iter().flat_map(|wanted| wanted.names.clone()).collect();
    if names.is_empty() && (options.all || !options.labels.is_empty()) {
        let pods = context.pods(Some(&options.kube_namespace))?;
        let chosen = pods.iter().filter(|pod| options.labels.matches(&pod.pod.metadata.labels));
        names.extend(chosen.map(|pod| pod.name().to_owned()));
    }
    if names.is_empty() {
        return Err(Failure::error("no matching resources found"));
    }
    let deadline = Instant::now() + options.timeout.unwrap_or(WEEK);
    let mut failures = Vec::new();
    for name in names {
        let mut known = false;
        loop {
            let view = context.pod(&options.kube_namespace, &name);
            if options.condition.holds(view.as_ref()) {
                let word = match options.condition {
                    For::Delete => "deleted",
                    For::Create | For::Condition { .. } | For::Field { .. } => "condition met",
                };
                out.say(format!("pod/{name} {word}"))?;
                break;
            }
            // A pod that was never there will not come by itself; one that goes meanwhile is an answer too.
            if view.is_none() && options.condition != For::Create {
                failures.push(if known {
                    Failure::error(format!("pods \"{name}\" was deleted while it was waited for"))
                } else {
                    Failure::not_found("pods", &name)
                });
                break;
            }
            known |= view.is_some();
            if Instant::now() >= deadline {
                failures.push(match options.timeout {
                    Some(Duration::ZERO) => Failure::error(format!("condition not met for pods/{name}")),
                    _ => Failure::error(format!("timed out waiting for the condition on pods/{name}")),
                });
                break;
            }
            std::thread::sleep(POLL);
        }
    }
    Failure::all(failures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_written_as_for_kubectl() {
        let condition = |kind: &str, status: &str| For::Condition { kind: kind.into(), status: status.into() };
        assert_eq!(For::parse("condition=Ready"), Ok(condition("Ready", "true")));
        assert_eq!(For::parse("condition=Ready=False"), Ok(condition("Ready", "False")));
        assert_eq!(For::parse("delete"), Ok(For::Delete));
        assert_eq!(
            For::parse("jsonpath={.status.phase}=Running"),
            Ok(For::Field { path: Path::parse(".status.phase").unwrap(), value: Some("Running".into()) })
        );
        assert_eq!(
            For::parse("jsonpath='{.status.podIP}'"),
            Ok(For::Field { path: Path::parse(".status.podIP").unwrap(), value: None })
        );
        assert_eq!(For::parse("ready").unwrap_err().text, "error: unrecognized condition: \"ready\"");
    }
}
