//! Sees to it that the store is whole before anything is appended (see [`crate::mailbox::Record`]).
//!
//! Each worker looks at the store's record twice a second. Where it is not that of a whole store,
//! [`crate::mailbox::Shard::connect`] gives no link: nothing is pulled, what is held is kept alive,
//! and one worker, the one with the lease, brings what is missing. Then all go on.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, timeout_at};
use tracing::{error, info, warn};

use super::Shared;
use super::rebuild::{Origin, rebuild};
use crate::bus::{BusConfig, BusError, EventsStream, assert_streams, routing, write_store_id};
use crate::mailbox::{Claim, Claimed, Demand, MailboxError, Record, Shard};

/// How often the store's record is read, and its clock written.
const LOOK: Duration = Duration::from_millis(500);
/// How often it is noted up to where all events are in the mailboxes.
const FLOOR: Duration = Duration::from_secs(1);

/// A server of a cluster has no record for so long before it counts as emptied: several looks of
/// every worker.
const BARE: Duration = Duration::from_secs(3);
/// How long a worker waits at a time for the store to belong to the stream.
const TOGETHER_MAX: Duration = Duration::from_secs(1);

/// Why the store could not be made whole for now.
#[derive(Debug, thiserror::Error)]
pub(super) enum Hindrance {
    #[error(transparent)]
    Store(#[from] MailboxError),
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error("another worker took the rebuild over")]
    TakenOver,
}

/// Keeps the store whole, each server by itself. Ends only where NATS or Redis cannot be used at all.
pub(super) async fn keep(shared: &Shared, config: &BusConfig) -> BusError {
    let mut kept = HashSet::new();
    let mut keeping = FuturesUnordered::new();
    loop {
        match shared.store.find_shards().await {
            Ok(shards) => {
                for shard in shards {
                    if kept.insert(Arc::clone(shard.name())) {
                        keeping.push(keep_server(shared, config, shard));
                    }
                }
            }
            Err(MailboxError::Unsuitable(reason)) => return BusError::Unsuitable(reason),
            // The gate tells of it.
            Err(_) => {}
        }
        tokio::select! {
            Some(ended) = keeping.next() => match ended {
                Ok(name) => drop(kept.remove(&name)),
                Err(error) => return error,
            },
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Returns the server's name once it serves nobody any more.
async fn keep_server(
    shared: &Shared,
    config: &BusConfig,
    shard: Shard,
) -> Result<Arc<str>, BusError> {
    let mut floor_at = Instant::now();
    let mut bare_since = None;
    let mut has_warned = false;
    while !shard.is_retired() {
        match step(shared, config, &shard, &mut floor_at, &mut bare_since).await {
            Ok(()) => has_warned = false,
            Err(Hindrance::Bus(error @ BusError::Unsuitable(_))) => return Err(error),
            Err(Hindrance::Store(MailboxError::Unsuitable(reason))) => {
                return Err(BusError::Unsuitable(reason));
            }
            // The gate tells of the store, and the connection of itself.
            Err(hindrance) if !has_warned => {
                has_warned = true;
                warn!("whether the store is whole cannot be seen now: {hindrance}");
            }
            Err(_) => (),
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(Arc::clone(shard.name()))
}

/// Returns once the store belongs to this stream, which may have been made anew. Until then nothing
/// is pulled from it: that none of its events was delivered tells a new stream from an emptied store.
/// A server of a cluster that cannot be reached is not waited for where another belongs: what it
/// has is looked at when it is back.
///
/// # Errors
///
/// Where that is not soon.
pub(super) async fn belong_together(
    shared: &Shared,
    events: &EventsStream,
) -> Result<(), BusError> {
    shared.store.demand(Demand::Whole(events.store_id));
    let belongs = |record: &Record| record.id.is_some() && record.id == events.store_id;
    let deadline = Instant::now() + TOGETHER_MAX;
    let mut belonging = 0;
    for shard in shared.store.shards() {
        match timeout_at(deadline, shard.records().wait_for(belongs)).await {
            Ok(_) => belonging += 1,
            Err(_) if matches!(shard.check(), Err(MailboxError::Unreachable(_))) => {}
            Err(_) => {
                belonging = 0;
                break;
            }
        }
    }
    match belonging {
        0 => Err(BusError::Unreachable(
            "the store does not belong to the stream EVENTS yet".to_owned(),
        )),
        _ => Ok(()),
    }
}

async fn step(
    shared: &Shared,
    config: &BusConfig,
    shard: &Shard,
    floor_at: &mut Instant,
    bare_since: &mut Option<Instant>,
) -> Result<(), Hindrance> {
    shard.look().await?;
    let id = shared.store.demanded_id();
    let is_doubtful = shared.store.is_doubtful(shard, id).await?;
    if is_doubtful || shard.check().is_err() {
        let is_bare = shard.records().borrow().is_bare();
        if is_bare && shard.is_in_cluster() && routing(&shared.bus).await?.last_delivered() > 0 {
            // Its record may have gone with a slot: a worker that knew it writes it anew.
            let since = *bare_since.get_or_insert_with(Instant::now);
            if since.elapsed() < BARE {
                return Ok(());
            }
        }
        return make_whole(shared, config, shard, is_doubtful).await;
    }
    *bare_since = None;
    if let (true, Some(id)) = (Instant::now() >= *floor_at, id) {
        *floor_at = Instant::now() + FLOOR;
        // The link first: the store is whole after what is acknowledged now was appended.
        let link = shard.connect().await?;
        let floor = routing(&shared.bus).await?.floor;
        shared.store.note(shard, &link, id, floor).await?;
    }
    Ok(())
}

async fn make_whole(
    shared: &Shared,
    config: &BusConfig,
    shard: &Shard,
    is_doubtful: bool,
) -> Result<(), Hindrance> {
    let events = assert_streams(&shared.bus, shared.limits.ttl_max).await?;
    let link = shard.connect_to_any().await?;
    let shards = shared.store.shards();
    let known = shards.iter().find_map(|shard| shard.records().borrow().id);
    // All who find both new at one time find one id.
    let first = || uuid::Builder::from_unix_timestamp_millis(events.creation_ms, &[0; 10]);
    let id = (events.store_id.or(known)).unwrap_or_else(|| first().into_uuid());
    let claim = Claim {
        id,
        worker: &shared.id,
        delivered: routing(&shared.bus).await?.last_delivered(),
        is_first_id: events.store_id.is_none(),
        is_doubtful,
    };
    match link.claim(&claim).await? {
        Claimed::Whole => {}
        Claimed::First => info!("the store and the stream EVENTS are new to each other"),
        Claimed::OtherStream => error!(
            "the stream EVENTS is another one: NATS lost events that were published, and every \
             device is told"
        ),
        Claimed::Busy(_) => return Ok(()),
        Claimed::Yours(mut work) => {
            // Since the claim nobody appends what was delivered later than this.
            let routing = routing(&shared.bus).await?;
            let last = &mut work.progress.last;
            *last = routing.last_delivered().max(*last);
            let origin = Origin {
                events,
                routing,
                id,
            };
            rebuild(shared, config, &origin, shard, &link, work).await?;
        }
    }
    if events.store_id.is_none() {
        // After the store, so that a store without it is never taken for an emptied one.
        write_store_id(&shared.bus, shared.limits.ttl_max, id).await?;
    }
    shared.store.demand(Demand::Whole(Some(id)));
    shard.look().await?;
    Ok(())
}
