//! The workers among themselves: who lives, and which partitions each of them owns.
//!
//! Every worker says each second that it lives, on one subject of core NATS, and hears the others.
//! The partitions fall to the living by rendezvous hashing, so that a change moves only those of
//! the worker that came or went. Nobody decides: two workers that differ for a moment both pull a
//! partition, or neither does, and nothing is lost.
//!
//! A worker that joins says so first and claims only after [`LISTEN`], in which the others let go
//! of what will be its own: this keeps the order within a partition. The same holds for one that
//! comes back after the others gave it up, be it stopped or cut off.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::Subscriber;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::bus::{Bus, BusError, PARTITIONS};

/// How often a worker says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// A worker that was not heard for this long counts as dead.
const SILENCE_MAX: Duration = Duration::from_secs(4);
/// After this long without a heartbeat of its own a worker may have been given up by the others.
const OWN_SILENCE_MAX: Duration = Duration::from_secs(3);
/// Longest wait for the goodbye to be written to the socket.
const GOODBYE_MAX: Duration = Duration::from_secs(1);
/// How long a worker listens before it claims anything: the others hear of it at once, and each
/// of them is heard at least once.
const LISTEN: Duration = Duration::from_millis(1_500);
/// Most workers that are kept in mind; beyond that new ones are not noticed.
const WORKERS_MAX: usize = 1_000;
/// Longest name of a worker, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// What a worker says to the others.
#[derive(Debug, Serialize, Deserialize)]
struct Heartbeat {
    worker: String,
    /// True in the last one: the partitions are free at once.
    #[serde(default)]
    leaving: bool,
}

/// This worker's membership.
pub struct Fleet {
    owned: watch::Receiver<BTreeSet<u16>>,
    settled: watch::Receiver<bool>,
    leave: CancellationToken,
    task: JoinHandle<()>,
}

impl Fleet {
    /// Joins the fleet. It ends when `shutdown` is cancelled, without a goodbye: a worker that
    /// ends in order calls [`Fleet::leave`] when it holds nothing more.
    ///
    /// # Errors
    ///
    /// Where the client of `bus` is closed.
    pub async fn join(
        bus: &Bus,
        worker: &str,
        shutdown: &CancellationToken,
    ) -> Result<Fleet, BusError> {
        let heartbeats = bus.client.subscribe(bus.names.workers_heartbeat()).await?;
        let (owned_sender, owned) = watch::channel(BTreeSet::new());
        let (settled_sender, settled) = watch::channel(false);
        let leave = CancellationToken::new();
        let member = Member {
            bus: bus.clone(),
            view: View::new(worker, Instant::now()),
            owned: owned_sender,
            settled: settled_sender,
        };
        let ends = (leave.clone(), shutdown.clone());
        let task = tokio::spawn(member.run(heartbeats, ends));
        Ok(Fleet {
            owned,
            settled,
            leave,
            task,
        })
    }

    /// The partitions that this worker should pull.
    pub fn owned(&self) -> watch::Receiver<BTreeSet<u16>> {
        self.owned.clone()
    }

    /// True once this worker has listened and claimed its part, which may be none.
    pub fn settled(&self) -> watch::Receiver<bool> {
        self.settled.clone()
    }

    /// Says goodbye, so that the others take over without waiting.
    pub async fn leave(self) {
        self.leave.cancel();
        // Only a panic is an error here, and it has been printed.
        let _ = self.task.await;
    }
}

/// The task behind a [`Fleet`].
struct Member {
    bus: Bus,
    view: View,
    owned: watch::Sender<BTreeSet<u16>>,
    settled: watch::Sender<bool>,
}

