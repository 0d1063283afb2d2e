//! `probes`: what each attempt of a pod's probes found.

use killick_pod_dir::timestamp;

use crate::context::Context;
use crate::get::WATCH_PERIOD;
use crate::output::{Out, Result};
use crate::table::Table;

/// `killick probes`: what each attempt of a pod's probes found.
pub fn probes(
    context: &Context,
    kube_namespace: &str,
    name: &str,
    container: Option<&str>,
    follow: bool,
    headings: bool,
    out: &mut Out<'_>,
) -> Result<()> {
    context.revive(out)?;
    let view = context.named_pod(kube_namespace, name)?;
    let mut table = Table::new();
    let mut rows = Vec::new();
    if headings {
        rows.push(["TIME", "CONTAINER", "PROBE", "RESULT", "TOOK", "MESSAGE"].map(str::to_owned).to_vec());
    }
    // The last one that was shown: the record forgets its oldest lines, so places do not count.
    let mut shown: Option<(String, String)> = None;
    loop {
        let exists = view.dir.exists();
        let records = killick_pod_dir::record::read(&view.dir.record_path())?;
        for record in records {
            let key = (record.time.clone(), format!("{}{:?}", record.container, record.kind));
            if shown.as_ref().is_some_and(|shown| *shown >= key) {
                continue;
            }
            shown = Some(key);
            if container.is_some_and(|container| container != record.container) {
                continue;
            }
            let time = match timestamp::parse_nanos(&record.time) {
                Some(nanos) => timestamp::text_nanos(nanos)[..23].replace('T', " "),
                None => record.time.clone(),
            };
            let probe = format!("{:?}", record.kind).to_lowercase();
            let took = format!("{}ms", record.duration_ms);
            let message = record.message.trim().replace('\n', "\\n");
            rows.push(vec![time, record.container, probe, record.outcome, took, message]);
        }
        if !rows.is_empty() {
            let mut text = String::new();
            table.write(&rows, &mut text);
            out.print(&text)?;
            rows.clear();
        }
        if !follow || !exists {
            return Ok(());
        }
        std::thread::sleep(WATCH_PERIOD);
    }
}
