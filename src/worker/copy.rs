//! Events for everyone: one copy each in `BROADCASTS`, which every gateway follows.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::message::PublishMessage;
use async_nats::{HeaderMap, HeaderValue};
use bytes::Bytes;
use futures_util::future::join_all;
use tracing::warn;

use super::Shared;
use crate::bus::{Broadcast, BusError, Names, assert_streams};
use crate::event::{Address, Refusal};

/// Waits between attempts, doubled from the first to the last.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(3);

/// What the header block of a copy takes, at most.
const HEADER_BYTES_MAX: usize = 128;

/// A copy that is ready to be stored.
pub(super) struct Copy {
    subject: String,
    /// The publisher's ordering key.
    key: Option<String>,
    /// The event's key and time: stored twice within two minutes it is one, and a gateway knows it
    /// later. Not the key alone: a stream `EVENTS` that lost its last events gives their sequences
    /// to others.
    id: String,
    body: Bytes,
}

impl Copy {
    /// `max_payload` is the server's limit on one message, in bytes.
    pub fn new(
        names: &Names,
        address: &Address,
        broadcast: &Broadcast,
        max_payload: usize,
    ) -> Result<Copy, Refusal> {
        let body = broadcast
            .encode()
            .map_err(|_| Refusal::new("data", "cannot be put into a message"))?;
        if body.len() + HEADER_BYTES_MAX > max_payload {
            return Err(Refusal::new("data", "too long to be copied for everyone"));
        }
        Ok(Copy {
            subject: names.broadcast(&address.event_type, address.key.as_deref()),
            key: address.key.clone(),
            id: format!("{}-{}", broadcast.key, broadcast.time_ms),
            body,
        })
    }

    /// Returns when the stream has it.
    async fn keep(&self, shared: &Shared) {
        let mut wait = RETRY_MIN;
        while let Err(error) = self.publish(shared).await {
            if wait == RETRY_MIN {
                warn!(%error, "an event for everyone is held until BROADCASTS takes it");
            }
            // Someone may have removed the stream; that it cannot be made shows in the next error.
            let _ = assert_streams(&shared.bus, shared.limits.ttl_max).await;
            tokio::time::sleep(wait).await;
            wait = (2 * wait).min(RETRY_MAX);
        }
    }

    async fn publish(&self, shared: &Shared) -> Result<(), BusError> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, HeaderValue::from(self.id.as_str()));
        let message = (PublishMessage::build().payload(self.body.clone())).headers(headers);
        let jetstream = &shared.bus.jetstream;
        let published = async {
            let sent = jetstream
                .send_publish(self.subject.clone(), message)
                .await?;
            sent.await
        };
        let published: Result<_, PublishError> = published.await;
        (published.map(drop)).map_err(|error| BusError::Unreachable(error.to_string()))
    }
}

/// Returns when the stream has all copies, however long it takes: nothing is acknowledged before.
///
/// Copies with one key (and all without one) leave in their order, each after the one before it is
/// there: what goes wrong with an earlier one must not let a later one pass.
pub(super) async fn copy_all(shared: &Shared, copies: &[&Copy]) {
    let mut queues: HashMap<Option<&str>, VecDeque<&Copy>> = HashMap::new();
    for copy in copies {
        queues
            .entry(copy.key.as_deref())
            .or_default()
            .push_back(copy);
    }
    let queues = queues.into_values().map(|queue| async move {
        for copy in queue {
            copy.keep(shared).await;
        }
    });
    join_all(queues).await;
}
