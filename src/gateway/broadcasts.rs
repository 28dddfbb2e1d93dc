//! Follows the stream `BROADCASTS` into the ring, over a connection of its own: what cannot be
//! read there must not break the one that forwards come over.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::node::{Node, wall_clock_ms};
use crate::bus::{
    self, Broadcast, Bus, BusConfig, BusError, assert_broadcasts, connect_reporting, next_broadcast,
};
use crate::mailbox::MailboxError;
use crate::protocol::Everyone;

/// Pause before the stream is followed again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// The part of the node's health.
const COMPONENT: &str = "broadcasts";

/// Follows the stream until `ended`, through every outage. `loaded` becomes true once the ring
/// has all that the stream had at the start.
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
    loop {
        let bus = match connect_reporting(&config, &ended, report).await {
            Err(BusError::ShuttingDown) => return Ok(()),
            bus => bus?,
        };
        let reason = tokio::select! {
            followed = follow_once(&node, &bus, &loaded) => match followed {
                Err(error) if !error.is_retryable() => return Err(error),
                Err(error) => error.to_string(),
                Ok(()) => "the stream of broadcasts ended".to_owned(),
            },
            () = ended.cancelled() => return Ok(()),
        };
        report(&reason);
        tracing::warn!(reason, "the broadcasts are followed anew");
        // Whatever could not be read: the next message as JSON, which always can.
        if let Err(error) = step(&node, &bus).await {
            tracing::debug!("no step over the next broadcast: {error}");
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn follow_once(node: &Node, bus: &Bus, loaded: &watch::Sender<bool>) -> Result<(), BusError> {
    let unreachable = |error: &dyn std::fmt::Display| BusError::Unreachable(error.to_string());
    let found = assert_broadcasts(bus, node.message_ttl).await?;
    let youngest = (found.last_sequence + 1).saturating_sub(node.cap);
    let first = youngest.max(found.first_sequence).max(1);
    let first = (node.ring).begin(found.creation_ms, first, found.first_sequence);
    let is_loaded = |node: &Node| node.ring.newest().sequence >= found.last_sequence;
    let config = OrderedConfig {
        deliver_policy: DeliverPolicy::ByStartSequence {
            start_sequence: first,
        },
        ..OrderedConfig::default()
    };
    let stream = bus.names.broadcasts_stream();
    let consumer = (bus
        .jetstream
        .create_consumer_on_stream(config, stream)
        .await)
        .map_err(|error| unreachable(&error))?;
    let mut messages = (consumer.messages().await).map_err(|error| unreachable(&error))?;
    let mut states = bus.state();
    loop {
        if is_loaded(node) && !loaded.send_replace(true) {
            tracing::info!("the broadcasts that wait are loaded");
        }
        if *loaded.borrow() {
            node.health.set(COMPONENT, Ok(()));
        }
        tokio::select! {
            message = messages.next() => {
                let Some(message) = message else { return Ok(()) };
                let message = message.map_err(|error| unreachable(&error))?;
                let sequence = (message.info().map_err(|error| unreachable(&error))?).stream_sequence;
                take(node, sequence, &message.payload);
            }
            // Also where it is back already: begun anew, the ring asks for what follows it.
            _ = states.wait_for(|state| state.outages > 0) => {
                return Err(BusError::Unreachable("the connection to NATS was lost".to_owned()));
            }
            () = bus.closed().cancelled() => return Ok(()),
        }
    }
}

fn take(node: &Node, sequence: u64, payload: &[u8]) {
    let broadcast = Broadcast::decode(payload);
    if let Err(error) = &broadcast {
        tracing::warn!(sequence, "a message in BROADCASTS is left out: {error}");
    }
    (node.ring).push(sequence, broadcast.ok(), wall_clock_ms());
}

async fn step(node: &Node, bus: &Bus) -> Result<(), BusError> {
    let next = node.ring.newest().sequence + 1;
    match next_broadcast(bus, next).await {
        Ok(stored) => {
            match bus::judge(&stored) {
                Ok(()) => take(node, stored.sequence, &stored.data),
                Err(error) => {
                    let sequence = stored.sequence;
                    tracing::warn!(sequence, "a message in BROADCASTS is left out: {error}");
                    node.ring.push(sequence, None, wall_clock_ms());
                }
            }
            Ok(())
        }
        Err(BusError::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Where a device starts that comes with a cursor ahead of this node: there, if the stream has
/// come that far too, since the ring gets there; else nowhere, because the stream lost what the
/// device has seen.
pub async fn place_ahead(node: &Node, place: Everyone) -> Result<Everyone, MailboxError> {
    let newest = node.ring.newest();
    if place.creation != newest.creation || place.sequence <= newest.sequence {
        return Ok(place);
    }
    let bus = (node.bus()).ok_or_else(|| MailboxError::Unreachable("no NATS".to_owned()))?;
    let found = (assert_broadcasts(&bus, node.message_ttl).await)
        .map_err(|error| MailboxError::Unreachable(error.to_string()))?;
    if found.creation_ms == place.creation && place.sequence <= found.last_sequence {
        return Ok(place);
    }
    Ok(Everyone {
        // Older than any stream: what follows is told as lost.
        creation: 1,
        sequence: 0,
    })
}
