//! Which stored messages the client library cannot read.
//!
//! The server stores header blocks and subjects as any bytes. async-nats 0.51 takes what it cannot
//! parse for a broken connection and connects anew (`Connection::try_read_op`); a carriage return
//! inside a header value even ends its reader for good. So one such message, delivered again every
//! ten seconds, would stop a partition. [`judge`] follows the reader's own steps, with its own
//! types where they are public.

use std::str::FromStr as _;

use async_nats::{HeaderName, HeaderValue, StatusCode};

/// A message read from the stream as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    pub sequence: u64,
    /// When JetStream stored it, in milliseconds since 1970.
    pub time_ms: u64,
    /// Where it is not UTF-8, U+FFFD stands for what cannot be read.
    pub subject: String,
    pub is_subject_utf8: bool,
    /// The header block with its version line; empty where the message has none.
    pub headers: Vec<u8>,
    pub data: Vec<u8>,
}

/// Why a message cannot be read. The text is one line of ASCII.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("subject: not valid UTF-8")]
    SubjectNotUtf8,
    #[error("subject: must not have whitespace")]
    SubjectWithWhitespace,
    #[error("headers: not valid UTF-8")]
    HeadersNotUtf8,
    #[error("headers: the first line must be NATS/1.0")]
    VersionLine,
    #[error("headers: a line has no colon")]
    NoColon,
    #[error("headers: a name has other than printable ASCII characters")]
    HeaderName,
    #[error("headers: a value has a carriage return inside")]
    HeaderValue,
}

/// `Err` where the client library could not read the message.
///
/// # Errors
///
/// What is wrong with it.
pub fn judge(message: &StoredMessage) -> Result<(), Unreadable> {
    if !message.is_subject_utf8 {
        return Err(Unreadable::SubjectNotUtf8);
    }
    if message.headers.is_empty() {
        return Ok(());
    }
    // The line before a message with headers is split at any Unicode whitespace, while the server
    // only keeps ASCII's four out of a subject.
    if message.subject.contains(char::is_whitespace) {
        return Err(Unreadable::SubjectWithWhitespace);
    }
    judge_headers(&message.headers)
}

fn judge_headers(block: &[u8]) -> Result<(), Unreadable> {
    let block = std::str::from_utf8(block).map_err(|_| Unreadable::HeadersNotUtf8)?;
    let mut lines = block.lines().peekable();
    let version = lines.next().and_then(|line| line.strip_prefix("NATS/1.0"));
    let status = version.ok_or(Unreadable::VersionLine)?.trim();
    let status = status
        .split_once(' ')
        .map_or(status, |(status, _)| status.trim());
    if !status.is_empty() && StatusCode::from_str(status).is_err() {
        return Err(Unreadable::VersionLine);
    }
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let (name, value) = line.split_once(':').ok_or(Unreadable::NoColon)?;
        HeaderName::from_str(name).map_err(|_| Unreadable::HeaderName)?;
        let mut value = value.trim_start().to_owned();
        while let Some(more) = lines.next_if(|line| line.starts_with(char::is_whitespace)) {
            value.push_str(more);
        }
        HeaderValue::from_str(value.trim_end()).map_err(|_| Unreadable::HeaderValue)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(subject: &str, headers: &[u8]) -> StoredMessage {
        StoredMessage {
            sequence: 1,
            time_ms: 0,
            subject: subject.into(),
            is_subject_utf8: true,
            headers: headers.into(),
            data: Vec::new(),
        }
    }

    #[test]
    fn what_the_reader_takes_passes() {
        for headers in [
            &b""[..],
            b"NATS/1.0\r\n\r\n",
            b"NATS/1.0\r\nNats-Msg-Id: a b\r\n\r\n",
            b"NATS/1.0 100 Idle Heartbeat\r\n\r\n",
            b"NATS/1.0\r\na: x\r\n y\r\n\tz\r\n\r\n",
            b"NATS/1.0\r\n: x\r\n\r\n",
            "NATS/1.0\r\na: \u{fffd}\r\n\r\n".as_bytes(),
        ] {
            assert_eq!(judge(&message("events.t", headers)), Ok(()));
        }
        assert_eq!(judge(&message("events.t.\u{a0}", b"")), Ok(()));
    }

    #[test]
    fn what_breaks_the_reader_is_found() {
        for (headers, expected) in [
            (&b"junk"[..], Unreadable::VersionLine),
            (b"NATS/1.0 4\r\n\r\n", Unreadable::VersionLine),
            (b"NATS/1.1\r\n\r\n", Unreadable::VersionLine),
            (b"NATS/1.0\r\n\xff: x\r\n\r\n", Unreadable::HeadersNotUtf8),
            (b"NATS/1.0\r\nno colon\r\n\r\n", Unreadable::NoColon),
            (b"NATS/1.0\r\na b: x\r\n\r\n", Unreadable::HeaderName),
            (b"NATS/1.0\r\na: x\ry\r\n\r\n", Unreadable::HeaderValue),
        ] {
            assert_eq!(judge(&message("events.t", headers)), Err(expected));
        }
        let spaced = message("events.t.a\u{b}b", b"NATS/1.0\r\na: b\r\n\r\n");
        assert_eq!(judge(&spaced), Err(Unreadable::SubjectWithWhitespace));
        let mut broken = message("events.t.\u{fffd}", b"");
        broken.is_subject_utf8 = false;
        assert_eq!(judge(&broken), Err(Unreadable::SubjectNotUtf8));
    }
}
