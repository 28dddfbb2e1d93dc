//! The list entry: a fixed head for the scripts, then the JSON exactly as it goes to the client.
//!
//! `1 <key> <time> <expiry> <flags> <json>`: format version, [`EventKey`] (27 characters), time
//! and expiry in milliseconds since 1970 (13 digits each), one character of flags. The scripts cut
//! the head by position and never look at the JSON.

use std::sync::Arc;

use crate::protocol::EventKey;

const HEAD_CHARACTERS: usize = 60;
const TIME_MS_MAX: u64 = 9_999_999_999_999;

/// One message as it waits, encoded once and shared by all the mailboxes it goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: EventKey,
    expires_ms: u64,
    text: Arc<str>,
}

impl Entry {
    /// `time_ms` is when the event was published, `expires_ms` when it stops waiting; both are cut
    /// to 13 digits (the year 2286).
    pub fn new(key: EventKey, time_ms: u64, expires_ms: u64, json: &str) -> Entry {
        let time = time_ms.min(TIME_MS_MAX);
        let expiry = expires_ms.min(TIME_MS_MAX);
        Entry {
            key,
            expires_ms: expiry,
            text: format!("1 {key} {time:013} {expiry:013} - {json}").into(),
        }
    }

    /// When it stops waiting, milliseconds since 1970.
    pub fn expires_ms(&self) -> u64 {
        self.expires_ms
    }

    /// The text of the list entry.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// What a reader takes from an entry's text.
pub struct ReadEntry<'a> {
    pub key: &'a str,
    pub time_ms: u64,
    pub json: &'a str,
}

impl ReadEntry<'_> {
    /// `None` where the text is not an entry of this version.
    pub fn parse(text: &str) -> Option<ReadEntry<'_>> {
        let json = text.get(HEAD_CHARACTERS..)?;
        if !text.starts_with("1 ") {
            return None;
        }
        Some(ReadEntry {
            key: text.get(2..29)?,
            time_ms: text.get(30..43)?.parse().ok()?,
            json,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_its_parts_where_the_scripts_look() {
        let key = EventKey {
            creation_ms: 1_700_000_000_000,
            sequence: 42,
        };
        let entry = Entry::new(key, 1_700_000_000_001, 1_700_000_060_001, "{\"id\":1}");
        let text = entry.as_str();
        assert_eq!(&text[2..29], key.to_string());
        assert_eq!(&text[44..57], "1700000060001");
        let read = ReadEntry::parse(text).unwrap();
        assert_eq!(read.key, key.to_string());
        assert_eq!(read.time_ms, 1_700_000_000_001);
        assert_eq!(read.json, "{\"id\":1}");
    }

    #[test]
    fn keys_sort_as_their_text_does() {
        let keys = [(1, 9), (1, 10), (2, 1), (0xfff_ffff_ffff, u64::MAX)].map(
            |(creation_ms, sequence)| EventKey {
                creation_ms,
                sequence,
            },
        );
        assert!(keys.is_sorted());
        assert!(keys.map(|key| key.to_string()).is_sorted());
        assert!(keys.iter().all(|key| key.to_string().len() == 27));
    }

    #[test]
    fn other_text_is_no_entry() {
        for text in [
            "",
            "1 ",
            "{}",
            "2 x",
            &"é".repeat(60),
            &format!("1 {}", "x".repeat(80)),
        ] {
            assert!(ReadEntry::parse(text).is_none(), "{text}");
        }
    }
}
