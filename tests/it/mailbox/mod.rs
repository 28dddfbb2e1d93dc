//! The mailbox's calls and scripts on a real server: one behaviour a test, then random
//! operations against a plain model (`random`).

mod acknowledge;
mod append;
mod append_once;
mod damage;
mod order;
mod page;
mod presence;
pub mod random;
mod register;
mod restore;
mod speed;
mod store;
mod time;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use catchup::event::UserId;
use catchup::mailbox::{
    Append, Appended, ConnectionId, Entry, EventKey, Link, MailboxError, Page, PageRequest,
    Register, Registered, Shard, Store, StoreConfig,
};
use catchup::protocol::{Epoch, Everyone, Lane, Life, Position};
use catchup::telemetry::Metrics;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

use crate::support::RedisServer;
use crate::support::servers::Servers;

/// When the streams of these tests were created.
const CREATION_MS: u64 = 1_700_000_000_000;
/// Longer than any test.
const HOUR_MS: u64 = 3_600_000;

/// The one server of a store.
fn open_store(config: StoreConfig) -> Shard {
    let store = Store::open(config, Arc::new(Metrics::new())).unwrap();
    store.shards().remove(0)
}

/// One user's mailbox on a server, and the calls of a worker and a gateway on it.
pub struct Bench {
    pub store: Shard,
    pub link: Link,
    pub redis: MultiplexedConnection,
    pub user: UserId,
    config: StoreConfig,
    numbers: AtomicU64,
    /// An event gives the same entry each time, so its expiry is counted from here.
    started_ms: u64,
    _shared: Option<Arc<Servers>>,
    own: Option<RedisServer>,
}

impl Bench {
    /// On the server that all tests share.
    pub async fn start() -> Bench {
        Bench::with(|_| ()).await
    }

    /// With other limits than the defaults.
    pub async fn with(change: impl FnOnce(&mut StoreConfig)) -> Bench {
        let shared = Servers::shared();
        let url = shared.redis.url();
        Bench::open(&url, change, Some(shared), None).await
    }

    /// On a server that the test may change.
    pub async fn own(change: impl FnOnce(&mut StoreConfig)) -> Bench {
        let server = RedisServer::start();
        let url = server.url();
        Bench::open(&url, change, None, Some(server)).await
    }

    async fn open(
        url: &str,
        change: impl FnOnce(&mut StoreConfig),
        shared: Option<Arc<Servers>>,
        own: Option<RedisServer>,
    ) -> Bench {
        static BENCHES: AtomicU64 = AtomicU64::new(0);
        let number = BENCHES.fetch_add(1, Ordering::Relaxed);
        let mut config = StoreConfig::new(url);
        config.namespace = format!("mailbox-{}-{number}", std::process::id());
        change(&mut config);
        let store = open_store(config.clone());
        let link = store.connect().await.unwrap();
        let client = redis::Client::open(url).unwrap();
        Bench {
            redis: client.get_multiplexed_async_connection().await.unwrap(),
            store,
            link,
            user: UserId::parse("ann").unwrap(),
            config,
            numbers: AtomicU64::new(1),
            started_ms: now_ms(),
            _shared: shared,
            own,
        }
    }

    pub fn server(&self) -> &RedisServer {
        self.own.as_ref().expect("a test with its own server")
    }

    /// A second store with other limits on the same mailboxes.
    pub async fn again(&self, change: impl FnOnce(&mut StoreConfig)) -> Link {
        let mut config = self.config.clone();
        change(&mut config);
        let store = open_store(config);
        store.connect().await.unwrap()
    }

    /// Gives the server another time line, as a promotion does, and connects anew.
    pub async fn change_epoch(&mut self) {
        let before = self.link.epoch();
        change_epoch(&mut self.redis).await;
        self.link = self.again(|_| ()).await;
        assert_ne!(self.link.epoch(), before);
    }

    pub fn append_of(&self, lane: Lane, sequence: u64) -> Append {
        self.expiring(lane, sequence, self.started_ms + HOUR_MS)
    }

    /// An append of a message that stopped waiting long ago.
    pub fn expired(&self, sequence: u64) -> Append {
        self.expiring(Lane::Normal, sequence, self.started_ms - HOUR_MS)
    }

    pub fn expiring(&self, lane: Lane, sequence: u64, expires_ms: u64) -> Append {
        Append {
            user: self.user.clone(),
            lane,
            entry: entry(sequence, expires_ms),
        }
    }

    /// Appends messages to the normal lane, in this order.
    pub async fn append(&self, sequences: impl IntoIterator<Item = u64>) -> Vec<Appended> {
        let batch: Vec<Append> = (sequences.into_iter())
            .map(|sequence| self.append_of(Lane::Normal, sequence))
            .collect();
        self.append_all(&batch).await
    }

    pub async fn append_all(&self, batch: &[Append]) -> Vec<Appended> {
        let outcomes = self.link.append(batch).await;
        assert_eq!(outcomes.len(), batch.len());
        outcomes.into_iter().map(Result::unwrap).collect()
    }

