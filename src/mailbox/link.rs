//! One connection to Redis, together with the epoch that was read on it first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, ScriptInvocation, Value};

use super::condition::{Condition, Loss};
use super::reply::{Reply, parse_connections, text_of};
use super::store::{Limits, StoreConfig};
use super::{Keys, MailboxError, scripts};
use crate::event::UserId;
use crate::protocol::{Epoch, Life};
use crate::telemetry::{MailboxOperation, Metrics};

/// For this long after a connection was made, appends look for the entry first: what was in
/// flight on the connection before may have been carried out.
const YOUNG_SECONDS: u64 = 60;

/// Where a device is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    pub device: String,
    pub node: String,
    /// The process of that node which holds the socket.
    pub incarnation: String,
    /// The connection's number within the process.
    pub number: u64,
    /// Given by Redis; of two connections of one device the greater is the newer.
    pub order: u64,
}

/// Which connection of which process a call speaks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    pub node: Arc<str>,
    pub incarnation: Arc<str>,
    pub number: u64,
}

/// Which server of the store a link leads to.
#[derive(Clone)]
pub(super) struct Home {
    /// Its address in a cluster; else empty.
    pub name: Arc<str>,
    /// In a cluster: set where slots may have moved.
    pub has_changed: Option<Arc<AtomicBool>>,
}

impl Home {
    pub fn is_cluster(&self) -> bool {
        self.has_changed.is_some()
    }

    /// Slots may have moved.
    pub fn note_change(&self) {
        if let Some(has_changed) = &self.has_changed {
            has_changed.store(true, Ordering::Release);
        }
    }
}

/// A connection with its epoch; clones share it. It never reconnects by itself: what follows a
/// broken connection may belong to another time line.
#[derive(Clone)]
pub struct Link {
    inner: Arc<Inner>,
}

struct Inner {
    connection: MultiplexedConnection,
    epoch: Epoch,
    made: Instant,
    broken: AtomicBool,
    keys: Keys,
    limits: Limits,
    metrics: Arc<Metrics>,
    condition: Arc<Condition>,
    home: Home,
}

impl Link {
    pub(super) fn new(
        connection: MultiplexedConnection,
        epoch: Epoch,
        config: &StoreConfig,
        metrics: Arc<Metrics>,
        condition: Arc<Condition>,
        home: Home,
    ) -> Link {
        Link {
            inner: Arc::new(Inner {
                connection,
                epoch,
                made: Instant::now(),
                broken: AtomicBool::new(false),
                keys: Keys::new(&config.namespace),
                limits: config.limits(),
                metrics,
                condition,
                home,
            }),
        }
    }

    /// The time line that every result of this link belongs to.
    pub fn epoch(&self) -> Epoch {
        self.inner.epoch
    }

    /// The server's address in a cluster; else empty.
    pub fn server(&self) -> &Arc<str> {
        &self.inner.home.name
    }

    /// True where one call may concern one slot only.
    pub fn is_cluster(&self) -> bool {
        self.inner.home.is_cluster()
    }

    pub(super) fn made(&self) -> Instant {
        self.inner.made
    }

    pub(super) fn condition(&self) -> &Condition {
        &self.inner.condition
    }

    /// True in the first minute: appends must use [`Link::append_first`] or [`Link::append_once`].
    pub fn is_young(&self) -> bool {
        self.inner.made.elapsed() < Duration::from_secs(YOUNG_SECONDS)
    }

    /// True where both are clones of one link, and so one TCP connection.
    pub fn is_same(&self, other: &Link) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// True once a call failed in a way that makes this link useless. The store makes another.
    pub fn is_broken(&self) -> bool {
        self.inner.broken.load(Ordering::Acquire)
    }

    /// The connection itself, for keys that are not a mailbox's (leases, `online_users`).
    pub fn raw(&self) -> MultiplexedConnection {
        self.inner.connection.clone()
    }

