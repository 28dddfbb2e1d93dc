//! Held acknowledgements: events that are in their mailboxes and still have to prove that they are
//! there to stay.
//!
//! Every append is stamped with its connection and the time of its reply. The confirmer
//! (`confirm`) says up to which time all appends over the current connection are safe; here they
//! are let go, or taken back to be appended once more.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_nats::Subject;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::durability::Durability;
use crate::bus::Delivery;
use crate::mailbox::{Link, SlotSet};
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

/// Over which connection and when a part of an event was appended.
#[derive(Clone)]
pub(super) struct Stamp {
    pub link: Link,
    /// When the last reply was there.
    pub at: Instant,
    /// In a cluster, the slots of the users; rising.
    pub slots: Vec<u16>,
}

impl Stamp {
    pub fn new(link: &Link, at: Instant) -> Stamp {
        Stamp {
            link: link.clone(),
            at,
            slots: Vec::new(),
        }
    }
}

/// All parts of an event, one a server of the store; none where it is in no mailbox.
pub(super) type Stamps = Arc<[Stamp]>;

/// The time lines of servers, by their names.
pub(super) type Epochs = HashMap<Arc<str>, Epoch>;

/// The latest of each server, by its name.
type Confirmations = HashMap<Arc<str>, Confirmation>;

/// What is known of the server now.
#[derive(Clone)]
pub(super) struct Confirmation {
    pub link: Link,
    /// All that had been appended by then is there to stay.
    pub until: Option<Instant>,
    /// In a cluster, which slots it has; `None` where that is not known yet.
    pub slots: Option<Arc<Slots>>,
}

/// Which slots a server has, none of whose keys are on their way from it or to it.
#[derive(Debug)]
pub(super) struct Slots {
    settled: SlotSet,
    /// All of the keys were here by then, unless `later` says so.
    since: Instant,
    later: HashMap<u16, Instant>,
}

impl Slots {
    /// As a server said that was not asked before over this connection.
    pub fn new(settled: SlotSet) -> Slots {
        Slots {
            settled,
            since: Instant::now(),
            later: HashMap::new(),
        }
    }

    /// As a server says now.
    pub fn next(before: &Arc<Slots>, settled: SlotSet) -> Arc<Slots> {
        if before.settled == settled {
            return Arc::clone(before);
        }
        let now = Instant::now();
        let mut later = before.later.clone();
        later.retain(|slot, _| settled.contains(*slot));
        let new = settled
            .iter()
            .filter(|slot| !before.settled.contains(*slot));
        later.extend(new.map(|slot| (slot, now)));
        Arc::new(Slots {
            settled,
            since: before.since,
            later,
        })
    }

    fn since(&self, slot: u16) -> Option<Instant> {
        let is_here = self.settled.contains(slot);
        is_here.then(|| *self.later.get(&slot).unwrap_or(&self.since))
    }
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
    latest: watch::Sender<Confirmations>,
    count: AtomicUsize,
    bytes: AtomicUsize,
    more: Notify,
    metrics: Arc<Metrics>,
}

impl Holds {
    pub fn new(durability: Durability, metrics: Arc<Metrics>) -> Arc<Holds> {
        Arc::new(Holds {
            durability,
            latest: watch::Sender::default(),
            count: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            more: Notify::new(),
            metrics,
        })
    }

    /// Tells the pull loops.
    pub fn publish(&self, confirmation: Confirmation) {
        self.latest.send_modify(|latest| {
            let server = Arc::clone(confirmation.link.server());
            latest.insert(server, confirmation);
        });
    }

