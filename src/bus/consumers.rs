//! The durable consumers of `EVENTS`: one a partition, and two for what has no partition.

use std::time::Duration;

use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy};
use async_nats::jetstream::response::Response;
use futures_util::future::try_join_all;
use serde_json::json;

use super::{Bus, BusError, Names, PARTITIONS};

/// A message that was neither acknowledged nor said to be in progress for this long goes to
/// another worker.
pub const ACK_WAIT: Duration = Duration::from_secs(10);
/// Most messages of one partition that workers hold.
const PARTITION_ACK_PENDING_MAX: i64 = 8_192;
/// Most messages of one source without a partition that workers hold, all workers together.
const SHARED_ACK_PENDING_MAX: i64 = 65_536;

/// Where a worker takes events from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// Events whose key falls into this partition, pulled by one worker at a time.
    Partition(u16),
    /// Events without a key; pulled by all.
    Keyless,
    /// Events whose type or key is a wildcard (`*`, `>`), which many client libraries publish: the
    /// subject transform passes them over. None is valid, but each was acknowledged and must not
    /// vanish. Pulled by all, apart from the keyless ones: a consumer with two filters becomes
    /// slower with every key in the stream (at 50,000 keys it brought 133 events a second).
    Escaped,
}

impl Source {
    /// The sources that all workers pull.
    pub const SHARED: [Source; 2] = [Source::Keyless, Source::Escaped];

    /// Every source there is.
    pub fn all() -> impl Iterator<Item = Source> {
        (0..PARTITIONS).map(Source::Partition).chain(Source::SHARED)
    }

    /// The name of its durable consumer.
    pub fn consumer(self, names: &Names) -> String {
        match self {
            Source::Partition(partition) => names.partition_consumer(partition),
            Source::Keyless => names.keyless_consumer(),
            Source::Escaped => names.escaped_consumer(),
        }
    }

    /// The stored subjects it takes. One subject is beyond any filter: nats-server 2.15 acknowledges
    /// a key or type with the byte 127 and never finds it again, since its index of subjects uses
    /// that byte itself.
    pub(super) fn filter(self, names: &Names) -> String {
        let [keyless, keyed] = names.events_subjects();
        match self {
            Source::Partition(partition) => names.partition_subjects(partition),
            Source::Keyless => keyless,
            Source::Escaped => keyed,
        }
    }

    fn config(self, names: &Names) -> consumer::Config {
        consumer::Config {
            durable_name: Some(self.consumer(names)),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_deliver: -1,
            max_ack_pending: match self {
                Source::Partition(_) => PARTITION_ACK_PENDING_MAX,
                Source::Keyless | Source::Escaped => SHARED_ACK_PENDING_MAX,
            },
            filter_subject: self.filter(names),
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
    let subject = format!("CONSUMER.CREATE.{stream}.{name}.{}", wanted.filter_subject);
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
    let differs = [
        (
            "filter_subject",
            wanted.filter_subject != found.filter_subject,
        ),
        ("filter_subjects", !found.filter_subjects.is_empty()),
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_consumer_that_comes_back_without_its_filter_is_refused() {
        let names = Names::new("");
        for source in [Source::Partition(3), Source::Keyless, Source::Escaped] {
            let wanted = source.config(&names);
            assert_eq!(compare("c", &wanted, &wanted), Ok(()));
            let mut found = wanted.clone();
            found.filter_subject.clear();
            assert!(compare("c", &wanted, &found).is_err());
        }
    }

    #[test]
    fn every_source_has_its_own_consumer_and_filter() {
        let names = Names::new("");
        let consumers: HashSet<_> = Source::all().map(|it| it.consumer(&names)).collect();
        let filters: HashSet<_> = Source::all().map(|it| it.filter(&names)).collect();
        assert_eq!(consumers.len(), usize::from(PARTITIONS) + 2);
        assert_eq!(filters.len(), usize::from(PARTITIONS) + 2);
    }
}
