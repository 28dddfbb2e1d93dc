//! The confirmer: asks the store, while any acknowledgement is held, how far what was appended is
//! there to stay.
//!
//! `delayed` asks over the very connection of the appends: an answer on the same time line proves
//! that neither the server nor the connection was lost since, and time does the rest. `fsync` and
//! `replica` write a mark over a connection of their own, since the answer blocks it, and wait
//! until the mark is on the disk or on a replica: what was appended before the mark is there too.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use redis::Value;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::durability::{Durability, Rule, info as server_info, inspect};
use super::hold::{Confirmation, Holds, Slots};
use super::{DURABILITY, WorkerError};
use crate::mailbox::{Link, MailboxError, Shard, Store, info_epoch, info_field};
use crate::telemetry::{Health, MailboxOperation, Metrics};

/// How often the store is asked; an acknowledgement is held this much longer than it must.
const PERIOD: Duration = Duration::from_millis(250);
/// How long the server may block for one mark: shorter than the longest wait for a reply.
const MARK_MILLISECONDS_MAX: u64 = 1_500;
/// How long a mark stays in the store when its worker is gone.
const MARK_KEPT_MILLISECONDS: u64 = 60_000;
/// Wait after a server that cannot be inspected.
const RETRY: Duration = Duration::from_millis(500);

pub(super) struct Confirmer {
    pub store: Store,
    pub holds: Arc<Holds>,
    pub health: Health,
    pub metrics: Arc<Metrics>,
    /// The worker's name, for its mark.
    pub worker: String,
    /// The servers that do not confirm, and why.
    pub failing: Mutex<HashMap<Arc<str>, String>>,
}

/// What is known of one connection.
struct Watched {
    shard: Shard,
    link: Link,
    /// From here on the server kept what it was given.
    since: Instant,
    rule: Rule,
    /// For marks.
    apart: Option<Link>,
    /// In a cluster.
    slots: Option<Arc<Slots>>,
}

impl Confirmer {
    /// Runs until `ends` is cancelled.
    ///
    /// # Errors
    ///
    /// Where the store can never confirm what is asked for.
    pub async fn run(self, ends: CancellationToken) -> Result<(), WorkerError> {
        if self.holds.durability == Durability::None {
            self.health.set(DURABILITY, Ok(()));
            ends.cancelled().await;
            return Ok(());
        }
        tokio::select! {
            result = self.follow_all() => result.map(|never| match never {}),
            () = ends.cancelled() => Ok(()),
        }
    }

    /// Each server by itself.
    async fn follow_all(&self) -> Result<Infallible, WorkerError> {
        let mut followed = HashSet::new();
        let mut following = FuturesUnordered::new();
        loop {
            for shard in self.store.shards() {
                if followed.insert(Arc::clone(shard.name())) {
                    following.push(self.follow(shard));
                }
            }
            tokio::select! {
                Some(ended) = following.next() => drop(followed.remove(&ended?)),
                () = sleep(RETRY) => {}
            }
        }
    }

    /// From one connection to the next. Returns the server's name once it serves nobody any more.
    async fn follow(&self, shard: Shard) -> Result<Arc<str>, WorkerError> {
        while !shard.is_retired() {
            let mut watched = match self.begin(&shard).await {
                Ok(watched) => watched,
                Err(MailboxError::Unsuitable(reason)) => {
                    return Err(WorkerError::Unsuitable(reason));
                }
                Err(error) => {
                    // The pull loops' own gate tells what is wrong with the store.
                    debug!(%error, "nothing can be confirmed");
                    sleep(RETRY).await;
                    continue;
                }
            };
            let mut is_failing = self.is_without_replica(&watched.link).await;
            while !watched.link.is_broken() {
                if !is_failing {
                    self.holds.any().await;
                    if watched.link.is_broken() {
                        break;
                    }
                }
                let outcome = self.confirm(&mut watched).await;
                is_failing = outcome.is_err();
                self.show(shard.name(), outcome);
                sleep(PERIOD).await;
            }
        }
        self.show(shard.name(), Ok(()));
        Ok(Arc::clone(shard.name()))
    }

    async fn begin(&self, shard: &Shard) -> Result<Watched, MailboxError> {
        let link = shard.connect().await?;
        let since = Instant::now();
        let rule = inspect(&link, self.holds.durability).await?;
        self.publish(&link, None, None);
        self.show(shard.name(), Ok(()));
        Ok(Watched {
            shard: shard.clone(),
            link,
            since,
            rule,
            apart: None,
            slots: None,
        })
    }

    /// Says at once what would otherwise show with the first event.
    async fn is_without_replica(&self, link: &Link) -> bool {
        if self.holds.durability != Durability::Replica {
            return false;
        }
        let replication = server_info(link, "replication").await;
        let is_without = replication
            .is_ok_and(|replication| info_field(&replication, "connected_slaves") == Some("0"));
        if is_without {
            self.show(link.server(), Err(no_replica()));
        }
        is_without
    }

    async fn confirm(&self, watched: &mut Watched) -> Result<(), MailboxError> {
        let start = Instant::now();
        let until = match self.holds.durability {
            Durability::Delayed => watched.watch().await,
            durability @ (Durability::Fsync | Durability::Replica) => {
                watched.mark(&self.worker, durability).await
            }
            Durability::None => Ok(Some(start)),
        };
        self.metrics
            .mailbox_operation(MailboxOperation::Confirm, start.elapsed().as_secs_f64());
        let until = until?;
        // Asked after the answer: a slot that is here now, and was, did not leave in between.
        watched.look_at_slots().await?;
        self.publish(&watched.link, until, watched.slots.clone());
        Ok(())
    }

