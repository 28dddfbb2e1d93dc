//! Refused events, kept in `DEAD_LETTERS` with their reason (contract §3).

use std::time::Duration;

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::message::PublishMessage;
use async_nats::{HeaderMap, HeaderValue};
use bytes::Bytes;
use tracing::warn;

use super::Shared;
use crate::bus::{BusError, Names, assert_streams};

/// Longest subject of a dead letter, in bytes. The server takes lines of 4,096 bytes, and breaks
/// the connection over a longer one: a subject that its publisher could just write is cut.
const SUBJECT_BYTES_MAX: usize = 3_800;
/// The same after a failed attempt, for a server that takes less.
const SUBJECT_BYTES_MAX_LATER: usize = 800;
/// Waits between attempts, doubled from the first to the last.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(3);

/// A refused event.
#[derive(Debug, Clone)]
pub(super) struct DeadLetter {
    /// Without the namespace, as its publisher wrote it.
    pub publishers_subject: String,
    /// One line of ASCII, at most 200 bytes, that begins with the field's name.
    pub reason: String,
    /// In `EVENTS`.
    pub sequence: u64,
    /// When JetStream stored it, in milliseconds since 1970.
    pub time_ms: u64,
    pub body: Bytes,
}

impl DeadLetter {
    /// Returns when the stream has it, however long it takes.
    pub async fn keep(&self, shared: &Shared) {
        let mut wait = RETRY_MIN;
        let mut subject_bytes_max = SUBJECT_BYTES_MAX;
        while let Err(error) = self.publish(shared, subject_bytes_max).await {
            if wait == RETRY_MIN {
                let sequence = self.sequence;
                warn!(sequence, %error, "a refused event is held until DEAD_LETTERS takes it");
            }
            // Someone may have removed the stream; that it cannot be made shows in the next error.
            let _ = assert_streams(&shared.bus, shared.limits.ttl_max).await;
            subject_bytes_max = SUBJECT_BYTES_MAX_LATER;
            tokio::time::sleep(wait).await;
            wait = (2 * wait).min(RETRY_MAX);
        }
    }

    async fn publish(&self, shared: &Shared, subject_bytes_max: usize) -> Result<(), BusError> {
        let headers = self.headers();
        let fits = header_bytes(&headers) + self.body.len() <= shared.bus.client.max_payload();
        let body = match fits {
            true => self.body.clone(),
            false => Bytes::new(),
        };
        let message = PublishMessage::build().payload(body).headers(headers);
        let subject = subject(
            &shared.bus.names,
            &self.publishers_subject,
            subject_bytes_max,
        );
        let unreachable = |error: &dyn std::fmt::Display| BusError::Unreachable(error.to_string());
        let acknowledged = (shared.bus.jetstream.send_publish(subject, message).await)
            .map_err(|error| unreachable(&error))?;
        acknowledged.await.map_err(|error| unreachable(&error))?;
        Ok(())
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        // Kept twice, it is one: the stream drops the second within two minutes. With its time,
        // since a stream that lost its last events gives their sequences to others.
        let id = format!("dl-{}-{}", self.sequence, self.time_ms);
        headers.insert(NATS_MESSAGE_ID, id);
        // The map panics on line breaks; the reason has none by its making.
        let reason: HeaderValue = self.reason.parse().unwrap_or_default();
        headers.insert("Catchup-Reason", reason);
        headers.insert("Catchup-Sequence", HeaderValue::from(self.sequence));
        headers
    }
}

/// Bytes of the header block on the wire.
fn header_bytes(headers: &HeaderMap) -> usize {
    let lines = headers.iter().flat_map(|(name, values)| {
        let name: &str = name.as_ref();
        values
            .iter()
            .map(|value| name.len() + ": \r\n".len() + value.as_str().len())
    });
    "NATS/1.0\r\n\r\n".len() + lines.sum::<usize>()
}

/// The subject of a dead letter: that of its publisher, made one that can be published and that
/// no reader of the dead letters stumbles over.
fn subject(names: &Names, publishers_subject: &str, bytes_max: usize) -> String {
    let clean = |character: char| match character.is_whitespace() || character.is_control() {
        true => '_',
        false => character,
    };
    let mut subject: String = names
        .dead_letter(publishers_subject)
        .chars()
        .map(clean)
        .collect();
    while subject.len() > bytes_max {
        subject.pop();
    }
    subject.truncate(subject.trim_end_matches('.').len());
    subject
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subject_is_the_publishers_where_it_can_be() {
        let names = Names::new("");
        let of = |subject: &str| super::subject(&names, subject, 40);
        assert_eq!(of("events.t.k"), "dead_letters.events.t.k");
        assert_eq!(of("events.t.*"), "dead_letters.events.t.*");
        assert_eq!(
            of("events.t.a\u{b}\u{a0}\0b"),
            "dead_letters.events.t.a___b"
        );
        assert_eq!(of(&format!("events.{}", "é".repeat(40))).len(), 40);
        assert_eq!(of(&format!("events.{}.x", "a".repeat(19))), {
            format!("dead_letters.events.{}", "a".repeat(19))
        });
    }

    #[test]
    fn the_size_of_the_headers_is_that_on_the_wire() {
        let letter = DeadLetter {
            publishers_subject: "events.t".into(),
            reason: "data: missing".into(),
            sequence: 12,
            time_ms: 345,
            body: Bytes::new(),
        };
        let wire = "NATS/1.0\r\nNats-Msg-Id: dl-12-345\r\nCatchup-Reason: data: missing\r\n\
                    Catchup-Sequence: 12\r\n\r\n";
        assert_eq!(header_bytes(&letter.headers()), wire.len());
    }
}
