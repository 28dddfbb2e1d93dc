//! Held acknowledgements: events that are in their mailboxes and still have to prove that they are
//! there to stay.
//!
//! Every append is stamped with its connection and the time of its reply. The confirmer
//! (`confirm`) says up to which time all appends over the current connection are safe; here they
//! are let go, or taken back to be appended once more.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_nats::Subject;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::durability::Durability;
use crate::bus::Delivery;
use crate::mailbox::Link;
use crate::protocol::Epoch;
use crate::telemetry::{Acknowledgement, Metrics};

/// Most bytes of events whose acknowledgement one worker holds, all sources together. Beyond it a
/// source that holds any is not pulled until some of them are acknowledged.
pub(super) const HELD_BYTES_MAX: usize = 128 * 1024 * 1024;

/// A delivery as a worker holds it, and when the server last heard of it.
pub(super) struct Item {
    pub delivery: Delivery,
    /// When the stream that it came from was made.
    pub creation_ms: u64,
    /// When the server last heard that it is in work; at first, when it came.
    pub signed: Instant,
    /// False once it was appended and counted.
    pub is_first: bool,
}

impl Item {
    /// Where it is answered.
    pub fn reply(&self) -> Option<Subject> {
        self.delivery.message.reply.clone()
    }
}

/// Over which connection and when a batch was appended.
#[derive(Clone)]
pub(super) struct Stamp {
    pub link: Link,
    /// When the last reply was there.
    pub at: Instant,
}

/// What is known of the server now.
#[derive(Clone)]
pub(super) struct Confirmation {
    pub link: Link,
    /// All that had been appended by then is there to stay.
    pub until: Option<Instant>,
}

/// What is to be done about a held acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Wait,
    Acknowledge,
    /// Its connection broke, and nobody can say what became of it.
    AppendAgain,
}

/// What the confirmer and the pull loops of one worker share.
pub(super) struct Holds {
    pub durability: Durability,
    latest: watch::Sender<Option<Confirmation>>,
    count: AtomicUsize,
    bytes: AtomicUsize,
    more: Notify,
    metrics: Arc<Metrics>,
}

impl Holds {
    pub fn new(durability: Durability, metrics: Arc<Metrics>) -> Arc<Holds> {
        Arc::new(Holds {
            durability,
            latest: watch::Sender::new(None),
            count: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            more: Notify::new(),
            metrics,
        })
    }

    /// Tells the pull loops.
    pub fn publish(&self, confirmation: Confirmation) {
        self.latest.send_replace(Some(confirmation));
    }

    pub fn confirmations(&self) -> watch::Receiver<Option<Confirmation>> {
        self.latest.subscribe()
    }

    /// Returns once any acknowledgement is held.
    pub async fn any(&self) {
        loop {
            // Asked for before the count is read, so that none is missed.
            let more = self.more.notified();
            if self.count.load(Ordering::Acquire) > 0 {
                return;
            }
            more.await;
        }
    }

    /// True where the events whose acknowledgements are held take too many bytes.
    pub fn is_full(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > HELD_BYTES_MAX
    }

    fn verdict(&self, stamp: &Stamp) -> Verdict {
        let latest = self.latest.borrow();
        let current = latest.as_ref().filter(|latest| !latest.link.is_broken());
        let is_confirmed =
            |current: &Confirmation| (current.until).is_some_and(|until| stamp.at <= until);
        match self.durability {
            Durability::None => Verdict::Acknowledge,
            // Time proves something only about a server that was there all the time.
            Durability::Delayed if stamp.link.is_broken() => Verdict::AppendAgain,
            Durability::Delayed => match current {
                Some(current) if current.link.is_same(&stamp.link) && is_confirmed(current) => {
                    Verdict::Acknowledge
                }
                _ => Verdict::Wait,
            },
            // The server's own word covers all that it took on this time line.
            Durability::Fsync | Durability::Replica => match current {
                Some(current) if current.link.epoch() == stamp.link.epoch() => {
                    match is_confirmed(current) {
                        true => Verdict::Acknowledge,
                        false => Verdict::Wait,
                    }
                }
                Some(_) if stamp.link.is_broken() => Verdict::AppendAgain,
                _ => Verdict::Wait,
            },
        }
    }
}

