//! One user's mailbox on the real server beside the model and the ledger, and what must agree
//! after every operation.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use catchup::event::UserId;
use catchup::mailbox::{ConnectionId, Entry, Link, MailboxError, Page, StoreConfig};
use catchup::protocol::{Everyone, Lane, Life, Position};
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;

use super::figures::Figures;
use super::ledger::{Ledger, Tally};
use super::model::{Model, PageModel, Time};
use super::operation::Operation;
use crate::mailbox::{event_key, now_ms, sequence_of};
use crate::support::RedisServer;

/// Every time of the model lies at least 30 s from where anything changes. Redis's clock may be
/// ahead by less, so that the real milliseconds of a run decide nothing; it is put back long before.
const DRIFT_MS_MAX: u64 = 25_000;
const DRIFT_MS_ALLOWED: u64 = 3_000;
/// On a loaded machine a reply may take long. One that is given up leaves its outcome unknown, and
/// nothing could be compared any more.
const REPLY_MAX: Duration = Duration::from_secs(60);

/// What went wrong.
pub type Checked<T = ()> = Result<T, String>;

macro_rules! check {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+));
        }
    };
}
pub(super) use check;

/// Fails where two values differ.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, real: T, model: T) -> Checked {
    check!(real == model, "{what}: is {real:?}, should be {model:?}");
    Ok(())
}

pub struct World {
    pub server: Arc<RedisServer>,
    pub redis: MultiplexedConnection,
    pub config: StoreConfig,
    pub link: Link,
    /// A worker's link of the time line before.
    pub stale: Option<Link>,
    pub user: UserId,
    pub model: Model,
    /// The real time at which the model's clock and Redis's agreed.
    pub aligned_ms: u64,
    pub ledger: Ledger,
    /// Counts the time lines of the store.
    pub epoch: usize,
    pub sessions: Vec<Session>,
    /// Acknowledgements that are under way.
    pub late: Vec<(String, Position)>,
    pub checkpoint: Option<super::time_line::Checkpoint>,
    pub events: Vec<Event>,
    pub lives: BTreeSet<u64>,
    pub numbers: u64,
    pub pushes: u64,
    pub figures: Figures,
}

#[derive(Debug, Clone, Copy)]
pub struct Event {
    pub lane: Lane,
    pub key: u64,
    pub expires: Time,
}

/// A gateway's side of one connection.
#[derive(Debug, Clone)]
pub struct Session {
    pub device: String,
    pub id: ConnectionId,
    pub order: u64,
    /// What was sent and told.
    pub position: Position,
    /// The cursors that reached the client on this connection.
    pub heard: Vec<Position>,
    pub is_deaf: bool,
    /// When the store last answered it.
    pub contact: Time,
    /// What it was sent and told in each lane.
    pub tallies: [Tally; 2],
}

impl World {
    pub async fn new(server: &Arc<RedisServer>, name: &str, cap: u64, ttl: Time) -> World {
        let mut config = StoreConfig::new(&server.url());
        config.namespace = name.to_owned();
        config.cap = cap;
        config.ttl = Duration::from_millis(ttl);
        config.trim_hold = Duration::from_millis(super::model::HOLD);
        config.reply_max = REPLY_MAX;
        World {
            server: Arc::clone(server),
            redis: open(&config).await,
            link: connect(&config).await,
            config,
            user: UserId::parse("ann").unwrap(),
            stale: None,
            model: Model::new(cap as usize, ttl),
            aligned_ms: now_ms(),
            ledger: Ledger::default(),
            epoch: 0,
            sessions: Vec::new(),
            late: Vec::new(),
            checkpoint: None,
            events: Vec::new(),
            lives: BTreeSet::new(),
            numbers: 0,
            pushes: 0,
            figures: Figures::default(),
        }
    }

