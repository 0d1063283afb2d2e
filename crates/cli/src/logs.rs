//! `logs`: reads the files that the shim writes; nobody is asked.

use std::time::Duration;

use killick_pod::spec::Pod;
use killick_pod::status::{ContainerStatus, PodStatus};
use killick_pod_dir::log_reader::{LogReader, Record, Selection, render};

use crate::container_choice::choose;
use crate::context::{Context, PodView};
use crate::output::{Failure, Out, Result};
use crate::select::LabelSelector;

/// How often a followed file is looked at.
const FOLLOW_PERIOD: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    pub kube_namespace: String,
    /// None with a selector.
    pub pod: Option<String>,
    pub selector: LabelSelector,
    pub container: Option<String>,
    pub all_containers: bool,
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub prefix: bool,
    pub tail: Option<usize>,
    pub since_nanos: Option<i128>,
    pub limit_bytes: Option<u64>,
    pub requests_max: usize,
}

pub fn logs(context: &Context, options: &LogOptions, out: &mut Out<'_>) -> Result<()> {
    match &options.pod {
        Some(name) => context.revive_named(&options.kube_namespace, name, out)?,
        None => context.revive(out)?,
    }
    let views = match &options.pod {
        Some(name) => vec![context.pod(&options.kube_namespace, name).ok_or_else(|| {
            Failure::error(format!(
                "error from server (NotFound): pods \"{name}\" not found in namespace \"{}\"",
                options.kube_namespace
            ))
        })?],
        None => {
            let mut pods = context.pods(Some(&options.kube_namespace))?;
            pods.retain(|pod| options.selector.matches(&pod.pod.metadata.labels));
            if pods.is_empty() {
                out.warn(format!("No resources found in {} namespace.", options.kube_namespace));
                return Ok(());
            }
            pods
        }
    };
    let mut sources = Vec::new();
    for view in &views {
        let containers = if options.all_containers {
            let all = view.pod.spec.init_containers.iter().chain(&view.pod.spec.containers);
            all.map(|container| container.name.clone()).collect()
        } else {
            let (container, said) = choose(&view.pod, options.container.as_deref())?;
            if let Some(line) = said {
                out.warn(line);
            }
            vec![container]
        };
        sources.extend(containers.into_iter().map(|container| (view, container)));
    }
    if options.follow && sources.len() > options.requests_max {
        return Err(Failure::error(format!(
            "you are attempting to follow {} log streams, but maximum allowed concurrency is {}, use \
             --max-log-requests to increase the limit",
            sources.len(),
            options.requests_max
        )));
    }
    let mut failures = Vec::new();
    let mut followed = Vec::new();
    for (view, container) in sources {
        match Source::open(view, &container, options) {
            Ok(mut source) => {
                let records = source.begin(options)?;
                source.print(&records, options, out)?;
                followed.push(source);
            }
            Err(failure) => failures.push(failure),
        }
    }
    if options.follow {
        follow(followed, options, out)?;
    }
    Failure::all(failures)
}

/// One container's log as it is printed.
struct Source<'a> {
    view: &'a PodView,
    container: String,
    attempt: u32,
    reader: LogReader,
    at_line_start: bool,
    left: Option<u64>,
}

impl<'a> Source<'a> {
    fn open(view: &'a PodView, container: &str, options: &LogOptions) -> Result<Source<'a>> {
        let attempt = attempt(&view.pod, &view.status, container, options.previous)?;
        let path = view.dir.log_dir(&view.pod).join(container).join(format!("{attempt}.log"));
        Ok(Source {
            view,
            container: container.to_owned(),
            attempt,
            reader: LogReader::new(&path),
            at_line_start: true,
            left: options.limit_bytes,
        })
    }

    fn begin(&mut self, options: &LogOptions) -> Result<Vec<Record>> {
        let selection = Selection { tail: options.tail, since_nanos: options.since_nanos };
        self.reader.begin(&selection).map_err(|error| self.unreadable(&error))
    }

    fn unreadable(&self, error: &std::io::Error) -> Failure {
        Failure::error(format!("read the log of container {} in pod {}: {error}", self.container, self.view.name()))
    }

    fn print(&mut self, records: &[Record], options: &LogOptions, out: &mut Out<'_>) -> Result<()> {
        let mut text = Vec::new();
        for record in records {
            if options.prefix && self.at_line_start {
                text.extend_from_slice(format!("[pod/{}/{}] ", self.view.name(), self.container).as_bytes());
            }
            render(record, options.timestamps, self.at_line_start, &mut text);
            self.at_line_start = !record.partial;
            if text.len() > 1 << 20 {
                self.put(&mut text, out)?;
            }
        }
        self.put(&mut text, out)
    }

    fn put(&mut self, text: &mut Vec<u8>, out: &mut Out<'_>) -> Result<()> {
        if let Some(left) = &mut self.left {
            text.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= text.len() as u64;
        }
        if !text.is_empty() {
            out.bytes(text)?;
        }
        text.clear();
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    /// Whether this run of the container may still write.
    fn is_running(&self) -> bool {
        let Ok(file) = self.view.dir.read_status() else { return self.view.dir.exists() };
        let status = container_status(&file.status, &self.container);
        self.view.dir.exists()
            && status.is_some_and(|status| status.state.running.is_some() && status.restart_count == self.attempt)
    }
}

fn follow(mut sources: Vec<Source<'_>>, options: &LogOptions, out: &mut Out<'_>) -> Result<()> {
    loop {
        let mut still = Vec::new();
        let mut quiet = true;
        for mut source in sources {
            // Asked before reading: what was written before its end is read.
            let running = source.is_running();
            let mut records = Vec::new();
            while records.len() < 1000 {
                match source.reader.next_record().map_err(|error| source.unreadable(&error))? {
                    Some(record) => records.push(record),
                    None => break,
                }
            }
            let at_end = records.len() < 1000;
            quiet &= at_end;
            source.print(&records, options, out)?;
            if (running || !at_end) && !source.is_full() {
                still.push(source);
            }
        }
        if still.is_empty() {
            return Ok(());
        }
        sources = still;
        if quiet {
            std::thread::sleep(FOLLOW_PERIOD);
        }
    }
}

fn container_status<'a>(status: &'a PodStatus, container: &str) -> Option<&'a ContainerStatus> {
    status.container_statuses.iter().chain(&status.init_container_statuses).find(|status| status.name == container)
}

