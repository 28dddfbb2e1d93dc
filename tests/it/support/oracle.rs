//! What must reach whom: every id that JetStream acknowledged, and what each device heard.
//!
//! The oracle publishes, so that nothing is promised that has no PubAck, and it listens with the
//! ears of [`Reader`](super::reader::Reader)s or of a test's own clients ([`Oracle::hear`]).
//! It knows nothing of Catchup but the contract: at least once, in order, to nobody else, and
//! never silently not. Whom an event is owed: contract, "Known devices". How it judges:
//! [`Verdict`].

mod verdict;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_nats::HeaderMap;
use serde_json::json;

pub use verdict::Verdict;

use super::socket::{Frame, messages_of};
use super::{POLL_INTERVAL, System, eventually_within};

/// How long nothing may arrive while something is promised: the redelivery time of 10 s, the time
/// until a dead process is noticed, and two cores that other tests use as well.
pub const PROMISES_KEPT_WITHIN: Duration = Duration::from_secs(60);

/// Promises and what became of them; shared by publishers and clients of one test.
pub struct Oracle {
    started: Instant,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next_id: u64,
    promises: HashMap<String, Promise>,
    /// The ids that name each user, for a first device that comes later.
    waiting: HashMap<String, Vec<String>>,
    ears: BTreeMap<(String, String), Ear>,
    deliveries: usize,
    /// When the store was made to lose something, for the first time.
    store_lost_at: Option<Instant>,
}

/// An event with a PubAck.
struct Promise {
    /// In the stream.
    sequence: u64,
    key: Option<String>,
    is_high: bool,
    audience: Owed,
    began: Instant,
    /// Milliseconds since 1970 between which JetStream stored it.
    stored_ms: (u64, u64),
}

enum Owed {
    Users(HashSet<String>),
    /// All but this one.
    Everyone(Option<String>),
}

/// What is to be published.
#[derive(Clone, Copy)]
pub struct Event<'a> {
    pub key: Option<&'a str>,
    pub audience: Audience<'a>,
    /// Has priority `high`.
    pub is_high: bool,
}

#[derive(Clone, Copy)]
pub enum Audience<'a> {
    Users(&'a [&'a str]),
    Everyone,
    EveryoneBut(&'a str),
}

/// What one device of one user heard, over all its connections.
struct Ear {
    known_since: Instant,
    /// The first device of its user: it gets what waited.
    is_first: bool,
    /// Each id once, in the order of arrival.
    heard: Vec<String>,
    seen: HashSet<String>,
    /// What it is owed and did not hear.
    missing: HashSet<String>,
    repeats: u64,
    missed: Vec<Missed>,
    connections: u64,
}

/// A `missed` frame, the number of the connection that it came on, and when.
struct Missed {
    frame: Frame,
    connection: u64,
    heard_at: Instant,
}

/// The figures of a test.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub events: usize,
    /// Messages that reached a device for the first time.
    pub deliveries: usize,
    pub repeats: u64,
    pub reconnects: u64,
    pub elapsed: Duration,
}

impl Default for Oracle {
    fn default() -> Oracle {
        Oracle {
            started: Instant::now(),
            inner: Mutex::default(),
        }
    }
}

impl Oracle {
    /// Publishes an event, and again with the same `Nats-Msg-Id` until JetStream acknowledges it;
    /// returns its id.
    pub async fn publish(&self, system: &System, event: Event<'_>) -> String {
        let id = {
            let mut inner = self.inner();
            inner.next_id += 1;
            format!("event-{}", inner.next_id)
        };
        let key = event.key;
        let address = key.map_or("new_post".to_owned(), |key| format!("new_post.{key}"));
        let body = event.body();
        let (began, began_ms) = (Instant::now(), wall_clock_ms());
        let sequence = eventually_within(PROMISES_KEPT_WITHIN, "a PubAck", async || {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Msg-Id", id.as_str());
            let ack = system.publish_with(&address, headers, body.clone()).await;
            ack.ok().map(|ack| ack.sequence)
        })
        .await;
        let promise = Promise {
            sequence,
            key: key.map(str::to_owned),
            is_high: event.is_high,
            audience: event.audience.owed(),
            began,
            stored_ms: (began_ms, wall_clock_ms()),
        };
        self.inner().promise(&id, promise);
        id
    }

    /// From here on this device has to hear all that its user is promised, and a user's first
    /// device what was promised to the user by name before.
    pub fn expect_device(&self, user: &str, device: &str) {
        self.inner().ear(user, device);
    }

