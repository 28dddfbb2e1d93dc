//! Messages into mailboxes, until all of a batch are in.

use std::time::Duration;

use tokio::time::Instant;

use super::hold::Stamp;
use super::{Shared, WorkerError};
use crate::mailbox::{Append, Appended, MailboxError};
use crate::protocol::Epoch;

/// Most batches that are stored at one time: with more, the last replies of a store that has to
/// look for each entry would come too late and count as lost.
pub(super) const APPENDS_MAX: usize = 8;
/// Waits between attempts, doubled from the first to the last.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Where the messages of a batch were stored, all in the epoch of one link.
pub(super) struct Stored {
    pub stamp: Stamp,
    /// In the order of the appends.
    pub appended: Vec<Appended>,
}

/// The store is on another time line than what waits for its confirmation.
pub(super) struct Overtaken;

/// Stores all of `appends`, whatever it takes. `is_repeat` says that some may be there already.
///
/// Only what failed is tried again, in order and with a look for what is there: no later message
/// of a user goes in before an earlier one. Where the store's epoch changed on the way, what it
/// had taken before may be lost, and all of the batch is stored again. Where `expected` is given and
/// the store is on another time line, nothing is stored: what was there before goes first.
///
/// # Errors
///
/// Where the store cannot be used at all.
pub(super) async fn append_all(
    shared: &Shared,
    appends: &[Append],
    is_repeat: bool,
    expected: Option<Epoch>,
) -> Result<Result<Stored, Overtaken>, WorkerError> {
    let mut appended: Vec<Option<Appended>> = vec![None; appends.len()];
    let mut epoch = None;
    let mut is_repeat = is_repeat;
    let mut wait = RETRY_MIN;
    loop {
        let link = shared.gate.link().await?;
        if expected.is_some_and(|expected| expected != link.epoch()) {
            return Ok(Err(Overtaken));
        }
        if epoch.replace(link.epoch()) != Some(link.epoch()) {
            appended.fill(None);
        }
        let left: Vec<usize> = (0..appends.len())
            .filter(|&index| appended[index].is_none())
            .collect();
        // The usual case is the whole batch, which need not be copied.
        let copied: Vec<Append>;
        let tried = match left.len() == appends.len() {
            true => appends,
            false => {
                copied = left.iter().map(|&index| appends[index].clone()).collect();
                &copied
            }
        };
        // Never closed; without a permit there is one append more.
        let permit = shared.appends.acquire().await.ok();
        let outcomes = match (is_repeat, link.is_young()) {
            (true, _) => link.append_once(tried).await,
            (false, true) => link.append_first(tried).await,
            (false, false) => link.append(tried).await,
        };
        drop(permit);
        let mut failure = None;
        for (&index, outcome) in left.iter().zip(outcomes) {
            match outcome {
                Ok(outcome) => appended[index] = Some(outcome),
                Err(error) => failure = Some(telling(failure, error)),
            }
        }
        let Some(failure) = failure else {
            shared.gate.note(Ok(()))?;
            return Ok(Ok(Stored {
                stamp: Stamp {
                    link,
                    at: Instant::now(),
                },
                appended: appended.into_iter().flatten().collect(),
            }));
        };
        shared.gate.note(Err(failure))?;
        is_repeat = true;
        tokio::time::sleep(wait).await;
        wait = (2 * wait).min(RETRY_MAX);
    }
}

/// Of two failures in one batch the one that says more: entries that were not tried say nothing,
/// and one error ends the worker.
fn telling(known: Option<MailboxError>, other: MailboxError) -> MailboxError {
    match (known, other) {
        (Some(known @ MailboxError::Unsuitable(_)), _) => known,
        (Some(known), MailboxError::Skipped) => known,
        (_, other) => other,
    }
}