/// Which run's log is meant, by kubelet's rules, or why there is none.
fn attempt(pod: &Pod, status: &PodStatus, container: &str, previous: bool) -> Result<u32> {
    let pod_name = &pod.metadata.name;
    let waits = |why: &str| {
        Failure::bad_request(format!("container \"{container}\" in pod \"{pod_name}\" is waiting to start{why}"))
    };
    let Some(status) = container_status(status, container) else { return Err(waits(" - no logs yet")) };
    let newest = status.restart_count;
    let waiting = status.state.waiting.as_ref();
    let has_last = status.last_state.terminated.is_some();
    if previous {
        // While it waits for its next start, the last one that ended is both the newest and the previous.
        return match (has_last, waiting) {
            (true, Some(_)) => Ok(newest),
            (true, None) => Ok(newest.saturating_sub(1)),
            (false, _) => Err(Failure::bad_request(format!(
                "previous terminated container \"{container}\" in pod \"{pod_name}\" not found"
            ))),
        };
    }
    match waiting {
        Some(_) if has_last => Ok(newest),
        Some(waiting) => Err(match waiting.reason.as_deref() {
            Some("ErrImagePull") => waits(": image can't be pulled"),
            Some("ImagePullBackOff") => waits(": trying and failing to pull image"),
            Some(reason) if !reason.is_empty() => waits(&format!(": {reason}")),
            _ => waits(" - no logs yet"),
        }),
        None if status.state.running.is_some() || status.state.terminated.is_some() => Ok(newest),
        None => Err(waits(" - no logs yet")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(container: Value, previous: bool, expected: std::result::Result<u32, &str>) {
        let pod = crate::testing::pod("p", json!({"containers": [{"name": "c", "image": "i"}]}));
        let status: PodStatus = serde_json::from_value(json!({"containerStatuses": [container]})).unwrap();
        let found = attempt(&pod, &status, "c", previous).map_err(|failure| failure.text);
        assert_eq!(found, expected.map_err(|text| format!("Error from server (BadRequest): {text}")), "{container}");
    }

    #[test]
    fn the_newest_or_the_previous_run_is_chosen_as_kubelet_does() {
        let running = json!({"running": {"startedAt": ""}});
        let ended = json!({"terminated": {"exitCode": 1}});
        let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
        let status = |state: &Value, last: &Value, restarts: u32| json!({"name": "c", "state": state, "lastState": last, "restartCount": restarts});
        let none = json!({});
        check(status(&running, &none, 0), false, Ok(0));
        check(status(&running, &ended, 3), false, Ok(3));
        check(status(&running, &ended, 3), true, Ok(2));
        check(status(&ended, &none, 0), false, Ok(0));
        check(status(&waiting("CrashLoopBackOff"), &ended, 2), false, Ok(2));
        check(status(&waiting("CrashLoopBackOff"), &ended, 2), true, Ok(2));
        check(status(&running, &none, 0), true, Err("previous terminated container \"c\" in pod \"p\" not found"));
        for (reason, text) in [
            ("ContainerCreating", ": ContainerCreating"),
            ("ErrImagePull", ": image can't be pulled"),
            ("ImagePullBackOff", ": trying and failing to pull image"),
            ("", " - no logs yet"),
        ] {
            let text = format!("container \"c\" in pod \"p\" is waiting to start{text}");
            check(status(&waiting(reason), &none, 0), false, Err(&text));
        }
        check(json!({"name": "other"}), false, Err("container \"c\" in pod \"p\" is waiting to start - no logs yet"));
    }
}