    /// Carries out an operation on both sides and compares.
    pub async fn step(&mut self, operation: &Operation) -> Checked {
        self.figures.operate(operation.name());
        let before = self.real_lists().await;
        let evicted = self.carry_out(operation).await?;
        let after = self.real_lists().await;
        let drift_ms = self.drift_ms();
        check!(
            drift_ms < DRIFT_MS_MAX,
            "this machine is too slow to say anything: {drift_ms} ms passed"
        );
        if drift_ms > DRIFT_MS_ALLOWED {
            self.align().await;
        }
        self.figures.evicted += evicted;
        self.ledger.observe(&after);
        for (lane, held) in after.iter().enumerate() {
            let keys = self.model.lanes[lane].keys();
            check!(
                *held == keys,
                "lane {lane} of the store holds {held:?}, should hold {keys:?}"
            );
        }
        if !operation.changes_the_store_itself() {
            self.check_removals(before, after, evicted)?;
        }
        Ok(())
    }

    /// Invariants I2 and I5, without a look at cursors: what left a list had expired, was evicted
    /// and counted, or no known device has a need of it any more.
    fn check_removals(&self, before: [Vec<u64>; 2], after: [Vec<u64>; 2], evicted: u64) -> Checked {
        let mut evicted_left = evicted;
        for (lane, (before, after)) in before.into_iter().zip(&after).enumerate() {
            for key in before.into_iter().filter(|key| !after.contains(key)) {
                let event = self.events.iter().find(|event| event.key == key);
                if event.is_some_and(|event| event.expires <= self.model.now) {
                    continue;
                }
                let devices = self.ledger.clients.keys();
                let mut known = devices.filter(|device| self.model.is_known(device));
                let Some(device) = known.find(|device| self.ledger.is_needed(device, key)) else {
                    continue;
                };
                check!(
                    evicted_left > 0,
                    "{key} left lane {lane} although {device} never received it"
                );
                evicted_left -= 1;
            }
        }
        Ok(())
    }

    pub async fn real_lists(&self) -> [Vec<u64>; 2] {
        let keys = self.link.keys();
        let (normal, high): (Vec<String>, Vec<String>) = redis::pipe()
            .lrange(keys.normal(self.user.as_str()), 0, -1)
            .lrange(keys.high(self.user.as_str()), 0, -1)
            .query_async(&mut self.redis.clone())
            .await
            .unwrap();
        [normal, high].map(|list| list.iter().map(|entry| sequence_of(entry)).collect())
    }

    pub fn entry(&self, event: &Event) -> Entry {
        // As far from Redis's clock as in the model; of an event always the same.
        let expires_ms = self.aligned_ms + event.expires - self.model.now;
        let json = format!("{{\"id\":\"{}\"}}", event.key);
        Entry::new(event_key(event.key), event.key, expires_ms, &json)
    }

    pub fn is_current(&self, position: &Position) -> bool {
        position.epoch == self.link.epoch()
    }

    /// The error that a call with this position must give, if any.
    pub fn expected_error(&self, device: &str, position: &Position) -> Option<MailboxError> {
        if !self.is_current(position) {
            let current = self.link.epoch();
            return Some(MailboxError::EpochChanged { current });
        }
        if self.model.life != Some(position.life.0) {
            return Some(MailboxError::LifeChanged);
        }
        if !self.model.devices.contains_key(device) {
            return Some(MailboxError::UnknownDevice);
        }
        None
    }

    /// Sends a page to a session's client: invariant I4, and what the client knows then.
    pub fn push_page(&mut self, index: usize, page: &PageModel) -> Checked {
        let Some(lane) = page.lane else {
            return self.check_caught_up(index);
        };
        let session = &self.sessions[index];
        let (device, is_deaf) = (session.device.clone(), session.is_deaf);
        let after = session.position.places.own[lane];
        for place in after + 1..=page.before {
            let slot = &self.model.lanes[lane].slots[place as usize - 1];
            let is_missing = slot.is_gone || slot.expires <= self.model.now;
            check!(is_missing, "place {place} was told as missed and is there");
            if !is_deaf {
                self.ledger.tell(&device, slot.key);
            }
        }
        if page.before > after {
            self.sessions[index].tallies[lane].told += page.evicted + page.expired;
            self.figures.told += page.evicted + page.expired;
            self.send(index, lane, page.before, 0);
        }
        for (_, key) in &page.entries {
            if !is_deaf {
                self.ledger.receive(&device, *key);
            }
            self.figures.sent += 1;
        }
        let places = page.before + 1..=page.before + page.entries.len() as u64;
        self.sessions[index].tallies[lane].sent.extend(places);
        let newest = page.entries.iter().map(|entry| entry.1).max();
        if let Some(newest) = newest {
            self.send(index, lane, page.before + page.entries.len() as u64, newest);
        }
        self.check_sum(index, lane)
    }

