//! httpGet: one row for each text of kubelet.md §1.6 and §1.10, real servers in a private network namespace. Needs root.
#![allow(clippy::unwrap_used, clippy::disallowed_types)] // servers of a test share what they saw

mod common;

use common::*;
use killick_pod::event::Outcome;
use killick_prober::hook;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

#[tokio::test]
async fn status_codes_decide() {
    let pod = Pod::new();
    let status = |status: u16| failure(format!("HTTP probe failed with statuscode: {status}"));
    let redirected = |body: &str| Outcome::Warning(format!("Probe terminated redirects, Response body: {body}"));
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Outcome::Success),
        ("HTTP/1.1 204 No Content\r\n\r\n", Outcome::Success),
        ("HTTP/1.0 299 X\r\n\r\nuntil closed", Outcome::Success),
        ("HTTP/1.1 300 Multiple Choices\r\nContent-Length: 3\r\n\r\nabc", redirected("abc")),
        ("HTTP/1.1 304 Not Modified\r\n\r\n", redirected("")),
        ("HTTP/1.1 302 Found\r\n\r\n", redirected("")),
        (
            "HTTP/1.1 301 Moved\r\nLocation: http://elsewhere.local/x\r\nContent-Length: 4\r\n\r\nmove",
            redirected("move"),
        ),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnever see", status(404)),
        ("HTTP/1.1 500\r\n\r\n", status(500)),
        ("HTTP/1.1 600 Odd\r\n\r\n", status(600)),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Outcome::Success),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", status(101)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n3;x=y\r\nyes\r\n0\r\n\r\n", Outcome::Success),
        ("HTTP/1.1 200 OK\nContent-Length: 2\n\nok", Outcome::Success),
    ] {
        let port = pod.serve_bytes(answer);
        assert_eq!(pod.probe(get(port, "/"), LONG).await, expected, "{answer}");
    }
}

#[tokio::test]
async fn client_errors_are_failures_in_gos_words() {
    let pod = Pod::new();
    let broken = "net/http: HTTP/1.x transport connection broken: ";
    let long = [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; 300 << 10], b"\r\n\r\n".to_vec()].concat();
    let many = "HTTP/1.1 100 Continue\r\n\r\n".repeat(7);
    for (answer, expected) in [
        (&b""[..], "EOF".to_owned()),
        (b"SSH-2.0-OpenSSH_9.2\r\n", format!("{broken}malformed HTTP response \"SSH-2.0-OpenSSH_9.2\"")),
        (b"\x15\x03\x01\n", format!("{broken}malformed HTTP response \"\\x15\\x03\\x01\"")),
        (b"HTTP/1.1 2xx OK\r\n\r\n", format!("{broken}malformed HTTP status code \"2xx\"")),
        (b"HTTP/9 200 OK\r\n\r\n", format!("{broken}malformed HTTP version \"HTTP/9\"")),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", format!("{broken}malformed MIME header line: \"no colon\"")),
        (b"HTTP/1.1 200 OK\r\nX: y", format!("{broken}unexpected EOF")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", format!("{broken}bad Content-Length \"x\"")),
        (many.as_bytes(), "net/http: too many 1xx informational responses".to_owned()),
        (&long, "net/http: server response headers exceeded 262144 bytes; aborted".to_owned()),
    ] {
        let port = pod.serve_bytes(answer);
        let expected = failure(format!("Get \"http://127.0.0.1:{port}/x?y\": {expected}"));
        assert_eq!(pod.probe(get(port, "/x?y"), LONG).await, expected);
    }
    let port = pod.closed_port();
    assert_eq!(
        pod.probe(get(port, "index.html"), LONG).await,
        failure(format!(
            "Get \"http://127.0.0.1:{port}/index.html\": dial tcp 127.0.0.1:{port}: connect: connection refused"
        ))
    );
    let named = json!({"httpGet": {"path": "/", "port": port, "scheme": "HTTP", "host": "no.such.name"}});
    assert_eq!(
        pod.probe(named, LONG).await,
        failure(format!("Get \"http://no.such.name:{port}/\": dial tcp: lookup no.such.name: no such host"))
    );
}

#[tokio::test]
async fn a_reset_names_both_ends() {
    let pod = Pod::new();
    let port = pod.serve(|mut stream| async move {
        request(&mut stream).await;
        stream.set_linger(Some(Duration::ZERO)).unwrap();
    });
    let outcome = pod.probe(get(port, "/"), LONG).await;
    assert!(matches!(outcome, Outcome::Failure(_)));
    assert_eq!(
        without_client_port(text(&outcome)),
        format!(
            "Get \"http://127.0.0.1:{port}/\": read tcp 127.0.0.1:*->127.0.0.1:{port}: read: connection reset by peer"
        )
    );
}

