//! Follows the stream `BROADCASTS` into the ring, over a connection of its own: what cannot be
//! read there must not break the one that forwards come over.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::node::Node;
use crate::bus::{
    Broadcast, BroadcastsStream, Bus, BusConfig, BusError, Follower, assert_broadcasts,
    begin_time_line, connect_reporting, next_broadcast,
};
use crate::mailbox::{MailboxError, Seen};
use crate::protocol::Everyone;

/// Pause before the stream is followed again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Most messages that are read one by one before the stream is followed again.
const STEPS_MAX: usize = 1_000;
/// How long a device may wait for this node to follow the stream that it comes from.
const CATCH_UP_MAX: Duration = Duration::from_secs(3);
/// The part of the node's health.
const COMPONENT: &str = "broadcasts";

/// Follows the stream until `ended`, through every outage. `loaded` becomes true once the ring
/// has all that the stream had at the start.
///
/// # Errors
///
/// Where the stream cannot be used as it is.
pub async fn follow(
    node: Arc<Node>,
    config: BusConfig,
    loaded: watch::Sender<bool>,
    ended: CancellationToken,
) -> Result<(), BusError> {
    let config = BusConfig {
        name: format!("{} broadcasts", config.name),
        ..config
    };
    let report = |reason: &str| node.health.set(COMPONENT, Err(reason.to_owned()));
    report("not loaded yet");
    let mut has_failed = false;
    loop {
        // A connection that a message broke may be given up for good.
        let bus = match connect_reporting(&config, &ended, report).await {
            Err(BusError::ShuttingDown) => return Ok(()),
            bus => bus?,
        };
        let error = tokio::select! {
            error = follow_once(&node, &bus, &loaded, has_failed) => error,
            () = ended.cancelled() => return Ok(()),
        };
        if !error.is_retryable() {
            return Err(error);
        }
        has_failed = true;
        report(&error.to_string());
        tracing::warn!("the broadcasts are followed anew: {error}");
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Follows the stream until something is wrong.
async fn follow_once(
    node: &Node,
    bus: &Bus,
    loaded: &watch::Sender<bool>,
    has_failed: bool,
) -> BusError {
    let followed = async {
        node.ring.begin(stream(node, bus).await?);
        if has_failed {
            step_on(node, bus).await?;
        }
        let mut follower = Follower::new(bus, node.ring.newest().sequence + 1).await?;
        let mut states = bus.state();
        loop {
            if follower.pending == 0 && !loaded.send_replace(true) {
                tracing::info!("the broadcasts that wait are loaded");
            }
            if *loaded.borrow() {
                node.health.set(COMPONENT, Ok(()));
            }
            tokio::select! {
                delivery = follower.next() => match delivery? {
                    Some(delivery) => take(node, delivery.sequence, &delivery.message.payload),
                    None => check(node, bus).await?,
                },
                () = node.ring_doubted.notified() => check(node, bus).await?,
                // Also where it is back already: begun anew, the ring asks for what follows it.
                _ = states.wait_for(|state| state.outages > 0) => {
                    return Err(lost("the connection was lost"));
                }
                () = bus.closed().cancelled() => return Err(lost("the connection was given up")),
            }
        }
    };
    let followed: Result<std::convert::Infallible, BusError> = followed.await;
    let Err(error) = followed;
    error
}

/// The stream, on a time line whose places go on from those of the ring.
async fn stream(node: &Node, bus: &Bus) -> Result<BroadcastsStream, BusError> {
    // Before the question. This node's ring is empty at first, but others may have seen more.
    let noted = node.store.records().borrow().everyone;
    let newest = node.ring.newest().max(noted.place);
    let found = assert_broadcasts(bus, node.message_ttl).await?;
    let goes_back = found.time_line == newest.creation
        && (found.last_sequence < newest.sequence
            || newest == noted.place && is_another(bus, noted).await?);
    if !goes_back && found.time_line >= newest.creation {
        return Ok(found);
    }
    tracing::error!("the stream BROADCASTS lost messages: every device is told");
    begin_time_line(bus, node.message_ttl, newest.creation).await
}

/// True where another event has the place of one that was seen: the stream went back, and has come
/// beyond it again. One that was removed since shows nothing.
async fn is_another(bus: &Bus, seen: Seen) -> Result<bool, BusError> {
    let stored = match next_broadcast(bus, seen.place.sequence).await {
        Err(BusError::NotFound(_)) => return Ok(false),
        stored => stored?,
    };
    let is_there = stored.sequence == seen.place.sequence;
    let same = |broadcast: Broadcast| broadcast.time_ms == seen.time_ms;
    Ok(is_there && !Broadcast::decode(&stored.data).is_ok_and(same))
}

/// Sees whether the stream is still the one that the ring follows.
async fn check(node: &Node, bus: &Bus) -> Result<(), BusError> {
    // Before the question, so that what arrives meanwhile makes no difference.
    let newest = node.ring.newest();
    let found = assert_broadcasts(bus, node.message_ttl).await?;
    match found.time_line == newest.creation && found.last_sequence >= newest.sequence {
        true => Ok(()),
        false => Err(lost("the stream BROADCASTS is another one")),
    }
}

/// Reads messages one by one, as JSON, which the client library can always read: one that it
/// cannot read otherwise broke the connection, or may do so next.
async fn step_on(node: &Node, bus: &Bus) -> Result<(), BusError> {
    for _ in 0..STEPS_MAX {
        match next_broadcast(bus, node.ring.newest().sequence + 1).await {
            Ok(stored) => take(node, stored.sequence, &stored.data),
            Err(BusError::NotFound(_)) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn take(node: &Node, sequence: u64, payload: &[u8]) {
    let broadcast = Broadcast::decode(payload);
    if let Err(error) = &broadcast {
        tracing::warn!(sequence, "a message in BROADCASTS is left out: {error}");
    }
    let now_ms = node.store_clock.now_ms();
    node.ring.push(sequence, broadcast.ok(), now_ms);
}

fn lost(reason: &str) -> BusError {
    BusError::Unreachable(reason.to_owned())
}

/// The place itself, or [`Everyone::LOST`] where the stream lost what it names.
///
/// One ahead of this node's ring may come from a node that was ahead. Then it is right: the ring
/// gets there. Another time line is waited for, since its sequences mean nothing here.
///
/// # Errors
///
/// Where the stream cannot be asked.
pub async fn known_place(node: &Node, place: Everyone) -> Result<Everyone, MailboxError> {
    if place <= node.ring.newest() {
        return Ok(place);
    }
    let unreachable = |error: &dyn std::fmt::Display| MailboxError::Unreachable(error.to_string());
    let bus = (node.bus()).ok_or_else(|| unreachable(&"no connection to NATS"))?;
    let found =
        (assert_broadcasts(&bus, node.message_ttl).await).map_err(|error| unreachable(&error))?;
    if place.creation != found.time_line || place.sequence > found.last_sequence {
        return Ok(Everyone::LOST);
    }
    node.ring_doubted.notify_one();
    let mut changes = node.ring.changes();
    let follows = changes.wait_for(|newest| newest.creation >= place.creation);
    match tokio::time::timeout(CATCH_UP_MAX, follows).await {
        Ok(_) => Ok(place),
        Err(_) => Err(unreachable(&"BROADCASTS is not followed yet")),
    }
}
