//! What every task may use; nothing in it changes.

use std::io::Write;

use killick_pod::event::Record;
use tokio::sync::mpsc;

use crate::container_config::NodeView;
use crate::host::Host;
use crate::keep::Keep;
use crate::message::Message;

#[derive(Debug)]
pub struct Context {
    pub host: Host,
    pub node_view: NodeView,
    /// The embedded binary that holds the pod's namespaces.
    pub pause: &'static [u8],
    pub keep: Keep,
    pub inbox: mpsc::Sender<Message>,
}

impl Context {
    pub async fn tell(&self, message: Message) {
        // The loop ends only after the pod: then nobody needs to know any more.
        let _ = self.inbox.send(message).await;
    }

    pub async fn note(&self, record: Record) {
        self.tell(Message::Note(record)).await;
    }

    /// For whoever reads shim.log: what went wrong without stopping anything.
    pub fn complain(&self, what: &str) {
        complain(what);
    }
}

/// One line for shim.log. Where that disk is full the line is lost: `eprintln!` would end the shim instead.
pub fn complain(what: &str) {
    let time = killick_pod_dir::timestamp::text(crate::clock::now().wall);
    let _ = writeln!(std::io::stderr(), "{time} {what}");
}