/// One event whose acknowledgement is held; it is counted as long as it lives.
struct Held {
    item: Item,
    stamp: Stamp,
    bytes: usize,
    holds: Arc<Holds>,
}

impl Held {
    fn new(item: Item, stamp: Stamp, holds: Arc<Holds>) -> Held {
        let bytes = item.delivery.message.length;
        holds.bytes.fetch_add(bytes, Ordering::Relaxed);
        holds.count.fetch_add(1, Ordering::AcqRel);
        holds.metrics.acknowledgements_held(1);
        holds.more.notify_waiters();
        Held {
            item,
            stamp,
            bytes,
            holds,
        }
    }

    /// The event, no longer held; appended again it counts as delivered before.
    fn take(&mut self) -> Item {
        Item {
            delivery: Delivery {
                is_repeat: true,
                ..self.item.delivery.clone()
            },
            is_first: false,
            ..self.item
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.holds.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.holds.count.fetch_sub(1, Ordering::AcqRel);
        self.holds.metrics.acknowledgements_held(-1);
    }
}

/// The held acknowledgements of one source, in the order of their appends, all of one epoch.
#[derive(Default)]
pub(super) struct Awaiting {
    queue: VecDeque<Held>,
}

/// What became of some of them.
#[derive(Default)]
pub(super) struct Settled {
    /// Where they are to be acknowledged.
    pub acknowledge: Vec<Option<Subject>>,
    /// To be appended once more, before anything that came later.
    pub again: Vec<Item>,
}

impl Awaiting {
    pub fn hold(&mut self, item: Item, stamp: &Stamp, holds: &Arc<Holds>) {
        let held = Held::new(item, stamp.clone(), Arc::clone(holds));
        self.queue.push_back(held);
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The time line of all that is held; what is appended next must be on it, or wait for these.
    pub fn epoch(&self) -> Option<Epoch> {
        let last = self.queue.back()?;
        Some(last.stamp.link.epoch())
    }

    /// The highest of the events' sequences in the stream; 0 where there is none.
    pub fn last_sequence(&self) -> u64 {
        let sequences = self.queue.iter().map(|held| held.item.delivery.sequence);
        sequences.max().unwrap_or(0)
    }

    /// The events' sequences in the stream.
    pub fn sequences(&self) -> HashSet<u64> {
        let sequences = self.queue.iter().map(|held| held.item.delivery.sequence);
        sequences.collect()
    }

    pub fn items_mut(&mut self) -> impl Iterator<Item = &mut Item> {
        self.queue.iter_mut().map(|held| &mut held.item)
    }

    /// Takes out what can be decided now. With `is_busy` nothing is taken back: a batch that comes
    /// later is in work, and must not get in front of it.
    pub fn settle(&mut self, holds: &Holds, is_busy: bool) -> Settled {
        let mut settled = Settled::default();
        while let Some(first) = self.queue.front() {
            match holds.verdict(&first.stamp) {
                Verdict::Wait => break,
                Verdict::AppendAgain if is_busy => break,
                Verdict::Acknowledge => {
                    let seconds = first.stamp.at.elapsed().as_secs_f64();
                    holds.metrics.acknowledgement_held(seconds);
                    settled.acknowledge.push(first.item.reply());
                    self.queue.pop_front();
                }
                Verdict::AppendAgain => settled.again = self.take_all(),
            }
        }
        let metrics = &holds.metrics;
        let count = |length: usize| length as u64;
        metrics.acknowledgement(Acknowledgement::Confirmed, count(settled.acknowledge.len()));
        metrics.acknowledgement(Acknowledgement::Repeated, count(settled.again.len()));
        settled
    }

    /// All of it, to be appended once more.
    pub fn take_all(&mut self) -> Vec<Item> {
        self.queue.drain(..).map(|mut held| held.take()).collect()
    }
}
