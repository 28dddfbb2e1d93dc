//! Events judged, and what is made of each of them once; then a whole batch on its way.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::Subject;
use async_nats::header::NATS_MESSAGE_ID;
use bytes::Bytes;
use tracing::{debug, warn};

use super::append::{Batch, Overtaken, append_all};
use super::copy::{Copy, copy_all};
use super::dead_letter::DeadLetter;
use super::hold::{Epochs, Item, Stamps};
use super::outbox::Outbox;
use super::{Shared, WorkerError};
use crate::bus::{Announcement, Broadcast, Delivery, GatewayMessage, Payload};
use crate::event::{Address, Audience, Event, Priority, Refusal, UserId, is_message_id};
use crate::mailbox::{Append, Connection, Entry, EventKey, Link, MailboxError, Shard};
use crate::protocol::{Lane, Message};
use crate::telemetry::EventOutcome;

/// An ephemeral event that is older than this is dropped (contract §3).
const EPHEMERAL_AGE_MAX: Duration = Duration::from_secs(10);
/// Most users whose connections are asked for in one pipeline.
const PRESENCE_USERS_MAX: usize = 2_000;
/// Waits between attempts to read connections, doubled from the first to the last.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// What is to be done with a delivery.
pub(super) enum Judged {
    Route(Box<Routed>),
    Refuse(DeadLetter),
}

/// A valid event with all that is made of it.
pub(super) struct Routed {
    event_type: String,
    targets: Vec<UserId>,
    payload: Payload,
    keeping: Keeping,
    is_repeat: bool,
    /// False where it was counted before.
    is_first: bool,
}

/// How a batch ended.
pub(super) enum Processed {
    /// All of it is where it belongs. What is in mailboxes was appended as its stamps say.
    Done(Vec<Stamps>),
    /// Not all was appended: see [`Overtaken`].
    Overtaken,
}

enum Keeping {
    Stored {
        lane: Lane,
        entry: Entry,
    },
    Ephemeral,
    /// Copied once for everyone.
    Everyone(Copy),
    /// Told once to all gateways.
    Announced(Announcement),
}

impl Routed {
    pub fn target_count(&self) -> usize {
        self.targets.len()
    }
}

/// Validates a delivery and builds its message.
pub(super) fn judge(shared: &Shared, item: &Item) -> Judged {
    let delivery = &item.delivery;
    let publishers_subject = (shared.bus.names).publishers_subject(&delivery.message.subject);
    match route(shared, item.creation_ms, delivery, &publishers_subject) {
        Ok(routed) => Judged::Route(Box::new(Routed {
            is_first: item.is_first,
            ..routed
        })),
        Err(refusal) => {
            count_refused(shared, &publishers_subject);
            let reason = refusal.to_string();
            debug!(sequence = delivery.sequence, reason, "an event is refused");
            Judged::Refuse(DeadLetter {
                publishers_subject,
                reason,
                sequence: delivery.sequence,
                time_ms: delivery.time_ms,
                body: delivery.message.payload.clone(),
            })
        }
    }
}

/// Counts a refused event under its type, where it has one.
pub(super) fn count_refused(shared: &Shared, publishers_subject: &str) {
    match Address::parse(publishers_subject) {
        Ok(address) => (shared.metrics).event(&address.event_type, EventOutcome::DeadLetter),
        Err(_) => shared.metrics.event_invalid(),
    }
}

