//! A WebSocket client that does only what it is told: it acknowledges, answers and closes
//! when the test says so, and reads (and answers pings) only while the test waits for
//! something.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role};

use super::DEADLINE;
use super::http;

/// A frame from the gateway, as JSON.
pub type Frame = Value;

/// A connection that is about to be made.
#[derive(Clone)]
pub struct SocketRequest {
    port: u16,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    receive_buffer_bytes: Option<u32>,
    from: [u8; 4],
}

/// An open connection. Dropping it resets the TCP connection without a close frame.
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
}

/// The answer of a gateway that did not upgrade.
#[derive(Debug)]
pub struct Refused {
    pub status: u16,
    /// The body, `{"code","message"}` by the contract.
    pub body: Value,
    /// Seconds of `Retry-After`.
    pub retry_after: Option<u64>,
}

/// How the gateway ended a connection.
#[derive(Debug, PartialEq, Eq)]
pub struct Closed {
    /// `None` where the TCP connection ended without a close frame.
    pub code: Option<u16>,
    pub reason: String,
    /// The frames that came before it, heartbeats left out.
    pub frames: Vec<Frame>,
}

impl SocketRequest {
    /// To `/v1/ws` at `127.0.0.1:port`.
    pub fn new(port: u16) -> SocketRequest {
        SocketRequest {
            port,
            query: Vec::new(),
            headers: Vec::new(),
            receive_buffer_bytes: None,
            from: [127, 0, 0, 1],
        }
    }

    pub fn user(self, user: &str) -> SocketRequest {
        self.query("user", user)
    }

    pub fn device(self, device: &str) -> SocketRequest {
        self.query("device", device)
    }

    pub fn cursor(self, cursor: &str) -> SocketRequest {
        self.query("cursor", cursor)
    }

