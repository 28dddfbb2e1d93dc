//! What shows that the stream `BROADCASTS` lost messages: a message that it had, by its place and
//! the time at which it was stored there.
//!
//! A stream that lost its last messages gives their sequences to others. The newest message that
//! anybody saw is then not there, or it is another one: a later event has another time. Each gateway
//! remembers the newest that it read. For the case that all gateways restart with NATS, the newest of
//! them all is in the store, at most [`WRITE_PAUSE`] old.

use std::sync::LazyLock;
use std::time::Duration;

use redis::Script;

use super::node::Node;
use super::ring::Mark;
use crate::bus::{BroadcastsStream, Bus, BusError, broadcast_time_ms};
use crate::mailbox::{Keys, MailboxError};
use crate::protocol::Everyone;

/// Least time between two writes of the mark: one command a second and gateway, at most.
const WRITE_PAUSE: Duration = Duration::from_secs(1);

static RAISE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("mark.lua")));

/// Whether a stream lost what the mark names. A message that is not there although later ones are
/// says nothing: it expired, or was removed by hand.
///
/// # Errors
///
/// Where the stream cannot be asked.
pub async fn has_lost(bus: &Bus, found: &BroadcastsStream, mark: &Mark) -> Result<bool, BusError> {
    let Mark { place, stored_ms } = *mark;
    if place.creation != found.time_line {
        // On a later time line the loss was noticed; on an earlier one the stream went back to
        // before that, or it was made anew by a server whose clock is behind.
        return Ok(found.time_line < place.creation);
    }
    if place.sequence > found.last_sequence {
        return Ok(true);
    }
    if stored_ms == 0 {
        return Ok(false);
    }
    let stored = broadcast_time_ms(bus, place.sequence).await?;
    Ok(stored.is_some_and(|stored| stored != stored_ms))
}

/// The newest message that any gateway saw, as the store has it.
///
/// # Errors
///
/// Where the store does not answer.
pub async fn stored(node: &Node) -> Result<Option<Mark>, MailboxError> {
    let link = (node.store.key(Keys::newest_broadcast).connect()).await?;
    let key = link.keys().newest_broadcast();
    let text: Option<String> = redis::cmd("GET")
        .arg(key)
        .query_async(&mut link.raw())
        .await
        .map_err(|error| link.judge(error))?;
    Ok(text.as_deref().and_then(parse))
}

/// Keeps the store's mark at the newest message of this node or a later one. Never ends.
pub async fn keep(node: &Node) -> std::convert::Infallible {
    let mut changes = node.ring.changes();
    let mut written = None;
    loop {
        let mark = node.ring.mark();
        if mark.stored_ms > 0 && written != Some(mark) && raise(node, &mark).await.is_ok() {
            written = Some(mark);
        }
        // What goes wrong is told by whoever renews the lease.
        tokio::time::sleep(WRITE_PAUSE).await;
        if written == Some(node.ring.mark()) {
            // The ring lives as long as the node: there is no error.
            let _ = changes.changed().await;
        }
        changes.mark_unchanged();
    }
}

async fn raise(node: &Node, mark: &Mark) -> Result<(), MailboxError> {
    let link = (node.store.key(Keys::newest_broadcast).connect()).await?;
    let mut script = RAISE.key(link.keys().newest_broadcast());
    script
        .arg(mark.place.creation)
        .arg(mark.place.sequence)
        .arg(mark.stored_ms);
    let _: redis::Value =
        (script.invoke_async(&mut link.raw()).await).map_err(|error| link.judge(error))?;
    Ok(())
}

fn parse(text: &str) -> Option<Mark> {
    let mut numbers = text.split(' ').map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some(Mark {
        place: Everyone {
            creation: next()?,
            sequence: next()?,
        },
        stored_ms: next()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_and_junk_is_none() {
        let mark = Mark {
            place: Everyone {
                creation: 7,
                sequence: 8,
            },
            stored_ms: 9,
        };
        assert_eq!(parse("7 8 9"), Some(mark));
        for junk in ["", "7 8", "7 x 9", "-1 8 9"] {
            assert_eq!(parse(junk), None, "{junk}");
        }
    }
}
