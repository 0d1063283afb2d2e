//! tcpSocket: one row for each text of kubelet.md §1.7, in a private network namespace. Needs root.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use killick_pod::event::Outcome;
use serde_json::json;

#[tokio::test]
async fn a_port_that_listens_is_a_success() {
    let pod = Pod::new();
    let listener = pod.listen("127.0.0.1:0");
    assert_eq!(pod.probe(tcp(listener.local_addr().unwrap().port()), LONG).await, Outcome::Success);
    // And the pod's own address is dialled when it has one.
    let mut pod = Pod::new();
    pod.ip("addr add 10.88.0.2/32 dev lo");
    pod.ip = Some("10.88.0.2".parse().unwrap());
    let listener = pod.listen("10.88.0.2:0");
    assert_eq!(pod.probe(tcp(listener.local_addr().unwrap().port()), LONG).await, Outcome::Success);
}

#[tokio::test]
async fn failures_read_as_the_dialers() {
    let mut pod = Pod::new();
    pod.ip("addr add 10.88.0.2/32 dev lo");
    pod.ip("route add unreachable 10.99.0.0/24");
    // The other end is up and has no address: nobody answers there.
    pod.ip("link add v0 type veth peer name v1");
    pod.ip("addr add 10.98.0.1/24 dev v0");
    pod.ip("link set v0 up");
    pod.ip("link set v1 up");
    pod.ip = Some("10.88.0.2".parse().unwrap());
    let host = |host: &str| json!({"tcpSocket": {"port": 81, "host": host}});
    for (handler, timeout, expected) in [
        (tcp(81), LONG, "dial tcp 10.88.0.2:81: connect: connection refused"),
        (host("127.0.0.1"), LONG, "dial tcp 127.0.0.1:81: connect: connection refused"),
        (host("::1"), LONG, "dial tcp [::1]:81: connect: connection refused"),
        (host("10.99.0.1"), LONG, "dial tcp 10.99.0.1:81: connect: no route to host"),
        (host("192.0.2.1"), LONG, "dial tcp 192.0.2.1:81: connect: network is unreachable"),
        (host("10.98.0.9"), SHORT, "dial tcp 10.98.0.9:81: i/o timeout"),
        (host("no.such.name"), LONG, "dial tcp: lookup no.such.name: no such host"),
    ] {
        assert_eq!(pod.probe(handler, timeout).await, failure(expected));
    }
}

#[tokio::test]
async fn a_diagnosis_that_could_not_be_made_is_unknown() {
    let pod = Pod::new();
    let named = |name: &str| json!({"tcpSocket": {"port": name}});
    assert_eq!(
        pod.probe(named("foo"), LONG).await,
        Outcome::Unknown("strconv.Atoi: parsing \"foo\": invalid syntax".into())
    );
    assert_eq!(pod.probe(named("70000"), LONG).await, Outcome::Unknown("invalid port number: 70000".into()));
}

#[tokio::test]
async fn a_named_port_is_the_containers() {
    let pod = Pod::new();
    let _listener = pod.listen("127.0.0.1:80");
    assert_eq!(pod.probe(json!({"tcpSocket": {"port": "http"}}), LONG).await, Outcome::Success);
}

#[tokio::test]
async fn the_loopback_is_the_pods_own() {
    let (pod, other) = (Pod::new(), Pod::new());
    let listener = pod.listen("127.0.0.1:0");
    let port = listener.local_addr().unwrap().port();
    assert_eq!(pod.probe(tcp(port), LONG).await, Outcome::Success);
    assert!(matches!(other.probe(tcp(port), LONG).await, Outcome::Failure(_)));
}

#[tokio::test]
async fn names_are_those_that_the_pod_knows() {
    let mut pod = Pod::new();
    pod.hosts = "127.0.0.1\tlocalhost\n127.0.0.9\tweb.local web\n".into();
    let listener = pod.listen("127.0.0.9:0");
    let port = listener.local_addr().unwrap().port();
    let at = |host: &str| json!({"tcpSocket": {"port": port, "host": host}});
    assert_eq!(pod.probe(at("web"), LONG).await, Outcome::Success);
    assert_eq!(
        pod.probe(at("localhost"), LONG).await,
        failure(format!("dial tcp 127.0.0.1:{port}: connect: connection refused"))
    );
}

#[tokio::test]
async fn names_are_asked_of_the_pods_name_servers() {
    let mut pod = Pod::new();
    pod.resolv_conf = "nameserver 127.0.0.1\nsearch cluster.local\noptions ndots:2\n".into();
    let at = |host: &str, port: u16| json!({"tcpSocket": {"port": port, "host": host}});
    // Nobody serves names yet.
    assert_eq!(
        pod.probe(at("web", 81), LONG).await,
        failure("dial tcp: lookup web on 127.0.0.1:53: connection refused")
    );
    let socket = pod.inside(|| std::net::UdpSocket::bind("127.0.0.1:53").unwrap());
    socket.set_nonblocking(true).unwrap();
    let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
    tokio::spawn(async move {
        let mut bytes = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut bytes).await {
            let mut answer = bytes[..length].to_vec();
            let known = answer.windows(12).any(|window| window == b"\x03web\x07cluster");
            let is_a = answer[length - 3] == 1;
            answer[2..4].copy_from_slice(if known { &[0x81, 0x80] } else { &[0x81, 0x83] });
            if known && is_a {
                answer[7] = 1;
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 7]);
            }
            // A stranger's answer first: it must be passed over.
            let mut wrong = answer.clone();
            wrong[0] ^= 0xff;
            socket.send_to(&wrong, client).await.unwrap();
            socket.send_to(&answer, client).await.unwrap();
        }
    });
    let listener = pod.listen("127.0.0.7:0");
    let port = listener.local_addr().unwrap().port();
    assert_eq!(pod.probe(at("web", port), LONG).await, Outcome::Success);
    assert_eq!(
        pod.probe(at("nobody", port), LONG).await,
        failure("dial tcp: lookup nobody on 127.0.0.1:53: no such host")
    );
}

#[tokio::test]
async fn this_thread_is_at_home_again_after_each_probe() {
    use killick_sys::ns::{NamespaceKind, identity, open_own};
    use std::os::fd::AsFd;
    let home = identity(open_own(NamespaceKind::Network).unwrap().as_fd()).unwrap();
    let pod = Pod::new();
    pod.probe(tcp(pod.closed_port()), LONG).await;
    assert_eq!(identity(open_own(NamespaceKind::Network).unwrap().as_fd()).unwrap(), home);
}
