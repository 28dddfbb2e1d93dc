//! The stream `BROADCASTS` as a gateway follows it.
//!
//! A place in it is its time line and a sequence. The time line is when the stream was made, in
//! milliseconds since 1970. A stream can also go back (a server that lost its last writes, or was
//! restored), or be made again by a server whose clock is behind: then sequences mean something
//! else, while the creation does not say so. Who finds that out writes a later time line into the
//! stream's metadata, where all gateways read it.

use std::time::Duration;

use serde_json::json;

use super::streams::{Found, wanted_broadcasts};
use super::{Bus, BusError};

/// Where the time line stands in the stream's metadata, if it is not the creation.
const TIME_LINE: &str = "catchup_time_line";

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