    /// Any query parameter; both parts are percent-encoded here.
    pub fn query(mut self, name: &str, value: &str) -> SocketRequest {
        self.query
            .push((percent_encode(name), percent_encode(value)));
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> SocketRequest {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// `Authorization: Bearer TOKEN`.
    pub fn bearer(self, token: &str) -> SocketRequest {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    /// A small receive buffer makes a client that stops reading felt soon.
    pub fn receive_buffer_bytes(mut self, bytes: u32) -> SocketRequest {
        self.receive_buffer_bytes = Some(bytes);
        self
    }

    /// Comes from this address of the loopback, as another client's machine would.
    pub fn from(mut self, address: [u8; 4]) -> SocketRequest {
        self.from = address;
        self
    }

    /// Makes the connection; panics where it is refused.
    pub async fn connect(&self) -> Socket {
        let outcome = self.try_connect().await;
        outcome.unwrap_or_else(|refused| panic!("the gateway refused: {refused:?}"))
    }

    /// Makes the connection, also where it is refused or nobody answers at first; panics where that
    /// takes longer than `within`.
    pub async fn connect_within(&self, within: Duration) -> Socket {
        let start = Instant::now();
        loop {
            if let Ok(Ok(socket)) = self.attempt().await {
                return socket;
            }
            assert!(start.elapsed() < within, "no connection within {within:?}");
            tokio::time::sleep(super::POLL_INTERVAL).await;
        }
    }

    /// Makes the connection, or says how it was refused; panics where nobody answers.
    pub async fn try_connect(&self) -> Result<Socket, Refused> {
        self.attempt().await.expect("the gateway answers")
    }

    /// Makes the connection, or says how it was refused; an error where nobody answers.
    pub async fn attempt(&self) -> std::io::Result<Result<Socket, Refused>> {
        const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
        let tcp = TcpSocket::new_v4().expect("a socket");
        if let Some(bytes) = self.receive_buffer_bytes {
            tcp.set_recv_buffer_size(bytes)
                .expect("a size the kernel takes");
        }
        tcp.bind((self.from, 0).into())?;
        let address = ([127, 0, 0, 1], self.port).into();
        let mut stream = tcp.connect(address).await?;
        stream.set_nodelay(true)?;
        let upgrade = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", KEY),
        ];
        let own = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let headers: Vec<(&str, &str)> = upgrade.into_iter().chain(own).collect();
        let path = self.path();
        let response =
            http::request_over(&mut stream, self.port, "GET", &path, &headers, b"").await?;
        if response.status != 101 {
            let response = http::read_body(response, &mut stream).await?;
            return Ok(Err(Refused {
                status: response.status,
                body: response.json(),
                retry_after: (response.header("retry-after"))
                    .map(|seconds| seconds.parse().expect("whole seconds")),
            }));
        }
        let accept = derive_accept_key(KEY.as_bytes());
        assert_eq!(
            response.header("sec-websocket-accept"),
            Some(accept.as_str())
        );
        let stream =
            WebSocketStream::from_partially_read(stream, response.body, Role::Client, None).await;
        Ok(Ok(Socket { stream }))
    }

    fn path(&self) -> String {
        let pairs = self
            .query
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        format!("/v1/ws?{}", pairs.collect::<Vec<_>>().join("&"))
    }
}

impl Socket {
    /// The next frame that is not a heartbeat; panics after [`DEADLINE`] or at a close.
    pub async fn frame(&mut self) -> Frame {
        let frame = self.frame_within(DEADLINE).await;
        frame.unwrap_or_else(|| panic!("no frame within {} s", DEADLINE.as_secs()))
    }

    /// The next frame that is not a heartbeat, or `None` when none came in time.
    pub async fn frame_within(&mut self, within: Duration) -> Option<Frame> {
        let end = Instant::now() + within;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.any_frame_within(left).await? {
                Ok(frame) if frame["op"] == "heartbeat" => {}
                Ok(frame) => return Some(frame),
                Err((code, reason)) => panic!("the gateway closed with {code:?} {reason:?}"),
            }
        }
    }

    /// The next frame, which must have this `op`.
    pub async fn expect(&mut self, op: &str) -> Frame {
        let frame = self.frame().await;
        assert_eq!(frame["op"], op, "{frame}");
        frame
    }

    /// The next frame even if it is a heartbeat, which must have this `op`.
    pub async fn expect_any(&mut self, op: &str, within: Duration) -> Frame {
        let frame = self.any_frame_within(within).await;
        let frame = frame.unwrap_or_else(|| panic!("no {op} within {} s", within.as_secs_f32()));
        let frame = frame.unwrap_or_else(|closed| panic!("closed with {closed:?}"));
        assert_eq!(frame["op"], op, "{frame}");
        frame
    }

    /// Asserts that nothing but heartbeats comes for this long.
    pub async fn expect_silence(&mut self, during: Duration) {
        if let Some(frame) = self.frame_within(during).await {
            panic!("a frame that should not come: {frame}");
        }
    }

    /// Reads up to and with the next frame with this `op`, and acknowledges nothing.
    pub async fn frames_until(&mut self, op: &str) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            let frame = self.frame().await;
            let is_last = frame["op"] == op;
            frames.push(frame);
            if is_last {
                return frames;
            }
        }
    }

    /// Reads up to and with the `live` frame, acknowledging every frame; returns the messages
    /// of what waited. A `missed` frame on the way fails: read those one by one.
    pub async fn until_live(&mut self) -> Vec<Value> {
        let mut messages = Vec::new();
        loop {
            let frame = self.frame().await;
            self.ack(&frame).await;
            match frame["op"].as_str() {
                Some("welcome") => {}
                Some("messages") => messages.extend(messages_of(&frame)),
                Some("live") => return messages,
                _ => panic!("neither messages nor live: {frame}"),
            }
        }
    }

    /// Reads until `count` messages came, acknowledging every frame. `welcome` and `live` may
    /// come between; anything else, or more messages than that, fails.
    pub async fn messages(&mut self, count: usize) -> Vec<Value> {
        let mut messages = Vec::new();
        while messages.len() < count {
            messages.extend(self.messages_of_next().await);
        }
        assert_eq!(messages.len(), count, "more messages than expected");
        messages
    }

    /// The same, where more may come than `count`, because several messages come in one frame.
    pub async fn messages_to(&mut self, count: usize) -> Vec<Value> {
        let mut messages = Vec::new();
        while messages.len() < count {
            messages.extend(self.messages_of_next().await);
        }
        messages
    }

    async fn messages_of_next(&mut self) -> Vec<Value> {
        let frame = self.frame().await;
        self.ack(&frame).await;
        match frame["op"].as_str() {
            Some("welcome" | "live") => Vec::new(),
            Some("messages") => messages_of(&frame),
            _ => panic!("no messages: {frame}"),
        }
    }

    /// Reads until a message with this data came, acknowledging every frame. Others, repeated
    /// ones among them, may come before it and with it.
    pub async fn until_message(&mut self, data: &Value) {
        loop {
            let frame = self.frame().await;
            self.ack(&frame).await;
            let is_it = |message: &Value| message["data"] == *data;
            if frame["op"] == "messages" && messages_of(&frame).iter().any(is_it) {
                return;
            }
        }
    }

    /// Acknowledges everything up to this frame; a `welcome` needs none.
    pub async fn ack(&mut self, frame: &Frame) {
        if frame["op"] != "welcome" {
            self.ack_cursor(cursor(frame)).await;
        }
    }

    pub async fn ack_cursor(&mut self, cursor: &str) {
        let ack = json!({ "op": "ack", "cursor": cursor });
        self.send(&ack.to_string()).await;
    }

    /// Sends a text frame as it is. A connection that the gateway has closed meanwhile is no
    /// error here: the next read tells.
    pub async fn send(&mut self, text: &str) {
        self.send_message(Message::text(text)).await;
    }

    pub async fn send_binary(&mut self, bytes: &[u8]) {
        self.send_message(Message::binary(bytes.to_vec())).await;
    }

    /// Ping, text, binary or a raw frame.
    pub async fn send_message(&mut self, message: Message) {
        let _ = self.stream.send(message).await;
    }

    /// Waits for the payload of the next pong; frames that come before it are skipped.
    pub async fn pong(&mut self) -> Vec<u8> {
        let pong = async {
            loop {
                match self.stream.next().await {
                    Some(Ok(Message::Pong(payload))) => return payload.to_vec(),
                    Some(Ok(Message::Close(_)) | Err(_)) | None => panic!("closed, no pong"),
                    Some(Ok(_)) => {}
                }
            }
        };
        let pong = timeout(DEADLINE, pong).await;
        pong.unwrap_or_else(|_| panic!("no pong within {} s", DEADLINE.as_secs()))
    }

    /// The TCP connection below, for bytes that are no frames and for reading nothing.
    pub fn tcp(&mut self) -> &mut TcpStream {
        self.stream.get_mut()
    }

    /// Closes properly and waits for the gateway's answer: acknowledgements are stored then.
    pub async fn close(mut self) {
        let frame = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        self.send_message(Message::Close(Some(frame))).await;
        self.closed().await;
    }

    /// Reads until the connection ends; panics after [`DEADLINE`].
    pub async fn closed(&mut self) -> Closed {
        let mut frames = Vec::new();
        let end = Instant::now() + DEADLINE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.any_frame_within(left).await {
                Some(Ok(frame)) if frame["op"] == "heartbeat" => {}
                Some(Ok(frame)) => frames.push(frame),
                Some(Err((code, reason))) => {
                    return Closed {
                        code,
                        reason,
                        frames,
                    };
                }
                None => panic!("the connection stays open; it sent {frames:?}"),
            }
        }
    }

    /// Reads until the connection ends, which must be with this close code; returns the
    /// frames that came before.
    pub async fn expect_close(&mut self, code: u16) -> Vec<Frame> {
        let closed = self.closed().await;
        assert_eq!(closed.code, Some(code), "{closed:?}");
        closed.frames
    }

    /// The next frame of any kind. `None`: nothing in time. `Err`: the connection ended, with
    /// this code and reason.
    pub async fn any_frame_within(
        &mut self,
        within: Duration,
    ) -> Option<Result<Frame, (Option<u16>, String)>> {
        let next = async {
            loop {
                match self.stream.next().await {
                    Some(Ok(Message::Text(text))) => {
                        let frame = serde_json::from_str(&text);
                        return Ok(frame.unwrap_or_else(|error| panic!("{error}: {text}")));
                    }
                    Some(Ok(Message::Close(frame))) => {
                        let reason = frame.as_ref().map(|frame| frame.reason.to_string());
                        let code = frame.map(|frame| frame.code.into());
                        return Err((code, reason.unwrap_or_default()));
                    }
                    Some(Ok(Message::Binary(_))) => panic!("the gateway sent a binary frame"),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err((None, error.to_string())),
                    None => return Err((None, "the connection ended".to_owned())),
                }
            }
        };
        timeout(within, next).await.ok()
    }
}

