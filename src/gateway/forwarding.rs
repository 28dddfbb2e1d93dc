//! What workers send to this node, handed to its connections.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, select};
use tokio_util::sync::CancellationToken;

use super::node::Node;
use super::operations::Peer;
use super::registry::{Item, Signal};
use crate::bus::{self, Bus, BusConfig, BusError, BusState, Forward, GatewayMessage, Replace};
use crate::mailbox::ConnectionId;
use crate::session::{Forwarded, Placed};
use crate::telemetry::{Limit, ReconcileReason};

/// Most workers whose links are followed; beyond that all are followed afresh.
const LINKS_MAX: usize = 1_000;

/// A bus with the node's subscription on it.
pub struct Subscription {
    bus: Bus,
    subscriber: BoxStream<'static, async_nats::Message>,
}

impl Subscription {
    pub fn bus(&self) -> Bus {
        self.bus.clone()
    }
}

/// Connects and subscribes to the node's own subject, trying until it works.
pub async fn subscribe(
    node: &Node,
    config: &BusConfig,
    shutdown: &CancellationToken,
) -> Result<Subscription, BusError> {
    let report = |reason: &str| node.health.set("bus", Err(reason.to_owned()));
    loop {
        let bus = bus::connect_reporting(config, shutdown, report).await?;
        let subject = bus.names.gateway(&node.name, &node.incarnation);
        let subscribed = async {
            let unreachable =
                |error: &dyn std::fmt::Display| BusError::Unreachable(error.to_string());
            let own = (bus.client.subscribe(subject).await).map_err(|error| unreachable(&error))?;
            let all = bus.client.subscribe(bus.names.all_gateways()).await;
            let all = all.map_err(|error| unreachable(&error))?;
            // The server knows of the subscription once it answered what came after it.
            (bus.client.flush().await).map_err(|error| unreachable(&error))?;
            Ok::<_, BusError>(select(own, all).boxed())
        };
        match subscribed.await {
            Ok(subscriber) => {
                node.health.set("bus", Ok(()));
                return Ok(Subscription { bus, subscriber });
            }
            Err(error) => report(&error.to_string()),
        }
    }
}

/// Hands on what arrives until `shutdown`, through every outage of NATS.
pub async fn run(
    node: Arc<Node>,
    mut subscription: Subscription,
    config: BusConfig,
    shutdown: CancellationToken,
) -> Result<(), BusError> {
    loop {
        follow(&node, &mut subscription, &shutdown).await;
        if shutdown.is_cancelled() {
            return Ok(());
        }
        // The client gave the connection up for good.
        node.set_bus(None);
        subscription = match subscribe(&node, &config, &shutdown).await {
            Err(BusError::ShuttingDown) => return Ok(()),
            subscribed => subscribed?,
        };
        node.set_bus(Some(subscription.bus()));
        node.reconciles.ask(ReconcileReason::BusReconnected);
    }
}

async fn follow(node: &Arc<Node>, subscription: &mut Subscription, shutdown: &CancellationToken) {
    let mut links: HashMap<String, u64> = HashMap::new();
    let mut states = subscription.bus.state();
    let mut before: BusState = *states.borrow_and_update();
    loop {
        tokio::select! {
            message = subscription.subscriber.next() => match message {
                Some(message) => receive(node, &mut links, &message.payload),
                None => return,
            },
            Ok(()) = states.changed() => {
                let state = *states.borrow_and_update();
                notice(node, before, state);
                before = state;
            }
            () = subscription.bus.closed().cancelled() => return,
            () = shutdown.cancelled() => return,
        }
    }
}

/// Reads what the state of the connection means for forwards.
fn notice(node: &Arc<Node>, before: BusState, state: BusState) {
    match state.connected {
        true => node.health.set("bus", Ok(())),
        false => (node.health).set("bus", Err("the connection to NATS is lost".to_owned())),
    }
    if state.slow_consumers > before.slow_consumers {
        node.metrics.limit_hit(Limit::ForwardQueue);
        node.reconciles.ask(ReconcileReason::SlowConsumer);
    }
    if state.connected && (!before.connected || state.outages > before.outages) {
        node.reconciles.ask(ReconcileReason::BusReconnected);
    }
}

