//! A client that comes back when it is told to, until it is in. Cheap: thousands fit in a test.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::http;

/// How long a frame may take in a crowd on a slow machine.
const FRAME_SECONDS_MAX: Duration = Duration::from_secs(60);
/// Pause where nobody answered.
const UNANSWERED_PAUSE: Duration = Duration::from_secs(1);

pub struct Patient {
    pub port: u16,
    pub user: String,
    /// Wants refusals as a close after the upgrade, instead of HTTP.
    pub refuse_by_close: bool,
}

/// A client that got in: live, with everything acknowledged.
pub struct Inside {
    pub socket: WebSocketStream<TcpStream>,
    /// The messages that waited.
    pub messages: Vec<Value>,
    /// How often it was told to come back later.
    pub refusals: usize,
    /// Attempts without an answer, on a machine that is too slow for so many at once.
    pub unanswered: usize,
}

/// Why a client is not in.
pub enum Outside {
    /// It was told to come back after this.
    Refused(Duration),
    /// Nobody answered, or the connection ended without a word.
    Unanswered,
}

/// Opens a socket at a gateway; `path` is `/v1/ws` with its query. A refusal in HTTP has to say
/// when to come back.
pub async fn open(port: u16, path: &str) -> Result<WebSocketStream<TcpStream>, Outside> {
    let headers = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let answered = http::request(port, "GET", path, &headers, b"").await;
    let (response, stream) = answered.map_err(|_| Outside::Unanswered)?;
    if response.status != 101 {
        assert_eq!(response.status, 503);
        let seconds = response.header("retry-after").expect("a delay");
        let seconds = seconds.parse().expect("whole seconds");
        return Err(Outside::Refused(Duration::from_secs(seconds)));
    }
    // A buffer of the usual size would cost more than everything else of thousands.
    let config = WebSocketConfig::default().read_buffer_size(2_048);
    let (role, config) = (Role::Client, Some(config));
    Ok(WebSocketStream::from_partially_read(stream, response.body, role, config).await)
}

impl Patient {
    /// Tries until it is in.
    pub async fn get_in(self) -> Inside {
        let (mut refusals, mut unanswered) = (0, 0);
        loop {
            match self.attempt().await {
                Ok((socket, messages)) => {
                    return Inside {
                        socket,
                        messages,
                        refusals,
                        unanswered,
                    };
                }
                Err(Outside::Refused(delay)) => {
                    refusals += 1;
                    sleep(delay).await;
                }
                Err(Outside::Unanswered) => {
                    unanswered += 1;
                    sleep(UNANSWERED_PAUSE).await;
                }
            }
        }
    }

    async fn attempt(&self) -> Result<(WebSocketStream<TcpStream>, Vec<Value>), Outside> {
        let refuse = match self.refuse_by_close {
            true => "&refuse=close",
            false => "",
        };
        let path = format!("/v1/ws?user={}{refuse}", self.user);
        let mut socket = open(self.port, &path).await?;
        let messages = until_live(&mut socket).await?;
        Ok((socket, messages))
    }
}

async fn until_live(socket: &mut WebSocketStream<TcpStream>) -> Result<Vec<Value>, Outside> {
    let mut messages = Vec::new();
    let mut away = None;
    loop {
        let next = timeout(FRAME_SECONDS_MAX, socket.next()).await;
        let Ok(Some(Ok(message))) = next else {
            return Err(Outside::Unanswered);
        };
        let frame: Value = match message {
            Message::Text(text) => serde_json::from_str(&text).expect("JSON"),
            Message::Close(frame) => {
                assert_eq!(frame.map(|frame| u16::from(frame.code)), Some(1013));
                let milliseconds = away.expect("a delay before the close");
                return Err(Outside::Refused(Duration::from_millis(milliseconds)));
            }
            _ => continue,
        };
        match frame["op"].as_str() {
            Some("welcome" | "heartbeat") => {}
            Some("messages") => {
                messages.extend(frame["messages"].as_array().expect("messages").clone());
            }
            Some("away") => away = frame["retryMilliseconds"].as_u64(),
            Some("live") => {
                let ack = json!({ "op": "ack", "cursor": frame["cursor"] });
                let sent = socket.send(Message::text(ack.to_string())).await;
                sent.map_err(|_| Outside::Unanswered)?;
                return Ok(messages);
            }
            _ => panic!("neither waiting nor live: {frame}"),
        }
    }
}