    /// Whether a device is expected to hear anything.
    pub fn knows(&self, user: &str, device: &str) -> bool {
        let name = (user.to_owned(), device.to_owned());
        self.inner().ears.contains_key(&name)
    }

    /// Notes that a device connected.
    pub fn connected(&self, user: &str, device: &str) {
        self.inner().ear(user, device).connections += 1;
    }

    /// Notes a frame that a device received.
    pub fn hear(&self, user: &str, device: &str, frame: &Frame) {
        let mut inner = self.inner();
        let ear = inner.ear(user, device);
        match frame["op"].as_str() {
            Some("messages") => {
                let ids: Vec<String> = messages_of(frame)
                    .iter()
                    .map(|message| message["id"].as_str().expect("an id").to_owned())
                    .collect();
                let news = ids.into_iter().filter(|id| ear.hear(id)).count();
                inner.deliveries += news;
            }
            Some("missed") => {
                let connection = ear.connections;
                ear.missed.push(Missed {
                    frame: frame.clone(),
                    connection,
                    heard_at: Instant::now(),
                });
            }
            _ => {}
        }
    }

    /// From now on the store may have lost something: whoever is told `store_lost` is told the truth,
    /// also where in the end nothing is missing.
    pub fn store_loses(&self) {
        let mut inner = self.inner();
        inner.store_lost_at.get_or_insert_with(Instant::now);
    }

    /// Whether a device heard an event.
    pub fn has_heard(&self, user: &str, device: &str, id: &str) -> bool {
        self.inner().ear(user, device).seen.contains(id)
    }

    /// How many messages all devices together have heard, repeats left out.
    pub fn deliveries(&self) -> usize {
        self.inner().deliveries
    }

    /// How many messages came again to a device that had heard them.
    pub fn repeats(&self) -> u64 {
        self.inner().ears.values().map(|ear| ear.repeats).sum()
    }

    /// Waits until all devices together have heard so many messages.
    pub async fn until_delivered(&self, count: usize) {
        eventually_within(
            PROMISES_KEPT_WITHIN,
            format!("{count} deliveries"),
            async || (self.deliveries() >= count).then_some(()),
        )
        .await;
    }

    /// Waits until every device that is expected has everything that its user was promised;
    /// panics where for too long nothing more arrives.
    pub async fn until_kept(&self) {
        let lost = self.until_quiet().await.lost;
        assert!(
            lost.is_empty(),
            "nothing more within {} s: {lost:?}",
            PROMISES_KEPT_WITHIN.as_secs()
        );
    }

