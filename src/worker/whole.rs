//! Sees to it that the store is whole before anything is appended (see [`crate::mailbox::Record`]).
//!
//! Each worker looks at the store's record twice a second. Where it is not that of a whole store,
//! [`crate::mailbox::Store::connect`] gives no link: nothing is pulled, what is held is kept alive,
//! and one worker, the one with the lease, brings what is missing. Then all go on.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{error, info, warn};
use uuid::Uuid;

use super::Shared;
use super::rebuild::{Origin, rebuild};
use crate::bus::{BusConfig, BusError, EventsStream, assert_streams, routing, write_store_id};
use crate::mailbox::{Claim, Claimed, Demand, MailboxError, Record};

/// How often the store's record is read, and its clock written.
const LOOK: Duration = Duration::from_millis(500);
/// How often it is noted up to where all events are in the mailboxes.
const FLOOR: Duration = Duration::from_secs(1);

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

/// Keeps the store whole. Ends only where NATS or Redis cannot be used at all.
pub(super) async fn keep(shared: &Shared, config: &BusConfig) -> BusError {
    let mut floor_at = Instant::now();
    let mut has_warned = false;
    loop {
        let step = step(shared, config, &mut floor_at).await;
        match step {
            Ok(()) => has_warned = false,
            Err(Hindrance::Bus(error @ BusError::Unsuitable(_))) => return error,
            Err(Hindrance::Store(MailboxError::Unsuitable(reason))) => {
                return BusError::Unsuitable(reason);
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
}

/// Returns once the store belongs to this stream, which may have been made anew. Until then nothing
/// is pulled from it: that none of its events was delivered tells a new stream from an emptied store.
///
/// # Errors
///
/// Where that is not soon.
pub(super) async fn belong_together(
    shared: &Shared,
    events: &EventsStream,
) -> Result<(), BusError> {
    shared.store.demand(Demand::Whole(events.store_id));
    let mut records = shared.store.records();
    let belongs = |record: &Record| record.id.is_some() && record.id == events.store_id;
    match timeout(TOGETHER_MAX, records.wait_for(belongs)).await {
        Ok(_) => Ok(()),
        Err(_) => Err(BusError::Unreachable(
            "the store does not belong to the stream EVENTS yet".to_owned(),
        )),
    }
}

async fn step(
    shared: &Shared,
    config: &BusConfig,
    floor_at: &mut Instant,
) -> Result<(), Hindrance> {
    shared.store.look().await?;
    if shared.store.check().is_err() {
        return make_whole(shared, config).await;
    }
    if Instant::now() >= *floor_at {
        *floor_at = Instant::now() + FLOOR;
        // The link first: the store is whole after what is acknowledged now was appended.
        let link = shared.store.connect().await?;
        let floor = routing(&shared.bus).await?.floor;
        link.note_floor(floor).await?;
    }
    Ok(())
}

async fn make_whole(shared: &Shared, config: &BusConfig) -> Result<(), Hindrance> {
    let events = assert_streams(&shared.bus, shared.limits.ttl_max).await?;
    let link = shared.store.connect_to_any().await?;
    let known = shared.store.records().borrow().id;
    let id = (events.store_id).unwrap_or_else(|| known.unwrap_or_else(Uuid::now_v7));
    let claim = Claim {
        id,
        worker: &shared.id,
        delivered: routing(&shared.bus).await?.last_delivered(),
        is_first_id: events.store_id.is_none(),
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
            rebuild(shared, config, &origin, &link, work).await?;
        }
    }
    if events.store_id.is_none() {
        // After the store, so that a store without it is never taken for an emptied one.
        write_store_id(&shared.bus, shared.limits.ttl_max, id).await?;
    }
    shared.store.demand(Demand::Whole(Some(id)));
    shared.store.look().await?;
    Ok(())
}
