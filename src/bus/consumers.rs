//! The durable consumers of `EVENTS`: one a partition, and one for all that has no partition.

use std::time::Duration;

use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy};
use async_nats::jetstream::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::try_join_all;
use serde::Deserialize;
use serde_json::json;

use super::{Bus, BusError, Names, PARTITIONS, StoredMessage};

/// A message that was neither acknowledged nor said to be in progress for this long goes to
/// another worker.
pub const ACK_WAIT: Duration = Duration::from_secs(10);
/// Most messages of one partition that workers hold.
const PARTITION_ACK_PENDING_MAX: i64 = 8_192;
/// Most messages without a partition that workers hold, all workers together.
const KEYLESS_ACK_PENDING_MAX: i64 = 65_536;

/// Where a worker takes events from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// Events whose key falls into this partition, pulled by one worker at a time.
    Partition(u16),
    /// Events without a key, and those whose key escaped the subject transform; pulled by all.
    Keyless,
}

impl Source {
    /// Every source there is.
    pub fn all() -> impl Iterator<Item = Source> {
        (0..PARTITIONS)
            .map(Source::Partition)
            .chain([Source::Keyless])
    }

    /// The name of its durable consumer.
    pub fn consumer(self, names: &Names) -> String {
        match self {
            Source::Partition(partition) => names.partition_consumer(partition),
            Source::Keyless => names.keyless_consumer(),
        }
    }

    /// The stored subjects it takes. A key or type that is a wildcard (`*`, `>`) is stored as it
    /// was published, for the transform passes it over: the keyless consumer takes those too, or
    /// an acknowledged event would reach neither its users nor `DEAD_LETTERS`. (Recent servers
    /// refuse such a publish.) One subject is beyond any filter: nats-server 2.15 acknowledges a
    /// key or type with the byte 127 and never finds it again, since its index of subjects uses
    /// that byte itself.
    fn filters(self, names: &Names) -> Vec<String> {
        match self {
            Source::Partition(partition) => vec![names.partition_subjects(partition)],
            Source::Keyless => names.events_subjects().to_vec(),
        }
    }

    fn config(self, names: &Names) -> consumer::Config {
        let mut filters = self.filters(names);
        let (filter_subject, filter_subjects) = match filters.len() {
            1 => (filters.remove(0), Vec::new()),
            _ => (String::new(), filters),
        };
        consumer::Config {
            durable_name: Some(self.consumer(names)),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_deliver: -1,
            max_ack_pending: match self {
                Source::Partition(_) => PARTITION_ACK_PENDING_MAX,
                Source::Keyless => KEYLESS_ACK_PENDING_MAX,
            },
            filter_subject,
            filter_subjects,
            ..consumer::Config::default()
        }
    }
}

/// Sees to it that all consumers exist as asked for.
///
/// # Errors
///
/// [`BusError::Unsuitable`] where the server gives back something else.
pub async fn assert_consumers(bus: &Bus) -> Result<(), BusError> {
    try_join_all(Source::all().map(|source| assert_consumer(bus, source))).await?;
    Ok(())
}

async fn assert_consumer(bus: &Bus, source: Source) -> Result<(), BusError> {
    let wanted = source.config(&bus.names);
    let stream = bus.names.events_stream();
    let name = source.consumer(&bus.names);
    // The action is empty: make, or change where it exists.
    let payload = json!({ "stream_name": stream, "config": wanted, "action": "" });
    let subject = match wanted.filter_subject.as_str() {
        "" => format!("CONSUMER.CREATE.{stream}.{name}"),
        filter => format!("CONSUMER.CREATE.{stream}.{name}.{filter}"),
    };
    let response: Response<consumer::Info> =
        bus.jetstream.request(subject.clone(), &payload).await?;
    match response {
        Response::Ok(found) => compare(&name, &wanted, &found.config),
        // One that exists may differ in what cannot be changed: then that is what to say.
        Response::Err { error } => match info(bus, source).await {
            Ok(found) => compare(&name, &wanted, &found.config)
                .and(Err(BusError::from_api(&subject, &error))),
            Err(_) => Err(BusError::from_api(&subject, &error)),
        },
    }
}

async fn info(bus: &Bus, source: Source) -> Result<consumer::Info, BusError> {
    let stream = bus.names.events_stream();
    let subject = format!("CONSUMER.INFO.{stream}.{}", source.consumer(&bus.names));
    let response: Response<consumer::Info> =
        bus.jetstream.request(subject.clone(), &json!({})).await?;
    match response {
        Response::Ok(info) => Ok(info),
        Response::Err { error } => Err(BusError::from_api(&subject, &error)),
    }
}

/// Servers drop what they do not know in silence: without its filters a consumer would take the
/// whole stream.
fn compare(
    name: &str,
    wanted: &consumer::Config,
    found: &consumer::Config,
) -> Result<(), BusError> {
    let mut filters = [
        wanted.filter_subjects.clone(),
        found.filter_subjects.clone(),
    ];
    filters.iter_mut().for_each(|filters| filters.sort());
    let differs = [
        (
            "filter_subject",
            wanted.filter_subject != found.filter_subject,
        ),
        ("filter_subjects", filters[0] != filters[1]),
        ("ack_policy", wanted.ack_policy != found.ack_policy),
        ("ack_wait", wanted.ack_wait != found.ack_wait),
        ("max_deliver", wanted.max_deliver != found.max_deliver),
        (
            "max_ack_pending",
            wanted.max_ack_pending != found.max_ack_pending,
        ),
        (
            "deliver_policy",
            wanted.deliver_policy != found.deliver_policy,
        ),
        ("deliver_subject", found.deliver_subject.is_some()),
        ("headers_only", found.headers_only),
    ];
    match differs.iter().find(|(_, differs)| *differs) {
        Some((field, _)) => Err(BusError::Unsuitable(format!(
            "the NATS consumer {name} has another {field} than asked for: remove the consumer, or \
             use another CATCHUP_NAMESPACE"
        ))),
        None => Ok(()),
    }
}