#[tokio::test]
async fn a_timeout_tells_what_was_waited_for() {
    let pod = Pod::new();
    let silent = pod.serve(|mut stream| async move {
        request(&mut stream).await;
        tokio::time::sleep(LONG).await;
    });
    let late = "(Client.Timeout exceeded while awaiting headers)";
    for (handler, scheme) in [(get(silent, "/"), "http"), (get_https(silent, "/"), "https")] {
        assert_eq!(
            pod.probe(handler, SHORT).await,
            failure(format!("Get \"{scheme}://127.0.0.1:{silent}/\": context deadline exceeded {late}"))
        );
    }
    pod.ip("link add v0 type veth peer name v1");
    pod.ip("addr add 10.98.0.1/24 dev v0");
    pod.ip("link set v0 up");
    pod.ip("link set v1 up");
    let nobody = json!({"httpGet": {"path": "/", "port": 80, "scheme": "HTTP", "host": "10.98.0.9"}});
    assert_eq!(
        pod.probe(nobody, SHORT).await,
        failure(format!("Get \"http://10.98.0.9:80/\": dial tcp 10.98.0.9:80: i/o timeout {late}"))
    );
}

#[tokio::test]
async fn a_body_that_fails_is_unknown() {
    let pod = Pod::new();
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "unexpected EOF"),
        ("HTTP/1.1 500 X\r\nContent-Length: 9\r\n\r\nshort", "unexpected EOF"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "invalid byte in chunk length"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n", "malformed chunked encoding"),
    ] {
        let port = pod.serve_bytes(answer);
        assert_eq!(pod.probe(get(port, "/"), LONG).await, Outcome::Unknown(expected.into()), "{answer}");
    }
    let port = pod.serve(|mut stream| async move {
        request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nslow").await.unwrap();
        tokio::time::sleep(LONG).await;
    });
    let late = "context deadline exceeded (Client.Timeout or context cancellation while reading body)";
    assert_eq!(pod.probe(get(port, "/"), SHORT).await, Outcome::Unknown(late.into()));
}

#[tokio::test]
async fn an_unknown_port_name_is_unknown() {
    let pod = Pod::new();
    let named = json!({"httpGet": {"path": "/", "port": "foo", "scheme": "HTTP"}});
    assert_eq!(pod.probe(named, LONG).await, Outcome::Unknown("strconv.Atoi: parsing \"foo\": invalid syntax".into()));
}

