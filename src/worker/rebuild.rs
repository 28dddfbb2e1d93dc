//! What the store lost, brought again from `EVENTS` into the mailboxes, in the order of the stream.
//!
//! Each event is judged as it was the first time, so it gives the same entry. Events for everyone
//! and ephemeral ones are in no mailbox. What came after the last delivered event comes by the
//! consumers as ever.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::Shared;
use super::batch::stored_part;
use super::whole::Hindrance;
use crate::bus::{
    Begin, Bus, BusConfig, BusError, Delivery, EventsStream, Follower, Routing, Source, connect,
    judge, next_event,
};
use crate::event::UserId;
use crate::mailbox::{Append, Entry, Link, Rebuild, RebuildKind, Shard, slot_of_user};

/// Most events and targets put back at one time: bounds memory, and what is done again where a
/// rebuild changes hands.
const BATCH_EVENTS_MAX: usize = 2_000;
const BATCH_TARGETS_MAX: usize = 20_000;
/// A batch is put back after so long, so that the lease is renewed.
const BATCH_TIME_MAX: Duration = Duration::from_secs(1);
/// How often the log says how far it has come.
const SAY: Duration = Duration::from_secs(2);
/// Most times that the reading begins anew without a message in between.
const ATTEMPTS_MAX: u32 = 5;
const RETRY: Duration = Duration::from_millis(200);
/// JetStream's clock may be so far from Redis's.
const CLOCK_MARGIN_MS: u64 = 60_000;

/// Where it is brought from.
pub(super) struct Origin {
    pub events: EventsStream,
    /// What was never delivered was never appended, and comes by its consumer.
    pub routing: Routing,
    /// That the store has to carry.
    pub id: Uuid,
}

struct Work<'a> {
    shared: &'a Shared,
    origin: &'a Origin,
    shard: &'a Shard,
    link: &'a Link,
    rebuild: Rebuild,
    /// The next sequence to read; 0: from the time on.
    next: u64,
    batch: Vec<Append>,
    batch_events: usize,
    batch_since: Instant,
    now_ms: u64,
    read: u64,
    restored: u64,
}

/// Brings all that may be missing, and then declares the store whole.
///
/// # Errors
///
/// What stopped it; the record says how far it came, and whoever has the lease next goes on there.
pub(super) async fn rebuild(
    shared: &Shared,
    config: &BusConfig,
    origin: &Origin,
    shard: &Shard,
    link: &Link,
    rebuild: Rebuild,
) -> Result<(), Hindrance> {
    let progress = rebuild.progress;
    let silent_seconds = rebuild.silent.map(|silent| silent.as_secs_f64());
    match progress.kind {
        RebuildKind::Empty => warn!(
            next = progress.next,
            last = progress.last,
            "the store was emptied: its mailboxes are rebuilt from EVENTS, and nothing is delivered \
             until they are there"
        ),
        RebuildKind::Back => info!(
            next = progress.next,
            last = progress.last,
            silent_seconds,
            "the store was restarted or promoted, and may have gone back: comparing it with EVENTS"
        ),
    }
    let started = Instant::now();
    let mut work = Work {
        shared,
        origin,
        shard,
        link,
        next: progress.next,
        rebuild,
        batch: Vec::new(),
        batch_events: 0,
        batch_since: started,
        now_ms: link.now_ms().await?,
        read: 0,
        restored: 0,
    };
    if progress.kind == RebuildKind::Empty && progress.next == 0 {
        // What others still append without knowing is either there now, or never will be.
        link.cut_others_off().await?;
    }
    work.read_all(config).await?;
    work.flush(Some(origin.id)).await?;
    info!(
        events = work.read,
        restored = work.restored,
        seconds = started.elapsed().as_secs_f64(),
        "the store is complete again"
    );
    Ok(())
}

