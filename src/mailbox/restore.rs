//! Messages put back into mailboxes that lost them, in as few calls as may be.

use std::collections::HashMap;

use futures_util::{StreamExt as _, TryStreamExt as _};

use super::append::lane_number;
use super::link::random_life;
use super::{Append, Link, MailboxError, scripts};
use crate::event::UserId;
use crate::protocol::Lane;
use crate::telemetry::{MailboxOperation, MessageOutcome};

/// Most entries and bytes in one call, unless one entry alone is larger.
const CALL_ENTRIES_MAX: usize = 128;
const CALL_BYTES_MAX: usize = 256 * 1024;
/// Most calls under way at once.
const CALLS_MAX: usize = 64;

pub(super) async fn restore(
    link: &Link,
    name: &str,
    kind: &str,
    batch: &[Append],
) -> Result<u64, MailboxError> {
    let mut lanes: HashMap<(&UserId, Lane), Vec<&str>> = HashMap::new();
    for append in batch {
        let entries = lanes.entry((&append.user, append.lane)).or_default();
        entries.push(append.entry.as_str());
    }
    futures_util::stream::iter(lanes)
        .map(|((user, lane), entries)| async move {
            let mut restored = 0;
            let mut rest = &entries[..];
            while !rest.is_empty() {
                let (some, after) = rest.split_at(call_length(rest));
                rest = after;
                restored += call(link, name, kind, user, lane, some).await?;
            }
            Ok(restored)
        })
        .buffer_unordered(CALLS_MAX)
        .try_fold(0, async |sum, restored| Ok(sum + restored))
        .await
}

async fn call(
    link: &Link,
    name: &str,
    kind: &str,
    user: &UserId,
    lane: Lane,
    entries: &[&str],
) -> Result<u64, MailboxError> {
    let limits = link.limits();
    let mut script = link.script(&scripts::RESTORE, user);
    script
        .arg(link.epoch().to_string())
        .arg(lane_number(lane))
        .arg(limits.ttl_ms)
        .arg(limits.hash_ttl_ms())
        .arg(limits.cap)
        .arg(name)
        .arg(kind)
        .arg(random_life().0.to_string());
    for entry in entries {
        script.arg(*entry);
    }
    let mut reply = link.call(MailboxOperation::Restore, user, &script).await?;
    let (restored, evicted) = (reply.number()?, reply.number()?);
    let metrics = link.metrics();
    metrics.message(MessageOutcome::Restored, restored);
    metrics.message(MessageOutcome::Evicted, evicted);
    Ok(restored)
}

fn call_length(entries: &[&str]) -> usize {
    let mut bytes = 0;
    let fits = entries.iter().take(CALL_ENTRIES_MAX).take_while(|entry| {
        bytes += entry.len();
        bytes <= CALL_BYTES_MAX
    });
    fits.count().max(1)
}
