//! Before a source is pulled: what was delivered and not acknowledged is looked at once.
//!
//! Two kinds of messages are among it. Some the client library cannot read; they broke the
//! connection they came over and would break the next. They are read as JSON, kept in
//! `DEAD_LETTERS` and removed from the stream. Others were on their way when this worker's own
//! connection broke, or when it stopped pulling; they would come again after ten seconds, behind
//! later ones. They are given back at once, so that a partition keeps its order. Of the events
//! without a key other workers may hold some of what is given back: those come once more, and are
//! found in the mailboxes. What this worker itself holds, with nothing but the acknowledgement
//! missing, is left out.

use std::collections::HashSet;

use bytes::Bytes;
use tracing::{debug, warn};

use super::Shared;
use super::batch::count_refused;
use super::dead_letter::DeadLetter;
use crate::bus::{
    BusError, Pending, Source, StoredMessage, judge, next_stored, pending, remove_stored,
};

/// A source that begins to be pulled in order is not examined where more than this is pending: most
/// of it the last owner holds and acknowledges. Should any of it be unreadable, the pulls break over
/// it once, and begin anew with an examination.
const EXAMINED_AT_START_MAX: usize = 64;

/// What is to be looked at.
#[derive(Default)]
pub(super) struct Examination {
    /// This worker pulled the source, and holds of it no more than `held` says: all else that can be
    /// read is given back.
    pub give_back: bool,
    /// Sequences of what this worker itself holds: left out.
    pub held: HashSet<u64>,
    /// Everything up to this sequence is left out as well.
    pub after: u64,
}

/// Looks at what is pending.
///
/// # Errors
///
/// Where NATS does not answer. What was done stays done; the whole can be repeated.
pub(super) async fn examine(
    shared: &Shared,
    source: Source,
    examination: &Examination,
) -> Result<(), BusError> {
    let Examination {
        give_back, held, ..
    } = examination;
    let pending = pending(&shared.bus, source).await?;
    let is_too_much = !give_back && pending.count > EXAMINED_AT_START_MAX;
    if pending.count == 0 || is_too_much {
        return Ok(());
    }
    let mut given_back = 0_u64;
    let mut next = pending.first_sequence.max(examination.after + 1);
    while next <= pending.last_sequence {
        let stored = match next_stored(&shared.bus, source, next).await {
            Err(BusError::NotFound(_)) => break,
            stored => stored?,
        };
        if stored.sequence > pending.last_sequence {
            break;
        }
        next = stored.sequence + 1;
        if held.contains(&stored.sequence) {
            continue;
        }
        if let Err(unreadable) = judge(&stored) {
            let sequence = stored.sequence;
            put_away(shared, stored, &unreadable.to_string()).await?;
            answer_for(shared, source, &pending, sequence, b"+TERM").await?;
        } else if *give_back {
            answer_for(shared, source, &pending, stored.sequence, b"-NAK").await?;
            given_back += 1;
        }
    }
    debug!(
        ?source,
        pending = pending.count,
        given_back,
        "examined what is pending"
    );
    Ok(())
}

async fn put_away(shared: &Shared, stored: StoredMessage, reason: &str) -> Result<(), BusError> {
    let sequence = stored.sequence;
    let publishers_subject = shared.bus.names.publishers_subject(&stored.subject);
    count_refused(shared, &publishers_subject);
    let letter = DeadLetter {
        publishers_subject,
        reason: reason.to_owned(),
        sequence,
        time_ms: stored.time_ms,
        body: Bytes::from(stored.data),
    };
    letter.keep(shared).await;
    remove_stored(&shared.bus, sequence).await?;
    warn!(
        sequence,
        reason, "an event that cannot be read went to DEAD_LETTERS"
    );
    Ok(())
}

/// Answers a delivery that this worker never got, on the subject that it must have had:
/// `$JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.<consumer sequence>.<time>.<pending>`
/// (NATS ADR-15). The server passes over it where the message is not pending. Its own answer says
/// that all before it is done too, so that what is given back comes before later messages.
async fn answer_for(
    shared: &Shared,
    source: Source,
    pending: &Pending,
    sequence: u64,
    answer: &'static [u8],
) -> Result<(), BusError> {
    let names = &shared.bus.names;
    let subject = format!(
        "$JS.ACK.{}.{}.1.{sequence}.{}.0.0",
        names.events_stream(),
        source.consumer(names),
        pending.last_delivery
    );
    let answered = (shared.bus.client)
        .request(subject, Bytes::from_static(answer))
        .await;
    answered.map_err(|error| BusError::Unreachable(error.to_string()))?;
    Ok(())
}