#[tokio::test]
async fn a_long_body_is_cut_and_not_waited_for() {
    let pod = Pod::new();
    for head in ["HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", "HTTP/1.1 303 X\r\n\r\n"] {
        let port = pod.serve(move |mut stream| async move {
            request(&mut stream).await;
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&[b'x'; 20 << 10]).await.unwrap();
            // More was promised and never comes.
            tokio::time::sleep(LONG).await;
        });
        match pod.probe(get(port, "/"), Duration::from_secs(3)).await {
            Outcome::Success => {}
            Outcome::Warning(text) => {
                assert_eq!(text.len(), "Probe terminated redirects, Response body: ".len() + 10 * 1024);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_request_is_kubelets_byte_for_byte() {
    let pod = Pod::new();
    let seen = Arc::new(Mutex::new(String::new()));
    let keep = Arc::clone(&seen);
    let port = pod.serve(move |mut stream| {
        let keep = Arc::clone(&keep);
        async move {
            *keep.lock().unwrap() = request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        }
    });
    pod.probe(get(port, "/healthz?full#x"), LONG).await;
    assert_eq!(
        seen.lock().unwrap().as_str(),
        format!(
            "GET /healthz?full HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: kube-probe/1.35\r\nAccept: */*\r\n\
             Connection: close\r\n\r\n"
        )
    );
    let handler = json!({"httpGet": {"path": "/", "port": port, "scheme": "HTTP", "httpHeaders": [
        {"name": "x-custom", "value": "b"}, {"name": "Host", "value": "web.local"}, {"name": "x-custom", "value": "a"},
    ]}});
    pod.probe(handler, LONG).await;
    assert_eq!(
        seen.lock().unwrap().as_str(),
        "GET / HTTP/1.1\r\nHost: web.local\r\nUser-Agent: kube-probe/1.35\r\nAccept: */*\r\nX-Custom: b\r\n\
         X-Custom: a\r\nConnection: close\r\n\r\n"
    );
}

/// Answers `/ID` with a redirect to what `to(ID)` says, or 200.
fn redirecting(
    pod: &Pod,
    to: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
) -> (u16, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (keep, to) = (Arc::clone(&seen), Arc::new(to));
    let port = pod.serve(move |mut stream| {
        let (keep, to) = (Arc::clone(&keep), Arc::clone(&to));
        async move {
            let request = request(&mut stream).await;
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            let answer = match to(&path) {
                Some(location) => format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"),
                None => "HTTP/1.1 200 OK\r\n\r\n".to_owned(),
            };
            keep.lock().unwrap().push(request);
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (port, seen)
}

#[tokio::test]
async fn redirects_are_followed_on_the_same_host_and_no_further() {
    let pod = Pod::new();
    let (port, seen) = redirecting(&pod, |path| match path {
        "/a/b" => Some("../c?x".into()),
        "/away" => Some("http://127.0.0.2/".into()),
        "/bad" => Some("http://[::1/".into()),
        "/loop" => Some("/loop".into()),
        "/port" => Some("http://127.0.0.1:1/".into()),
        "/ftp" => Some("ftp://127.0.0.1/".into()),
        _ => None,
    });
    let base = format!("http://127.0.0.1:{port}");
    assert_eq!(pod.probe(get(port, "/a/b"), LONG).await, Outcome::Success);
    assert_eq!(
        seen.lock().unwrap()[1],
        format!(
            "GET /c?x HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: kube-probe/1.35\r\nAccept: */*\r\n\
             Referer: {base}/a/b\r\nConnection: close\r\n\r\n"
        )
    );
    for (path, expected) in [
        ("/away", Outcome::Warning("Probe terminated redirects, Response body: ".into())),
        (
            "/bad",
            failure(format!(
                "Get \"{base}/bad\": failed to parse Location header \"http://[::1/\": parse \"http://[::1/\": \
                 missing ']' in host"
            )),
        ),
        ("/loop", failure("Get \"/loop\": stopped after 10 redirects")),
        ("/port", failure("Get \"http://127.0.0.1:1/\": dial tcp 127.0.0.1:1: connect: connection refused")),
        ("/ftp", failure("Get \"ftp://127.0.0.1/\": unsupported protocol scheme \"ftp\"")),
    ] {
        assert_eq!(pod.probe(get(port, path), LONG).await, expected, "{path}");
    }
    assert_eq!(seen.lock().unwrap().iter().filter(|request| request.starts_with("GET /loop")).count(), 10);
}

#[tokio::test]
async fn a_host_header_stays_with_relative_redirects_only() {
    let pod = Pod::new();
    let own = Arc::new(Mutex::new(0u16));
    let port_of = Arc::clone(&own);
    let (port, seen) = redirecting(&pod, move |path| match path {
        "/relative" => Some("/absolute".into()),
        "/absolute" => Some(format!("http://127.0.0.1:{}/end", port_of.lock().unwrap())),
        _ => None,
    });
    *own.lock().unwrap() = port;
    let handler = json!({"httpGet": {"path": "/relative", "port": port, "scheme": "HTTP",
        "httpHeaders": [{"name": "Host", "value": "web.local"}]}});
    assert_eq!(pod.probe(handler, LONG).await, Outcome::Success);
    let hosts: Vec<String> =
        seen.lock().unwrap().iter().map(|request| request.lines().nth(1).unwrap().to_owned()).collect();
    assert_eq!(hosts, ["Host: web.local", "Host: web.local", &format!("Host: 127.0.0.1:{port}")]);
}

fn acceptor() -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(["expired.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// Answers over TLS with the server name that the client sent.
fn tls_server(pod: &Pod, answer: &'static str) -> (u16, Arc<Mutex<Option<String>>>) {
    let (names, acceptor) = (Arc::new(Mutex::new(None)), acceptor());
    let keep = Arc::clone(&names);
    let port = pod.serve(move |stream| {
        let (keep, acceptor) = (Arc::clone(&keep), acceptor.clone());
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            *keep.lock().unwrap() = stream.get_ref().1.server_name().map(str::to_owned);
            let mut bytes = [0; 4096];
            let _ = stream.read(&mut bytes).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.flush().await;
            // Gone without a goodbye.
        }
    });
    (port, names)
}

#[tokio::test]
async fn https_is_spoken_and_no_certificate_checked() {
    let mut pod = Pod::new();
    pod.hosts = "127.0.0.1 web.local\n".into();
    let (port, name) = tls_server(&pod, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(pod.probe(get_https(port, "/"), LONG).await, Outcome::Success);
    assert_eq!(*name.lock().unwrap(), None, "no server name for an address");
    let named = json!({"httpGet": {"path": "/", "port": port, "scheme": "HTTPS", "host": "web.local",
        "httpHeaders": [{"name": "Host", "value": "other.local"}]}});
    assert_eq!(pod.probe(named, LONG).await, Outcome::Success);
    assert_eq!(name.lock().unwrap().as_deref(), Some("web.local"), "the URL's host, not the header's");
    let (port, _) = tls_server(&pod, "HTTP/1.1 503 No\r\n\r\n");
    assert_eq!(pod.probe(get_https(port, "/"), LONG).await, failure("HTTP probe failed with statuscode: 503"));
    let (port, _) = tls_server(&pod, "");
    assert_eq!(pod.probe(get_https(port, "/"), LONG).await, failure(format!("Get \"https://127.0.0.1:{port}/\": EOF")));
}

#[tokio::test]
async fn servers_that_do_not_speak_tls_are_named() {
    let pod = Pod::new();
    let answering = |bytes: &'static [u8]| {
        pod.serve(move |mut stream| async move {
            let mut piece = [0; 4096];
            let _ = stream.read(&mut piece).await;
            let _ = stream.write_all(bytes).await;
        })
    };
    for (bytes, expected) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "http: server gave HTTP response to HTTPS client"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "tls: first record does not look like a TLS handshake"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "remote error: tls: handshake failure"),
        (b"", "EOF"),
    ] {
        let port = answering(bytes);
        assert_eq!(
            pod.probe(get_https(port, "/"), LONG).await,
            failure(format!("Get \"https://127.0.0.1:{port}/\": {expected}"))
        );
    }
    // And the other way round: a TLS server has an alert for plain HTTP.
    let (port, _) = tls_server(&pod, "");
    let outcome = pod.probe(get(port, "/"), LONG).await;
    assert!(text(&outcome).contains("malformed HTTP response \"\\x15\\x03"), "{outcome:?}");
}

#[tokio::test]
async fn a_hooks_get_succeeds_with_any_status_and_is_another_agent() {
    let pod = Pod::new();
    let seen = Arc::new(Mutex::new(String::new()));
    let keep = Arc::clone(&seen);
    let port = pod.serve(move |mut stream| {
        let keep = Arc::clone(&keep);
        async move {
            *keep.lock().unwrap() = request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\nshort").await.unwrap();
        }
    });
    let run = |handler, timeout| {
        let place = pod.place();
        async move { hook(&handler_of(handler), place, "p_default(uid)", timeout).await }
    };
    assert_eq!(run(get(port, "/stop"), None).await, Ok(None));
    assert!(seen.lock().unwrap().contains("User-Agent: kube-lifecycle/1.35\r\n"));
    let closed = pod.closed_port();
    assert_eq!(
        run(get(closed, "/stop"), None).await,
        Err(format!(
            "HTTP lifecycle hook (/stop) for Container \"web\" in Pod \"p_default(uid)\" failed - error: \
             Get \"http://127.0.0.1:{closed}/stop\": dial tcp 127.0.0.1:{closed}: connect: connection refused"
        ))
    );
    // HTTPS that is answered in plain HTTP is tried again in plain HTTP, without what was secret.
    let handler = json!({"httpGet": {"path": "/", "port": port, "scheme": "HTTPS",
        "httpHeaders": [{"name": "Authorization", "value": "Bearer x"}]}});
    let plain = pod.serve(|mut stream| async move {
        let mut bytes = [0; 4096];
        let length = stream.read(&mut bytes).await.unwrap();
        assert!(!String::from_utf8_lossy(&bytes[..length]).contains("Authorization"));
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    });
    let mut secret = handler.clone();
    secret["httpGet"]["port"] = plain.into();
    assert_eq!(
        run(secret, None).await,
        Ok(Some(format!(
            "request to HTTPS lifecycle hook 127.0.0.1:{plain} got HTTP response, retry with HTTP succeeded"
        )))
    );
    let sleep = |seconds: i64| json!({"sleep": {"seconds": seconds}});
    assert_eq!(run(sleep(0), None).await, Ok(None));
    assert_eq!(
        run(sleep(60), Some(SHORT)).await,
        Err("Sleep lifecycle hook (60) for Container \"web\" in Pod \"p_default(uid)\" failed - error: container \
             terminated before sleep hook finished"
            .to_owned())
    );
    assert_eq!(run(tcp(port), None).await, Err("Cannot run handler: invalid handler: tcpSocket".to_owned()));
}
