//! A pod's network namespace with real servers in it, and places to probe from.
#![allow(dead_code)] // each test file uses a part

use killick_pod::event::Outcome;
use killick_pod::spec::{Container, Handler};
use killick_prober::exec::{Command, Launcher, Process};
use killick_prober::{Place, probe};
use killick_sys::ns::{self, NamespaceKind};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Plenty for loopback; tests about time have their own.
pub const LONG: Duration = Duration::from_secs(10);
pub const SHORT: Duration = Duration::from_millis(150);

pub struct Pod {
    pub netns: OwnedFd,
    pub ip: Option<IpAddr>,
    pub container: Container,
    pub hosts: String,
    pub resolv_conf: String,
}

impl Pod {
    /// A network namespace of its own with `lo` up.
    pub fn new() -> Pod {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        let home = ns::open_own(NamespaceKind::Network).unwrap();
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set lo up");
        let netns = ns::open_own(NamespaceKind::Network).unwrap();
        ns::join(home.as_fd(), NamespaceKind::Network).unwrap();
        let container = container(serde_json::json!([{"name": "http", "containerPort": 80, "protocol": "TCP"}]));
        Pod { netns, ip: None, container, hosts: String::new(), resolv_conf: String::new() }
    }

    pub fn place(&self) -> Place<'_> {
        self.place_with(&NoLauncher)
    }

    pub fn place_with<'a>(&'a self, launcher: &'a dyn Launcher) -> Place<'a> {
        Place {
            netns: Some(self.netns.as_fd()),
            pod_ip: self.ip,
            container: &self.container,
            hosts: &self.hosts,
            resolv_conf: &self.resolv_conf,
            launcher,
        }
    }

    pub async fn probe(&self, handler: serde_json::Value, timeout: Duration) -> Outcome {
        probe(&handler_of(handler), self.place(), timeout).await
    }

    pub fn inside<T>(&self, f: impl FnOnce() -> T) -> T {
        ns::with_netns(self.netns.as_fd(), f).unwrap()
    }

    pub fn ip(&self, arguments: &str) {
        self.inside(|| ip(arguments));
    }

    pub fn listen(&self, address: &str) -> TcpListener {
        let listener = self.inside(|| std::net::TcpListener::bind(address).unwrap());
        listener.set_nonblocking(true).unwrap();
        TcpListener::from_std(listener).unwrap()
    }

    /// A server on the pod's loopback that treats every connection alike; its port.
    pub fn serve<F, S>(&self, serve: S) -> u16
    where
        S: Fn(TcpStream) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = self.listen("127.0.0.1:0");
        let port = listener.local_addr().unwrap().port();
        let serve = std::sync::Arc::new(serve);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serve = std::sync::Arc::clone(&serve);
                tokio::spawn(async move { serve(stream).await });
            }
        });
        port
    }

    /// A server that reads a request, answers with these bytes and closes.
    pub fn serve_bytes(&self, answer: impl Into<Vec<u8>>) -> u16 {
        let answer = answer.into();
        self.serve(move |mut stream| {
            let answer = answer.clone();
            async move {
                request(&mut stream).await;
                let _ = stream.write_all(&answer).await;
            }
        })
    }

    /// A port of the loopback on which nobody listens.
    pub fn closed_port(&self) -> u16 {
        self.inside(|| std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port())
    }
}

/// Reads up to the empty line; what came.
pub async fn request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    while !bytes.ends_with(b"\r\n\r\n") {
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => break,
            Ok(length) => bytes.extend_from_slice(&piece[..length]),
        }
    }
    String::from_utf8(bytes).unwrap()
}

pub fn handler_of(json: serde_json::Value) -> Handler {
    serde_json::from_value(json).unwrap()
}

pub fn get(port: u16, path: &str) -> serde_json::Value {
    serde_json::json!({"httpGet": {"path": path, "port": port, "scheme": "HTTP"}})
}

pub fn get_https(port: u16, path: &str) -> serde_json::Value {
    serde_json::json!({"httpGet": {"path": path, "port": port, "scheme": "HTTPS"}})
}

pub fn tcp(port: u16) -> serde_json::Value {
    serde_json::json!({"tcpSocket": {"port": port}})
}

pub fn exec(command: &[&str]) -> serde_json::Value {
    serde_json::json!({"exec": {"command": command}})
}

pub fn container(ports: serde_json::Value) -> Container {
    serde_json::from_value(serde_json::json!({
        "name": "web", "image": "x", "imagePullPolicy": "Never",
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        "env": [{"name": "LITERAL", "value": "yes"}],
        "ports": ports,
    }))
    .unwrap()
}

pub fn failure(text: impl Into<String>) -> Outcome {
    Outcome::Failure(text.into())
}

/// `10.0.0.1:4000->10.0.0.1:80` with the client's port, which nobody knows, as `*`.
pub fn without_client_port(text: &str) -> String {
    match (text.find(" tcp "), text.find("->")) {
        (Some(tcp), Some(arrow)) => {
            let client: SocketAddr = text[tcp + 5..arrow].parse().unwrap();
            format!("{}{}:*{}", &text[..tcp + 5], client.ip(), &text[arrow..])
        }
        _ => text.to_owned(),
    }
}

pub fn text(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Success => "",
        Outcome::Warning(text) | Outcome::Failure(text) | Outcome::Unknown(text) => text,
    }
}

pub struct NoLauncher;

impl Launcher for NoLauncher {
    fn launch(&self, _: Command) -> Result<Box<dyn Process + '_>, String> {
        Err("container not running".to_owned())
    }
}

#[allow(clippy::disallowed_methods)] // a test drives the host's own tools
pub fn ip(arguments: &str) {
    let output = std::process::Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
