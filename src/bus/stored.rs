//! Stored messages read and removed one by one, as bytes: whatever is in them, the answers are JSON
//! that the client library can read.

use async_nats::jetstream::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;

use super::streams::milliseconds_of;
use super::{Bus, BusError, Source, StoredMessage};

/// Reads the source's first stored message at or after `sequence`, as bytes.
///
/// # Errors
///
/// [`BusError::NotFound`] where there is none.
pub async fn next_stored(
    bus: &Bus,
    source: Source,
    sequence: u64,
) -> Result<StoredMessage, BusError> {
    let filter = source.filter(&bus.names);
    let stream = bus.names.events_stream();
    let first = json!({ "seq": sequence, "next_by_subj": filter });
    let mut found = stored(bus, &stream, &first).await?;
    // JSON replaces bytes that are not UTF-8 by U+FFFD, which may also have been published as
    // such. Only the subject that is really there is found again by its name.
    if found.subject.contains(char::REPLACEMENT_CHARACTER) {
        let by_name = json!({ "seq": found.sequence, "next_by_subj": found.subject });
        found.is_subject_utf8 = match stored(bus, &stream, &by_name).await {
            Ok(again) => again.sequence == found.sequence,
            Err(BusError::NotFound(_)) => false,
            Err(error) => return Err(error),
        };
    }
    Ok(found)
}

/// The same for `BROADCASTS`, which a gateway follows.
///
/// # Errors
///
/// [`BusError::NotFound`] where there is none.
pub async fn next_broadcast(bus: &Bus, sequence: u64) -> Result<StoredMessage, BusError> {
    let payload = json!({ "seq": sequence, "next_by_subj": bus.names.broadcasts_subjects() });
    stored(bus, &bus.names.broadcasts_stream(), &payload).await
}

/// The same for `EVENTS`, whatever its source.
///
/// # Errors
///
/// [`BusError::NotFound`] where there is none.
pub async fn next_event(bus: &Bus, sequence: u64) -> Result<StoredMessage, BusError> {
    let payload = json!({ "seq": sequence, "next_by_subj": bus.names.stored_events_subjects() });
    stored(bus, &bus.names.events_stream(), &payload).await
}

/// When the message at this sequence of `BROADCASTS` was stored, in milliseconds since 1970; `None`
/// where there is none.
///
/// # Errors
///
/// Where NATS does not answer.
pub async fn broadcast_time_ms(bus: &Bus, sequence: u64) -> Result<Option<u64>, BusError> {
    let payload = json!({ "seq": sequence });
    match stored(bus, &bus.names.broadcasts_stream(), &payload).await {
        Ok(message) => Ok(Some(message.time_ms)),
        Err(BusError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn stored(
    bus: &Bus,
    stream: &str,
    payload: &serde_json::Value,
) -> Result<StoredMessage, BusError> {
    #[derive(Deserialize)]
    struct Answer {
        message: Message,
    }
    #[derive(Deserialize)]
    struct Message {
        subject: String,
        seq: u64,
        /// RFC 3339.
        time: String,
        #[serde(default)]
        hdrs: String,
        #[serde(default)]
        data: String,
    }
    let subject = format!("STREAM.MSG.GET.{stream}");
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
        time_ms: milliseconds_of(&message.time)?,
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
            match stored(bus, &bus.names.events_stream(), &again).await {
                Err(BusError::NotFound(_)) => Ok(()),
                _ => Err(BusError::from_api(&subject, &error)),
            }
        }
    }
}