    pub async fn append_once(&self, append: &Append) -> Result<Appended, MailboxError> {
        let mut outcomes = self.link.append_once(std::slice::from_ref(append)).await;
        assert_eq!(outcomes.len(), 1);
        outcomes.remove(0)
    }

    /// A connection that the mailbox has not seen.
    pub fn connection(&self) -> ConnectionId {
        ConnectionId {
            node: "node".into(),
            incarnation: "first".into(),
            number: self.numbers.fetch_add(1, Ordering::Relaxed),
        }
    }

    pub fn request(&self, device: &str) -> Register {
        Register {
            device: device.into(),
            connection: self.connection(),
            order: None,
            session_life: None,
            cursor: None,
            newest_everyone: Everyone::default(),
            oldest_everyone: Everyone::default(),
            until_ms: None,
            page: page_of(64),
        }
    }

    /// Registers a connection of a device without a cursor.
    pub async fn register(&self, device: &str) -> Registered {
        self.register_with(&self.request(device)).await
    }

    pub async fn register_with(&self, request: &Register) -> Registered {
        self.link.register(&self.user, request).await.unwrap()
    }

    /// Registers a device and lets the connection end.
    pub async fn visit(&self, device: &str) -> Registered {
        let request = self.request(device);
        let registered = self.register_with(&request).await;
        self.unregister(&request.connection).await;
        registered
    }

    pub async fn unregister(&self, connection: &ConnectionId) {
        self.link.unregister(&self.user, connection).await.unwrap();
    }

    pub async fn page(&self, device: &str, position: &Position) -> Page {
        let read = self.link.page(&self.user, device, position, page_of(64));
        read.await.unwrap().1
    }

    pub async fn acknowledge(&self, device: &str, position: &Position) {
        let call = self.link.acknowledge(&self.user, device, position);
        call.await.unwrap();
    }

    /// The sequences of what waits in a lane, oldest first.
    pub async fn waiting_in(&self, lane: Lane) -> Vec<u64> {
        let entries: Vec<String> = self.redis().lrange(self.key(lane), 0, -1).await.unwrap();
        entries.iter().map(|entry| sequence_of(entry)).collect()
    }

    pub async fn waiting(&self) -> Vec<u64> {
        self.waiting_in(Lane::Normal).await
    }

    pub fn redis(&self) -> MultiplexedConnection {
        self.redis.clone()
    }

    pub fn key(&self, lane: Lane) -> String {
        match lane {
            Lane::Normal => self.link.keys().normal(self.user.as_str()),
            Lane::High => self.link.keys().high(self.user.as_str()),
        }
    }

    pub fn hash(&self) -> String {
        self.link.keys().mailbox(self.user.as_str())
    }

    /// Lets time pass for this mailbox.
    pub async fn pass(&self, duration: Duration) {
        time::pass(&self.redis, self.link.keys(), &self.user, duration).await;
    }
}

pub fn page_of(messages_max: usize) -> PageRequest {
    PageRequest {
        messages_max,
        bytes_max: 256 * 1024,
    }
}

pub fn event_key(sequence: u64) -> EventKey {
    EventKey {
        creation_ms: CREATION_MS,
        sequence,
    }
}

pub fn entry(sequence: u64, expires_ms: u64) -> Entry {
    let json = format!("{{\"id\":\"{sequence}\"}}");
    Entry::new(
        event_key(sequence),
        CREATION_MS + sequence,
        expires_ms,
        &json,
    )
}

/// The sequence in a list entry.
pub fn sequence_of(entry: &str) -> u64 {
    u64::from_str_radix(&entry[13..29], 16).unwrap()
}

/// The sequences of a page's messages, in the order they are sent.
pub fn sequences(page: &Page) -> Vec<u64> {
    let sequence = |json: &str| json[7..json.len() - 2].parse().unwrap();
    (page.entries.iter())
        .map(|entry| sequence(&entry.json))
        .collect()
}

/// The position after a page.
pub fn after(mut position: Position, page: &Page) -> Position {
    if let Some(lane) = page.lane {
        let places = page.entries.iter().map(|entry| entry.place);
        position
            .places
            .set(lane, places.max().unwrap_or(page.before));
    }
    position
}

/// A position in the same mailbox and time line.
pub fn at(position: &Position, normal: u64) -> Position {
    let mut position = *position;
    position.places.set(Lane::Normal, normal);
    position
}

pub fn another_life(life: Life) -> Life {
    Life(life.0 ^ 1)
}

pub fn another_epoch() -> Epoch {
    Epoch::from_bytes([1; 20])
}

pub fn now_ms() -> u64 {
    let elapsed = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    elapsed.as_millis().try_into().unwrap()
}

/// Makes a server a replica of nothing and a primary again: its data stays, `master_replid` does
/// not. Its clients stay connected.
pub async fn change_epoch(redis: &mut MultiplexedConnection) {
    for primary in [["127.0.0.1", "1"], ["NO", "ONE"]] {
        let _: () = redis::cmd("REPLICAOF")
            .arg(&primary)
            .query_async(redis)
            .await
            .unwrap();
    }
}
