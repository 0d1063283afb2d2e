//! Lifecycle hooks by the same clients as probes; texts as kubelet's status shows them (kubelet.md §3.2).

use crate::exec::{self, Ended};
use crate::url::quote;
use crate::{Place, http};
use killick_pod::spec::{ExecAction, Handler};
use std::time::Duration;

/// Runs a lifecycle handler until it ends or `timeout` is over. `pod` is `NAME_NAMESPACE(UID)`. `Ok` may hold the
/// message of a Warning `LifecycleHTTPFallback`; `Err` is the whole text of the status.
pub async fn hook(
    handler: &Handler,
    place: Place<'_>,
    pod: &str,
    timeout: Option<Duration>,
) -> Result<Option<String>, String> {
    let whose = format!("for Container {} in Pod {} failed - error:", quote(&place.container.name), quote(pod));
    match handler {
        Handler::Exec(action) => {
            let words = action.command.join(" ");
            run_command(action, &place, timeout).await.map(|()| None).map_err(|(error, output)| {
                format!("Exec lifecycle hook ([{words}]) {whose} {error}, message: {}", quote(&output))
            })
        }
        Handler::HttpGet(action) => http::hook(action, &place, timeout)
            .await
            .map_err(|error| format!("HTTP lifecycle hook ({}) {whose} {error}", action.path)),
        Handler::Sleep(action) => {
            let seconds = Duration::from_secs(u64::try_from(action.seconds).unwrap_or(0));
            let allowed = timeout.unwrap_or(seconds);
            tokio::time::sleep(seconds.min(allowed)).await;
            if seconds <= allowed {
                return Ok(None);
            }
            let error = "container terminated before sleep hook finished";
            Err(format!("Sleep lifecycle hook ({}) {whose} {error}", action.seconds))
        }
        Handler::TcpSocket(_) => Err("Cannot run handler: invalid handler: tcpSocket".to_owned()),
    }
}

/// No `$(VAR)` here: kubelet expands only probes' commands.
async fn run_command(
    action: &ExecAction,
    place: &Place<'_>,
    timeout: Option<Duration>,
) -> Result<(), (String, String)> {
    let shown = action.command.join(" ");
    match exec::run(action.command.clone(), place.launcher, timeout).await {
        Ended::Exited { code: 0, .. } => Ok(()),
        Ended::Exited { code, stdout, stderr } => {
            let said = String::from_utf8_lossy(&stderr).into_owned();
            Err((format!("command '{shown}' exited with {code}: {said}"), exec::text(&stdout, &stderr)))
        }
        Ended::TimedOut { .. } => {
            let after = killick_pod::time::go_duration(timeout.unwrap_or_default());
            Err((format!("command {} timed out after {after}", quote(&shown)), String::new()))
        }
        Ended::CannotRun(error) => Err((error, String::new())),
    }
}
