//! Messages into mailboxes, until all of a batch are in, and on to the gateways.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::hold::{Epochs, Stamp, Stamps};
use super::outbox::Outbox;
use super::{Shared, WorkerError};
use crate::bus::{Payload, Spot};
use crate::mailbox::{Append, Appended, Link, MailboxError, Shard};

/// Most batches that are stored at one time: with more, the last replies of a store that has to
/// look for each entry would come too late and count as lost.
pub(super) const APPENDS_MAX: usize = 8;
/// Waits between attempts, doubled from the first to the last.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// The store is on another time line than what waits for its confirmation.
pub(super) struct Overtaken;

/// What is to be stored, event by event.
#[derive(Default)]
pub(super) struct Batch {
    pub appends: Vec<Append>,
    /// Of each append, which of the payloads it is of; rising.
    pub events: Vec<usize>,
    pub payloads: Vec<Payload>,
    /// Some may be there already.
    pub is_repeat: bool,
}

/// The part of a batch that is on one server of the store.
struct Part<'a> {
    shared: &'a Shared,
    batch: &'a Batch,
    shard: Shard,
    /// Which of the appends; rising.
    indexes: Vec<usize>,
    is_repeat: bool,
}

/// How a part ended.
struct Ended {
    /// What was stored, and over which link; not given where that was nothing.
    stored: Option<(Link, Vec<usize>)>,
    /// When the last reply was there.
    at: Instant,
    /// Not stored: the users are on another server of the cluster now.
    moved: Vec<usize>,
}

/// Stores all of a batch, whatever it takes, and forwards what its users' connections shall have.
/// Returns by event over which links that was. Where `expected` knows another time line of a server
/// than the server is on, it is not gone on with: what was there before goes first.
///
/// # Errors
///
/// Where the store cannot be used at all.
pub(super) async fn append_all(
    shared: &Shared,
    batch: &Batch,
    expected: &Epochs,
) -> Result<Result<Vec<Stamps>, Overtaken>, WorkerError> {
    let mut left: Vec<usize> = (0..batch.appends.len()).collect();
    let mut all = Vec::new();
    let mut is_repeat = batch.is_repeat;
    while !left.is_empty() {
        let mut is_overtaken = false;
        let parts = parts_of(shared, batch, std::mem::take(&mut left), is_repeat).await?;
        for ended in join_all(parts.into_iter().map(|part| part.store(expected))).await {
            match ended? {
                Ok(mut ended) => {
                    left.append(&mut ended.moved);
                    all.push(ended);
                }
                Err(Overtaken) => is_overtaken = true,
            }
        }
        if is_overtaken {
            return Ok(Err(Overtaken));
        }
        if !left.is_empty() {
            left.sort_unstable();
            is_repeat = true;
            tokio::time::sleep(RETRY_MIN).await;
        }
    }
    Ok(Ok(stamps(batch, all)))
}

/// By the servers that the users are on.
async fn parts_of<'a>(
    shared: &'a Shared,
    batch: &'a Batch,
    indexes: Vec<usize>,
    is_repeat: bool,
) -> Result<Vec<Part<'a>>, WorkerError> {
    let part = |(shard, indexes)| Part {
        shared,
        batch,
        shard,
        indexes,
        is_repeat,
    };
    if let Some(shard) = shared.store.only_server() {
        return Ok(vec![part((shard, indexes))]);
    }
    let mut by_server: HashMap<Arc<str>, (Shard, Vec<usize>)> = HashMap::new();
    for index in indexes {
        let shard = shared.gate.shard(&batch.appends[index].user).await?;
        let name = Arc::clone(shard.name());
        let (_, indexes) = by_server.entry(name).or_insert_with(|| (shard, Vec::new()));
        indexes.push(index);
    }
    Ok(by_server.into_values().map(part).collect())
}

/// By event, over which links it was stored; in a cluster also in which slots.
fn stamps(batch: &Batch, all: Vec<Ended>) -> Vec<Stamps> {
    let mut stamps: Vec<Vec<Stamp>> = vec![Vec::new(); batch.payloads.len()];
    for Ended { stored, at, .. } in all {
        let Some((link, indexes)) = stored else {
            continue;
        };
        if !link.is_cluster() {
            let shared = Stamps::from([Stamp::new(&link, at)]);
            // All of the batch; one allocation does for it.
            let mut of_all = vec![Stamps::default(); batch.payloads.len()];
            for index in indexes {
                of_all[batch.events[index]] = Arc::clone(&shared);
            }
            return of_all;
        }
        for events in indexes.chunk_by(|one, other| batch.events[*one] == batch.events[*other]) {
            let mut stamp = Stamp::new(&link, at);
            let users = events.iter().map(|index| &batch.appends[*index].user);
            stamp.slots.extend(users.map(crate::mailbox::slot_of_user));
            stamp.slots.sort_unstable();
            stamp.slots.dedup();
            stamps[batch.events[events[0]]].push(stamp);
        }
    }
    stamps.into_iter().map(Stamps::from).collect()
}

