//! The frames of contract §4, both ways.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{CLIENT_FRAME_BYTES_MAX, CloseCode, Cursor, format_time};

/// Why messages will not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MissedReason {
    /// Pushed out by the cap on waiting messages.
    Evicted,
    /// Waited longer than their time to live.
    Expired,
    /// The store lost what it held; how much is unknown.
    StoreLost,
}

/// The first frame of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    pub cursor: Cursor,
    pub user: Arc<str>,
    pub device: Arc<str>,
    pub node: Arc<str>,
    pub pending: u64,
    pub window: u32,
    pub heartbeat_seconds: u64,
}

/// A frame from the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerFrame {
    Welcome(Welcome),
    /// 1 to [`super::FRAME_MESSAGES_MAX`] messages, each the JSON made by
    /// [`super::Message::to_json`].
    Messages {
        cursor: Cursor,
        replay: bool,
        messages: Vec<Arc<str>>,
    },
    Missed {
        cursor: Cursor,
        /// `None` only for [`MissedReason::StoreLost`].
        count: Option<u64>,
        reason: MissedReason,
        from_ms: Option<u64>,
        to_ms: u64,
    },
    Live {
        cursor: Cursor,
        replayed: u64,
    },
    Heartbeat,
    Away {
        retry_milliseconds: u64,
    },
    Error {
        code: CloseCode,
        message: String,
    },
}

impl ServerFrame {
    /// The text of the frame.
    pub fn encode(&self) -> String {
        match self {
            ServerFrame::Welcome(welcome) => json!({
                "op": "welcome",
                "cursor": welcome.cursor.to_string(),
                "user": *welcome.user,
                "device": *welcome.device,
                "node": *welcome.node,
                "pending": welcome.pending,
                "window": welcome.window,
                "heartbeatSeconds": welcome.heartbeat_seconds,
            })
            .to_string(),
            ServerFrame::Messages {
                cursor,
                replay,
                messages,
            } => encode_messages(cursor, *replay, messages),
            ServerFrame::Missed {
                cursor,
                count,
                reason,
                from_ms,
                to_ms,
            } => json!({
                "op": "missed",
                "cursor": cursor.to_string(),
                "count": count,
                "reason": reason,
                "from": from_ms.map(format_time),
                "to": format_time(*to_ms),
            })
            .to_string(),
            ServerFrame::Live { cursor, replayed } => json!({
                "op": "live",
                "cursor": cursor.to_string(),
                "replayed": replayed,
            })
            .to_string(),
            ServerFrame::Heartbeat => json!({ "op": "heartbeat" }).to_string(),
            ServerFrame::Away { retry_milliseconds } => {
                json!({ "op": "away", "retryMilliseconds": retry_milliseconds }).to_string()
            }
            ServerFrame::Error { code, message } => {
                json!({ "op": "error", "code": code.code(), "message": message }).to_string()
            }
        }
    }
}

fn encode_messages(cursor: &Cursor, replay: bool, messages: &[Arc<str>]) -> String {
    let bytes: usize = messages.iter().map(|message| message.len() + 1).sum();
    let mut text = String::with_capacity(bytes + 200);
    text.push_str("{\"op\":\"messages\",\"cursor\":\"");
    text.push_str(&cursor.to_string());
    text.push_str(if replay {
        "\",\"replay\":true,\"messages\":["
    } else {
        "\",\"messages\":["
    });
    for (index, message) in messages.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(message);
    }
    text.push_str("]}");
    text
}

/// A frame from a client. Unknown fields are ignored.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum ClientFrame {
    /// Everything up to the frame that carried this cursor is received. Not yet decoded.
    Ack { cursor: String },
    /// A fresh token before the old one expires. A secret: never log it.
    Token { token: String },
}

/// A client's frame that breaks the contract; the text says what to send instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFrame {
    #[error("a frame may have at most 65536 bytes")]
    TooLong,
    #[error("expected {{\"op\":\"ack\",\"cursor\":…}} or {{\"op\":\"token\",\"token\":…}}")]
    NotAFrame,
}

impl ClientFrame {
    pub fn parse(text: &str) -> Result<ClientFrame, InvalidFrame> {
        if text.len() > CLIENT_FRAME_BYTES_MAX {
            return Err(InvalidFrame::TooLong);
        }
        // An array would pass for the tagged enum as well.
        if !text.trim_start().starts_with('{') {
            return Err(InvalidFrame::NotAFrame);
        }
        serde_json::from_str(text).map_err(|_| InvalidFrame::NotAFrame)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Epoch, Life, Places, Position};
    use super::*;

    fn cursor() -> Cursor {
        let position = Position {
            epoch: Epoch::from_bytes([1; 20]),
            life: Life(1),
            places: Places::default(),
            time_ms: 0,
            store_lost_told: false,
        };
        Cursor::new(position, "ann", "default")
    }

    #[test]
    fn a_messages_frame_is_json_with_the_messages_as_they_are() {
        let mut frame = ServerFrame::Messages {
            cursor: cursor(),
            replay: false,
            messages: vec!["{\"id\":\"1\"}".into(), "{\"id\": \"2\"}".into()],
        };
        let head = format!("{{\"op\":\"messages\",\"cursor\":\"{}\"", cursor());
        let body = "\"messages\":[{\"id\":\"1\"},{\"id\": \"2\"}]}";
        assert_eq!(frame.encode(), format!("{head},{body}"));
        if let ServerFrame::Messages { replay, .. } = &mut frame {
            *replay = true;
        }
        assert_eq!(frame.encode(), format!("{head},\"replay\":true,{body}"));
    }

    #[test]
    fn missed_has_null_where_nothing_is_known() {
        let frame = ServerFrame::Missed {
            cursor: cursor(),
            count: None,
            reason: MissedReason::StoreLost,
            from_ms: None,
            to_ms: 0,
        };
        let value: serde_json::Value = serde_json::from_str(&frame.encode()).unwrap();
        assert_eq!(value["reason"], "store_lost");
        assert!(value["count"].is_null() && value["from"].is_null());
        assert_eq!(value["to"], "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn client_frames_are_parsed_or_refused() {
        let ack = ClientFrame::Ack { cursor: "c".into() };
        assert!(ClientFrame::parse(r#" {"op":"ack","cursor":"c","more":1}"#) == Ok(ack));
        assert!(ClientFrame::parse(r#"{"op":"token","token":"t"}"#).is_ok());
        for junk in [
            "",
            "[]",
            r#"["ack",{"cursor":"c"}]"#,
            r#"{"op":"ack"}"#,
            r#"{"op":"ack","cursor":1}"#,
            r#"{"op":"nothing"}"#,
            r#"{"op":"ack","cursor":"c"} x"#,
        ] {
            assert!(
                ClientFrame::parse(junk) == Err(InvalidFrame::NotAFrame),
                "{junk}"
            );
        }
        let long = format!("{{\"op\":\"ack\",\"cursor\":\"{}\"}}", "c".repeat(70_000));
        assert!(ClientFrame::parse(&long) == Err(InvalidFrame::TooLong));
    }
}
