//! Pull requests to a durable consumer, and what the server answers.
//!
//! The client library's own pull stream asks again before what it has was taken, stays silent for
//! up to 35 s where a request was lost, and reads a status line that a publisher wrote as the
//! server's. Here one request is open at a time, for as many messages as the caller has room for.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::{Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::StreamExt as _;
use tokio::time::Instant;

use super::{Bus, BusError, Source};

/// How long the server keeps a request for messages that are not there yet.
const EXPIRES: Duration = Duration::from_secs(5);
/// The server says that a request is open after so long without a message.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// After so long without a word a request counts as lost: two heartbeats and a little.
const SILENCE_MAX: Duration = Duration::from_millis(4_500);
/// Most bytes that one request brings; the largest message always fits in.
const REQUEST_BYTES: usize = 8 * 1024 * 1024;

/// A message of the stream, for processing and then for an answer on its reply subject.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub message: Message,
    /// Of the stream.
    pub sequence: u64,
    /// True where it was delivered before, so that it may be in mailboxes already.
    pub is_repeat: bool,
    /// When JetStream stored it, in milliseconds since 1970.
    pub time_ms: u64,
    /// Deliveries of this consumer, counted from 1.
    pub consumer_sequence: u64,
    /// How many more the consumer has to deliver.
    pub pending: u64,
}

/// What came out of waiting for a pull.
#[derive(Debug)]
pub enum Pulled {
    Message(Box<Delivery>),
    /// The request ended, or is believed lost: there is room for another one.
    Ended,
    /// The consumer is not there, or the connection is gone: nothing more will come.
    Gone(String),
}

/// The pulling side of one consumer.
pub struct Pull {
    bus: Bus,
    subject: String,
    inbox: String,
    subscriber: Subscriber,
    /// Messages that the open request may still bring.
    outstanding: usize,
    silent_since: Instant,
}

impl Pull {
    /// Subscribes to an inbox of its own; nothing is asked for yet.
    ///
    /// # Errors
    ///
    /// Where the client is closed.
    pub async fn new(bus: &Bus, source: Source) -> Result<Pull, BusError> {
        let consumer = source.consumer(&bus.names);
        Pull::of(bus, &bus.names.events_stream(), &consumer).await
    }

    /// The same for any consumer.
    pub(super) async fn of(bus: &Bus, stream: &str, consumer: &str) -> Result<Pull, BusError> {
        let inbox = bus.client.new_inbox();
        Ok(Pull {
            subscriber: bus.client.subscribe(inbox.clone()).await?,
            subject: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
            bus: bus.clone(),
            inbox,
            outstanding: 0,
            silent_since: Instant::now(),
        })
    }

    /// Messages that may still come without asking again.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Asks for up to `count` messages. Does nothing while a request is open.
    ///
    /// # Errors
    ///
    /// Where the client is closed.
    pub async fn request(&mut self, count: usize) -> Result<(), BusError> {
        if self.outstanding > 0 || count == 0 {
            return Ok(());
        }
        let max_bytes = REQUEST_BYTES + 2 * self.bus.client.max_payload();
        let payload = format!(
            "{{\"batch\":{count},\"max_bytes\":{max_bytes},\"expires\":{},\"idle_heartbeat\":{}}}",
            EXPIRES.as_nanos(),
            HEARTBEAT.as_nanos()
        );
        let (subject, inbox) = (self.subject.clone(), self.inbox.clone());
        self.bus
            .client
            .publish_with_reply(subject, inbox, Bytes::from(payload))
            .await?;
        self.outstanding = count;
        self.silent_since = Instant::now();
        Ok(())
    }

    /// Waits for what comes next. Cancel-safe.
    pub async fn next(&mut self) -> Pulled {
        loop {
            let deadline = self.silent_since + SILENCE_MAX;
            let message = tokio::select! {
                message = self.subscriber.next() => message,
                () = tokio::time::sleep_until(deadline), if self.outstanding > 0 => {
                    self.outstanding = 0;
                    return Pulled::Ended;
                }
            };
            let Some(message) = message else {
                return Pulled::Gone("the connection was given up".to_owned());
            };
            if let Some(pulled) = self.take(message) {
                return pulled;
            }
        }
    }

    /// What has already arrived, without waiting.
    pub fn next_ready(&mut self) -> Option<Pulled> {
        loop {
            let message = self.subscriber.next().now_or_never()??;
            if let Some(pulled) = self.take(message) {
                return Some(pulled);
            }
        }
    }

    /// Tells the server to send nothing more, and returns what has arrived. What was on its way is
    /// lost to this worker, and comes again to whoever pulls then.
    pub async fn stop(mut self) -> Vec<Delivery> {
        // An error means that the connection is gone, and with it the subscription.
        let _ = self.subscriber.unsubscribe().await;
        let mut arrived = Vec::new();
        while let Some(pulled) = self.next_ready() {
            if let Pulled::Message(delivery) = pulled {
                arrived.push(*delivery);
            }
        }
        arrived
    }

    /// `None` for a heartbeat.
    fn take(&mut self, message: Message) -> Option<Pulled> {
        self.silent_since = Instant::now();
        // Only stored messages have a reply subject; a publisher may have written a status line.
        if message.reply.is_some() {
            self.outstanding = self.outstanding.saturating_sub(1);
            return self.delivery(message).map(Pulled::Message);
        }
        let description = message.description.unwrap_or_default();
        match message.status {
            Some(StatusCode::IDLE_HEARTBEAT) => None,
            Some(StatusCode::NO_RESPONDERS) => Some(Pulled::Gone(
                "no JetStream server answers for the consumer".to_owned(),
            )),
            // It follows the last message of a request, and may come when the next one is open.
            Some(_) if description == "Batch Completed" => None,
            Some(_) if description == "Consumer Deleted" => {
                Some(Pulled::Gone("the consumer was deleted".to_owned()))
            }
            _ => {
                self.outstanding = 0;
                Some(Pulled::Ended)
            }
        }
    }

    fn delivery(&self, message: Message) -> Option<Box<Delivery>> {
        let message = jetstream::Message {
            message,
            context: self.bus.jetstream.clone(),
        };
        let info = message.info().ok()?;
        let nanoseconds = info.published.unix_timestamp_nanos();
        let (sequence, delivered) = (info.stream_sequence, info.delivered);
        Some(Box::new(Delivery {
            sequence,
            is_repeat: delivered > 1,
            time_ms: u64::try_from(nanoseconds / 1_000_000).unwrap_or(0),
            consumer_sequence: info.consumer_sequence,
            pending: info.pending,
            message: message.message,
        }))
    }
}