impl Member {
    async fn run(
        mut self,
        mut heartbeats: Subscriber,
        (leave, shutdown): (CancellationToken, CancellationToken),
    ) {
        let mut tick = interval(HEARTBEAT);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut bus_state = self.bus.state();
        loop {
            let claim_at = self.view.claim_at;
            // What was heard comes before the judgement of who was silent.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = leave.cancelled() => {
                    let goodbye = async {
                        self.say(true).await;
                        self.bus.client.flush().await
                    };
                    // Where NATS is away, the others notice the silence.
                    let _ = tokio::time::timeout(GOODBYE_MAX, goodbye).await;
                    return;
                }
                message = heartbeats.next() => match message {
                    Some(message) => self.view.hear(&message.payload, Instant::now()),
                    // The client was given up; without a connection nothing can be pulled either.
                    None => return,
                },
                changed = bus_state.changed() => match changed {
                    Ok(()) => {
                        let connected = bus_state.borrow_and_update().connected;
                        self.view.tick(Instant::now(), connected);
                        if connected {
                            self.say(false).await;
                        }
                    }
                    Err(_) => return,
                },
                _ = tick.tick() => {
                    let connected = bus_state.borrow().connected;
                    self.view.tick(Instant::now(), connected);
                    if connected {
                        self.say(false).await;
                    }
                }
                () = tokio::time::sleep_until(claim_at), if self.view.is_listening => {
                    self.view.claim(Instant::now());
                }
            }
            self.publish();
        }
    }

    /// Losing a heartbeat is no matter: the next follows in a second.
    async fn say(&self, leaving: bool) {
        let heartbeat = Heartbeat {
            worker: self.view.name.to_string(),
            leaving,
        };
        let subject = self.bus.names.workers_heartbeat();
        if let Ok(payload) = serde_json::to_vec(&heartbeat)
            && let Err(error) = self.bus.client.publish(subject, payload.into()).await
        {
            debug!(%error, "a heartbeat was not sent");
        }
    }

    fn publish(&self) {
        let is_settled = !self.view.is_listening;
        self.settled
            .send_if_modified(|settled| std::mem::replace(settled, is_settled) != is_settled);
        let owned = self.view.owned();
        self.owned.send_if_modified(|current| {
            if *current == owned {
                return false;
            }
            info!(
                partitions = owned.len(),
                workers = self.view.others.len() + 1,
                "own another part of the partitions"
            );
            *current = owned;
            true
        });
    }
}

/// Whom a worker believes alive. No clock and no connection of its own: the time is given.
struct View {
    name: Arc<str>,
    /// The others, and when each was last heard.
    others: BTreeMap<Arc<str>, Instant>,
    /// True until this worker may claim.
    is_listening: bool,
    claim_at: Instant,
    /// When this worker was last known to be heard by others.
    last_tick: Instant,
    was_connected: bool,
}

impl View {
    fn new(name: &str, now: Instant) -> View {
        View {
            name: name.into(),
            others: BTreeMap::new(),
            is_listening: true,
            claim_at: now + LISTEN,
            last_tick: now,
            was_connected: true,
        }
    }

    fn hear(&mut self, payload: &[u8], now: Instant) {
        let Ok(heartbeat) = serde_json::from_slice::<Heartbeat>(payload) else {
            return;
        };
        let worker = heartbeat.worker;
        if worker == *self.name || worker.len() > NAME_BYTES_MAX {
            return;
        }
        if heartbeat.leaving {
            self.others.remove(worker.as_str());
        } else if self.others.len() < WORKERS_MAX || self.others.contains_key(worker.as_str()) {
            self.others.insert(worker.into(), now);
        }
    }

    /// Comes round each second, and when the connection is lost or found.
    fn tick(&mut self, now: Instant, connected: bool) {
        if !connected {
            // Nobody is heard now, which says nothing of the others.
            self.was_connected = false;
            return;
        }
        let silent = now - self.last_tick;
        if !self.was_connected || silent > OWN_SILENCE_MAX {
            // Cut off, or stopped, for a while: the others get their time to be heard again.
            for heard in self.others.values_mut() {
                *heard = now;
            }
            if silent > OWN_SILENCE_MAX {
                // They may have given this one up and taken its partitions.
                self.is_listening = true;
                self.claim_at = now + LISTEN;
            }
        }
        self.was_connected = true;
        self.last_tick = now;
        self.others.retain(|_, heard| now - *heard <= SILENCE_MAX);
    }

    fn claim(&mut self, now: Instant) {
        if now >= self.claim_at {
            self.is_listening = false;
        }
    }

