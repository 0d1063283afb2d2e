//! What a pod's containers go through, told to containerd: one queue in order, one call at a time, with reconnect.
//!
//! A failed event is never overtaken by a later one. A daemon that is away asks State when it is back, so what has grown
//! old is dropped, the oldest first.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use prost::Message;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::clock;
use super::log::Log;
use super::proto::{Any, Envelope, ForwardRequest};
use super::ttrpc::{CallError, Client};

const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";
/// Events that wait for a daemon that is away.
const WAITING_MAX: usize = 4096;
const AGE_MAX: Duration = Duration::from_secs(300);
const CALL_DEADLINE: Duration = Duration::from_secs(5);
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Waiting {
    request: ForwardRequest,
    since: Instant,
}

#[derive(Debug)]
pub struct Events {
    namespace: String,
    waiting: RefCell<VecDeque<Waiting>>,
    news: Notify,
    empty: Notify,
    log: Rc<Log>,
    dropped: Cell<u64>,
}

impl Events {
    pub fn new(namespace: &str, log: Rc<Log>) -> Rc<Events> {
        Rc::new(Events {
            namespace: namespace.to_owned(),
            waiting: RefCell::default(),
            news: Notify::new(),
            empty: Notify::new(),
            log,
            dropped: Cell::new(0),
        })
    }

    /// `name` is the message's, without its package.
    pub fn publish(&self, topic: &str, name: &str, event: &impl Message) {
        let event = Any { type_url: format!("containerd.events.{name}"), value: event.encode_to_vec() };
        let envelope = Envelope {
            timestamp: Some(clock::now()),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: Some(event),
        };
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() == WAITING_MAX {
            waiting.pop_front();
            self.note_dropped();
        }
        waiting.push_back(Waiting { request: ForwardRequest { envelope: Some(envelope) }, since: Instant::now() });
        self.news.notify_one();
    }

    fn note_dropped(&self) {
        let dropped = self.dropped.get() + 1;
        self.dropped.set(dropped);
        // The first tells enough; then every thousandth.
        if dropped % 1000 == 1 {
            self.log.warn(&format!("containerd takes no events: {dropped} dropped"));
        }
    }

    /// Sends for ever. `address`: containerd's ttrpc socket; without one nobody wants to hear.
    pub async fn send_all(self: Rc<Self>, address: Option<PathBuf>) {
        let Some(address) = address else { return };
        let mut client: Option<Client> = None;
        let mut pause = RETRY_FIRST;
        loop {
            let next = self.waiting.borrow().front().map(|first| (first.request.clone(), first.since));
            let Some((request, since)) = next else {
                self.empty.notify_waiters();
                self.news.notified().await;
                continue;
            };
            if since.elapsed() > AGE_MAX {
                self.waiting.borrow_mut().pop_front();
                self.note_dropped();
                continue;
            }
            match self.send(&mut client, &address, &request).await {
                Ok(()) => {
                    pause = RETRY_FIRST;
                    self.forget(since);
                }
                Err(CallError::Status { code, message }) => {
                    // It was heard, and refused: it would be again.
                    self.log.warn(&format!("containerd refused an event: {message} (code {code})"));
                    self.forget(since);
                }
                Err(CallError::Connection(_)) => {
                    client = None;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// The first one, if it is still the one that was sent: a full queue may have dropped it meanwhile.
    fn forget(&self, since: Instant) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.front().is_some_and(|first| first.since == since) {
            waiting.pop_front();
        }
    }

    async fn send(
        &self,
        client: &mut Option<Client>,
        address: &std::path::Path,
        request: &ForwardRequest,
    ) -> Result<(), CallError> {
        let late = || CallError::Connection(std::io::ErrorKind::TimedOut.into());
        let connected = match client {
            Some(connected) => connected,
            None => {
                let connection = timeout(CALL_DEADLINE, Client::connect(address)).await.map_err(|_| late())?;
                client.insert(connection.map_err(CallError::Connection)?)
            }
        };
        match timeout(CALL_DEADLINE, connected.call(SERVICE, "Forward", request)).await {
            Ok(answer) => answer.map(drop),
            Err(_) => Err(late()),
        }
    }

    /// Returns when all is sent, or at the deadline.
    pub async fn flush(&self, deadline: Duration) {
        let empty = async {
            while !self.waiting.borrow().is_empty() {
                self.empty.notified().await;
            }
        };
        let _ = timeout(deadline, empty).await;
    }
}
