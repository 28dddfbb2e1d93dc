//! A WebSocket client below any library: it sends the bytes it is given, good or bad, and looks at
//! every byte that comes back. What a server must do in each frame (RFC 6455 §5) is asserted here,
//! so every test that uses it checks the gateway's side of the protocol as well.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::DEADLINE;
use super::http;

/// The headers of a good handshake.
pub const UPGRADE: [(&str, &str); 4] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// First bytes of frames: the end of a message, and the kinds of RFC 6455 §5.2.
pub const FIN: u8 = 0x80;
pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xA;

/// Set in the second byte where the payload is masked.
const MASKED: u8 = 0x80;
/// Of a client; any will do, and this one has no zero byte and no two alike.
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
/// Most bytes of a frame from the gateway (contract §4), and of a control frame (RFC 6455 §5.5).
const SERVER_FRAME_BYTES_MAX: u64 = 512 * 1024;
const CONTROL_BYTES_MAX: u64 = 125;

/// An open connection. Dropping it ends it with a FIN, or with a reset where bytes are unread.
pub struct Wire {
    pub stream: TcpStream,
    received: Vec<u8>,
}

/// What a client hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Text(Value),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// The code and the reason; `None` where the frame is empty.
    Close(Option<(u16, String)>),
    /// The gateway closed the TCP connection, orderly.
    End,
    /// The TCP connection was reset.
    Reset,
}

/// A frame as a client has to send it, masked and with the shortest length.
pub fn frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first_byte];
    match payload.len() {
        length @ 0..=125 => bytes.push(MASKED | length as u8),
        length @ 126..=0xffff => {
            bytes.push(MASKED | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(MASKED | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(masked(payload));
    bytes
}

/// A frame with its length in eight bytes, whatever it is; `length` may be a lie.
pub fn frame_with_long_length(first_byte: u8, length: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first_byte, MASKED | 127];
    bytes.extend(length.to_be_bytes());
    bytes.extend(MASK);
    bytes.extend(masked(payload));
    bytes
}

/// The same with its length in two bytes.
pub fn frame_with_short_length(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first_byte, MASKED | 126];
    bytes.extend((payload.len() as u16).to_be_bytes());
    bytes.extend(MASK);
    bytes.extend(masked(payload));
    bytes
}

/// A close frame with this code and reason.
pub fn close(code: u16, reason: &str) -> Vec<u8> {
    frame(
        FIN | CLOSE,
        &[&code.to_be_bytes()[..], reason.as_bytes()].concat(),
    )
}

fn masked(payload: &[u8]) -> impl Iterator<Item = u8> {
    let pairs = payload.iter().zip(MASK.iter().cycle());
    pairs.map(|(byte, mask)| byte ^ mask)
}

impl Wire {
    /// Connects a user's default device at `127.0.0.1:port`.
    pub async fn open(port: u16, user: &str) -> Wire {
        Wire::open_path(port, &format!("/v1/ws?user={user}")).await
    }

    pub async fn open_path(port: u16, path: &str) -> Wire {
        let answer = http::request(port, "GET", path, &UPGRADE, b"").await;
        let (response, stream) = answer.expect("the gateway answers");
        assert_eq!(response.status, 101, "{path}: {}", response.text());
        Wire {
            stream,
            received: response.body,
        }
    }

    /// On a connection whose handshake is through; `received` came after it.
    pub fn from_parts(stream: TcpStream, received: Vec<u8>) -> Wire {
        Wire { stream, received }
    }

    /// Sends bytes. The gateway may have stopped reading: what it says then tells.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = timeout(DEADLINE, self.stream.write_all(bytes)).await;
    }

    /// Ends this side of the TCP connection, and still reads the other.
    pub async fn end_sending(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Ends the TCP connection with a reset, whatever is under way.
    pub fn abort(self) {
        abort(self.stream);
    }

    /// What comes next; panics after [`DEADLINE`].
    pub async fn next(&mut self) -> Heard {
        let heard = self.next_within(DEADLINE).await;
        heard.unwrap_or_else(|| panic!("nothing within {} s", DEADLINE.as_secs()))
    }

    /// What comes next, or `None` where nothing came in time.
    pub async fn next_within(&mut self, within: Duration) -> Option<Heard> {
        timeout(within, async {
            loop {
                if let Some(heard) = self.take_frame() {
                    return heard;
                }
                match self.stream.read_buf(&mut self.received).await {
                    Ok(0) => {
                        assert!(self.received.is_empty(), "a frame that does not end");
                        return Heard::End;
                    }
                    Ok(_) => {}
                    Err(_) => return Heard::Reset,
                }
            }
        })
        .await
        .ok()
    }

    /// Reads up to and with the next text frame with this `op`.
    pub async fn until(&mut self, op: &str) -> Value {
        loop {
            match self.next().await {
                Heard::Text(frame) if frame["op"] == op => return frame,
                Heard::Text(_) | Heard::Ping(_) => {}
                other => panic!("no {op}: {other:?}"),
            }
        }
    }

    /// Takes a whole frame out of what was received.
    fn take_frame(&mut self) -> Option<Heard> {
        let bytes = &self.received;
        let [first, second] = *bytes.first_chunk::<2>()?;
        assert_eq!(second & MASKED, 0, "§5.1: a server must not mask");
        let (head, length) = match second {
            126 => (4, u64::from(u16::from_be_bytes(*bytes[2..].first_chunk()?))),
            127 => (10, u64::from_be_bytes(*bytes[2..].first_chunk()?)),
            length => (2, u64::from(length)),
        };
        let shortest = match length {
            0..=125 => 2,
            126..=0xffff => 4,
            _ => 10,
        };
        assert_eq!(head, shortest, "§5.2: {length} bytes in the shortest form");
        assert!(
            length <= SERVER_FRAME_BYTES_MAX,
            "a frame of {length} bytes"
        );
        let end = head + length as usize;
        let payload = bytes.get(head..end)?.to_vec();
        self.received.drain(..end);
        assert_eq!(first & 0x70, 0, "§5.2: no extension, no reserved bit");
        assert_eq!(first & FIN, FIN, "the gateway sends messages whole");
        let kind = first & 0xF;
        if kind >= CLOSE {
            assert!(length <= CONTROL_BYTES_MAX, "§5.5: a long control frame");
        }
        Some(heard(kind, payload))
    }
}

fn heard(kind: u8, payload: Vec<u8>) -> Heard {
    match kind {
        TEXT => {
            let text = String::from_utf8(payload).expect("§5.6: text is UTF-8");
            let frame = serde_json::from_str(&text);
            Heard::Text(frame.unwrap_or_else(|error| panic!("{error}: {text}")))
        }
        PING => Heard::Ping(payload),
        PONG => Heard::Pong(payload),
        CLOSE => Heard::Close(payload.split_first_chunk().map(|(code, reason)| {
            let reason = String::from_utf8(reason.to_vec()).expect("§5.5.1: UTF-8");
            (u16::from_be_bytes(*code), reason)
        })),
        _ => panic!("a frame of kind {kind}"),
    }
}

/// Ends a TCP connection with a reset.
pub fn abort(stream: TcpStream) {
    let socket = socket2::SockRef::from(&stream);
    let aborts = socket.set_linger(Some(Duration::ZERO));
    aborts.expect("an open socket");
    drop(stream);
}