fn receive(node: &Arc<Node>, links: &mut HashMap<String, u64>, payload: &bytes::Bytes) {
    match GatewayMessage::decode(payload) {
        Ok(GatewayMessage::Forward(forward)) => {
            if skips_a_number(links, &forward) {
                node.reconciles.ask(ReconcileReason::LinkHole);
            }
            deliver(node, forward);
        }
        Ok(GatewayMessage::Replace(replace)) => {
            (node.registry).signal(&replace.user, Some(replace.number), Signal::Replaced);
        }
        Ok(GatewayMessage::Announcement(announcement)) => {
            let payload = announcement.payload;
            (node.registry).announce(announcement.exclude.as_deref(), || Item::Ephemeral {
                time_ms: payload.time_ms,
                json: Arc::clone(&payload.json),
            });
        }
        // What it forwarded is in the mailboxes.
        Err(error) => {
            tracing::warn!("a message to this node cannot be read: {error}");
            node.reconciles.ask(ReconcileReason::LinkHole);
        }
    }
}

/// True where a forward of this sender is missing before this one.
fn skips_a_number(links: &mut HashMap<String, u64>, forward: &Forward) -> bool {
    let next = forward.link_number + 1;
    if let Some(expected) = links.get_mut(&forward.sender) {
        let skips = forward.link_number > *expected;
        *expected = next.max(*expected);
        return skips;
    }
    if links.len() >= LINKS_MAX {
        links.clear();
    }
    links.insert(forward.sender.clone(), next);
    forward.link_number > 0
}

fn deliver(node: &Node, forward: Forward) {
    for recipient in &forward.recipients {
        let Some(payload) = forward.payloads.get(recipient.payload as usize) else {
            continue;
        };
        let item = || match &recipient.spot {
            Some(spot) => Item::Forwarded(Forwarded {
                epoch: forward.epoch,
                life: spot.life,
                lane: spot.lane,
                message: Placed {
                    place: spot.place,
                    time_ms: payload.time_ms,
                    json: Arc::clone(&payload.json),
                },
            }),
            None => Item::Ephemeral {
                time_ms: payload.time_ms,
                json: Arc::clone(&payload.json),
            },
        };
        for _ in 0..node.registry.deliver(&recipient.user, item) {
            node.metrics.limit_hit(Limit::SocketQueue);
        }
    }
}

/// Closes the older connection of a device, wherever it is. Where the message is lost, the older
/// one learns it when it asserts itself.
pub async fn replace(node: &Node, peer: &Peer, older: &ConnectionId) {
    if older.node == node.name && older.incarnation == node.incarnation {
        let user = peer.user.as_str();
        return (node.registry).signal(user, Some(older.number), Signal::Replaced);
    }
    let Some(bus) = node.bus() else { return };
    let subject = bus.names.gateway(&older.node, &older.incarnation);
    let message = GatewayMessage::Replace(Replace {
        user: peer.user.shared(),
        device: peer.device.to_string(),
        number: older.number,
    });
    if let Err(error) = bus.client.publish(subject, message.encode()).await {
        tracing::debug!("an older connection could not be told: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Epoch;

    #[test]
    fn a_skipped_number_on_a_link_is_noticed() {
        let mut links = HashMap::new();
        let mut skips = |sender: &str, link_number| {
            let forward = Forward {
                sender: sender.to_owned(),
                link_number,
                epoch: Epoch::from_bytes([0; 20]),
                payloads: Vec::new(),
                recipients: Vec::new(),
            };
            skips_a_number(&mut links, &forward)
        };
        assert!(!skips("a", 0) && !skips("a", 1) && !skips("b", 0));
        assert!(skips("a", 3));
        assert!(!skips("a", 4) && !skips("a", 4) && !skips("b", 1));
        assert!(skips("c", 2) && !skips("c", 3));
    }
}