impl Part<'_> {
    /// Stores the part. Only what failed is tried again, in order and with a look for what is
    /// there: no later message of a user goes in before an earlier one. Where the server's epoch
    /// changed on the way, what it had taken before may be lost, and all of the part is stored again.
    async fn store(self, expected: &Epochs) -> Result<Result<Ended, Overtaken>, WorkerError> {
        let mut appended: Vec<Option<Appended>> = vec![None; self.indexes.len()];
        let mut epoch = None;
        let mut is_repeat = self.is_repeat;
        let mut wait = RETRY_MIN;
        loop {
            let Some(link) = self.shared.gate.link(&self.shard).await? else {
                // What it took is with another server now, which finds it there, or lost.
                appended.fill(None);
                return Ok(Ok(self.ended(None, appended).await));
            };
            let expected = expected.get(self.shard.name());
            if expected.is_some_and(|expected| *expected != link.epoch()) {
                return Ok(Err(Overtaken));
            }
            if epoch.replace(link.epoch()) != Some(link.epoch()) {
                appended.fill(None);
            }
            let failure = self.attempt(&link, &mut appended, is_repeat).await;
            match failure {
                None => {
                    self.shared.gate.note(Ok(()))?;
                    return Ok(Ok(self.ended(Some(link), appended).await));
                }
                Some(MailboxError::Moved(reason)) => {
                    tracing::debug!(reason, "a part of a batch looks for its users");
                    return Ok(Ok(self.ended(Some(link), appended).await));
                }
                Some(failure) => self.shared.gate.note(Err(failure))?,
            }
            is_repeat = true;
            tokio::time::sleep(wait).await;
            wait = (2 * wait).min(RETRY_MAX);
        }
    }

    /// Tries what is not stored yet. Returns why some of it failed.
    async fn attempt(
        &self,
        link: &Link,
        appended: &mut [Option<Appended>],
        is_repeat: bool,
    ) -> Option<MailboxError> {
        let all = &self.batch.appends;
        let left: Vec<usize> = (0..appended.len())
            .filter(|&position| appended[position].is_none())
            .collect();
        // The usual case is the whole batch, which need not be copied.
        let copied: Vec<Append>;
        let tried = match left.len() == all.len() {
            true => all,
            false => {
                let indexes = left.iter().map(|&position| self.indexes[position]);
                copied = indexes.map(|index| all[index].clone()).collect();
                &copied
            }
        };
        // Never closed; without a permit there is one append more.
        let permit = self.shared.appends.acquire().await.ok();
        let outcomes = match (is_repeat, link.is_young()) {
            (true, _) => link.append_once(tried).await,
            (false, true) => link.append_first(tried).await,
            (false, false) => link.append(tried).await,
        };
        drop(permit);
        let mut failure = None;
        for (&position, outcome) in left.iter().zip(outcomes) {
            match outcome {
                Ok(outcome) => appended[position] = Some(outcome),
                Err(error) => failure = Some(telling(failure, error)),
            }
        }
        failure
    }

    /// Forwards what was stored.
    async fn ended(self, link: Option<Link>, appended: Vec<Option<Appended>>) -> Ended {
        let at = Instant::now();
        let mut stored = Vec::with_capacity(self.indexes.len());
        let mut moved = Vec::new();
        let mut outbox = Outbox::new(self.shared.bus.client.max_payload());
        let mut event = None;
        for (index, appended) in self.indexes.into_iter().zip(appended) {
            let Some(appended) = appended else {
                moved.push(index);
                continue;
            };
            let current = self.batch.events[index];
            if event.replace(current).is_some_and(|event| event != current) {
                outbox.end_of_event();
            }
            let append = &self.batch.appends[index];
            let spot = Spot {
                lane: append.lane,
                place: appended.place,
                life: appended.life,
            };
            let payload = &self.batch.payloads[current];
            outbox.add(payload, &append.user, &appended.connections, Some(spot));
            stored.push(index);
        }
        if let Some(link) = &link {
            self.shared.links.send(outbox, link).await;
        }
        Ended {
            stored: link
                .filter(|_| !stored.is_empty())
                .map(|link| (link, stored)),
            at,
            moved,
        }
    }
}

/// Of two failures in one batch the one that says more: entries that were not tried say nothing,
/// one error ends the worker, and what moved is tried elsewhere with all else.
fn telling(known: Option<MailboxError>, other: MailboxError) -> MailboxError {
    match (known, other) {
        (Some(known @ (MailboxError::Unsuitable(_) | MailboxError::Moved(_))), _) => known,
        (Some(known), MailboxError::Skipped) => known,
        (_, other) => other,
    }
}
