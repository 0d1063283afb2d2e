//! An HTTP GET as kubelet makes it: one connection for each request, redirects on the same host, Go's error texts.

mod request;
mod response;
mod stream;

use crate::dial::{DialError, default_host, dial};
use crate::url::Url;
use crate::{Place, port};
use killick_pod::event::Outcome;
use killick_pod::spec::{HttpGetAction, Scheme};
use request::Headers;
use response::{HttpError, Reader};
use std::cell::Cell;
use std::time::Duration;
use stream::Stream;
use tokio::time::{Instant, timeout_at};

const REDIRECTS_MAX: usize = 10;
/// Go's transport gives a handshake this long within the client's own timeout.
const TLS_HANDSHAKE_MAX: Duration = Duration::from_secs(10);

pub(crate) async fn probe(action: &HttpGetAction, place: &Place<'_>, timeout: Duration) -> Outcome {
    let agent = format!("kube-probe/{}", crate::KUBERNETES_VERSION);
    let (url, headers) = match prepare(action, place, &agent) {
        Ok(prepared) => prepared,
        Err(error) => return Outcome::Unknown(error),
    };
    match get(place, url, headers, Some(timeout)).await {
        Ok(Got { status, body: Ok(body) }) => match status {
            200..=299 => Outcome::Success,
            300..=399 => {
                let body = String::from_utf8_lossy(&body);
                Outcome::Warning(format!("Probe terminated redirects, Response body: {body}"))
            }
            _ => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
        },
        Ok(Got { body: Err(error), .. }) => Outcome::Unknown(error),
        Err(GetError::Failed(error)) => Outcome::Failure(error),
        Err(GetError::Ours(error)) => Outcome::Unknown(error),
    }
}

/// A hook's GET: any status is success. `Ok` may hold the message of a `LifecycleHTTPFallback` event.
pub(crate) async fn hook(
    action: &HttpGetAction,
    place: &Place<'_>,
    timeout: Option<Duration>,
) -> Result<Option<String>, String> {
    let agent = format!("kube-lifecycle/{}", crate::KUBERNETES_VERSION);
    let (url, mut headers) = prepare(action, place, &agent)?;
    match get(place, url.clone(), headers.clone(), timeout).await {
        Ok(_) => Ok(None),
        Err(GetError::Failed(error)) if error.ends_with(HTTP_TO_HTTPS) => {
            headers.remove("Authorization");
            let mut plain = url.clone();
            plain.scheme = "http".to_owned();
            match get(place, plain, headers, timeout).await {
                Ok(_) => Ok(Some(format!(
                    "request to HTTPS lifecycle hook {} got HTTP response, retry with HTTP succeeded",
                    url.host
                ))),
                // kubelet tells the first error.
                Err(_) => Err(error),
            }
        }
        Err(GetError::Failed(error) | GetError::Ours(error)) => Err(error),
    }
}

const HTTP_TO_HTTPS: &str = "http: server gave HTTP response to HTTPS client";

fn prepare(action: &HttpGetAction, place: &Place<'_>, agent: &str) -> Result<(Url, Headers), String> {
    let port = port::resolve(&action.port, place.container)?;
    let scheme = match action.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    let host = match action.host.as_deref().filter(|host| !host.is_empty()) {
        Some(host) => host.to_owned(),
        None => default_host(place),
    };
    let url = Url::of_probe(scheme, &host, port, &action.path)?;
    Ok((url, Headers::of_handler(&action.http_headers, agent)))
}

struct Got {
    status: u16,
    body: Result<Vec<u8>, String>,
}

enum GetError {
    /// `Get "http://…": …`
    Failed(String),
    Ours(String),
}

/// How far a request came: it decides how a timeout is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    Dial,
    #[default]
    Headers,
    Body,
}

async fn get(place: &Place<'_>, url: Url, headers: Headers, timeout: Option<Duration>) -> Result<Got, GetError> {
    let progress = Progress::default();
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let following = follow(place, url, headers, &progress);
    let done = match deadline {
        Some(deadline) => timeout_at(deadline, following).await,
        None => Ok(following.await),
    };
    match done {
        Ok(done) => done,
        Err(_) => match progress.phase.get() {
            Phase::Body => {
                let late = "context deadline exceeded (Client.Timeout or context cancellation while reading body)";
                Ok(Got { status: progress.status.get(), body: Err(late.to_owned()) })
            }
            phase => {
                let cause = match phase {
                    Phase::Dial => progress.late.take(),
                    Phase::Headers | Phase::Body => "context deadline exceeded".to_owned(),
                };
                let cause = format!("{cause} (Client.Timeout exceeded while awaiting headers)");
                Err(GetError::Failed(get_error(&progress.url.take(), &cause)))
            }
        },
    }
}

