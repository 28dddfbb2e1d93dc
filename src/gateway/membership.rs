//! That a connection can be reached: its entry in the registry and in its user's mailbox.

use std::sync::Arc;

use tokio::runtime::Handle as Runtime;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::node::Node;
use super::operations::Peer;
use super::registry::{Added, Handle, Inbox};

/// A connection's entries; taken back when dropped, also where a client leaves in the middle of
/// its admission.
pub struct Membership {
    node: Arc<Node>,
    peer: Peer,
    /// The mailbox may know the connection.
    is_registered: bool,
    /// A node that leaves waits for it, from the admission on.
    _tracked: TaskTrackerToken,
}

impl Membership {
    /// Makes a connection reachable. `None` where its user has too many.
    pub fn begin(node: &Arc<Node>, peer: &Peer) -> Option<(Membership, Inbox)> {
        let (handle, inbox) = Handle::new(peer.id.number);
        let user = peer.user.shared();
        match node.registry.add(&user, handle) {
            Added::First => node.presence.note(&user),
            Added::Further => {}
            Added::TooMany => return None,
        }
        let membership = Membership {
            node: Arc::clone(node),
            peer: peer.clone(),
            is_registered: false,
            _tracked: node.connections.token(),
        };
        Some((membership, inbox))
    }

    /// The connection is about to be registered.
    pub fn note_registering(&mut self) {
        self.is_registered = true;
    }

    /// Removes the connection from the mailbox. Where that fails it is tried once more, without
    /// anybody waiting; then it is removed with its node's incarnation, or replaced by the device's
    /// next one.
    pub async fn unregister(&mut self) {
        if !self.is_registered {
            return;
        }
        if let Some(link) = self.node.store.user(&self.peer.user).link() {
            let removed = link.unregister(&self.peer.user, &self.peer.id).await;
            self.is_registered = removed.is_err();
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let (node, peer) = (Arc::clone(&self.node), self.peer.clone());
        if node.registry.remove(peer.user.as_str(), peer.id.number) {
            node.presence.note(&peer.user.shared());
        }
        let runtime = Runtime::try_current().ok();
        if let Some(runtime) = runtime.filter(|_| self.is_registered) {
            let connections = node.connections.clone();
            let unregister = async move {
                if let Some(link) = node.store.user(&peer.user).link() {
                    let _ = link.unregister(&peer.user, &peer.id).await;
                }
            };
            connections.spawn_on(unregister, &runtime);
        }
    }
}
