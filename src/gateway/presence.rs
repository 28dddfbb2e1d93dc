//! The node's lease, and the set `online_users:<node>`.
//!
//! One task writes both, so that an earlier and a later state of a user cannot overtake each
//! other. At rest it costs two commands each renewal, whatever the number of users.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::node::Node;
use crate::mailbox::{Link, MailboxError};
use crate::nodes::lease::{self, Held, LEASE_MILLISECONDS, RENEWAL_MILLISECONDS};
use crate::protocol::Epoch;
use crate::telemetry::ReconcileReason;

/// Users written to `online_users` in one command.
const USERS_PER_COMMAND: usize = 1_000;
/// Least time between two writes of changed users; what changes meanwhile goes together.
const WRITE_PAUSE: Duration = Duration::from_millis(20);
/// Pause after a failure; the store spaces its attempts by itself.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// After the lease had run out, workers may act for this long on what they read of it
/// meanwhile, and remove connections; only then are they asserted again.
const LAPSED_PAUSE: Duration = Duration::from_secs(3);

/// Users whose presence changed since it was last written.
#[derive(Default)]
pub struct Changes {
    users: Mutex<HashSet<Arc<str>>>,
    notify: Notify,
}

impl Changes {
    pub fn note(&self, user: &Arc<str>) {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.insert(Arc::clone(user));
        self.notify.notify_one();
    }

    fn take(&self) -> HashSet<Arc<str>> {
        std::mem::take(&mut self.users.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put_back(&self, changed: HashSet<Arc<str>>) {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.extend(changed);
    }
}

/// Why a node can no longer be one.
#[derive(Debug, thiserror::Error)]
pub enum PresenceError {
    #[error(
        "another process took over the node name {0:?}: give every gateway its own CATCHUP_NODE"
    )]
    NameTaken(String),
    #[error("{0}")]
    Unsuitable(String),
}

/// The connections to where the two keys are; one where there is one server.
struct Links {
    lease: Link,
    online: Link,
}

/// The time lines of the two keys.
pub type Epochs = [Epoch; 2];

impl Links {
    async fn connect(node: &Node) -> Result<Links, MailboxError> {
        let store = &node.store;
        Ok(Links {
            lease: store.key(|keys| keys.node(&node.name)).connect().await?,
            online: (store.key(|keys| keys.online_users(&node.name)).connect()).await?,
        })
    }

    fn epochs(&self) -> Epochs {
        [self.lease.epoch(), self.online.epoch()]
    }
}

