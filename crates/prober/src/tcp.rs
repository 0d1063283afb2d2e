//! A TCP connection that is made and closed again.

use crate::dial::{DialError, default_host, dial};
use crate::{Place, port};
use killick_pod::event::Outcome;
use killick_pod::spec::TcpSocketAction;
use std::cell::Cell;
use std::time::Duration;

pub(crate) async fn probe(action: &TcpSocketAction, place: &Place<'_>, timeout: Duration) -> Outcome {
    let port = match port::resolve(&action.port, place.container) {
        Ok(port) => port,
        Err(error) => return Outcome::Unknown(error),
    };
    let host = match action.host.as_deref().filter(|host| !host.is_empty()) {
        Some(host) => host.to_owned(),
        None => default_host(place),
    };
    let late = Cell::default();
    match tokio::time::timeout(timeout, dial(place, &host, port, &late)).await {
        // Closed at once. Not with SO_LINGER as kubelet does: such a close waits, and this thread must not.
        Ok(Ok(_)) => Outcome::Success,
        Ok(Err(DialError::Refused(text))) => Outcome::Failure(text),
        Ok(Err(DialError::Ours(text))) => Outcome::Unknown(text),
        Err(_) => Outcome::Failure(late.take()),
    }
}