    /// The names of the keys.
    pub fn keys(&self) -> &Keys {
        &self.inner.keys
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// What the store is known to have lost.
    pub(super) fn loss(&self) -> Loss {
        self.inner.condition.loss(&self.inner.limits)
    }

    /// Gives the link up: what was done on it may be lost.
    pub(super) fn give_up(&self, reason: &str) {
        if !self.inner.broken.swap(true, Ordering::AcqRel) {
            tracing::warn!("a Redis connection is given up: {reason}");
        }
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Notes what an error means for this link. Every error of a call goes through here.
    pub fn judge(&self, error: impl Into<MailboxError>) -> MailboxError {
        let error = error.into();
        if error.breaks_link(self.epoch()) {
            self.give_up(&error.to_string());
        }
        if matches!(error, MailboxError::Moved(_)) {
            self.inner.condition.set_moved(true);
            self.inner.home.note_change();
        }
        self.inner.condition.hear(&error, self.metrics());
        error
    }

    /// Redis's clock, milliseconds since 1970.
    pub async fn now_ms(&self) -> Result<u64, MailboxError> {
        let time = redis::cmd("TIME").query_async(&mut self.raw()).await;
        let (seconds, microseconds): (u64, u64) = time.map_err(|error| self.judge(error))?;
        Ok(seconds * 1_000 + microseconds / 1_000)
    }

    /// Where the users are connected, in the order asked. At most a few thousand users a call.
    /// A user whose mailbox is damaged counts as not connected; the next append repairs it.
    pub async fn connections(
        &self,
        users: &[&UserId],
    ) -> Result<Vec<Vec<Connection>>, MailboxError> {
        if users.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        for user in users {
            pipeline.hget(self.keys().mailbox(user.as_str()), "connections");
        }
        let replies: Vec<RedisResult<Value>> = self
            .timed(MailboxOperation::Presence, async {
                pipeline.query_async(&mut self.raw()).await
            })
            .await?;
        replies
            .into_iter()
            .map(|reply| match reply.map_err(|error| self.judge(error)) {
                Ok(text) => Ok(parse_connections(&text_of(text)?)),
                Err(MailboxError::Damaged) => Ok(Vec::new()),
                Err(error) => Err(error),
            })
            .collect()
    }

    /// Removes all connections of one gateway process from a user's mailbox; `drop_node` of the
    /// design. Compare and delete: other processes' connections stay.
    pub async fn drop_node(
        &self,
        user: &UserId,
        node: &str,
        incarnation: &str,
    ) -> Result<(), MailboxError> {
        let mut script = scripts::UNREGISTER.key(self.keys().mailbox(user.as_str()));
        script.arg(node).arg(incarnation).arg("");
        self.run(MailboxOperation::DropNode, user, &script).await?;
        Ok(())
    }

    /// Runs a script whose reply begins with a status; where the mailbox is damaged, repairs it
    /// and runs the script once more.
    pub(super) async fn call(
        &self,
        operation: MailboxOperation,
        user: &UserId,
        script: &ScriptInvocation<'_>,
    ) -> Result<Reply, MailboxError> {
        let attempt = async || Reply::with_status(self.invoke(operation, script).await?);
        match attempt().await {
            Err(MailboxError::Damaged) => {
                self.repair(user).await?;
                attempt().await
            }
            other => other,
        }
        .map_err(|error| self.judge(error))
    }

    /// [`Link::call`] for a script that gives no status.
    pub(super) async fn run(
        &self,
        operation: MailboxOperation,
        user: &UserId,
        script: &ScriptInvocation<'_>,
    ) -> Result<Value, MailboxError> {
        match self.invoke(operation, script).await {
            Err(MailboxError::Damaged) => {
                self.repair(user).await?;
                self.invoke(operation, script).await
            }
            other => other,
        }
    }

    async fn invoke(
        &self,
        operation: MailboxOperation,
        script: &ScriptInvocation<'_>,
    ) -> Result<Value, MailboxError> {
        self.timed(operation, async {
            script.invoke_async(&mut self.raw()).await
        })
        .await
    }

    async fn timed<T>(
        &self,
        operation: MailboxOperation,
        call: impl Future<Output = Result<T, redis::RedisError>>,
    ) -> Result<T, MailboxError> {
        let start = Instant::now();
        let result = call.await;
        self.metrics()
            .mailbox_operation(operation, start.elapsed().as_secs_f64());
        result.map_err(|error| self.judge(error))
    }

    /// Makes a damaged mailbox usable again and says so; every device of it is owed `store_lost`.
    /// Somebody else may have done it meanwhile.
    pub(super) async fn repair(&self, user: &UserId) -> Result<(), MailboxError> {
        let mut script = self.script(&scripts::REPAIR, user);
        script
            .arg(random_life().0.to_string())
            .arg(self.limits().hash_ttl_ms());
        let repaired: i64 = script
            .invoke_async(&mut self.raw())
            .await
            .map_err(|error| self.judge(error))?;
        if repaired == 1 {
            tracing::error!(
                user = user.as_str(),
                "repaired a damaged mailbox; keys of a wrong type were renamed to …:damaged"
            );
        } else {
            tracing::warn!(
                user = user.as_str(),
                "a mailbox could not be used, and nothing is left to repair"
            );
        }
        Ok(())
    }

    /// A script with the three keys of a user's mailbox.
    pub(super) fn script<'a>(
        &self,
        script: &'a redis::Script,
        user: &UserId,
    ) -> ScriptInvocation<'a> {
        let keys = self.keys();
        let mut invocation = script.prepare_invoke();
        invocation
            .key(keys.mailbox(user.as_str()))
            .key(keys.normal(user.as_str()))
            .key(keys.high(user.as_str()));
        invocation
    }
}

/// A life for a mailbox that has none. Never zero.
pub(super) fn random_life() -> Life {
    // The second half of a version 7 UUID is random but for two bits (RFC 9562 §5.7).
    Life(uuid::Uuid::now_v7().as_u64_pair().1)
}