impl Work<'_> {
    async fn read_all(&mut self, config: &BusConfig) -> Result<(), Hindrance> {
        let config = BusConfig {
            name: format!("{}-rebuild", config.name),
            ..config.clone()
        };
        let mut attempts = 0;
        loop {
            // A connection of its own: a message that cannot be read breaks it.
            let bus = connect(&config, &CancellationToken::new()).await?;
            let read = self.read;
            match self.read_on(&bus).await {
                Ok(()) => return Ok(()),
                Err(Hindrance::Bus(error)) if error.is_retryable() => {
                    attempts = if self.read > read { 1 } else { attempts + 1 };
                    if attempts > ATTEMPTS_MAX {
                        return Err(error.into());
                    }
                    debug!(%error, "the events are read anew");
                }
                Err(error) => return Err(error),
            }
            self.pass_unreadable().await?;
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Reads until the last event that may be missing.
    async fn read_on(&mut self, bus: &Bus) -> Result<(), Hindrance> {
        let begin = match self.next {
            0 => {
                let ttl_ms = u64::try_from(self.shared.limits.ttl_max.as_millis());
                let ttl_ms = ttl_ms.unwrap_or(u64::MAX).saturating_add(CLOCK_MARGIN_MS);
                Begin::TimeMs(self.now_ms.saturating_sub(ttl_ms))
            }
            next => Begin::Sequence(next),
        };
        let mut follower = Follower::of_events(bus, begin).await?;
        self.next = self.next.max(follower.first);
        let read = self.read_with(&mut follower, bus).await;
        // Over the connection that nothing in the stream can break.
        follower.end(&self.shared.bus).await;
        read
    }

    async fn read_with(&mut self, follower: &mut Follower, bus: &Bus) -> Result<(), Hindrance> {
        let mut said = Instant::now();
        while follower.pending > 0 && self.next <= self.rebuild.progress.last {
            let lost = || BusError::Unreachable("the connection was given up".to_owned());
            let delivery = tokio::select! {
                delivery = follower.next() => delivery?,
                () = bus.closed().cancelled() => return Err(lost().into()),
            };
            if let Some(delivery) = delivery {
                self.take(delivery).await?;
            }
            if said.elapsed() > SAY {
                said = Instant::now();
                info!(
                    next = self.next,
                    last = self.rebuild.progress.last,
                    restored = self.restored,
                    "the store is being made whole"
                );
            }
        }
        Ok(())
    }

    async fn take(&mut self, delivery: Delivery) -> Result<(), Hindrance> {
        if delivery.sequence > self.rebuild.progress.last {
            self.next = delivery.sequence;
            return Ok(());
        }
        self.read += 1;
        let creation_ms = self.origin.events.creation_ms;
        // In a store that was emptied, what expired is told with all else that is not there.
        let is_due = |entry: &Entry| {
            self.rebuild.progress.kind == RebuildKind::Back || entry.expires_ms() > self.now_ms
        };
        let source = Source::of(&self.shared.bus.names, &delivery.message.subject);
        let stored = match self.origin.routing.has_delivered(source, delivery.sequence) {
            true => stored_part(self.shared, creation_ms, &delivery),
            false => None,
        };
        if let Some((users, lane, entry)) = stored.filter(|(_, _, entry)| is_due(entry)) {
            let slots = self.rebuild.slots.as_ref();
            let is_here =
                |user: &UserId| slots.is_none_or(|slots| slots.contains(slot_of_user(user)));
            self.batch
                .extend(users.into_iter().filter(is_here).map(|user| Append {
                    user,
                    lane,
                    entry: entry.clone(),
                }));
        }
        self.next = delivery.sequence + 1;
        self.batch_events += 1;
        let is_full = self.batch_events >= BATCH_EVENTS_MAX
            || self.batch.len() >= BATCH_TARGETS_MAX
            || self.batch_since.elapsed() >= BATCH_TIME_MAX;
        match is_full {
            true => self.flush(None).await,
            false => Ok(()),
        }
    }

    /// Puts the batch back, and notes how far that is.
    async fn flush(&mut self, done: Option<Uuid>) -> Result<(), Hindrance> {
        self.restored += self.link.restore(&self.rebuild, &self.batch).await?;
        self.batch.clear();
        self.batch_events = 0;
        self.batch_since = Instant::now();
        let worker = &self.shared.id;
        let is_ours = (self.link)
            .advance(worker, &self.rebuild, self.next, done)
            .await?;
        // Whoever waits for the store reads there how far it is.
        self.shard.look().await?;
        match is_ours {
            true => Ok(()),
            false => Err(Hindrance::TakenOver),
        }
    }

    /// Passes over what no connection can bring: it is put away as a dead letter when its source
    /// is pulled.
    async fn pass_unreadable(&mut self) -> Result<(), Hindrance> {
        while self.next > 0 && self.next <= self.rebuild.progress.last {
            match next_event(&self.shared.bus, self.next).await {
                Ok(stored) if judge(&stored).is_err() => self.next = stored.sequence + 1,
                Ok(_) | Err(BusError::NotFound(_)) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