fn route(
    shared: &Shared,
    creation_ms: u64,
    delivery: &Delivery,
    publishers_subject: &str,
) -> Result<Routed, Refusal> {
    let address = Address::parse(publishers_subject)?;
    let event = Event::parse(&address, &delivery.message.payload, &shared.limits)?;
    let is_high = event.priority == Priority::High;
    let json = Message {
        id: &message_id(event.id, delivery),
        event_type: &address.event_type,
        key: address.key.as_deref(),
        time_ms: delivery.time_ms,
        data: event.data,
        high_priority: is_high,
    }
    .to_json();
    let ttl = event.ttl.unwrap_or(shared.limits.ttl_max);
    let ttl_ms = u64::try_from(ttl.min(shared.limits.ttl_max).as_millis()).unwrap_or(u64::MAX);
    let expires_ms = delivery.time_ms.saturating_add(ttl_ms);
    let key = EventKey {
        creation_ms,
        sequence: delivery.sequence,
    };
    let payload = Payload {
        time_ms: delivery.time_ms,
        json: json.into(),
    };
    let exclude = event.exclude.map(|user| user.shared());
    let (targets, keeping) = match (event.audience, event.ephemeral) {
        (Audience::Users(targets), true) => (targets, Keeping::Ephemeral),
        (Audience::Users(targets), false) => {
            let lane = if is_high { Lane::High } else { Lane::Normal };
            let entry = Entry::new(key, delivery.time_ms, expires_ms, &payload.json);
            (targets, Keeping::Stored { lane, entry })
        }
        (Audience::Everyone, true) => {
            let payload = payload.clone();
            (
                Vec::new(),
                Keeping::Announced(Announcement { payload, exclude }),
            )
        }
        (Audience::Everyone, false) => {
            let broadcast = Broadcast {
                key,
                time_ms: delivery.time_ms,
                expires_ms,
                exclude,
                json: payload.json.clone(),
            };
            let max_payload = shared.bus.client.max_payload();
            let copy = Copy::new(&shared.bus.names, &address, &broadcast, max_payload)?;
            (Vec::new(), Keeping::Everyone(copy))
        }
    };
    Ok(Routed {
        event_type: address.event_type,
        targets,
        payload,
        keeping,
        is_repeat: delivery.is_repeat,
        is_first: true,
    })
}

/// What a delivery puts into mailboxes: whose, which lane, and the entry. `None` for what is
/// refused, ephemeral, or for everyone.
pub(super) fn stored_part(
    shared: &Shared,
    creation_ms: u64,
    delivery: &Delivery,
) -> Option<(Vec<UserId>, Lane, Entry)> {
    let publishers_subject = (shared.bus.names).publishers_subject(&delivery.message.subject);
    let routed = route(shared, creation_ms, delivery, &publishers_subject).ok()?;
    match routed.keeping {
        Keeping::Stored { lane, entry } => Some((routed.targets, lane, entry)),
        Keeping::Ephemeral | Keeping::Everyone(_) | Keeping::Announced(_) => None,
    }
}

/// The body's id, else the header's, else one made from where the stream keeps the event.
fn message_id(id: Option<String>, delivery: &Delivery) -> String {
    let header = || {
        let headers = delivery.message.headers.as_ref()?;
        let header = headers.get(NATS_MESSAGE_ID)?.as_str();
        is_message_id(header).then(|| header.to_owned())
    };
    id.or_else(header)
        .unwrap_or_else(|| format!("{}-{}", delivery.time_ms, delivery.sequence))
}

/// Brings a batch into the mailboxes and on to the gateways. `expected` is the time lines of what was
/// appended before and is not yet there to stay.
///
/// # Errors
///
/// Where the store cannot be used at all.
pub(super) async fn process(
    shared: &Shared,
    batch: &[Routed],
    expected: &Epochs,
) -> Result<Processed, WorkerError> {
    let copies = batch.iter().filter_map(|event| match &event.keeping {
        Keeping::Everyone(copy) => Some(copy),
        _ => None,
    });
    copy_all(shared, &copies.collect::<Vec<_>>()).await;
    let stamps = match append_all(shared, &stored_of(batch), expected).await? {
        Ok(stamps) => stamps,
        Err(Overtaken) => return Ok(Processed::Overtaken),
    };
    for event in batch {
        match &event.keeping {
            Keeping::Stored { .. } | Keeping::Everyone(_) => {}
            Keeping::Ephemeral => whisper(shared, event).await?,
            Keeping::Announced(announcement) => announce(shared, announcement).await,
        }
    }
    for event in batch.iter().filter(|event| event.is_first) {
        let outcome = match &event.keeping {
            Keeping::Stored { .. } | Keeping::Ephemeral => EventOutcome::Routed,
            Keeping::Everyone(_) | Keeping::Announced(_) => EventOutcome::Broadcast,
        };
        shared.metrics.event(&event.event_type, outcome);
    }
    Ok(Processed::Done(stamps))
}

