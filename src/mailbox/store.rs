//! The store: one server, or the primaries of a cluster, each of which holds the users of its slots.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use super::address::Address;
use super::cluster::{self, Server};
use super::condition::{Condition, Demand, Known, View};
use super::link::Home;
use super::slots::{SLOTS, SlotSet, slot_of};
use super::standing::LEFT_KEPT;
use super::{
    ConfigError, Keys, Link, MailboxError, NUMBER_MAX, Shard, TRIM_HOLD_SECONDS, slot_of_user,
};
use crate::event::UserId;
use crate::telemetry::Metrics;
use crate::tls::TlsFiles;

/// Longest wait for one reply. A reply that comes later is lost: its outcome is unknown.
pub const REPLY_SECONDS_MAX: u64 = 2;
/// The hash with the cursors is kept at least this long.
const HASH_SECONDS_MIN: u64 = 7 * 24 * 3600;
/// Longer times to live count as this one: a hundred years.
const TTL_MS_MAX: u64 = 100 * 365 * 24 * 3600 * 1000;
/// Least time between two readings of who serves which slots.
const READING_PAUSE: Duration = Duration::from_millis(100);
/// It is read again after so long without any sign of a change.
const READING_PERIOD: Duration = Duration::from_secs(2);

/// How to reach the store, and what it holds.
#[derive(Clone)]
pub struct StoreConfig {
    /// `CATCHUP_REDIS_URL` as the contract has it. A secret: never log it.
    pub url: String,
    /// For TLS, where the URL asks for it.
    pub tls: TlsFiles,
    pub namespace: String,
    /// How long a message waits; at least a second.
    pub ttl: Duration,
    /// Most messages waiting in one lane of one user.
    pub cap: u64,
    /// See [`TRIM_HOLD_SECONDS`].
    pub trim_hold: Duration,
    /// See [`REPLY_SECONDS_MAX`].
    pub reply_max: Duration,
}

impl StoreConfig {
    /// The contract's defaults for a store at `url`.
    pub fn new(url: &str) -> StoreConfig {
        StoreConfig {
            url: url.to_owned(),
            tls: TlsFiles::default(),
            namespace: String::new(),
            ttl: Duration::from_secs(24 * 3600),
            cap: 1000,
            trim_hold: Duration::from_secs(TRIM_HOLD_SECONDS),
            reply_max: Duration::from_secs(REPLY_SECONDS_MAX),
        }
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            ttl_ms: milliseconds(self.ttl).max(1),
            cap: self.cap.clamp(1, NUMBER_MAX),
            trim_hold_ms: milliseconds(self.trim_hold),
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).map_or(TTL_MS_MAX, |value| value.min(TTL_MS_MAX))
}

/// What the scripts are told with every call.
pub(super) struct Limits {
    pub ttl_ms: u64,
    pub cap: u64,
    pub trim_hold_ms: u64,
}

impl Limits {
    /// Twice the time to live, and renewed when half of it is over: a list outlives what it holds.
    pub fn list_ttl_ms(&self) -> i64 {
        2 * self.ttl_ms.cast_signed()
    }

    /// The cursors outlive the lists.
    pub fn hash_ttl_ms(&self) -> i64 {
        (7 * self.ttl_ms).max(HASH_SECONDS_MIN * 1000).cast_signed()
    }
}

/// The way to all mailboxes; clones share it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    address: Address,
    config: StoreConfig,
    metrics: Arc<Metrics>,
    keys: Keys,
    /// Of servers that are found later, too.
    demand: RwLock<Demand>,
    topology: RwLock<Arc<Topology>>,
    /// Slots may have moved since they were read.
    has_changed: Arc<AtomicBool>,
    reading: Mutex<Option<Instant>>,
    /// Servers that were whole when they lost their last slots, and when.
    retired: std::sync::Mutex<Vec<(Instant, SlotSet)>>,
}

/// Who serves which slots.
pub(super) struct Topology {
    pub shards: Vec<Shard>,
    /// By slot, the index of its shard; empty where there is only one server.
    owners: Vec<Option<u16>>,
    /// When it was read.
    pub read: Option<Instant>,
}

impl Topology {
    fn shard(&self, slot: u16) -> Option<&Shard> {
        match self.owners.get(usize::from(slot)) {
            None if self.owners.is_empty() => self.shards.first(),
            owner => self.shards.get(usize::from((*owner?)?)),
        }
    }
}

/// One user or key of the store, on whichever server it is.
pub struct Route<'a> {
    store: &'a Store,
    slot: u16,
}

