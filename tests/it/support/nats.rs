//! Publishing as a service does, and as no decent client would.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::Info;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::publish::PublishAck;
use futures_util::TryStreamExt;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{DEADLINE, System, eventually_within};

impl System {
    /// A connection to the system's NATS, made at first use.
    pub async fn nats(&self) -> &async_nats::Client {
        let connect = async || {
            let client = async_nats::connect(self.nats_server().url()).await;
            client.expect("the test's NATS answers")
        };
        self.client_cell().get_or_init(connect).await
    }

    pub async fn jetstream(&self) -> async_nats::jetstream::Context {
        async_nats::jetstream::new(self.nats().await.clone())
    }

    /// The namespaced name of a stream, for example of `EVENTS`.
    pub fn stream_name(&self, name: &str) -> String {
        format!("{}_{name}", self.namespace())
    }

    /// The namespaced form of a subject, for example `events.new_post`.
    pub fn subject(&self, subject: &str) -> String {
        format!("{}.{subject}", self.namespace())
    }

    /// Publishes on `events.<address>`, where `address` is `<type>` or `<type>.<key>`, and
    /// waits for the PubAck; returns the stream sequence.
    pub async fn publish(&self, address: &str, event: Value) -> u64 {
        let ack = self
            .publish_with(address, HeaderMap::new(), event.to_string())
            .await;
        ack.unwrap_or_else(|error| panic!("no PubAck for {address}: {error:?}"))
            .sequence
    }

    /// Publishes any body with headers on `events.<address>`, and waits for the PubAck.
    pub async fn publish_with(
        &self,
        address: &str,
        headers: HeaderMap,
        body: impl Into<bytes::Bytes>,
    ) -> Result<PublishAck, PublishErrorKind> {
        let subject = self.subject(&format!("events.{address}"));
        let jetstream = self.jetstream().await;
        let sent = jetstream
            .publish_with_headers(subject, headers, body.into())
            .await;
        sent.map_err(|error| error.kind())?
            .await
            .map_err(|error| error.kind())
    }

    /// Publishes `count` events made by `make`, without waiting for one PubAck before the
    /// next event is sent; returns when all are acknowledged.
    pub async fn publish_all(&self, count: usize, make: impl Fn(usize) -> (String, Value)) {
        let jetstream = self.jetstream().await;
        let mut pending = Vec::with_capacity(count);
        for index in 0..count {
            let (address, event) = make(index);
            let subject = self.subject(&format!("events.{address}"));
            let body = event.to_string().into();
            pending.push(jetstream.publish(subject, body).await.expect("sent"));
        }
        for ack in pending {
            ack.await.expect("a PubAck");
        }
    }

    /// Waits until the workers have acknowledged every event that was published so far: each
    /// is in its mailboxes, or a dead letter.
    pub async fn processed(&self) {
        self.processed_within(DEADLINE).await;
    }

    /// The same where many are in the way.
    pub async fn processed_within(&self, within: Duration) {
        let jetstream = self.jetstream().await;
        eventually_within(within, "every event is acknowledged", async || {
            let stream = jetstream.get_stream(self.stream_name("EVENTS")).await;
            let consumers = stream.ok()?.consumers();
            let infos: Result<Vec<_>, _> = consumers.try_collect().await;
            let mut infos = infos.ok()?.into_iter();
            let is_done = |info: Info| info.num_pending == 0 && info.num_ack_pending == 0;
            infos.all(is_done).then_some(())
        })
        .await;
    }

    /// An event as `EVENTS` keeps it.
    pub async fn stored(&self, sequence: u64) -> StreamMessage {
        let jetstream = self.jetstream().await;
        let stream = jetstream.get_stream(self.stream_name("EVENTS")).await;
        let stream = stream.expect("the stream EVENTS");
        let message = stream.get_raw_message(sequence).await;
        message.expect("a stored event")
    }