/// What goes into mailboxes.
fn stored_of(batch: &[Routed]) -> Batch {
    let mut stored = Batch {
        is_repeat: batch.iter().any(|event| event.is_repeat),
        ..Batch::default()
    };
    for (index, event) in batch.iter().enumerate() {
        stored.payloads.push(event.payload.clone());
        if let Keeping::Stored { lane, entry } = &event.keeping {
            for user in &event.targets {
                stored.events.push(index);
                stored.appends.push(Append {
                    user: user.clone(),
                    lane: *lane,
                    entry: entry.clone(),
                });
            }
        }
    }
    stored
}

/// Tells all gateways an ephemeral message. Losing it is allowed, and a late one is dropped.
async fn announce(shared: &Shared, announcement: &Announcement) {
    if age(announcement.payload.time_ms) > EPHEMERAL_AGE_MAX {
        return;
    }
    let message = GatewayMessage::Announcement(announcement.clone()).encode();
    let subject = shared.bus.names.all_gateways();
    if let Err(error) = shared.bus.client.publish(subject, message).await {
        debug!(%error, "an ephemeral message for everyone was not sent");
    }
}

/// Sends an ephemeral message to where its targets are connected, unless it is too old.
async fn whisper(shared: &Shared, event: &Routed) -> Result<(), WorkerError> {
    let mut by_server: HashMap<Arc<str>, (Shard, Vec<&UserId>)> = HashMap::new();
    for user in &event.targets {
        let Ok(shard) = shared.store.user(user).shard().await else {
            continue;
        };
        let name = Arc::clone(shard.name());
        let (_, users) = by_server.entry(name).or_insert_with(|| (shard, Vec::new()));
        users.push(user);
    }
    for (shard, users) in by_server.into_values() {
        let Some((link, connections)) = presence(shared, event, &shard, &users).await? else {
            continue;
        };
        let mut outbox = Outbox::new(shared.bus.client.max_payload());
        for (user, connections) in users.into_iter().zip(&connections) {
            outbox.add(&event.payload, user, connections, None);
        }
        shared.links.send(outbox, &link).await;
    }
    Ok(())
}

/// Where the targets of an ephemeral event are connected; `None` once it is too old, and where they
/// went to another server.
async fn presence(
    shared: &Shared,
    event: &Routed,
    shard: &Shard,
    targets: &[&UserId],
) -> Result<Option<(Link, Vec<Vec<Connection>>)>, WorkerError> {
    let mut wait = RETRY_MIN;
    while age(event.payload.time_ms) <= EPHEMERAL_AGE_MAX {
        let Some(link) = shared.gate.link(shard).await? else {
            return Ok(None);
        };
        let mut users = Vec::with_capacity(targets.len());
        let mut result = Ok(());
        for some in targets.chunks(PRESENCE_USERS_MAX) {
            match link.connections(some).await {
                Ok(connections) => users.extend(connections),
                Err(MailboxError::Moved(_)) => return Ok(None),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        let is_whole = result.is_ok();
        shared.gate.note(result)?;
        if is_whole {
            return Ok(Some((link, users)));
        }
        tokio::time::sleep(wait).await;
        wait = (2 * wait).min(RETRY_MAX);
    }
    Ok(None)
}

/// By this machine's clock, which is NATS's too or kept beside it; of the future: none.
fn age(time_ms: u64) -> Duration {
    let elapsed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    elapsed.saturating_sub(Duration::from_millis(time_ms))
}

/// Answers a delivery on its reply subject. A lost answer only brings the message again.
pub(super) async fn answer(shared: &Shared, reply: Option<Subject>, answer: &'static [u8]) {
    let Some(reply) = reply else { return };
    let answer = Bytes::from_static(answer);
    if let Err(error) = shared.bus.client.publish(reply, answer).await {
        warn!(%error, "a delivery was not answered");
    }
}