    fn publish(&self, link: &Link, until: Option<Instant>, slots: Option<Arc<Slots>>) {
        self.holds.publish(Confirmation {
            link: link.clone(),
            until,
            slots,
        });
    }

    /// Tells health and log, each change once.
    fn show(&self, server: &Arc<str>, outcome: Result<(), MailboxError>) {
        let outcome = {
            let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
            match outcome {
                Ok(()) => failing.remove(server),
                Err(error) => failing.insert(Arc::clone(server), error.to_string()),
            };
            failing.values().next().cloned().map_or(Ok(()), Err)
        };
        let was_well = self.health.is_well(DURABILITY);
        match &outcome {
            Ok(()) if !was_well => info!("what is stored is confirmed again"),
            Err(reason) if was_well => {
                warn!(
                    reason,
                    "nothing is acknowledged: the store does not confirm it"
                );
            }
            _ => (),
        }
        self.health.set(DURABILITY, outcome);
    }
}

impl Watched {
    /// Asks over the connection of the appends.
    async fn watch(&mut self) -> Result<Option<Instant>, MailboxError> {
        let asked = Instant::now();
        let info = server_info(&self.link, "replication persistence").await?;
        let current = info_epoch(&info)
            .ok_or_else(|| MailboxError::Unexpected("no master_replid".to_owned()))?;
        if current != self.link.epoch() {
            return Err(self.link.judge(MailboxError::EpochChanged { current }));
        }
        if info_field(&info, "role") != Some("master") {
            let text = "READONLY: the server became a replica";
            return Err(self.link.judge(MailboxError::Refusing(text.to_owned())));
        }
        let good: Option<u64> =
            info_field(&info, "min_slaves_good_slaves").and_then(|text| text.parse().ok());
        if good.is_some_and(|good| good < self.rule.replicas_needed) {
            // It still answers, but another may be made primary, which lacks what this one took.
            let text = "NOREPLICAS: too few replicas answer the server";
            return Err(MailboxError::Refusing(text.to_owned()));
        }
        let is_failing = info_field(&info, "aof_enabled") == Some("1")
            && info_field(&info, "aof_last_write_status") != Some("ok");
        if is_failing {
            self.since = Instant::now();
            let text = "its append-only file cannot be written";
            return Err(MailboxError::Refusing(text.to_owned()));
        }
        Ok(asked
            .checked_sub(self.rule.hold)
            .filter(|until| *until >= self.since))
    }

    /// In a cluster, which slots the server has.
    async fn look_at_slots(&mut self) -> Result<(), MailboxError> {
        if self.link.is_cluster() {
            let settled = self.link.settled_slots().await?;
            self.slots = Some(match &self.slots {
                Some(before) => Slots::next(before, settled),
                None => Arc::new(Slots::new(settled)),
            });
        }
        Ok(())
    }

    /// Writes a mark and waits until it is on the disk, or on a replica.
    async fn mark(
        &mut self,
        worker: &str,
        durability: Durability,
    ) -> Result<Option<Instant>, MailboxError> {
        let apart = self.apart().await?;
        let mut wait = match durability {
            Durability::Replica => redis::cmd("WAIT"),
            _ => redis::cmd("WAITAOF"),
        };
        wait.arg(1);
        if durability != Durability::Replica {
            wait.arg(0);
        }
        wait.arg(MARK_MILLISECONDS_MAX);
        let mut pipeline = redis::pipe();
        pipeline
            .cmd("SET")
            .arg(self.shard.key_here(|keys| keys.mark(worker)))
            .arg(1)
            .arg("PX")
            .arg(MARK_KEPT_MILLISECONDS)
            .ignore();
        pipeline.add_command(wait);
        pipeline.cmd("INFO").arg("replication");
        let written = Instant::now();
        let answer = pipeline.query_async(&mut apart.raw()).await;
        let (count, info): (Value, String) = answer.map_err(|error| apart.judge(error))?;
        if info_epoch(&info) != Some(self.link.epoch()) {
            // A fresh one tells which of the two connections is behind.
            self.apart = None;
            let text = "the server changed its time line";
            return Err(MailboxError::Refusing(text.to_owned()));
        }
        match (durability, count) {
            (Durability::Replica, Value::Int(1..)) => Ok(Some(written)),
            (Durability::Replica, _) => Err(no_replica()),
            (_, Value::Array(counts)) if matches!(counts.first(), Some(Value::Int(1..))) => {
                Ok(Some(written))
            }
            _ => Err(MailboxError::Refusing(format!(
                "its disk did not take in {MARK_MILLISECONDS_MAX} ms what was written"
            ))),
        }
    }

    /// The connection for marks, to the server that the appends go to.
    async fn apart(&mut self) -> Result<Link, MailboxError> {
        let usable =
            |apart: &Link, link: &Link| !apart.is_broken() && apart.epoch() == link.epoch();
        if let Some(apart) = self
            .apart
            .as_ref()
            .filter(|apart| usable(apart, &self.link))
        {
            return Ok(apart.clone());
        }
        // Made after the appends' own: where these differ, the other one is behind.
        let apart = self.shard.connect_apart().await?;
        if apart.epoch() != self.link.epoch() {
            let current = apart.epoch();
            return Err(self.link.judge(MailboxError::EpochChanged { current }));
        }
        self.apart = Some(apart.clone());
        Ok(apart)
    }
}

fn no_replica() -> MailboxError {
    let text = "CATCHUP_DURABILITY=replica, and no replica confirms what is stored";
    MailboxError::Refusing(text.to_owned())
}
