//! What is known of the store beside its mailboxes: whether it may be used, and what it lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use tokio::sync::watch;
use uuid::Uuid;

use super::record::{Progress, RebuildKind, Record};
use super::{Link, MailboxError};
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
    pub no_trim_before_ms: u64,
}

/// Shared by a store and its links.
pub(super) struct Condition {
    demand: RwLock<Demand>,
    record: watch::Sender<Record>,
    wiped_ms: AtomicU64,
    lost_ms: AtomicU64,
    /// Why the server refuses, from the first refusal to the first write that it takes.
    refusal: Mutex<Option<String>>,
}

impl Default for Condition {
    fn default() -> Condition {
        Condition {
            demand: RwLock::new(Demand::Any),
            record: watch::Sender::default(),
            wiped_ms: AtomicU64::new(0),
            lost_ms: AtomicU64::new(0),
            refusal: Mutex::default(),
        }
    }
}

impl Condition {
    pub fn set_demand(&self, demand: Demand) {
        *self.demand.write().unwrap_or_else(PoisonError::into_inner) = demand;
        // Whoever waits for a store that will do looks again.
        self.record.send_modify(|_| ());
    }

    pub fn records(&self) -> watch::Receiver<Record> {
        self.record.subscribe()
    }

    pub fn loss(&self, ttl_ms: u64) -> Loss {
        let wiped_ms = self.wiped_ms.load(Ordering::Acquire);
        Loss {
            lost_ms: self.lost_ms.load(Ordering::Acquire),
            no_trim_before_ms: match wiped_ms {
                0 => 0,
                wiped_ms => wiped_ms + ttl_ms,
            },
        }
    }

    /// Notes a record that was just read, after a write that the server took.
    pub fn note(&self, record: Record) {
        self.wiped_ms.store(record.wiped_ms, Ordering::Release);
        self.lost_ms.store(record.lost_ms, Ordering::Release);
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
