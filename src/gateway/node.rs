//! What the parts of a gateway share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::auth::{AllowedOrigins, Auth};
use super::limits::{GatewayLimits, REPLAYS_MAX};
use super::pacer::Pacer;
use super::places::Places;
use super::presence::Changes;
use super::reconcile::Wanted;
use super::registry::Registry;
use super::ring::Ring;
use super::store_clock::StoreClock;
use crate::bus::Bus;
use crate::mailbox::Store;
use crate::telemetry::{Health, Limit, Metrics};

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
    /// Rounds in which all connections compare with their mailboxes.
    pub reconciles: Wanted,
    pub auth: Auth,
    pub origins: AllowedOrigins,
    /// Serves the demo page and its publish endpoint.
    pub is_demo: bool,
    /// How long a message may wait.
    pub message_ttl: Duration,
    pub limits: GatewayLimits,
    /// How many sockets there are.
    pub places: Arc<Places>,
    /// At what rate new ones are let in.
    pub pacer: Pacer,
    /// Cancelled when the node stops to accept.
    pub leaving: CancellationToken,
    /// The tasks of all connections.
    pub connections: TaskTracker,
    bus: RwLock<Option<Bus>>,
    numbers: AtomicU64,
    replays: Semaphore,
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
    pub limits: GatewayLimits,
}

impl Node {
    pub fn new(parts: Parts) -> Node {
        Node {
            name: parts.name.into(),
            incarnation: uuid::Uuid::now_v7().simple().to_string().into(),
            store: parts.store,
            places: Arc::new(Places::new(parts.limits, Arc::clone(&parts.metrics))),
            pacer: Pacer::new(parts.limits.connects_per_second, Instant::now()),
            limits: parts.limits,
            metrics: parts.metrics,
            health: parts.health,
            registry: Registry::default(),
            ring: Ring::new(parts.cap),
            ring_doubted: Notify::new(),
            store_clock: StoreClock::default(),
            presence: Changes::default(),
            reconciles: Wanted::default(),
            auth: parts.auth,
            origins: parts.origins,
            is_demo: parts.is_demo,
            message_ttl: parts.message_ttl,
            leaving: CancellationToken::new(),
            connections: TaskTracker::new(),
            bus: RwLock::new(None),
            numbers: AtomicU64::new(1),
            replays: Semaphore::new(REPLAYS_MAX),
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

    /// A turn to read from a mailbox, in the order of asking. `None` never comes: it would mean
    /// that the node is gone.
    pub async fn replay_turn(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(turn) = self.replays.try_acquire() {
            return Some(turn);
        }
        self.metrics.limit_hit(Limit::Replays);
        self.replays.acquire().await.ok()
    }
}

/// Milliseconds since 1970, for figures only.
pub fn wall_clock_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    elapsed.map_or(0, |elapsed| elapsed.as_millis() as u64)
}
