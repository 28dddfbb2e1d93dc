//! Refused events, found in `DEAD_LETTERS` by the sequence of the event.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use bytes::Bytes;

use super::{System, eventually};

/// A dead letter.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Without the namespace.
    pub subject: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A reader of the stream that remembers what it has read.
pub struct Letters {
    stream: Stream,
    /// What stands before every subject.
    namespace: String,
    next: u64,
    by_event: BTreeMap<u64, Letter>,
}

impl System {
    /// A reader of `DEAD_LETTERS` from its beginning.
    pub async fn letters(&self) -> Letters {
        let name = self.stream_name("DEAD_LETTERS");
        let stream = self.jetstream().await.get_stream(name).await;
        Letters {
            stream: stream.expect("the stream DEAD_LETTERS"),
            namespace: format!("{}.", self.namespace()),
            next: 1,
            by_event: BTreeMap::new(),
        }
    }
}

impl Letters {
    /// Waits for the dead letter of the event with this sequence in `EVENTS`.
    pub async fn of(&mut self, sequence: u64) -> Letter {
        let what = format!("the dead letter of event {sequence}");
        eventually(what, async || {
            self.read_on().await;
            self.by_event.get(&sequence).cloned()
        })
        .await
    }

    /// True where the event has a dead letter at this moment.
    pub async fn has(&mut self, sequence: u64) -> bool {
        self.read_on().await;
        self.by_event.contains_key(&sequence)
    }

    async fn read_on(&mut self) {
        loop {
            let raw = match self.stream.get_raw_message(self.next).await {
                Ok(raw) => raw,
                Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => return,
                Err(error) => panic!("DEAD_LETTERS cannot be read: {error}"),
            };
            self.next += 1;
            let letter = Letter {
                subject: raw.subject.trim_start_matches(&self.namespace).to_owned(),
                headers: raw.headers,
                body: raw.payload,
            };
            let event = letter.header("Catchup-Sequence").parse();
            self.by_event
                .insert(event.expect("the sequence of the event"), letter);
        }
    }
}

impl Letter {
    /// A header's value; panics where there is none.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value
            .unwrap_or_else(|| panic!("no {name} in {:?}", self.headers))
            .as_str()
    }

    /// `Catchup-Reason`, after a check that it is what the contract says of it.
    pub fn reason(&self) -> &str {
        let reason = self.header("Catchup-Reason");
        let is_clean = reason.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        assert!(is_clean && (1..=200).contains(&reason.len()), "{reason:?}");
        reason
    }
}
