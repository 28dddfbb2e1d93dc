//! What is known of the store beside its mailboxes: whether it may be used, and what it lost.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use uuid::Uuid;

use super::record::{Progress, RebuildKind, Record};
use super::slots::{SlotSet, tag_of};
use super::store::Limits;
use super::{Keys, Link, MailboxError, NUMBER_MAX};
use crate::protocol::Epoch;
use crate::telemetry::{Metrics, StoreRefusal};

/// What a process asks of the store before it uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Nothing: it is used as it is.
    Any,
    /// That a worker found it whole at some time, and it was not emptied since.
    Filled,
    /// That it was filled from the stream of this id, and found whole in the server's epoch. With
    /// `None` the id is not known yet, and no store will do.
    Whole(Option<Uuid>),
}

/// When what was lost.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Loss {
    /// When events were last found lost, by Redis's clock; 0 for never.
    pub lost_ms: u64,
    /// Until then, any device may have been known to a store that was emptied.
    pub wiped_until_ms: u64,
    /// Until then, any device may have been known to a store that went back.
    pub back_until_ms: u64,
}

impl Loss {
    /// Nothing is trimmed before: the devices come back one by one.
    pub fn no_trim_before_ms(&self) -> u64 {
        self.wiped_until_ms.max(self.back_until_ms)
    }
}

/// What a server is in its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    pub slots: SlotSet,
    /// Its id.
    pub node: String,
    /// The ids of the primary and its replicas.
    pub members: Vec<String>,
    /// The hash tag of the slot that its record is in.
    home: Option<String>,
}

impl View {
    pub fn new(slots: SlotSet, node: String, members: Vec<String>) -> View {
        let home = slots.representative().map(tag_of);
        View {
            slots,
            node,
            members,
            home,
        }
    }

    /// A hash tag for a key that is to be here; `None` without slots.
    pub fn tag(&self) -> Option<&str> {
        self.home.as_deref()
    }

    /// Where the record belongs; `None` without slots.
    pub fn record_key(&self, keys: &Keys) -> Option<String> {
        self.tag().map(|tag| keys.store(tag))
    }
}

/// The record as a link read it.
#[derive(Clone)]
pub(super) struct Known {
    pub record: Record,
    pub epoch: Epoch,
    /// When the link was made.
    link: Instant,
    /// The key that it was read at.
    pub key: String,
}

impl Known {
    /// Whether the server has been whole without a break since the record was written.
    pub fn is_whole(&self) -> bool {
        self.record.id.is_some() && self.record.epoch == Some(self.epoch)
    }

    pub fn is_of(&self, link: &Link) -> bool {
        self.link == link.made()
    }
}

/// Shared by a shard and its links.
pub(super) struct Condition {
    demand: RwLock<Demand>,
    record: watch::Sender<Record>,
    wiped_ms: AtomicU64,
    lost_ms: AtomicU64,
    /// Why the server refuses, from the first refusal to the first write that it takes.
    refusal: Mutex<Option<String>>,
    /// In a cluster.
    view: RwLock<Option<Arc<View>>>,
    /// The last record that was read, and the last that was that of a whole server.
    known: Mutex<(Option<Known>, Option<Known>)>,
    /// When slots were first seen to have left.
    left: Mutex<HashMap<u16, Instant>>,
    is_retired: AtomicBool,
    /// A slot that was looked for here was not here, since the cluster was last asked.
    has_moved: AtomicBool,
    /// When it was last seen that the server has no slots.
    absent: Option<Instant>,
}

impl Default for Condition {
    fn default() -> Condition {
        Condition {
            demand: RwLock::new(Demand::Any),
            record: watch::Sender::default(),
            wiped_ms: AtomicU64::new(0),
            lost_ms: AtomicU64::new(0),
            refusal: Mutex::default(),
            view: RwLock::default(),
            known: Mutex::default(),
            left: Mutex::default(),
            is_retired: AtomicBool::new(false),
            has_moved: AtomicBool::new(false),
            absent: None,
        }
    }
}

impl Condition {
    /// Of a server of a cluster that had no slots at the time given.
    pub fn absent_at(absent: Option<Instant>) -> Condition {
        Condition {
            absent,
            ..Condition::default()
        }
    }

    pub fn absent(&self) -> Option<Instant> {
        self.absent
    }

    pub fn set_demand(&self, demand: Demand) {
        *self.demand.write().unwrap_or_else(PoisonError::into_inner) = demand;
        // Whoever waits for a store that will do looks again.
        self.record.send_modify(|_| ());
    }

    pub fn records(&self) -> watch::Receiver<Record> {
        self.record.subscribe()
    }

    pub fn loss(&self, limits: &Limits) -> Loss {
        let (wiped_ms, lost_ms) = self.losses();
        let until = |begun_ms: u64, kept_ms: u64| match begun_ms {
            0 => 0,
            begun_ms => begun_ms + kept_ms,
        };
        let known = self.known();
        let back_until_ms = match known {
            // Nobody has judged yet how far it went back.
            Some(known) if known.record.id.is_some() && !known.is_whole() => NUMBER_MAX,
            known => until(
                known.map_or(0, |known| known.record.back_ms),
                limits.trim_hold_ms,
            ),
        };
        Loss {
            lost_ms,
            wiped_until_ms: until(wiped_ms, limits.ttl_ms),
            back_until_ms,
        }
    }

