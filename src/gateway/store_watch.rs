//! Whether the store lost what it held, as a gateway sees it (see [`crate::mailbox::Record`]).
//!
//! A gateway leaves it to the workers to make the store whole. While an emptied store is rebuilt it
//! uses none of it: the sockets stay, nobody is let in, and what a device is told afterwards is
//! complete. A store that only went back is used meanwhile: what is missing comes at the end of the
//! lists, like everything new.

use std::sync::Arc;
use std::time::Duration;

use super::node::Node;
use crate::bus::{Bus, BusError, find_events, routing};
use crate::mailbox::{Demand, MailboxError, Record};
use crate::telemetry::ReconcileReason;

/// How often the store's record is read, and its clock written.
const LOOK: Duration = Duration::from_millis(500);

/// Decides what the store must be, before the node uses it.
///
/// # Errors
///
/// Where NATS or the store cannot be used at all.
pub async fn begin(node: &Node, bus: &Bus) -> Result<Record, BusError> {
    loop {
        let reason = match node.store.look().await {
            Ok(record) => match is_expected_filled(&record, bus).await {
                Ok(is_filled) => {
                    node.store.demand(match is_filled {
                        true => Demand::Filled,
                        false => Demand::Any,
                    });
                    return Ok(record);
                }
                Err(error) if !error.is_retryable() => return Err(error),
                Err(error) => error.to_string(),
            },
            Err(MailboxError::Unsuitable(text)) => return Err(BusError::Unsuitable(text)),
            Err(error) => error.to_string(),
        };
        node.health.set("store", Err(reason));
        tokio::time::sleep(LOOK).await;
    }
}

/// A store without a record was emptied, unless no event was ever put into any.
async fn is_expected_filled(record: &Record, bus: &Bus) -> Result<bool, BusError> {
    if record.id.is_some() {
        return Ok(true);
    }
    let events = find_events(bus).await?;
    let has_id = events.is_some_and(|events| events.store_id.is_some());
    Ok(has_id && routing(bus).await?.last_delivered() > 0)
}

/// Looks at the store's record, and tells the connections of what happened to it. Never ends.
pub async fn keep(node: Arc<Node>, mut known: Record) {
    loop {
        // What goes wrong is told by whoever renews the lease.
        if let Ok(record) = node.store.look().await {
            if record.id.is_some() {
                node.store.demand(Demand::Filled);
            }
            if let Err(error) = node.store.check() {
                node.health.set("store", Err(error.to_string()));
            }
            if record.lost_ms != known.lost_ms && record.id.is_some() {
                node.reconciles.ask(ReconcileReason::StoreLost);
            } else if record.rebuilt != known.rebuilt {
                node.reconciles.ask(ReconcileReason::StoreRebuilt);
            }
            if record.id.is_some() {
                known = record;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}