    /// Waits until nothing is missing that was not announced, or for too long nothing more
    /// arrives; returns the verdict. Nothing may be published any more.
    pub async fn until_quiet(&self) -> Verdict {
        let mut progress = (0, Instant::now());
        loop {
            let has_lost = self.has_lost();
            let deliveries = self.deliveries();
            if deliveries > progress.0 {
                progress = (deliveries, Instant::now());
            }
            if !has_lost || progress.1.elapsed() > PROMISES_KEPT_WITHIN {
                return self.verdict();
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Asserts that every device heard all that its user was promised and nothing else, and that
    /// nothing was told as missed; returns the figures.
    pub fn assert_kept(&self) -> Tally {
        let verdict = self.verdict();
        assert!(verdict.lost.is_empty(), "{:?}", verdict.lost);
        assert!(verdict.strange.is_empty(), "{:?}", verdict.strange);
        let inner = self.inner();
        for ((user, device), ear) in &inner.ears {
            let missed = ear.missed.iter().map(|missed| &missed.frame);
            let missed: Vec<&Frame> = missed.collect();
            assert!(missed.is_empty(), "{user}/{device}: {missed:?}");
        }
        Tally {
            events: inner.promises.len(),
            deliveries: inner.deliveries,
            repeats: verdict.repeats,
            reconnects: verdict.reconnects,
            elapsed: self.started.elapsed(),
        }
    }

    /// Asserts that every device heard the events of each key, audience and priority for the
    /// first time in the order in which the stream has them.
    pub fn assert_order(&self) {
        let inversions = self.verdict().inversions;
        assert!(inversions.is_empty(), "{inversions:?}");
    }

    /// True once every device was told of something missed.
    pub fn all_missed(&self) -> bool {
        self.inner().ears.values().all(|ear| !ear.missed.is_empty())
    }

    /// Like [`Oracle::assert_kept`], for a store that lost what it held: every device heard all that
    /// its user was promised, and was told at least once that more may be lost, and nothing else.
    pub fn assert_told(&self) -> Tally {
        let mut silent = Vec::new();
        {
            let mut inner = self.inner();
            for (name, ear) in &mut inner.ears {
                let missed = std::mem::take(&mut ear.missed);
                let frames: Vec<&Frame> = missed.iter().map(|missed| &missed.frame).collect();
                let is_loss = |frame: &&Frame| frame["reason"] == "store_lost";
                assert!(frames.iter().all(is_loss), "{name:?}: {frames:?}");
                if missed.is_empty() {
                    silent.push(name.clone());
                }
            }
        }
        assert!(silent.is_empty(), "not told: {silent:?}");
        self.assert_kept()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("not poisoned")
    }
}

impl Inner {
    fn ear(&mut self, user: &str, device: &str) -> &mut Ear {
        let name = (user.to_owned(), device.to_owned());
        if !self.ears.contains_key(&name) {
            let is_first = self.ears_of(user).next().is_none();
            let waiting = self.waiting.get(user).filter(|_| is_first);
            let ear = Ear {
                known_since: Instant::now(),
                is_first,
                heard: Vec::new(),
                seen: HashSet::new(),
                missing: waiting.into_iter().flatten().cloned().collect(),
                repeats: 0,
                missed: Vec::new(),
                connections: 0,
            };
            self.ears.insert(name.clone(), ear);
        }
        self.ears.get_mut(&name).expect("inserted above")
    }

    fn ears_of<'a>(&'a mut self, user: &'a str) -> impl Iterator<Item = &'a mut Ear> {
        let ears = self.ears.range_mut((user.to_owned(), String::new())..);
        let ears = ears.take_while(move |((known, _), _)| known == user);
        ears.map(|(_, ear)| ear)
    }

    fn promise(&mut self, id: &str, promise: Promise) {
        match &promise.audience {
            Owed::Users(users) => {
                for user in users {
                    let waiting = self.waiting.entry(user.clone()).or_default();
                    waiting.push(id.to_owned());
                    for ear in self.ears_of(user) {
                        ear.owe(id, user, &promise);
                    }
                }
            }
            Owed::Everyone(_) => {
                for ((user, _), ear) in &mut self.ears {
                    ear.owe(id, user, &promise);
                }
            }
        }
        self.promises.insert(id.to_owned(), promise);
    }
}

impl Promise {
    /// May reach this user.
    fn is_for(&self, user: &str) -> bool {
        match &self.audience {
            Owed::Users(users) => users.contains(user),
            Owed::Everyone(excluded) => excluded.as_deref() != Some(user),
        }
    }
}

impl Ear {
    /// Notes an id; true where it is new.
    fn hear(&mut self, id: &str) -> bool {
        if !self.seen.insert(id.to_owned()) {
            self.repeats += 1;
            return false;
        }
        self.missing.remove(id);
        self.heard.push(id.to_owned());
        true
    }

    /// Notes what the device of this user has to hear, if it is owed.
    fn owe(&mut self, id: &str, user: &str, promise: &Promise) {
        let waits = self.is_first && matches!(promise.audience, Owed::Users(_));
        let is_known = waits || self.known_since <= promise.began;
        if is_known && promise.is_for(user) && !self.seen.contains(id) {
            self.missing.insert(id.to_owned());
        }
    }
}

impl Audience<'_> {
    fn owed(self) -> Owed {
        match self {
            Audience::Users(users) => {
                Owed::Users(users.iter().map(|user| (*user).to_owned()).collect())
            }
            Audience::Everyone => Owed::Everyone(None),
            Audience::EveryoneBut(user) => Owed::Everyone(Some(user.to_owned())),
        }
    }
}

impl Event<'_> {
    fn body(&self) -> String {
        let priority = if self.is_high { "high" } else { "normal" };
        let mut body = json!({ "priority": priority, "data": null });
        match self.audience {
            Audience::Users(users) => body["targetUserIds"] = json!(users),
            Audience::Everyone => {}
            Audience::EveryoneBut(user) => body["excludeUserId"] = json!(user),
        }
        body.to_string()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} events, {} deliveries, {} repeats, {} reconnects, {:.1} s",
            self.events,
            self.deliveries,
            self.repeats,
            self.reconnects,
            self.elapsed.as_secs_f64()
        )
    }
}

fn wall_clock_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    elapsed.expect("a clock after 1970").as_millis() as u64
}
