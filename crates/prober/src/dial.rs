//! Connections from inside the pod: the socket is made there, everything else happens outside. Errors read as Go's.

use crate::Place;
use crate::names;
use crate::url::join_host_port;
use killick_sys::ns;
use nix::errno::Errno;
use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use tokio::net::{TcpSocket, TcpStream};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DialError {
    /// The peer's or the network's doing; Go's text: `dial tcp 10.88.0.2:80: connect: connection refused`.
    Refused(String),
    /// Ours: no diagnosis was made.
    Ours(String),
}

/// Runs `make` in the pod's network namespace. Nothing is awaited there.
pub(crate) fn inside<T>(place: &Place<'_>, make: impl FnOnce() -> io::Result<T>) -> Result<T, String> {
    let made = match place.netns {
        Some(netns) => ns::with_netns(netns, make).map_err(|error| error.to_string())?,
        None => make(),
    };
    made.map_err(|error| format!("socket: {}", reason(&error)))
}

/// The address that stands for the pod when a handler names no host.
pub(crate) fn default_host(place: &Place<'_>) -> String {
    place.pod_ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)).to_string()
}

/// Dials every address that the name has, in order, until one answers; the first error is told. `late` always holds
/// what to say if the time is over.
pub(crate) async fn dial(
    place: &Place<'_>,
    host: &str,
    port: u16,
    late: &Cell<String>,
) -> Result<TcpStream, DialError> {
    let addresses = match host.parse::<IpAddr>() {
        Ok(ip) => vec![ip],
        Err(_) => {
            late.set(format!("dial tcp: lookup {host}: i/o timeout"));
            names::lookup(place, host).await.map_err(|error| DialError::Refused(format!("dial tcp: {error}")))?
        }
    };
    let mut first = None;
    for ip in addresses {
        let shown = join_host_port(&ip.to_string(), port);
        late.set(format!("dial tcp {shown}: i/o timeout"));
        match dial_address(place, SocketAddr::new(ip, port), &shown).await {
            Ok(stream) => return Ok(stream),
            Err(error) => drop(first.get_or_insert(error)),
        }
    }
    Err(first.unwrap_or_else(|| DialError::Refused(format!("dial tcp: lookup {host}: no such host"))))
}

async fn dial_address(place: &Place<'_>, address: SocketAddr, shown: &str) -> Result<TcpStream, DialError> {
    let make = || if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = inside(place, make).map_err(|error| DialError::Ours(format!("dial tcp {shown}: {error}")))?;
    socket
        .connect(address)
        .await
        .map_err(|error| DialError::Refused(format!("dial tcp {shown}: connect: {}", reason(&error))))
}

/// `10.88.0.1:4000->10.88.0.2:80`, for errors: asked while connected, because after a reset nobody knows the peer.
pub(crate) fn ends(stream: &TcpStream) -> String {
    let show = |address: io::Result<SocketAddr>| address.map_or_else(|_| "?".to_owned(), |address| address.to_string());
    format!("{}->{}", show(stream.local_addr()), show(stream.peer_addr()))
}

/// `read tcp 10.88.0.1:4000->10.88.0.2:80: read: connection reset by peer`
pub(crate) fn stream_error(verb: &str, ends: &str, error: &io::Error) -> String {
    format!("{verb} tcp {ends}: {verb}: {}", reason(error))
}

/// What Go calls an errno.
pub(crate) fn reason(error: &io::Error) -> String {
    let Some(errno) = error.raw_os_error() else { return error.to_string() };
    match Errno::from_raw(errno) {
        Errno::ECONNREFUSED => "connection refused".into(),
        Errno::ECONNRESET => "connection reset by peer".into(),
        Errno::ECONNABORTED => "software caused connection abort".into(),
        Errno::EHOSTUNREACH => "no route to host".into(),
        Errno::EHOSTDOWN => "host is down".into(),
        Errno::ENETUNREACH => "network is unreachable".into(),
        Errno::ENETDOWN => "network is down".into(),
        Errno::ETIMEDOUT => "connection timed out".into(),
        Errno::EADDRNOTAVAIL => "cannot assign requested address".into(),
        Errno::EACCES => "permission denied".into(),
        Errno::EPERM => "operation not permitted".into(),
        Errno::EINVAL => "invalid argument".into(),
        Errno::EPIPE => "broken pipe".into(),
        Errno::EMFILE => "too many open files".into(),
        Errno::ENFILE => "too many open files in system".into(),
        Errno::ENOBUFS => "no buffer space available".into(),
        other => other.desc().to_lowercase(),
    }
}