    /// The messages in `DEAD_LETTERS`, oldest first: subject without namespace, headers, body.
    pub async fn dead_letters(&self) -> Vec<(String, HeaderMap, bytes::Bytes)> {
        let jetstream = self.jetstream().await;
        let stream = jetstream.get_stream(self.stream_name("DEAD_LETTERS")).await;
        let mut stream = stream.expect("the stream DEAD_LETTERS");
        let state = stream.info().await.expect("its state").state.clone();
        let mut letters = Vec::new();
        for sequence in state.first_sequence.max(1)..=state.last_sequence {
            let letter = stream.get_raw_message(sequence).await.expect("a letter");
            let subject = letter.subject.as_str();
            let prefix = format!("{}.", self.namespace());
            let subject = subject.strip_prefix(&prefix).unwrap_or(subject).to_owned();
            letters.push((subject, letter.headers, letter.payload));
        }
        letters
    }
}

/// A NATS connection of plain bytes: subjects, headers and bodies that a client library would
/// refuse to send.
pub struct RawNats {
    stream: BufStream<TcpStream>,
}

impl RawNats {
    pub async fn connect(port: u16) -> RawNats {
        let stream = TcpStream::connect(("127.0.0.1", port)).await;
        let mut raw = RawNats {
            stream: BufStream::new(stream.expect("the test's NATS listens")),
        };
        let greeting = raw.line().await;
        assert!(greeting.starts_with("INFO "), "{greeting}");
        let connect =
            br#"CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}"#;
        raw.write(&[connect, b"\r\n", b"SUB raw.answers 1\r\n"])
            .await;
        raw
    }

    /// Publishes, and returns the answer on the reply subject: the PubAck's JSON, or `None`
    /// where nobody listens on the subject (or nobody answers for two seconds).
    pub async fn publish(&mut self, subject: &[u8], body: &[u8]) -> Option<String> {
        let length = format!(" raw.answers {}\r\n", body.len());
        self.write(&[b"PUB ", subject, length.as_bytes(), body, b"\r\n"])
            .await;
        self.answer().await
    }

    /// The same with a header block as it is, from `NATS/1.0` to the empty line.
    pub async fn publish_with_headers(
        &mut self,
        subject: &[u8],
        headers: &[u8],
        body: &[u8],
    ) -> Option<String> {
        let total = headers.len() + body.len();
        let lengths = format!(" raw.answers {} {total}\r\n", headers.len());
        self.write(&[
            b"HPUB ",
            subject,
            lengths.as_bytes(),
            headers,
            body,
            b"\r\n",
        ])
        .await;
        self.answer().await
    }

    async fn answer(&mut self) -> Option<String> {
        const ANSWER_WAIT: Duration = Duration::from_secs(2);
        timeout(ANSWER_WAIT, self.read_answer())
            .await
            .ok()
            .flatten()
    }

    async fn read_answer(&mut self) -> Option<String> {
        loop {
            let line = self.line().await;
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            match words.as_slice() {
                ["PING"] => self.write(&[b"PONG\r\n"]).await,
                ["MSG", .., length] => return Some(self.body(length).await),
                // A status without a body: no responders.
                ["HMSG", .., length] => {
                    self.body(length).await;
                    return None;
                }
                ["-ERR", ..] => panic!("NATS refuses: {line}"),
                _ => {}
            }
        }
    }

    async fn body(&mut self, length: &str) -> String {
        let length: usize = length.parse().expect("a length");
        let mut body = vec![0; length + 2];
        self.stream.read_exact(&mut body).await.expect("a body");
        body.truncate(length);
        String::from_utf8_lossy(&body).into_owned()
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = timeout(DEADLINE, self.stream.read_line(&mut line)).await;
        read.expect("NATS answers in time").expect("a line of text");
        assert!(!line.is_empty(), "NATS closed the connection");
        line
    }

    async fn write(&mut self, parts: &[&[u8]]) {
        for part in parts {
            self.stream.write_all(part).await.expect("NATS reads");
        }
        self.stream.flush().await.expect("NATS reads");
    }
}

/// An event for these users.
pub fn event(users: &[&str], data: impl Into<Value>) -> Value {
    json!({ "targetUserIds": users, "data": data.into() })
}