impl Store {
    /// Reads the address; does not connect.
    pub fn open(config: StoreConfig, metrics: Arc<Metrics>) -> Result<Store, ConfigError> {
        let address = Address::parse(&config.url)?;
        let has_changed = Arc::new(AtomicBool::new(address.is_cluster));
        let mut topology = Topology {
            shards: Vec::new(),
            owners: Vec::new(),
            read: None,
        };
        if !address.is_cluster {
            let home = Home {
                name: Arc::from(""),
                has_changed: None,
            };
            topology.shards.push(Shard::new(
                address.clone(),
                home,
                config.clone(),
                Arc::clone(&metrics),
                Condition::default(),
            ));
        } else {
            topology.owners = vec![None; usize::from(SLOTS)];
        }
        Ok(Store {
            inner: Arc::new(Inner {
                address,
                keys: Keys::new(&config.namespace),
                config,
                metrics,
                demand: RwLock::new(Demand::Any),
                topology: RwLock::new(Arc::new(topology)),
                has_changed,
                reading: Mutex::new(None),
                retired: std::sync::Mutex::default(),
            }),
        })
    }

    /// Says what the store must be from now on, so that its links are those of such a store.
    pub fn demand(&self, demand: Demand) {
        *self
            .inner
            .demand
            .write()
            .unwrap_or_else(PoisonError::into_inner) = demand;
        for shard in self.shards() {
            shard.demand(demand);
        }
    }

    fn demanded(&self) -> Demand {
        let demand = self.inner.demand.read();
        *demand.unwrap_or_else(PoisonError::into_inner)
    }

    /// The id of the stream that the store must have been filled from, where it is known.
    pub fn demanded_id(&self) -> Option<Uuid> {
        match self.demanded() {
            Demand::Whole(id) => id,
            Demand::Any | Demand::Filled => None,
        }
    }

    /// The one server, where the store is no cluster: then no slot need be looked for.
    pub fn only_server(&self) -> Option<Shard> {
        let topology = self.topology();
        let is_cluster = self.inner.address.is_cluster;
        topology.shards.first().filter(|_| !is_cluster).cloned()
    }

    /// The servers that are known to hold a part of the store now.
    pub fn shards(&self) -> Vec<Shard> {
        self.topology().shards.clone()
    }

    /// [`Store::shards`], read anew where that may have changed.
    ///
    /// # Errors
    ///
    /// Where no server of the cluster answers.
    pub async fn find_shards(&self) -> Result<Vec<Shard>, MailboxError> {
        let is_old = |read: Option<Instant>| read.is_none_or(|at| at.elapsed() > READING_PERIOD);
        if self.inner.has_changed.load(Ordering::Acquire) || is_old(self.topology().read) {
            self.read_topology().await?;
        }
        Ok(self.shards())
    }

