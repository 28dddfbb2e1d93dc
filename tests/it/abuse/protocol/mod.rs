//! HTTP/1.1 and WebSocket by hand, each as a table: the section of the RFC, what is sent, and what
//! must come back. RFC 6455 leaves the close code of a faulty peer open; the contract names 4002.
//!
//! | file | table |
//! |---|---|
//! | `handshake` | requests that become a socket or must not (RFC 6455 §4, RFC 9112, RFC 3986) |
//! | `frames` | data and control frames, fragments, lengths, UTF-8 (RFC 6455 §5, §8.1) |
//! | `closing` | close handshakes, and ends of the TCP connection (RFC 6455 §5.5.1, §7) |

mod closing;
mod frames;
mod handshake;

use serde_json::json;

use crate::support::wire::{self, FIN, Heard, PING};
use crate::support::{System, Wire, user};

/// A message that the gateway takes and that changes nothing where nobody needs a token. In other
/// pieces, or without its last byte, it would be 4002: that it is taken shows that it came whole.
const GOOD: &[u8] = br#"{"op":"token","token":"x"}"#;

/// One line of a table.
struct Case {
    /// Of RFC 6455, or the contract's.
    section: &'static str,
    sent: &'static str,
    /// Each written by itself.
    pieces: Vec<Vec<u8>>,
    back: Back,
}

/// What must come back.
#[derive(Clone, Copy)]
enum Back {
    /// Nothing but pongs: the connection serves on.
    Serves,
    /// An `error` frame and a close, both with this code.
    Fault(u16),
    /// The close is answered with this code; `None` for an empty one.
    Answer(Option<u16>),
}

fn case(
    section: &'static str,
    sent: &'static str,
    back: Back,
    pieces: impl IntoIterator<Item = Vec<u8>>,
) -> Case {
    let pieces = pieces.into_iter().collect();
    Case {
        section,
        sent,
        pieces,
        back,
    }
}

/// Tries each line on a connection of its own, which is live before anything of it is sent.
async fn assert_table(cases: Vec<Case>) {
    let system = System::shared().await;
    let port = system.gateway(0).port();
    for case in cases {
        let about = format!("§{} {}", case.section, case.sent);
        let mut wire = Wire::open(port, &user("table")).await;
        wire.until("live").await;
        for piece in &case.pieces {
            wire.send(piece).await;
        }
        match case.back {
            Back::Serves => assert_serves(&mut wire, &about).await,
            Back::Fault(code) => {
                assert_fault(&mut wire, code, &about).await;
                wire.send(&wire::close(code, "")).await;
                assert_eq!(wire.next().await, Heard::End, "{about}");
            }
            Back::Answer(code) => {
                assert_answer(&mut wire, code, &about).await;
                // The client leaves its side open: the gateway ends the connection (§7.1.1).
                assert_eq!(wire.next().await, Heard::End, "{about}");
            }
        }
    }
}

/// Pings once more, and asserts that only pongs come before the last.
async fn assert_serves(wire: &mut Wire, about: &str) {
    wire.send(&wire::frame(FIN | PING, b"the last")).await;
    loop {
        match wire.next().await {
            Heard::Pong(payload) if payload == b"the last" => return,
            Heard::Pong(_) | Heard::Ping(_) => {}
            Heard::Text(frame) if frame["op"] == "heartbeat" => {}
            other => panic!("{about}: it should serve on: {other:?}"),
        }
    }
}

/// Asserts the `error` frame and the close that tell a client of its fault.
async fn assert_fault(wire: &mut Wire, code: u16, about: &str) {
    loop {
        match wire.next().await {
            Heard::Pong(_) | Heard::Ping(_) => {}
            Heard::Text(frame) if frame["op"] == "heartbeat" => {}
            Heard::Text(frame) => {
                assert_eq!(frame["op"], "error", "{about}: {frame}");
                assert_eq!(frame["code"], json!(code), "{about}: {frame}");
                break;
            }
            other => panic!("{about}: no error frame: {other:?}"),
        }
    }
    match wire.next().await {
        Heard::Close(Some((closed, reason))) => {
            assert_eq!(closed, code, "{about}");
            assert!(!reason.is_empty(), "{about}: no reason");
        }
        other => panic!("{about}: no close: {other:?}"),
    }
}

async fn assert_answer(wire: &mut Wire, code: Option<u16>, about: &str) {
    loop {
        match wire.next().await {
            Heard::Pong(_) | Heard::Ping(_) => {}
            Heard::Close(answer) => {
                assert_eq!(answer.map(|(code, _)| code), code, "{about}");
                return;
            }
            other => panic!("{about}: no answer to the close: {other:?}"),
        }
    }
}

/// Asserts that a connection begins, and ends by the client's fault.
async fn assert_welcome_and_fault(wire: &mut Wire, code: u16) {
    let mut ops = Vec::new();
    loop {
        match wire.next().await {
            Heard::Text(frame) => ops.push(frame["op"].as_str().unwrap_or_default().to_owned()),
            Heard::Close(Some((closed, _))) => {
                assert_eq!(closed, code);
                break;
            }
            other => panic!("{ops:?}, then {other:?}"),
        }
    }
    assert_eq!(ops.first().map(String::as_str), Some("welcome"), "{ops:?}");
    assert_eq!(ops.last().map(String::as_str), Some("error"), "{ops:?}");
    wire.send(&wire::close(code, "")).await;
}
