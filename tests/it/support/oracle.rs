//! What must reach whom: every id that JetStream acknowledged, and what each device heard.
//!
//! The oracle publishes, so that nothing is promised that has no PubAck, and it listens with the
//! ears of [`Reader`](super::reader::Reader)s or of a test's own clients ([`Oracle::hear`]).
//! It knows nothing of Catchup but the contract: at least once, in order, to nobody else, and
//! never silently not.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use serde_json::json;

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
    /// The ids for each user.
    owed: HashMap<String, HashSet<String>>,
    ears: BTreeMap<(String, String), Ear>,
}

/// An event with a PubAck.
struct Promise {
    /// In the stream.
    sequence: u64,
    key: Option<String>,
    is_high: bool,
}

/// What is to be published.
#[derive(Clone, Copy)]
pub struct Event<'a> {
    pub key: Option<&'a str>,
    pub users: &'a [&'a str],
    /// Has priority `high`.
    pub is_high: bool,
}

/// What one device of one user heard, over all its connections.
#[derive(Default)]
struct Ear {
    /// Each id once, in the order of arrival.
    heard: Vec<String>,
    seen: HashSet<String>,
    repeats: u64,
    missed: Vec<Frame>,
    connections: u64,
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
    /// Publishes an event, and again with the same `Nats-Msg-Id` until JetStream acknowledges it.
    pub async fn publish(&self, system: &System, event: Event<'_>) {
        self.publish_to(system, event, true).await;
    }

    /// The same for everyone; the users of the event are those who have to hear it.
    pub async fn publish_for_everyone(&self, system: &System, event: Event<'_>) {
        self.publish_to(system, event, false).await;
    }

    async fn publish_to(&self, system: &System, event: Event<'_>, names_users: bool) {
        let id = {
            let mut inner = self.inner();
            inner.next_id += 1;
            format!("event-{}", inner.next_id)
        };
        let Event {
            key,
            users,
            is_high,
        } = event;
        let address = key.map_or("new_post".to_owned(), |key| format!("new_post.{key}"));
        let priority = if is_high { "high" } else { "normal" };
        let mut body = json!({ "priority": priority, "data": null });
        if names_users {
            body["targetUserIds"] = json!(users);
        }
        let body = body.to_string();
        let sequence = eventually_within(PROMISES_KEPT_WITHIN, "a PubAck", async || {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Msg-Id", id.as_str());
            let ack = system.publish_with(&address, headers, body.clone()).await;
            ack.ok().map(|ack| ack.sequence)
        })
        .await;
        let mut inner = self.inner();
        for user in users {
            let owed = inner.owed.entry((*user).to_owned()).or_default();
            owed.insert(id.clone());
        }
        let promise = Promise {
            sequence,
            key: key.map(str::to_owned),
            is_high,
        };
        inner.promises.insert(id, promise);
    }

    /// From here on this device has to hear all that its user is promised.
    pub fn expect_device(&self, user: &str, device: &str) {
        self.inner().ear(user, device);
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
                for message in messages_of(frame) {
                    let id = message["id"].as_str().expect("a message has an id");
                    if ear.seen.insert(id.to_owned()) {
                        ear.heard.push(id.to_owned());
                    } else {
                        ear.repeats += 1;
                    }
                }
            }
            Some("missed") => ear.missed.push(frame.clone()),
            _ => {}
        }
    }

    /// How many messages all devices together have heard, repeats left out.
    pub fn deliveries(&self) -> usize {
        self.inner().ears.values().map(|ear| ear.heard.len()).sum()
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
        let mut progress = (0, Instant::now());
        loop {
            let broken = self.inner().broken();
            if broken.is_empty() {
                return;
            }
            let deliveries = self.deliveries();
            if deliveries > progress.0 {
                progress = (deliveries, Instant::now());
            }
            assert!(
                progress.1.elapsed() < PROMISES_KEPT_WITHIN,
                "nothing more within {} s: {broken:?}",
                PROMISES_KEPT_WITHIN.as_secs()
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Asserts that every device heard all that its user was promised and nothing else, and that
    /// nothing was told as missed; returns the figures.
    pub fn assert_kept(&self) -> Tally {
        let inner = self.inner();
        let broken = inner.broken();
        assert!(broken.is_empty(), "{broken:?}");
        let nothing = HashSet::new();
        for ((user, device), ear) in &inner.ears {
            let owed = inner.owed.get(user).unwrap_or(&nothing);
            let strange: Vec<&String> = ear.seen.difference(owed).collect();
            assert!(strange.is_empty(), "{user}/{device} heard {strange:?}");
            assert!(ear.missed.is_empty(), "{user}/{device}: {:?}", ear.missed);
        }
        Tally {
            events: inner.promises.len(),
            deliveries: inner.ears.values().map(|ear| ear.heard.len()).sum(),
            repeats: inner.ears.values().map(|ear| ear.repeats).sum(),
            reconnects: (inner.ears.values())
                .map(|ear| ear.connections.saturating_sub(1))
                .sum(),
            elapsed: self.started.elapsed(),
        }
    }

    /// Asserts that every device heard the events of each key and priority for the first time in
    /// the order in which the stream has them.
    pub fn assert_order(&self) {
        let inner = self.inner();
        for ((user, device), ear) in &inner.ears {
            let mut last: HashMap<(&str, bool), (u64, &str)> = HashMap::new();
            for id in &ear.heard {
                let promise = &inner.promises[id];
                let Some(key) = promise.key.as_deref() else {
                    continue;
                };
                let line = (key, promise.is_high);
                let before = last.insert(line, (promise.sequence, id));
                if let Some((sequence, other)) = before {
                    assert!(
                        sequence < promise.sequence,
                        "{user}/{device} heard {id} after {other}, both of the key {key}"
                    );
                }
            }
        }
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
                let is_loss = |frame: &Frame| frame["reason"] == "store_lost";
                assert!(missed.iter().all(is_loss), "{name:?}: {missed:?}");
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
        self.ears.entry(name).or_default()
    }

    /// For each device that lacks something: how many ids, and some of them.
    fn broken(&self) -> Vec<(String, usize, Vec<String>)> {
        let mut broken = Vec::new();
        for ((user, device), ear) in &self.ears {
            let owed = self.owed.get(user).into_iter().flatten();
            let missing: Vec<&String> = owed.filter(|id| !ear.seen.contains(*id)).collect();
            if !missing.is_empty() {
                let some = missing.iter().take(5).map(|id| (*id).clone()).collect();
                broken.push((format!("{user}/{device}"), missing.len(), some));
            }
        }
        broken
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
