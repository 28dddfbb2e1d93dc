//! What the parts of a gateway share.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::auth::{AllowedOrigins, Auth};
use super::presence::Changes;
use super::registry::Registry;
use super::ring::Ring;
use super::store_clock::StoreClock;
use crate::bus::Bus;
use crate::mailbox::Store;
use crate::telemetry::{Health, Metrics};

/// Most sockets of one node.
pub const CONNECTIONS_MAX: usize = 50_000;

/// One gateway process.
pub struct Node {
    pub name: Arc<str>,
    /// Names this process among all that ever had the node's name.
    pub incarnation: Arc<str>,
    pub store: Store,
    pub metrics: Arc<Metrics>,
    pub health: Health,
    pub registry: Registry,
    /// The events for everyone.
    pub ring: Ring,
    /// Wakes the task that fills the ring: the stream may be another one.
    pub ring_doubted: Notify,
    pub store_clock: StoreClock,
    pub presence: Changes,
    pub auth: Auth,
    pub origins: AllowedOrigins,
    /// Serves the demo page and its publish endpoint.
    pub is_demo: bool,
    /// How long a message may wait.
    pub message_ttl: Duration,
    /// Cancelled when the node stops to accept.
    pub leaving: CancellationToken,
    /// The tasks of all connections.
    pub connections: TaskTracker,
    bus: RwLock<Option<Bus>>,
    numbers: AtomicU64,
    open: AtomicUsize,
}

/// What a new node is made of.
pub struct Parts {
    pub name: String,
    pub store: Store,
    pub metrics: Arc<Metrics>,
    pub health: Health,
    pub auth: Auth,
    pub origins: AllowedOrigins,
    pub is_demo: bool,
    pub message_ttl: Duration,
    /// Most messages of one kind that wait for a user.
    pub cap: u64,
}

impl Node {
    pub fn new(parts: Parts) -> Node {
        Node {
            name: parts.name.into(),
            incarnation: uuid::Uuid::now_v7().simple().to_string().into(),
            store: parts.store,
            metrics: parts.metrics,
            health: parts.health,
            registry: Registry::default(),
            ring: Ring::new(parts.cap),
            ring_doubted: Notify::new(),
            store_clock: StoreClock::default(),
            presence: Changes::default(),
            auth: parts.auth,
            origins: parts.origins,
            is_demo: parts.is_demo,
            message_ttl: parts.message_ttl,
            leaving: CancellationToken::new(),
            connections: TaskTracker::new(),
            bus: RwLock::new(None),
            numbers: AtomicU64::new(1),
            open: AtomicUsize::new(0),
        }
    }

    /// The connection to NATS, while this node can serve: it has its subscription and its lease.
    pub fn bus(&self) -> Option<Bus> {
        let bus = self.bus.read().unwrap_or_else(PoisonError::into_inner);
        bus.clone()
    }

    pub fn set_bus(&self, bus: Option<Bus>) {
        *self.bus.write().unwrap_or_else(PoisonError::into_inner) = bus;
    }

    /// A number that no other connection of this process has.
    pub fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// A place among the sockets of this node, or `None` where all are taken.
    pub fn open_place(self: &Arc<Node>) -> Option<OpenPlace> {
        let place = OpenPlace(Arc::clone(self));
        let before = self.open.fetch_add(1, Ordering::AcqRel);
        self.metrics.connection_opened();
        (before < CONNECTIONS_MAX).then_some(place)
    }
}

/// One of the sockets that a node may have; given back when dropped.
pub struct OpenPlace(Arc<Node>);

impl Drop for OpenPlace {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
        self.0.metrics.connection_closed();
    }
}

/// Milliseconds since 1970, for figures only.
pub fn wall_clock_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    elapsed.map_or(0, |elapsed| elapsed.as_millis() as u64)
}
