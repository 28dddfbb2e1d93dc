//! Follows the stream `BROADCASTS` into the ring, over a connection of its own: what cannot be
//! read there must not break the one that forwards come over.
//!
//! Whether the stream is still the one that was followed is asked when that begins, and every few
//! seconds; `mark` says how a stream that lost messages is told from one that did not. Whoever
//! notices begins another time line, which every gateway goes over to, and every device is told.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::mark::{self, has_lost};
use super::node::Node;
use super::ring::Content;
use crate::bus::{
    Broadcast, BroadcastsStream, Bus, BusConfig, BusError, Follower, InvalidBroadcast,
    assert_broadcasts, begin_time_line, connect_reporting, next_broadcast,
};
use crate::mailbox::MailboxError;
use crate::protocol::Everyone;

/// Pause before the stream is followed again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Most messages that are read one by one before the stream is followed again.
const STEPS_MAX: usize = 1_000;
/// How often the stream is compared with the ring.
const CHECK: Duration = Duration::from_secs(5);
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
    tokio::select! {
        result = follow_always(&node, config, loaded, ended) => result,
        never = mark::keep(&node) => match never {},
    }
}

async fn follow_always(
    node: &Node,
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
            error = follow_once(node, &bus, &loaded, has_failed) => error,
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
        let mut checks = interval(CHECK);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        checks.reset();
        loop {
            if follower.pending == 0 && !loaded.send_replace(true) {
                tracing::info!("the broadcasts that wait are loaded");
            }
            if *loaded.borrow() {
                node.health.set(COMPONENT, Ok(()));
            }
            tokio::select! {
                delivery = follower.next() => if let Some(delivery) = delivery? {
                    let payload = &delivery.message.payload;
                    take(node, delivery.sequence, delivery.time_ms, payload);
                },
                () = node.ring_doubted.notified() => check(node, bus).await?,
                // Also while messages come: a stream may have grown again beyond what it lost.
                _ = checks.tick() => check(node, bus).await?,
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

/// The stream, on a time line whose places go on from those that this node or any other saw.
async fn stream(node: &Node, bus: &Bus) -> Result<BroadcastsStream, BusError> {
    let of_ring = node.ring.mark();
    // Without it nothing is followed: this node would put its own in place of what the others saw.
    let of_all = (mark::stored(node).await).map_err(|error| lost(&error.to_string()))?;
    // After the marks, so that what arrives meanwhile makes no difference.
    let found = assert_broadcasts(bus, node.message_ttl).await?;
    for mark in [Some(of_ring), of_all].into_iter().flatten() {
        if has_lost(bus, &found, &mark).await? {
            return begin_another(node, bus, mark.place.creation).await;
        }
    }
    Ok(found)
}

/// Begins a time line after `ended`.
async fn begin_another(node: &Node, bus: &Bus, ended: u64) -> Result<BroadcastsStream, BusError> {
    tracing::error!("the stream BROADCASTS lost messages: every device is told");
    begin_time_line(bus, node.message_ttl, ended).await
}

/// Sees whether the stream is still the one that the ring follows.
async fn check(node: &Node, bus: &Bus) -> Result<(), BusError> {
    // Before the question, so that what arrives meanwhile makes no difference.
    let mark = node.ring.mark();
    let found = assert_broadcasts(bus, node.message_ttl).await?;
    let is_same = found.time_line == mark.place.creation;
    match is_same && !has_lost(bus, &found, &mark).await? {
        true => Ok(()),
        false => Err(lost("the stream BROADCASTS is another one")),
    }
}

/// Reads messages one by one, as JSON, which the client library can always read: one that it
/// cannot read otherwise broke the connection, or may do so next.
async fn step_on(node: &Node, bus: &Bus) -> Result<(), BusError> {
    for _ in 0..STEPS_MAX {
        match next_broadcast(bus, node.ring.newest().sequence + 1).await {
            Ok(stored) => take(node, stored.sequence, stored.time_ms, &stored.data),
            Err(BusError::NotFound(_)) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn take(node: &Node, sequence: u64, stored_ms: u64, payload: &[u8]) {
    let content = match Broadcast::decode(payload) {
        Ok(broadcast) => Content::Event(broadcast),
        Err(error @ InvalidBroadcast::Later(_)) => {
            tracing::error!(
                sequence,
                "an event for everyone cannot be sent and counts as missed: {error}; upgrade the \
                 gateways before the workers"
            );
            Content::Later
        }
        Err(error @ InvalidBroadcast::Junk) => {
            tracing::warn!(sequence, "a message in BROADCASTS is left out: {error}");
            Content::Junk
        }
    };
    let now_ms = node.store_clock.now_ms();
    node.ring.push(sequence, stored_ms, content, now_ms);
}

fn lost(reason: &str) -> BusError {
    BusError::Unreachable(reason.to_owned())
}

/// Where a place comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From a client, who may have made it up.
    Client,
    /// From the store, where only places are that a gateway had sent.
    Store,
}

/// The place itself, or [`Everyone::LOST`] where the stream lost what it names.
///
/// One ahead of this node's ring may come from a node that was ahead. Then it is right: the ring
/// gets there. Another time line is waited for, since its sequences mean nothing here. One beyond
/// the stream is no place of it; where the store has it, the stream did lose messages.
///
/// # Errors
///
/// Where the stream cannot be asked.
pub async fn known_place(
    node: &Node,
    place: Everyone,
    origin: Origin,
) -> Result<Everyone, MailboxError> {
    if place <= node.ring.newest() {
        return Ok(place);
    }
    let unreachable = |error: &dyn std::fmt::Display| MailboxError::Unreachable(error.to_string());
    let bus = (node.bus()).ok_or_else(|| unreachable(&"no connection to NATS"))?;
    let found =
        (assert_broadcasts(&bus, node.message_ttl).await).map_err(|error| unreachable(&error))?;
    let is_of_another_line = place.creation != found.time_line;
    if !is_of_another_line && place.sequence <= found.last_sequence {
        follow_to(node, place.creation).await?;
        return Ok(place);
    }
    // Of an earlier line is only what lies behind one that has ended.
    if origin == Origin::Store && place.creation >= found.time_line {
        let begun = begin_another(node, &bus, place.creation).await;
        let begun = begun.map_err(|error| unreachable(&error))?;
        follow_to(node, begun.time_line).await?;
    }
    Ok(Everyone::LOST)
}

/// Waits until the ring is on this time line or a later one.
async fn follow_to(node: &Node, time_line: u64) -> Result<(), MailboxError> {
    node.ring_doubted.notify_one();
    let mut changes = node.ring.changes();
    let follows = changes.wait_for(|newest| newest.creation >= time_line);
    match tokio::time::timeout(CATCH_UP_MAX, follows).await {
        Ok(_) => Ok(()),
        Err(_) => Err(MailboxError::Unreachable(
            "BROADCASTS is not followed yet".to_owned(),
        )),
    }
}
