//! Events for everyone: one copy each in `BROADCASTS`, which every gateway follows.

use std::time::Duration;

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::message::PublishMessage;
use async_nats::{HeaderMap, HeaderValue};
use bytes::Bytes;
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
    /// The event's key: stored twice within two minutes it is one, and a gateway knows it later.
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
            id: broadcast.key.to_string(),
            body,
        })
    }

    async fn publish(&self, shared: &Shared) -> Result<PublishAckFuture, BusError> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, HeaderValue::from(self.id.as_str()));
        let message = (PublishMessage::build().payload(self.body.clone())).headers(headers);
        let published = shared
            .bus
            .jetstream
            .send_publish(self.subject.clone(), message);
        (published.await).map_err(|error| BusError::Unreachable(error.to_string()))
    }
}

/// Returns when the stream has all copies, however long it takes: nothing is acknowledged before.
/// They leave in their order; only after a failure some may change places.
pub(super) async fn copy_all(shared: &Shared, copies: &[&Copy]) {
    let mut wait = RETRY_MIN;
    let mut left: Vec<&Copy> = copies.to_vec();
    loop {
        let mut published = Vec::with_capacity(left.len());
        for copy in left {
            published.push((copy, copy.publish(shared).await));
        }
        left = Vec::new();
        for (copy, published) in published {
            let acknowledged = match published {
                Ok(acknowledged) => {
                    (acknowledged.await).map_err(|error| BusError::Unreachable(error.to_string()))
                }
                Err(error) => Err(error),
            };
            if let Err(error) = acknowledged {
                if wait == RETRY_MIN {
                    warn!(%error, "an event for everyone is held until BROADCASTS takes it");
                }
                left.push(copy);
            }
        }
        if left.is_empty() {
            return;
        }
        // Someone may have removed the stream; that it cannot be made shows in the next error.
        let _ = assert_streams(&shared.bus, shared.limits.ttl_max).await;
        tokio::time::sleep(wait).await;
        wait = (2 * wait).min(RETRY_MAX);
    }
}
