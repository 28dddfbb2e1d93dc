//! The copy of an event for everyone, as it lies in `BROADCASTS`: one JSON object, in which the
//! message stands exactly as it goes to the clients.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::protocol::EventKey;

const VERSION: u64 = 1;

/// One event for everyone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broadcast {
    /// The original's, so that a replay merges it by time with the user's own messages.
    pub key: EventKey,
    /// When JetStream stored the original, in milliseconds since 1970.
    pub time_ms: u64,
    /// When it stops waiting, in milliseconds since 1970.
    pub expires_ms: u64,
    /// The user who gets nothing.
    pub exclude: Option<Arc<str>>,
    /// The message exactly as it goes to the client.
    pub json: Arc<str>,
}

/// The bytes are not a broadcast of this format version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBroadcast {
    /// A later version of this program wrote it.
    #[error("a broadcast of the later format version {0}")]
    Later(u64),
    #[error("not a broadcast")]
    Junk,
}

#[derive(Serialize, Deserialize)]
struct Fields<'a> {
    version: u64,
    key: &'a str,
    time: u64,
    expires: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    exclude: Option<String>,
    #[serde(borrow)]
    message: &'a RawValue,
}

impl Broadcast {
    /// The bytes that [`Broadcast::decode`] reads.
    ///
    /// # Errors
    ///
    /// Where the message is no JSON.
    pub fn encode(&self) -> Result<Bytes, serde_json::Error> {
        let fields = Fields {
            version: VERSION,
            key: &self.key.to_string(),
            time: self.time_ms,
            expires: self.expires_ms,
            exclude: self.exclude.as_deref().map(str::to_owned),
            message: serde_json::from_str(&self.json)?,
        };
        Ok(serde_json::to_vec(&fields)?.into())
    }

    /// Reads what [`Broadcast::encode`] wrote.
    ///
    /// # Errors
    ///
    /// Other versions and anything else.
    pub fn decode(bytes: &[u8]) -> Result<Broadcast, InvalidBroadcast> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u64,
        }
        // Whatever a later version has in it, this says so.
        let found = serde_json::from_slice::<Versioned>(bytes);
        match found.map_err(|_| InvalidBroadcast::Junk)?.version {
            VERSION => {}
            later if later > VERSION => return Err(InvalidBroadcast::Later(later)),
            _ => return Err(InvalidBroadcast::Junk),
        }
        let fields: Fields = serde_json::from_slice(bytes).map_err(|_| InvalidBroadcast::Junk)?;
        Ok(Broadcast {
            key: fields.key.parse().map_err(|_| InvalidBroadcast::Junk)?,
            time_ms: fields.time,
            expires_ms: fields.expires,
            exclude: fields.exclude.map(Into::into),
            json: fields.message.get().into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broadcast_survives_its_bytes_to_the_letter() {
        let mut broadcast = Broadcast {
            key: EventKey {
                creation_ms: 1_700_000_000_000,
                sequence: 42,
            },
            time_ms: 1,
            expires_ms: 2,
            exclude: None,
            json: "{\"id\":\"\\ud800\", \"data\":1.0e2}".into(),
        };
        let bytes = broadcast.encode().unwrap();
        assert_eq!(Broadcast::decode(&bytes), Ok(broadcast.clone()));
        broadcast.exclude = Some("ü\"".into());
        let bytes = broadcast.encode().unwrap();
        assert_eq!(Broadcast::decode(&bytes), Ok(broadcast));
    }

    #[test]
    fn junk_is_no_broadcast() {
        for junk in [
            &b""[..],
            b"[]",
            b"{}",
            b"\xff",
            b"{\"version\":0,\"key\":\"018bcfe5680000000000000002a\",\"time\":1,\"expires\":2,\"message\":{}}",
            b"{\"version\":1,\"key\":\"short\",\"time\":1,\"expires\":2,\"message\":{}}",
        ] {
            assert_eq!(Broadcast::decode(junk), Err(InvalidBroadcast::Junk));
        }
    }

    #[test]
    fn a_later_version_says_so_whatever_it_has() {
        for (bytes, version) in [
            (&b"{\"version\":2}"[..], 2),
            (b"{\"version\":300,\"key\":[],\"message\":\"x\"}", 300),
        ] {
            let decoded = Broadcast::decode(bytes);
            assert_eq!(decoded, Err(InvalidBroadcast::Later(version)));
        }
    }
}