    /// Invariants I2 and I4, by counting: a session was sent or told of every place that it passed,
    /// and the sum of the `missed` it was told is the number of the messages there that it was not
    /// sent because they had left the real list or had expired.
    fn check_sum(&mut self, index: usize, lane: usize) -> Checked {
        let session = &mut self.sessions[index];
        let reached = session.position.places.own[lane];
        let tally = &mut session.tallies[lane];
        let slots = &self.model.lanes[lane].slots;
        let not_sent = (tally.start + 1..=reached).filter(|place| !tally.sent.contains(place));
        let removed = not_sent.filter(|place| {
            let (slot, later) = (&slots[*place as usize - 1], &slots[*place as usize..]);
            // An event that the store lost and got again stands at the later of its places.
            let is_later = later.iter().any(|other| other.key == slot.key);
            is_later || !self.ledger.is_present(slot.key) || slot.expires <= self.model.now
        });
        let removed = removed.count() as u64;
        check!(
            tally.told == removed && tally.start + removed + tally.sent.len() as u64 == reached,
            "{} came in lane {lane} to place {reached}, and {removed} were removed: {tally:?}",
            session.device
        );
        self.figures.removed += removed - tally.removed;
        tally.removed = removed;
        Ok(())
    }

    /// A frame leaves with a cursor.
    pub fn send(&mut self, index: usize, lane: usize, place: u64, time_ms: u64) {
        self.pushes += 1;
        let session = &mut self.sessions[index];
        let position = &mut session.position;
        position.places.own[lane] = place;
        position.time_ms = position.time_ms.max(time_ms);
        position.places.everyone = Everyone {
            creation: 1,
            sequence: self.pushes,
        };
        self.hear(index);
    }

    /// The session's cursor reaches the client.
    pub fn hear(&mut self, index: usize) {
        let session = &mut self.sessions[index];
        if !session.is_deaf {
            session.heard.push(session.position);
            let client = self.ledger.client(&session.device);
            client.cursors.push(session.position);
        }
    }

    /// A session at the end has been sent or told everything its device has a right to.
    fn check_caught_up(&self, index: usize) -> Checked {
        let session = &self.sessions[index];
        let last = self.model.lanes.each_ref().map(|lane| lane.last());
        same("places at the end", session.position.places.own, last)?;
        if let Some(key) = self.ledger.uncovered(&session.device)
            && !session.is_deaf
        {
            let device = &session.device;
            return Err(format!("{device} neither received {key} nor was told"));
        }
        Ok(())
    }

    pub fn note_life(&mut self, life: Life) -> Checked {
        match self.model.life {
            Some(known) => same("life", life.0, known)?,
            None => check!(self.lives.insert(life.0), "a life came back"),
        }
        Ok(())
    }
}

/// A connection past the product, to look and to do harm.
pub async fn open(config: &StoreConfig) -> MultiplexedConnection {
    let client = redis::Client::open(config.url.as_str()).unwrap();
    let patient = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(REPLY_MAX))
        .set_response_timeout(Some(REPLY_MAX));
    let connecting = client.get_multiplexed_async_connection_with_config(&patient);
    connecting.await.unwrap()
}

/// A link of its own, without the wait between attempts that a store makes.
pub async fn connect(config: &StoreConfig) -> Link {
    let store = crate::mailbox::open_store(config.clone());
    store.connect().await.unwrap()
}

pub fn read_page(page: &Page) -> PageModel {
    let entries = page.entries.iter().map(|entry| {
        let key = entry.json[7..entry.json.len() - 2].parse().unwrap();
        (entry.place, key)
    });
    PageModel {
        lane: page.lane.map(Lane::index),
        evicted: page.evicted,
        expired: page.expired,
        before: page.before,
        entries: entries.collect(),
    }
}
