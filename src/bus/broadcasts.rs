//! The stream `BROADCASTS` as a gateway follows it.
//!
//! A place in it is its time line and a sequence. The time line is when the stream was made, in
//! milliseconds since 1970. A stream can also go back (a server that lost its last writes, or was
//! restored), or be made again by a server whose clock is behind: then sequences mean something
//! else, while the creation does not say so. Who finds that out writes a later time line into the
//! stream's metadata, where all gateways read it.

use std::time::Duration;

use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy};
use async_nats::jetstream::response::Response;
use serde_json::json;

use super::streams::{Found, wanted_broadcasts};
use super::{Bus, BusError, Delivery, Pull, Pulled};

/// Where the time line stands in the stream's metadata, if it is not the creation.
const TIME_LINE: &str = "catchup_time_line";
/// Most messages that one request brings.
const REQUEST_MESSAGES: usize = 256;
/// The server removes a consumer that nobody asks for so long: a gateway that was killed leaves
/// nothing behind.
const INACTIVE_MAX: Duration = Duration::from_secs(30);

/// What a gateway needs to know of `BROADCASTS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BroadcastsStream {
    /// Milliseconds since 1970. Sequences of different time lines cannot be compared.
    pub time_line: u64,
    pub first_sequence: u64,
    /// One less than the first where the stream is empty.
    pub last_sequence: u64,
}

impl BroadcastsStream {
    fn of(found: &Found) -> Result<BroadcastsStream, BusError> {
        let written = (found.config["metadata"][TIME_LINE].as_str())
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        Ok(BroadcastsStream {
            time_line: found.creation_ms()?.max(written),
            first_sequence: found.state.first_seq,
            last_sequence: found.state.last_seq,
        })
    }
}

/// Sees to it that `BROADCASTS` exists as the contract asks; `ttl` is how long messages wait.
///
/// # Errors
///
/// [`BusError::Unsuitable`] where it exists and differs in what cannot be changed.
pub async fn assert_broadcasts(bus: &Bus, ttl: Duration) -> Result<BroadcastsStream, BusError> {
    BroadcastsStream::of(&wanted_broadcasts(&bus.names, ttl).made(bus).await?)
}

/// Begins a time line after `ended`, unless that was done already. Several gateways may do so at
/// once: they write the same.
///
/// # Errors
///
/// As [`assert_broadcasts`].
pub async fn begin_time_line(
    bus: &Bus,
    ttl: Duration,
    ended: u64,
) -> Result<BroadcastsStream, BusError> {
    let wanted = wanted_broadcasts(&bus.names, ttl);
    let found = wanted.made(bus).await?;
    let stream = BroadcastsStream::of(&found)?;
    if stream.time_line > ended {
        return Ok(stream);
    }
    let mut config = found.config;
    if !config["metadata"].is_object() {
        config["metadata"] = json!({});
    }
    config["metadata"][TIME_LINE] = json!((ended + 1).to_string());
    BroadcastsStream::of(&wanted.update(bus, &config).await?)
}

/// Reads the stream from a sequence on. It reports what it cannot read on from, and never skips:
/// the client library's own ordered consumer is made again in silence, also on a stream that was
/// made again meanwhile.
pub struct Follower {
    pull: Pull,
    /// Deliveries so far: one that is lost on the way is noticed by the next.
    delivered: u64,
    /// How many messages follow what was delivered, as far as is known.
    pub pending: u64,
}

impl Follower {
    /// Makes a consumer of its own; `first` is the first sequence of interest.
    ///
    /// # Errors
    ///
    /// Where the server does not make it.
    pub async fn new(bus: &Bus, first: u64) -> Result<Follower, BusError> {
        let stream = bus.names.broadcasts_stream();
        let unique = uuid::Uuid::now_v7().simple().to_string();
        let name = bus.names.broadcasts_consumer(&unique);
        let config = consumer::Config {
            name: Some(name.clone()),
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: first,
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
            pull: Pull::of(bus, &stream, &name).await?,
            delivered: 0,
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
                "a message of BROADCASTS was lost on its way".to_owned(),
            ));
        }
        self.pending = delivery.pending;
        Ok(Some(delivery))
    }
}