    /// Notes a record that was just read over a link, after a write that the server took.
    pub fn note(&self, record: Record, link: &Link, key: String) {
        self.inherit(record.wiped_ms, record.lost_ms);
        let known = Known {
            record: record.clone(),
            epoch: link.epoch(),
            link: link.made(),
            key,
        };
        {
            let mut latest = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.is_whole() {
                latest.1 = Some(known.clone());
            }
            latest.0 = Some(known);
        }
        self.record.send_if_modified(|known| {
            let is_new = *known != record;
            *known = record;
            is_new
        });
        let mut refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = refusal.take() {
            tracing::info!(reason, "Redis takes writes again");
        }
    }

    /// What was lost concerns this server too, which may have got users from where it happened.
    pub fn inherit(&self, wiped_ms: u64, lost_ms: u64) {
        self.wiped_ms.fetch_max(wiped_ms, Ordering::AcqRel);
        self.lost_ms.fetch_max(lost_ms, Ordering::AcqRel);
    }

    /// When the server was found empty, and when events were found lost.
    pub fn losses(&self) -> (u64, u64) {
        let read = |time: &AtomicU64| time.load(Ordering::Acquire);
        (read(&self.wiped_ms), read(&self.lost_ms))
    }

    pub fn view(&self) -> Option<Arc<View>> {
        let view = self.view.read();
        view.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_view(&self, view: View) {
        let mut known = self.view.write().unwrap_or_else(PoisonError::into_inner);
        *known = Some(Arc::new(view));
    }

    pub fn set_moved(&self, has_moved: bool) {
        self.has_moved.store(has_moved, Ordering::Release);
    }

    pub fn has_moved(&self) -> bool {
        self.has_moved.load(Ordering::Acquire)
    }

    pub fn retire(&self) {
        self.is_retired.store(true, Ordering::Release);
    }

    pub fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Acquire)
    }

    /// Of the slots given those that are not here, and are not longer than `kept` known to be gone.
    pub fn left_lately(&self, slots: SlotSet, here: &SlotSet, kept: Duration) -> SlotSet {
        let mut since = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        since.retain(|slot, _| slots.contains(*slot) && !here.contains(*slot));
        let mut lately = SlotSet::default();
        for slot in slots.iter().filter(|slot| !here.contains(*slot)) {
            if since.entry(slot).or_insert_with(Instant::now).elapsed() < kept {
                lately.insert(slot);
            }
        }
        lately
    }

    /// The last record that was read.
    pub fn known(&self) -> Option<Known> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.0.clone()
    }

    /// The last record that was read and was that of a whole server.
    pub fn known_whole(&self) -> Option<Known> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.1.clone()
    }

    /// Whether the record over this link was that of a whole server, and went with its slot.
    pub fn record_has_left(&self, link: &Link) -> bool {
        let was_whole = self.known_whole().filter(|was| was.is_of(link));
        let view = self.view();
        was_whole
            .zip(view)
            .is_some_and(|(was, view)| !view.slots.contains(super::slots::slot_of(&was.key)))
    }

    /// Where the record may be: where it belongs, and where it was while that slot is here.
    pub fn record_keys(&self, keys: &Keys) -> Vec<String> {
        let Some(view) = self.view() else {
            return vec![keys.store("")];
        };
        let mut all: Vec<String> = Vec::with_capacity(2);
        all.extend(view.record_key(keys));
        let before = self.known().map(|known| known.key);
        let is_here = |key: &String| view.slots.contains(super::slots::slot_of(key));
        all.extend(before.filter(|key| is_here(key) && !all.contains(key)));
        all
    }

    /// Where the record was last found; where there is none, the place that it belongs to.
    pub fn record_key(&self, keys: &Keys) -> String {
        let possible = self.record_keys(keys);
        let last = self.known().map(|known| known.key);
        match last.filter(|last| possible.contains(last)) {
            Some(last) => last,
            None => possible
                .into_iter()
                .next()
                .unwrap_or_else(|| keys.store("")),
        }
    }

    /// Notes an error: the first refusal of an outage is an alarm that names it.
    pub fn hear(&self, error: &MailboxError, metrics: &Metrics) {
        let MailboxError::Refusing(reason) = error else {
            return;
        };
        let kind = StoreRefusal::of(reason);
        metrics.store_refused(kind);
        // A command that is forbidden says nothing of the others.
        if kind == StoreRefusal::Other {
            return;
        }
        let mut refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        if refusal.is_none() {
            tracing::error!("Redis is up and refuses, so nothing is delivered: {reason}");
            *refusal = Some(reason.clone());
        }
    }

    /// Whether the store may be used over this link.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn permits(&self, link: &Link) -> Result<(), MailboxError> {
        let demand = *self.demand.read().unwrap_or_else(PoisonError::into_inner);
        let refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(reason), true) = (&*refusal, demand != Demand::Any) {
            return Err(MailboxError::Refusing(reason.clone()));
        }
        let record = self.record.borrow();
        let is_enough = match demand {
            Demand::Any => true,
            Demand::Filled => record.id.is_some(),
            Demand::Whole(id) => {
                id.is_some() && record.id == id && record.epoch == Some(link.epoch())
            }
        };
        match is_enough {
            true => Ok(()),
            false => Err(MailboxError::Incomplete(describe(record.under_way))),
        }
    }
}

fn describe(under_way: Option<Progress>) -> String {
    match under_way {
        None => "whether it lost anything is not known yet".to_owned(),
        Some(Progress { kind, next, last }) => {
            let what = match kind {
                RebuildKind::Empty => "it was emptied, and is rebuilt from EVENTS",
                RebuildKind::Back => "it may have gone back, and is compared with EVENTS",
            };
            format!("{what}, at {next} of {last}")
        }
    }
}