/// The cursor of a frame that has one.
pub fn cursor(frame: &Frame) -> &str {
    let cursor = frame["cursor"].as_str();
    cursor.unwrap_or_else(|| panic!("a frame without cursor: {frame}"))
}

/// The messages of a `messages` frame.
pub fn messages_of(frame: &Frame) -> Vec<Value> {
    let messages = frame["messages"].as_array();
    let messages = messages.unwrap_or_else(|| panic!("a frame without messages: {frame}"));
    assert!(!messages.is_empty() && messages.len() <= 64, "{frame}");
    messages.clone()
}

/// The messages of all `messages` frames among these.
pub fn all_messages(frames: &[Frame]) -> Vec<Value> {
    let frames = frames.iter().filter(|frame| frame["op"] == "messages");
    frames.flat_map(messages_of).collect()
}

/// The frames among these with this `op`.
pub fn with_op<'a>(frames: &'a [Frame], op: &str) -> Vec<&'a Frame> {
    frames.iter().filter(|frame| frame["op"] == op).collect()
}

/// The `data` of each message.
pub fn data_of(messages: &[Value]) -> Vec<Value> {
    let data = messages.iter().map(|message| message["data"].clone());
    data.collect()
}

fn percent_encode(text: &str) -> String {
    let mut encoded = String::new();
    for &byte in text.as_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(byte.into());
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}