/// What a consumer has delivered and nobody acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    pub count: usize,
    /// All pending messages lie within these stream sequences.
    pub first_sequence: u64,
    pub last_sequence: u64,
    /// The consumer's own number of its last delivery.
    pub last_delivery: u64,
}

/// Asks what a source's consumer has delivered and nobody acknowledged.
///
/// # Errors
///
/// [`BusError::NotFound`] where the consumer is gone.
pub async fn pending(bus: &Bus, source: Source) -> Result<Pending, BusError> {
    let info = info(bus, source).await?;
    Ok(Pending {
        count: info.num_ack_pending,
        first_sequence: info.ack_floor.stream_sequence + 1,
        last_sequence: info.delivered.stream_sequence,
        last_delivery: info.delivered.consumer_sequence,
    })
}

/// Reads the source's first stored message at or after `sequence`, as bytes: whatever is in it,
/// the answer is JSON that the client library can read.
///
/// # Errors
///
/// [`BusError::NotFound`] where there is none.
pub async fn next_stored(
    bus: &Bus,
    source: Source,
    sequence: u64,
) -> Result<StoredMessage, BusError> {
    let mut nearest: Option<StoredMessage> = None;
    let mut missing = None;
    for filter in source.filters(&bus.names) {
        match stored(bus, &json!({ "seq": sequence, "next_by_subj": filter })).await {
            Ok(found) => {
                if nearest
                    .as_ref()
                    .is_none_or(|near| found.sequence < near.sequence)
                {
                    nearest = Some(found);
                }
            }
            Err(error @ BusError::NotFound(_)) => missing = Some(error),
            Err(error) => return Err(error),
        }
    }
    let mut found = match (nearest, missing) {
        (Some(found), _) => found,
        (None, Some(missing)) => return Err(missing),
        (None, None) => return Err(BusError::NotFound("a source has a filter".to_owned())),
    };
    // JSON replaces bytes that are not UTF-8 by U+FFFD, which may also have been published as
    // such. Only the subject that is really there is found again by its name.
    if found.subject.contains(char::REPLACEMENT_CHARACTER) {
        let by_name = json!({ "seq": found.sequence, "next_by_subj": found.subject });
        found.is_subject_utf8 = match stored(bus, &by_name).await {
            Ok(again) => again.sequence == found.sequence,
            Err(BusError::NotFound(_)) => false,
            Err(error) => return Err(error),
        };
    }
    Ok(found)
}

async fn stored(bus: &Bus, payload: &serde_json::Value) -> Result<StoredMessage, BusError> {
    #[derive(Deserialize)]
    struct Answer {
        message: Message,
    }
    #[derive(Deserialize)]
    struct Message {
        subject: String,
        seq: u64,
        #[serde(default)]
        hdrs: String,
        #[serde(default)]
        data: String,
    }
    let subject = format!("STREAM.MSG.GET.{}", bus.names.events_stream());
    let response: Response<Answer> = bus.jetstream.request(subject.clone(), payload).await?;
    let message = match response {
        Response::Ok(answer) => answer.message,
        Response::Err { error } => return Err(BusError::from_api(&subject, &error)),
    };
    let decode = |text: &str| {
        STANDARD
            .decode(text)
            .map_err(|error| BusError::Unreachable(format!("{subject}: {error}")))
    };
    Ok(StoredMessage {
        sequence: message.seq,
        headers: decode(&message.hdrs)?,
        data: decode(&message.data)?,
        subject: message.subject,
        is_subject_utf8: true,
    })
}

/// Removes one message from `EVENTS` for good. One that is gone already is no error.
///
/// # Errors
///
/// [`BusError::Unreachable`] where the server did not confirm it.
pub async fn remove_stored(bus: &Bus, sequence: u64) -> Result<(), BusError> {
    #[derive(Deserialize)]
    struct Answer {
        success: bool,
    }
    let subject = format!("STREAM.MSG.DELETE.{}", bus.names.events_stream());
    let payload = json!({ "seq": sequence, "no_erase": true });
    let response: Response<Answer> = bus.jetstream.request(subject.clone(), &payload).await?;
    match response {
        Response::Ok(Answer { success: true }) => Ok(()),
        Response::Ok(Answer { success: false }) => {
            Err(BusError::Unreachable(format!("{subject}: not deleted")))
        }
        Response::Err { error } => {
            let again = json!({ "seq": sequence });
            match stored(bus, &again).await {
                Err(BusError::NotFound(_)) => Ok(()),
                _ => Err(BusError::from_api(&subject, &error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_that_comes_back_without_its_filters_is_refused() {
        let names = Names::new("");
        for source in [Source::Partition(3), Source::Keyless] {
            let wanted = source.config(&names);
            assert_eq!(compare("c", &wanted, &wanted), Ok(()));
            let mut found = wanted.clone();
            found.filter_subject.clear();
            found.filter_subjects.clear();
            assert!(compare("c", &wanted, &found).is_err());
        }
        let wanted = Source::Keyless.config(&names);
        let mut found = wanted.clone();
        found.filter_subjects.reverse();
        assert_eq!(compare("c", &wanted, &found), Ok(()));
    }

    #[test]
    fn every_partition_has_a_source() {
        assert_eq!(Source::all().count(), usize::from(PARTITIONS) + 1);
    }
}