    fn owned(&self) -> BTreeSet<u16> {
        if self.is_listening {
            return BTreeSet::new();
        }
        (0..PARTITIONS)
            .filter(|&partition| {
                let own = weight(&self.name, partition);
                (self.others.keys())
                    .all(|other| (weight(other, partition), &**other) < (own, &*self.name))
            })
            .collect()
    }
}

/// The weight of a worker for a partition: the heaviest owns it (Thaler and Ravishankar 1998).
/// FNV-1a, then the finalizer of MurmurHash3, without which the high bits hardly differ. All
/// workers must come to the same result, so the hash is fixed for good.
fn weight(worker: &str, partition: u16) -> u64 {
    let bytes = worker.bytes().chain(partition.to_be_bytes());
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    for multiplier in [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(multiplier);
    }
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(worker: &str, leaving: bool) -> Vec<u8> {
        let worker = worker.to_owned();
        serde_json::to_vec(&Heartbeat { worker, leaving }).unwrap()
    }

    fn settled(name: &str, others: &[&str], now: Instant) -> View {
        let mut view = View::new(name, now - LISTEN);
        view.claim(now);
        view.last_tick = now;
        for other in others {
            view.hear(&say(other, false), now);
        }
        view
    }

    #[test]
    fn every_partition_has_one_owner_and_few_move() {
        let names: Vec<String> = (0..8).map(|index| format!("worker-{index}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let now = Instant::now();
        let owners = |names: &[&str]| {
            let mut owners = BTreeMap::new();
            for name in names {
                for partition in settled(name, names, now).owned() {
                    assert_eq!(owners.insert(partition, name.to_string()), None);
                }
            }
            assert_eq!(owners.len(), usize::from(PARTITIONS));
            owners
        };
        for count in 1..names.len() {
            let before = owners(&names[..count]);
            let after = owners(&names[..=count]);
            for (partition, owner) in after {
                let stayed = before[&partition] == owner;
                assert!(
                    stayed || owner == names[count],
                    "{partition} moved to {owner}"
                );
            }
        }
    }

    #[test]
    fn a_worker_claims_after_it_has_listened() {
        let now = Instant::now();
        let mut view = View::new("a", now);
        view.claim(now + LISTEN / 2);
        assert!(view.owned().is_empty());
        view.claim(now + LISTEN);
        assert_eq!(view.owned().len(), usize::from(PARTITIONS));
    }

    #[test]
    fn the_silent_and_the_leaving_lose_their_partitions() {
        let start = Instant::now();
        let mut view = settled("a", &["b"], start);
        assert!(view.owned().len() < usize::from(PARTITIONS));
        for second in 1..=5 {
            view.tick(start + Duration::from_secs(second), true);
        }
        assert_eq!(view.owned().len(), usize::from(PARTITIONS));
        let now = start + Duration::from_secs(5);
        view.hear(&say("b", false), now);
        assert!(view.owned().len() < usize::from(PARTITIONS));
        view.hear(&say("b", true), now);
        assert_eq!(view.owned().len(), usize::from(PARTITIONS));
    }

    #[test]
    fn who_was_cut_off_waits_for_the_others_before_it_claims() {
        let start = Instant::now();
        let mut view = settled("a", &["b"], start);
        let part = view.owned();
        for second in 1..=9 {
            view.tick(start + Duration::from_secs(second), false);
        }
        assert_eq!(view.owned(), part, "nothing is known while nobody is heard");
        let back = start + Duration::from_secs(10);
        view.tick(back, true);
        assert!(view.owned().is_empty());
        view.claim(back + LISTEN);
        assert_eq!(view.owned(), part);
    }

    #[test]
    fn a_short_cut_changes_nothing() {
        let start = Instant::now();
        let mut view = settled("a", &["b"], start);
        let part = view.owned();
        view.tick(start + Duration::from_millis(300), false);
        view.tick(start + Duration::from_millis(600), true);
        assert_eq!(view.owned(), part);
    }

    #[test]
    fn junk_on_the_subject_is_passed_over() {
        let now = Instant::now();
        let mut view = settled("a", &[], now);
        for junk in [&b""[..], b"{}", b"[1]", b"\xff", b"{\"worker\":7}"] {
            view.hear(junk, now);
        }
        view.hear(&say(&"x".repeat(1_000), false), now);
        assert!(view.others.is_empty());
    }
}
