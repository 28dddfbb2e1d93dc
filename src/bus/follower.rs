//! A stream read from some place on, by a consumer of its own.

use std::time::Duration;

use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy};
use async_nats::jetstream::response::Response;
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;
use tracing::debug;

use super::{Bus, BusError, Delivery, Pull, Pulled};

/// Most messages that one request brings.
const REQUEST_MESSAGES: usize = 256;
/// The server removes a consumer that nobody asks for so long: a process that was killed leaves
/// nothing behind.
const INACTIVE_MAX: Duration = Duration::from_secs(30);

/// Reads a stream from a place on. It reports what it cannot read on from, and never skips: the
/// client library's own ordered consumer is made again in silence, also on a stream that was made
/// again meanwhile.
pub struct Follower {
    pull: Pull,
    /// `<stream>.<consumer>`.
    consumer: String,
    /// Deliveries so far: one that is lost on the way is noticed by the next.
    delivered: u64,
    /// The sequence that the first message has at least.
    pub first: u64,
    /// How many messages follow what was delivered, as far as is known.
    pub pending: u64,
}

/// Where to begin in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    Sequence(u64),
    /// The first message that JetStream stored at this time or later, milliseconds since 1970.
    TimeMs(u64),
}

impl Follower {
    /// Follows `BROADCASTS`; `first` is the first sequence of interest.
    ///
    /// # Errors
    ///
    /// Where the server does not make the consumer.
    pub async fn new(bus: &Bus, first: u64) -> Result<Follower, BusError> {
        let stream = bus.names.broadcasts_stream();
        let name = bus.names.broadcasts_consumer(&unique());
        Follower::of(bus, &stream, name, Begin::Sequence(first)).await
    }

    /// Follows `EVENTS`, all of it.
    ///
    /// # Errors
    ///
    /// Where the server does not make the consumer.
    pub async fn of_events(bus: &Bus, begin: Begin) -> Result<Follower, BusError> {
        let stream = bus.names.events_stream();
        let name = bus.names.rebuild_consumer(&unique());
        Follower::of(bus, &stream, name, begin).await
    }

    async fn of(bus: &Bus, stream: &str, name: String, begin: Begin) -> Result<Follower, BusError> {
        let config = consumer::Config {
            name: Some(name.clone()),
            deliver_policy: match begin {
                Begin::Sequence(sequence) => DeliverPolicy::ByStartSequence {
                    start_sequence: sequence.max(1),
                },
                Begin::TimeMs(time_ms) => DeliverPolicy::ByStartTime {
                    start_time: time_of(time_ms),
                },
            },
            ack_policy: AckPolicy::None,
            inactive_threshold: INACTIVE_MAX,
            memory_storage: true,
            num_replicas: 1,
            ..consumer::Config::default()
        };
        let payload = json!({ "stream_name": stream, "config": config, "action": "create" });
        let subject = format!("CONSUMER.CREATE.{stream}.{name}");
        let response: Response<consumer::Info> =
            bus.jetstream.request(subject.clone(), &payload).await?;
        let info = match response {
            Response::Ok(info) => info,
            Response::Err { error } => return Err(BusError::from_api(&subject, &error)),
        };
        Ok(Follower {
            pull: Pull::of(bus, stream, &name).await?,
            consumer: format!("{stream}.{name}"),
            delivered: 0,
            first: info.delivered.stream_sequence + 1,
            pending: info.num_pending,
        })
    }

    /// The next message; `None` every few seconds in which none came. Cancel-safe.
    ///
    /// # Errors
    ///
    /// Where messages can no longer be read, or one was lost on the way: begin anew after the last
    /// one that was read.
    pub async fn next(&mut self) -> Result<Option<Delivery>, BusError> {
        self.pull.request(REQUEST_MESSAGES).await?;
        let delivery = match self.pull.next().await {
            Pulled::Message(delivery) => *delivery,
            Pulled::Ended => return Ok(None),
            Pulled::Gone(reason) => return Err(BusError::Unreachable(reason)),
        };
        self.delivered += 1;
        if delivery.consumer_sequence != self.delivered {
            return Err(BusError::Unreachable(
                "a message of the stream was lost on its way".to_owned(),
            ));
        }
        self.pending = delivery.pending;
        Ok(Some(delivery))
    }
}

impl Follower {
    /// Removes the consumer at once. Where that fails, the server does it later.
    pub async fn end(self, bus: &Bus) {
        #[derive(Deserialize)]
        struct Deleted {}
        let subject = format!("CONSUMER.DELETE.{}", self.consumer);
        let deleted = bus.jetstream.request(subject.clone(), &json!({})).await;
        let deleted = match deleted {
            Ok(Response::Ok(Deleted {})) => Ok(()),
            Ok(Response::Err { error }) => Err(BusError::from_api(&subject, &error)),
            Err(error) => Err(BusError::from(error)),
        };
        if let Err(error) = deleted {
            debug!(%error, "a consumer stays for a while");
        }
    }
}

fn unique() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}

fn time_of(milliseconds: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(milliseconds) * 1_000_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
