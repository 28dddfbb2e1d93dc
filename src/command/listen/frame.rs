//! What a gateway sends, as far as a client must know it. Messages stay the text they are.

use serde::Deserialize;
use serde_json::value::RawValue;

/// A frame of contract §4.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Welcome {
    pub(super) cursor: String,
    pub(super) user: String,
    pub(super) device: String,
    pub(super) node: String,
    pub(super) pending: u64,
    pub(super) heartbeat_seconds: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Messages<'a> {
    pub(super) cursor: String,
    /// Not only borrowed but unread: numbers and lone surrogates must not make it fail.
    #[serde(borrow)]
    pub(super) messages: Vec<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Missed {
    pub(super) cursor: String,
    pub(super) count: Option<u64>,
    pub(super) reason: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Live {
    pub(super) cursor: String,
    pub(super) replayed: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Away {
    pub(super) retry_milliseconds: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Fault {
    pub(super) message: String,
}

/// A frame, by its op.
#[derive(Debug)]
pub(super) enum Frame<'a> {
    Welcome(Welcome),
    Messages(Messages<'a>),
    Missed(Missed),
    Live(Live),
    Heartbeat,
    Away(Away),
    Error(Fault),
    /// An op of a later version: nothing to do.
    Unknown,
}

impl Frame<'_> {
    /// Reads a frame. Fields that are not known here are not looked at.
    ///
    /// # Errors
    ///
    /// Text that is no frame.
    pub(super) fn parse(text: &str) -> Result<Frame<'_>, serde_json::Error> {
        #[derive(Deserialize)]
        struct Op {
            op: String,
        }
        // Twice, because a tagged enum would read the messages into values on its way.
        let Op { op } = serde_json::from_str(text)?;
        match op.as_str() {
            "welcome" => serde_json::from_str(text).map(Frame::Welcome),
            "messages" => serde_json::from_str(text).map(Frame::Messages),
            "missed" => serde_json::from_str(text).map(Frame::Missed),
            "live" => serde_json::from_str(text).map(Frame::Live),
            "heartbeat" => Ok(Frame::Heartbeat),
            "away" => serde_json::from_str(text).map(Frame::Away),
            "error" => serde_json::from_str(text).map(Frame::Error),
            _ => Ok(Frame::Unknown),
        }
    }
}

/// The id of a message, where it has one.
pub(super) fn message_id(message: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Id {
        id: String,
    }
    serde_json::from_str::<Id>(message.get())
        .ok()
        .map(|message| message.id)
}

/// The message as one line. In valid JSON a line break is white space between two tokens: those
/// within strings are escaped.
pub(super) fn message_line(message: &RawValue) -> String {
    let mut line = message.get().replace(['\r', '\n'], " ");
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_by_their_op() {
        let welcome = r#"{"op":"welcome","cursor":"c","user":"ann","device":"d","node":"n",
            "pending":2,"window":64,"heartbeatSeconds":20,"later":{"a":[1]}}"#;
        match Frame::parse(welcome).unwrap() {
            Frame::Welcome(welcome) => {
                assert_eq!((welcome.pending, welcome.heartbeat_seconds), (2, 20))
            }
            other => panic!("{other:?}"),
        }
        let missed = r#"{"op":"missed","cursor":"c","count":null,"reason":"store_lost","to":"t"}"#;
        assert!(matches!(
            Frame::parse(missed).unwrap(),
            Frame::Missed(Missed { count: None, .. })
        ));
        let heartbeat = r#"{"op":"heartbeat","cursor":7}"#;
        assert!(matches!(Frame::parse(heartbeat).unwrap(), Frame::Heartbeat));
        assert!(matches!(
            Frame::parse(r#"{"op":"later","cursor":7}"#).unwrap(),
            Frame::Unknown
        ));
        for junk in ["", "{}", "[]", r#"{"op":"live"}"#, r#"{"op":1}"#] {
            assert!(Frame::parse(junk).is_err(), "{junk}");
        }
    }

    #[test]
    fn messages_stay_as_they_are_and_become_one_line() {
        let data = "{\"n\":123456789012345678901234567890,\r\n \"s\":\"\\ud800\\n\"}";
        let text = format!(
            "{{\"op\":\"messages\",\"cursor\":\"c\",\"messages\":[{{\"id\":\"i\",\"data\":{data}}}]}}"
        );
        let Frame::Messages(frame) = Frame::parse(&text).unwrap() else {
            panic!("{text}");
        };
        let [message] = frame.messages[..] else {
            panic!("{text}")
        };
        assert_eq!(message_id(message).as_deref(), Some("i"));
        assert_eq!(
            message_line(message),
            "{\"id\":\"i\",\"data\":{\"n\":123456789012345678901234567890,   \"s\":\"\\ud800\\n\"}}\n"
        );
    }
}