    /// Where a user's mailbox is.
    pub fn user(&self, user: &UserId) -> Route<'_> {
        Route {
            store: self,
            slot: slot_of_user(user),
        }
    }

    /// Where a key is that is no mailbox's.
    pub fn key(&self, name: impl FnOnce(&Keys) -> String) -> Route<'_> {
        Route {
            store: self,
            slot: slot_of(&name(&self.inner.keys)),
        }
    }

    /// The names of the keys.
    pub fn keys(&self) -> &Keys {
        &self.inner.keys
    }

    /// Whether any link could be had at this moment, to every server.
    ///
    /// # Errors
    ///
    /// Why not, for the first that is away.
    pub fn check(&self) -> Result<(), MailboxError> {
        let shards = self.shards();
        if shards.is_empty() {
            return Err(MailboxError::Unreachable("no connection".to_owned()));
        }
        shards.iter().try_for_each(Shard::check)
    }

    pub(super) fn topology(&self) -> Arc<Topology> {
        let topology = self.inner.topology.read();
        Arc::clone(&topology.unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads who serves which slots; callers at the same time share one reading.
    async fn read_topology(&self) -> Result<(), MailboxError> {
        if !self.inner.address.is_cluster {
            return Ok(());
        }
        let called = Instant::now();
        let mut reading = self.inner.reading.lock().await;
        if reading.is_some_and(|begun| begun >= called) {
            return Ok(());
        }
        if let Some(begun) = *reading {
            tokio::time::sleep_until(begun + READING_PAUSE).await;
        }
        let begun = Instant::now();
        *reading = Some(begun);
        // A change from here on is seen by the next reading.
        self.inner.has_changed.store(false, Ordering::Release);
        let before = self.topology();
        for shard in &before.shards {
            shard.condition().set_moved(false);
        }
        let read = cluster::read(&self.inner.address, &before.shards, &self.inner.config).await;
        if read.is_err() {
            self.inner.has_changed.store(true, Ordering::Release);
            for shard in &before.shards {
                shard.condition().set_moved(true);
            }
        }
        let after = self.follow(&before, read?, begun);
        let mut topology = (self.inner.topology.write()).unwrap_or_else(PoisonError::into_inner);
        *topology = Arc::new(after);
        Ok(())
    }

    /// The servers as they were read; those that were known stay the same.
    fn follow(&self, before: &Topology, servers: Vec<Server>, read: Instant) -> Topology {
        let mut owners = vec![None; usize::from(SLOTS)];
        let mut shards = Vec::with_capacity(servers.len());
        for (index, server) in (0_u16..).zip(servers) {
            let known = before.shards.iter();
            let known = known.clone().find(|shard| **shard.name() == *server.name);
            let shard = match known {
                Some(shard) => shard.clone(),
                None => self.new_shard(&server, before.read),
            };
            for slot in server.slots.iter() {
                owners[usize::from(slot)] = Some(index);
                let from = before
                    .shard(slot)
                    .filter(|from| from.name() != shard.name());
                if let Some(losses) = from.map(|from| from.condition().losses()) {
                    shard.condition().inherit(losses);
                }
            }
            let view = View::new(server.slots, server.node, server.members);
            shard.condition().set_view(view);
            shards.push(shard);
        }
        for shard in &before.shards {
            if shards
                .iter()
                .all(|other: &Shard| other.name() != shard.name())
            {
                tracing::info!(
                    server = &**shard.name(),
                    "a server of the cluster serves no slots now"
                );
                shard.retire();
                self.keep_of_retired(shard);
            }
        }
        Topology {
            shards,
            owners,
            read: Some(read),
        }
    }

    /// What a server vouched for that has no slots any more.
    fn keep_of_retired(&self, shard: &Shard) {
        let retired = self.inner.retired.lock();
        let mut retired = retired.unwrap_or_else(PoisonError::into_inner);
        retired.retain(|(since, _)| since.elapsed() < LEFT_KEPT);
        if let Some(known) = shard.condition().known().filter(Known::is_whole) {
            let mut slots = known.record.left;
            slots.add_all(&known.record.slots.unwrap_or_default());
            retired.push((Instant::now(), slots));
        }
    }

    /// What servers vouched for that have lately lost all their slots.
    pub(super) fn slots_of_retired(&self) -> SlotSet {
        let retired = self.inner.retired.lock();
        let retired = retired.unwrap_or_else(PoisonError::into_inner);
        let mut all = SlotSet::default();
        let lately = retired
            .iter()
            .filter(|(since, _)| since.elapsed() < LEFT_KEPT);
        lately.for_each(|(_, slots)| all.add_all(slots));
        all
    }

    fn new_shard(&self, server: &Server, absent: Option<Instant>) -> Shard {
        tracing::info!(server = server.name, "a server of the cluster serves slots");
        let inner = &self.inner;
        let home = Home {
            name: Arc::from(&*server.name),
            has_changed: Some(Arc::clone(&inner.has_changed)),
        };
        let condition = Condition::absent_at(absent.map(Instant::into_std));
        condition.set_demand(self.demanded());
        let metrics = Arc::clone(&inner.metrics);
        Shard::new(
            server.address.clone(),
            home,
            inner.config.clone(),
            metrics,
            condition,
        )
    }
}

impl Route<'_> {
    /// The server, as far as is known without asking.
    pub fn known_shard(&self) -> Option<Shard> {
        self.store.topology().shard(self.slot).cloned()
    }

    /// The server.
    ///
    /// # Errors
    ///
    /// Where no server serves the slot, or none can be asked.
    pub async fn shard(&self) -> Result<Shard, MailboxError> {
        // That another server is away concerns nobody here.
        let may_be_here = |shard: &Shard| !shard.condition().has_moved();
        if let Some(shard) = self.known_shard().filter(may_be_here) {
            return Ok(shard);
        }
        self.store.read_topology().await?;
        self.known_shard().ok_or_else(|| {
            self.store.inner.has_changed.store(true, Ordering::Release);
            MailboxError::Moved(format!("no server has slot {}", self.slot))
        })
    }

    /// See [`Shard::link`].
    pub fn link(&self) -> Option<Link> {
        self.known_shard()?.link()
    }

    /// See [`Shard::connect`].
    ///
    /// # Errors
    ///
    /// Those of [`Shard::connect`] and [`Route::shard`].
    pub async fn connect(&self) -> Result<Link, MailboxError> {
        self.shard().await?.connect().await
    }

    /// See [`Shard::connect_and_look`].
    ///
    /// # Errors
    ///
    /// Those of [`Shard::connect`] and [`Route::shard`].
    pub async fn connect_and_look(&self) -> Result<Link, MailboxError> {
        self.shard().await?.connect_and_look().await
    }
}