    pub fn confirmations(&self) -> watch::Receiver<Confirmations> {
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

    /// An event is done when all its parts are there to stay.
    fn verdict(&self, stamps: &[Stamp]) -> Verdict {
        let mut verdict = Verdict::Acknowledge;
        for stamp in stamps {
            match self.verdict_of(stamp) {
                Verdict::Acknowledge => {}
                Verdict::Wait => verdict = Verdict::Wait,
                Verdict::AppendAgain => return Verdict::AppendAgain,
            }
        }
        verdict
    }

    fn verdict_of(&self, stamp: &Stamp) -> Verdict {
        let latest = self.latest.borrow();
        if stamp.link.is_cluster() && self.durability != Durability::None {
            return verdict_in_cluster(&latest, stamp);
        }
        let current = latest.get(stamp.link.server());
        let current = current.filter(|latest| !latest.link.is_broken());
        let judge = |current: &Confirmation| match current.until {
            Some(until) if stamp.at <= until => Verdict::Acknowledge,
            _ => Verdict::Wait,
        };
        match self.durability {
            Durability::None => Verdict::Acknowledge,
            // Time proves something only about a server that was there all the time.
            Durability::Delayed if stamp.link.is_broken() => Verdict::AppendAgain,
            Durability::Delayed => match current {
                Some(current) if current.link.is_same(&stamp.link) => judge(current),
                _ => Verdict::Wait,
            },
            // The server's own word covers all that it took on this time line.
            Durability::Fsync | Durability::Replica => match current {
                Some(current) if current.link.epoch() == stamp.link.epoch() => judge(current),
                Some(_) if stamp.link.is_broken() => Verdict::AppendAgain,
                _ => Verdict::Wait,
            },
        }
    }
}

/// What was put into a slot goes with it: whichever server has the slot now must have kept what it
/// had when the slot had come. That the first one lost nothing before it gave the slot away, only
/// its connection proves.
fn verdict_in_cluster(latest: &Confirmations, stamp: &Stamp) -> Verdict {
    let is_kept = |slot: &u16| {
        latest.values().any(|current| {
            let since = current.slots.as_ref().and_then(|slots| slots.since(*slot));
            let until = current.until.filter(|_| !current.link.is_broken());
            since
                .zip(until)
                .is_some_and(|(since, until)| stamp.at.max(since) <= until)
        })
    };
    match stamp.link.is_broken() {
        true => Verdict::AppendAgain,
        false if stamp.slots.iter().all(is_kept) => Verdict::Acknowledge,
        false => Verdict::Wait,
    }
}

/// One event whose acknowledgement is held; it is counted as long as it lives.
struct Held {
    item: Item,
    stamps: Stamps,
    bytes: usize,
    holds: Arc<Holds>,
}

impl Held {
    fn new(item: Item, stamps: Stamps, holds: Arc<Holds>) -> Held {
        let bytes = item.delivery.message.length;
        holds.bytes.fetch_add(bytes, Ordering::Relaxed);
        holds.count.fetch_add(1, Ordering::AcqRel);
        holds.metrics.acknowledgements_held(1);
        holds.more.notify_waiters();
        Held {
            item,
            stamps,
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

/// The held acknowledgements of one source, in the order of their appends, all on one time line of
/// each server.
#[derive(Default)]
pub(super) struct Awaiting {
    queue: VecDeque<Held>,
    /// Of the servers that any of them is on; some of them may be done.
    epochs: Epochs,
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
    pub fn hold(&mut self, item: Item, stamps: Stamps, holds: &Arc<Holds>) {
        for Stamp { link, .. } in &*stamps {
            self.epochs.insert(Arc::clone(link.server()), link.epoch());
        }
        let held = Held::new(item, stamps, Arc::clone(holds));
        self.queue.push_back(held);
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The time lines of all that is held; what is appended next must be on them, or wait for these.
    pub fn epochs(&self) -> Epochs {
        match self.queue.is_empty() {
            true => Epochs::new(),
            false => self.epochs.clone(),
        }
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
            match holds.verdict(&first.stamps) {
                Verdict::Wait => break,
                Verdict::AppendAgain if is_busy => break,
                Verdict::Acknowledge => {
                    for stamp in &*first.stamps {
                        let seconds = stamp.at.elapsed().as_secs_f64();
                        holds.metrics.acknowledgement_held(seconds);
                    }
                    settled.acknowledge.push(first.item.reply());
                    self.queue.pop_front();
                }
                Verdict::AppendAgain => settled.again = self.take_all(),
            }
        }
        if self.queue.is_empty() {
            self.epochs.clear();
        }
        let metrics = &holds.metrics;
        let count = |length: usize| length as u64;
        metrics.acknowledgement(Acknowledgement::Confirmed, count(settled.acknowledge.len()));
        metrics.acknowledgement(Acknowledgement::Repeated, count(settled.again.len()));
        settled
    }

    /// All of it, to be appended once more.
    pub fn take_all(&mut self) -> Vec<Item> {
        self.epochs.clear();
        self.queue.drain(..).map(|mut held| held.take()).collect()
    }
}
