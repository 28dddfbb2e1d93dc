//! Whether the store lost what it held, as a gateway sees it (see [`crate::mailbox::Record`]).
//!
//! A gateway leaves it to the workers to make the store whole. While an emptied store is rebuilt it
//! uses none of it: the sockets stay, nobody is let in, and what a device is told afterwards is
//! complete. A store that only went back is used meanwhile: what is missing comes at the end of the
//! lists, like everything new.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::node::Node;
use crate::bus::{Bus, BusError, find_events, routing};
use crate::mailbox::{Demand, MailboxError, Record, Shard};
use crate::protocol::Epoch;
use crate::telemetry::ReconcileReason;

/// How often the store's record is read, and its clock written.
const LOOK: Duration = Duration::from_millis(500);

/// What is known of each server of the store, by its name.
pub type Seen = HashMap<Arc<str>, (Record, Option<Epoch>)>;

/// Decides what the store must be, before the node uses it.
///
/// # Errors
///
/// Where NATS or the store cannot be used at all.
pub async fn begin(node: &Node, bus: &Bus) -> Result<Seen, BusError> {
    loop {
        let reason = match look_at_all(node, bus).await {
            Ok(seen) => return Ok(seen),
            Err(Failure::Bus(error)) if !error.is_retryable() => return Err(error),
            Err(Failure::Store(MailboxError::Unsuitable(text))) => {
                return Err(BusError::Unsuitable(text));
            }
            Err(error) => error.to_string(),
        };
        node.health.set("store", Err(reason));
        tokio::time::sleep(LOOK).await;
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Store(#[from] MailboxError),
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// At least one server must be there; what the others must be is decided when they are.
async fn look_at_all(node: &Node, bus: &Bus) -> Result<Seen, Failure> {
    node.store.demand(Demand::Filled);
    let mut seen = Seen::new();
    let mut failure = None;
    for shard in node.store.find_shards().await? {
        match shard.look().await {
            Ok(record) => {
                decide(&shard, &record, bus).await?;
                let epoch = shard.link().map(|link| link.epoch());
                seen.insert(Arc::clone(shard.name()), (record, epoch));
            }
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) if seen.is_empty() => Err(error.into()),
        _ => Ok(seen),
    }
}

/// A server without a record was emptied, unless no event was ever put into any.
async fn decide(shard: &Shard, record: &Record, bus: &Bus) -> Result<(), BusError> {
    let is_filled = record.id.is_some() || {
        let events = find_events(bus).await?;
        let has_id = events.is_some_and(|events| events.store_id.is_some());
        has_id && routing(bus).await?.last_delivered() > 0
    };
    shard.demand(match is_filled {
        true => Demand::Filled,
        false => Demand::Any,
    });
    Ok(())
}

/// Looks at the store's records, and tells the connections of what happened to it. Never ends.
pub async fn keep(node: Arc<Node>, mut seen: Seen) {
    loop {
        // What goes wrong is told by whoever renews the lease.
        let shards = node
            .store
            .find_shards()
            .await
            .unwrap_or_else(|_| node.store.shards());
        let looks = shards
            .iter()
            .map(|shard| look(&node, shard, seen.get(shard.name())));
        let looks = futures_util::future::join_all(looks).await;
        for (shard, known) in shards.iter().zip(looks) {
            if let Some(known) = known {
                seen.insert(Arc::clone(shard.name()), known);
            }
        }
        seen.retain(|name, _| shards.iter().any(|shard| shard.name() == name));
        if let Err(error) = node.store.check() {
            node.health.set("store", Err(error.to_string()));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn look(
    node: &Node,
    shard: &Shard,
    known: Option<&(Record, Option<Epoch>)>,
) -> Option<(Record, Option<Epoch>)> {
    let record = shard.look().await.ok()?;
    if record.id.is_some() {
        shard.demand(Demand::Filled);
    } else if known.is_none() {
        decide(shard, &record, &node.bus()?).await.ok()?;
    }
    let epoch = shard.link().map(|link| link.epoch());
    let Some((before, epoch_before)) = known else {
        // Slots came to it.
        node.reconciles.ask(ReconcileReason::EpochChanged);
        return Some((record, epoch));
    };
    record.id?;
    if record.lost_ms != before.lost_ms {
        node.reconciles.ask(ReconcileReason::StoreLost);
    } else if record.rebuilt != before.rebuilt {
        node.reconciles.ask(ReconcileReason::StoreRebuilt);
    }
    if epoch.is_some() && epoch != *epoch_before && !shard.name().is_empty() {
        node.reconciles.ask(ReconcileReason::EpochChanged);
    }
    Some((record, epoch.or(*epoch_before)))
}