/// Where the request is, for whoever ends it.
#[derive(Default)]
struct Progress {
    phase: Cell<Phase>,
    url: Cell<String>,
    status: Cell<u16>,
    /// What a dial that takes too long says.
    late: Cell<String>,
}

async fn follow(place: &Place<'_>, first: Url, mut headers: Headers, progress: &Progress) -> Result<Got, GetError> {
    let mut host = headers.get("Host").to_owned();
    let explicit_referer = !headers.get("Referer").is_empty();
    let mut url = first.clone();
    for requests in 1.. {
        progress.url.set(url.to_string());
        let host_header = if host.is_empty() { url.host.clone() } else { host.clone() };
        let mut stream = open(place, &url, progress).await?;
        let failed = |HttpError(text): HttpError| GetError::Failed(get_error(&url.to_string(), &text));
        progress.phase.set(Phase::Headers);
        let bytes = request::bytes(&url, &host_header, &headers).map_err(|text| failed(HttpError(text)))?;
        let written = stream.write_all(&bytes).await;
        let mut reader = Reader::new(&mut stream);
        let response = match (reader.response().await, written) {
            (Ok(response), _) => response,
            // A server that does not read may still have answered; if not, the write is what failed.
            (Err(_), Err(error)) => return Err(failed(stream.text("write", &error))),
            (Err(error), Ok(())) => return Err(failed(error)),
        };
        progress.status.set(response.status);
        let location = match response.status {
            301 | 302 | 303 | 307 | 308 => response.header("Location").filter(|location| !location.is_empty()),
            _ => None,
        };
        let next = match location {
            Some(location) => {
                let text = |error: String| {
                    HttpError(format!("failed to parse Location header {}: {error}", crate::url::quote(location)))
                };
                Some((location, url.join(location).map_err(|error| failed(text(error)))?))
            }
            None => None,
        };
        match next {
            Some((location, next)) if next.host_name() == first.host_name() => {
                if requests >= REDIRECTS_MAX {
                    // Go shows what the server sent, not where it leads.
                    let text = format!("stopped after {REDIRECTS_MAX} redirects");
                    return Err(GetError::Failed(get_error(location, &text)));
                }
                // A host of the handler's own stays with redirects that name none.
                let absolute = Url::parse(location).is_ok_and(|location| location.is_absolute());
                if absolute || host == url.host {
                    host.clear();
                }
                if !explicit_referer {
                    headers.remove("Referer");
                    if !(url.scheme == "https" && next.scheme == "http") {
                        headers.set("Referer", url.to_string());
                    }
                }
                url = next;
            }
            _ => {
                progress.phase.set(Phase::Body);
                let body = reader.body(&response).await.map_err(|HttpError(text)| text);
                return Ok(Got { status: response.status, body });
            }
        }
    }
    unreachable!("the redirects are counted")
}

async fn open(place: &Place<'_>, url: &Url, progress: &Progress) -> Result<Stream, GetError> {
    let failed = |text: &str| GetError::Failed(get_error(&url.to_string(), text));
    if url.host.is_empty() {
        return Err(failed("http: no Host in request URL"));
    }
    if !matches!(url.scheme.as_str(), "http" | "https") {
        return Err(failed(&format!("unsupported protocol scheme {}", crate::url::quote(&url.scheme))));
    }
    let host = url.host_name();
    let port = url.port().ok_or_else(|| failed("dial tcp: address: invalid port"))?;
    progress.phase.set(Phase::Dial);
    let tcp = dial(place, host, port, &progress.late).await.map_err(|error| match error {
        DialError::Refused(text) => failed(&text),
        DialError::Ours(text) => GetError::Ours(get_error(&url.to_string(), &text)),
    })?;
    if url.scheme == "http" {
        return Ok(Stream::plain(tcp));
    }
    progress.phase.set(Phase::Headers);
    match tokio::time::timeout(TLS_HANDSHAKE_MAX, stream::tls(tcp, host)).await {
        Ok(shaken) => shaken.map_err(|HttpError(text)| failed(&text)),
        Err(_) => Err(failed("net/http: TLS handshake timeout")),
    }
}

fn get_error(url: &str, text: &str) -> String {
    format!("Get {}: {text}", crate::url::quote(url))
}