/// Takes the lease, trying until the store is there. Before the node accepts anybody.
pub async fn begin(node: &Node) -> Result<Epochs, PresenceError> {
    loop {
        let result = async {
            let links = Links::connect(node).await?;
            lease::take(&links.lease, &node.name, &node.incarnation).await?;
            node.store_clock.heard(links.lease.now_ms().await?);
            // What a process of this name left behind.
            forget_online(node, &links.online).await?;
            Ok(links.epochs())
        };
        match result.await {
            Ok(epochs) => {
                node.health.set("store", Ok(()));
                return Ok(epochs);
            }
            Err(error) => judge(node, error)?,
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Keeps the lease and the set until the token of the caller ends it by dropping.
pub async fn keep(node: Arc<Node>, mut epochs: Epochs) -> PresenceError {
    let mut renewal = Instant::now() + Duration::from_millis(RENEWAL_MILLISECONDS);
    let mut is_complete = true;
    // An older process of this name may have written a last time before it found its lease taken.
    let mut rewrite_at = Some(Instant::now() + Duration::from_millis(LEASE_MILLISECONDS));
    loop {
        is_complete &= rewrite_at.take_if(|at| *at <= Instant::now()).is_none();
        tokio::select! {
            () = node.presence.notify.notified() => tokio::time::sleep(WRITE_PAUSE).await,
            () = tokio::time::sleep_until(renewal) => {}
        }
        match step(&node, &mut epochs, &mut is_complete).await {
            Ok(()) => node.health.set("store", Ok(())),
            Err(Failure::Final(error)) => return error,
            Err(Failure::Store(error)) => {
                is_complete = false;
                if let Err(error) = judge(&node, error) {
                    return error;
                }
                tokio::time::sleep(RETRY_PAUSE).await;
                renewal = Instant::now();
                continue;
            }
        }
        renewal = Instant::now() + Duration::from_millis(RENEWAL_MILLISECONDS);
    }
}

enum Failure {
    Store(MailboxError),
    Final(PresenceError),
}

impl From<MailboxError> for Failure {
    fn from(error: MailboxError) -> Failure {
        Failure::Store(error)
    }
}

async fn step(
    node: &Arc<Node>,
    epochs: &mut Epochs,
    is_complete: &mut bool,
) -> Result<(), Failure> {
    let links = Links::connect(node).await?;
    if links.epochs() != *epochs {
        // A store that went back may name an older process again, which is gone.
        lease::take(&links.lease, &node.name, &node.incarnation).await?;
        *epochs = links.epochs();
        node.reconciles.ask(ReconcileReason::EpochChanged);
        *is_complete = false;
    }
    // Also where only users changed: an older process of this name must not touch the set of the
    // newer one.
    match lease::renew(&links.lease, &node.name, &node.incarnation).await? {
        Held::Yes => {}
        Held::Lapsed => {
            tracing::warn!("the lease on the node's name had run out and was taken back");
            let node = Arc::clone(node);
            tokio::spawn(async move {
                tokio::time::sleep(LAPSED_PAUSE).await;
                node.reconciles.ask(ReconcileReason::LeaseLapsed);
            });
            *is_complete = false;
        }
        Held::TakenByAnother => {
            let error = PresenceError::NameTaken(node.name.to_string());
            return Err(Failure::Final(error));
        }
    }
    let changed = node.presence.take();
    let result = write_online(node, &links.online, &changed, *is_complete).await;
    if result.is_err() {
        node.presence.put_back(changed);
    }
    *is_complete = result.is_ok();
    Ok(result?)
}

/// Writes the changed users, or all where the set is not known to be complete.
async fn write_online(
    node: &Node,
    link: &Link,
    changed: &HashSet<Arc<str>>,
    is_complete: bool,
) -> Result<(), MailboxError> {
    let key = link.keys().online_users(&node.name);
    let (added, removed): (Vec<_>, Vec<_>) = match is_complete {
        true => changed
            .iter()
            .cloned()
            .partition(|user| node.registry.has(user)),
        false => (node.registry.users(), Vec::new()),
    };
    let mut pipeline = redis::pipe();
    if !is_complete {
        // Whoever reads meanwhile must not see half of it.
        pipeline.atomic().del(&key);
    }
    for (command, users) in [("SADD", added), ("SREM", removed)] {
        for users in users.chunks(USERS_PER_COMMAND) {
            let users: Vec<&str> = users.iter().map(|user| &**user).collect();
            pipeline.cmd(command).arg(&key).arg(users);
        }
    }
    pipeline.cmd("PEXPIRE").arg(&key).arg(LEASE_MILLISECONDS);
    let _: Vec<redis::Value> =
        (pipeline.query_async(&mut link.raw()).await).map_err(|error| link.judge(error))?;
    Ok(())
}

async fn forget_online(node: &Node, link: &Link) -> Result<(), MailboxError> {
    let key = link.keys().online_users(&node.name);
    let mut pipeline = redis::pipe();
    pipeline.del(key);
    let _: Vec<redis::Value> =
        (pipeline.query_async(&mut link.raw()).await).map_err(|error| link.judge(error))?;
    Ok(())
}

/// Empties the set and gives the name back: the node leaves in order. Not where another process has
/// the name: then the set is that one's.
pub async fn end(node: &Node) {
    let route = |key: String| node.store.key(|_| key).link();
    let keys = node.store.keys();
    let (Some(lease), Some(online)) = (
        route(keys.node(&node.name)),
        route(keys.online_users(&node.name)),
    ) else {
        return;
    };
    let ended = async {
        match lease::renew(&lease, &node.name, &node.incarnation).await? {
            Held::Yes | Held::Lapsed => {
                forget_online(node, &online).await?;
                lease::release(&lease, &node.name, &node.incarnation).await
            }
            Held::TakenByAnother => Ok(()),
        }
    };
    if let Err(error) = ended.await {
        tracing::warn!("the lease runs out by itself: {error}");
    }
}

/// Tells why the store does not serve; final where it cannot.
fn judge(node: &Node, error: MailboxError) -> Result<(), PresenceError> {
    if let MailboxError::Unsuitable(text) = error {
        return Err(PresenceError::Unsuitable(text));
    }
    node.health.set("store", Err(error.to_string()));
    Ok(())
}
