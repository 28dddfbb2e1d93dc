//! The writing half of a socket: one frame at a time, and only what was asked for.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::time::Duration;

use futures_util::SinkExt as _;
use futures_util::stream::SplitSink;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::node::{Node, wall_clock_ms};
use super::websocket::Socket;
use crate::protocol::{MissedReason, ServerFrame};
use crate::telemetry::{MessageOutcome, Path};

/// A peer that neither reads nor answers for this long has no connection (contract §4, 4008).
pub const NO_PROGRESS: Duration = Duration::from_secs(30);

/// What is to be told once a frame is written.
#[derive(Debug, Default)]
pub struct Account {
    /// When the messages of the frame were published, and whether they had waited.
    times_ms: Vec<u64>,
    replay: bool,
    /// The end of a replay of this many messages.
    replayed: u64,
}

/// Frames on their way to one socket. The caller hands over nothing more while it is busy, so it
/// holds at most what one step of the session asks for.
pub struct Outbox {
    sink: SplitSink<Socket, Message>,
    queue: VecDeque<(Message, Account)>,
    in_flight: Option<Account>,
    /// Since when the frame in flight has not been taken by the socket.
    blocked_since: Option<Instant>,
    last_written: Instant,
}

impl Outbox {
    pub fn new(sink: SplitSink<Socket, Message>) -> Outbox {
        Outbox {
            sink,
            queue: VecDeque::new(),
            in_flight: None,
            blocked_since: None,
            last_written: Instant::now(),
        }
    }

    /// Queues a frame; `times_ms` are those of its messages.
    pub fn push(&mut self, node: &Node, frame: &ServerFrame, times_ms: Vec<u64>) {
        let mut account = Account {
            times_ms,
            ..Account::default()
        };
        match frame {
            ServerFrame::Messages { replay, .. } => account.replay = *replay,
            ServerFrame::Live { replayed, .. } => account.replayed = *replayed,
            ServerFrame::Missed {
                count: Some(count),
                reason: MissedReason::Expired,
                ..
            } => node.metrics.message(MessageOutcome::Expired, *count),
            _ => {}
        }
        let text = Utf8Bytes::from(frame.encode());
        self.queue.push_back((Message::Text(text), account));
    }

    pub fn push_message(&mut self, message: Message) {
        self.queue.push_back((message, Account::default()));
    }

    pub fn is_busy(&self) -> bool {
        self.in_flight.is_some() || !self.queue.is_empty()
    }

    /// When the peer has to have taken the frame in flight.
    pub fn stalls_at(&self) -> Option<Instant> {
        self.blocked_since.map(|since| since + NO_PROGRESS)
    }

    pub fn last_written(&self) -> Instant {
        self.last_written
    }

    /// Writes the next frame to the socket. May be dropped and called again; returns once a whole
    /// frame is written, or waits for ever where there is none.
    pub async fn advance(&mut self) -> Result<Account, Error> {
        if self.in_flight.is_none() {
            self.blocked_since.get_or_insert_with(Instant::now);
            poll_fn(|context| self.sink.poll_ready_unpin(context)).await?;
            let Some((message, account)) = self.queue.pop_front() else {
                return std::future::pending().await;
            };
            if self.queue.is_empty() {
                // An idle socket keeps no room for frames.
                self.queue = VecDeque::new();
            }
            self.sink.start_send_unpin(message)?;
            self.in_flight = Some(account);
        }
        self.sink.flush().await?;
        self.blocked_since = None;
        self.last_written = Instant::now();
        Ok(self.in_flight.take().unwrap_or_default())
    }

    /// The half itself, to be joined with the other.
    pub fn into_sink(self) -> SplitSink<Socket, Message> {
        self.sink
    }

    /// Writes what is queued, and a close where none was sent. After a peer's close its answer is all
    /// that may be written, so what is queued then is dropped.
    pub async fn finish(&mut self) -> Result<(), Error> {
        while self.is_busy() && self.advance().await.is_ok() {}
        self.sink.close().await
    }
}

impl Account {
    /// Counts a written frame.
    pub fn settle(&self, node: &Node, user: &str) {
        let now_ms = wall_clock_ms();
        let (path, outcome) = match self.replay {
            true => (Path::Replay, MessageOutcome::Replayed),
            false => (Path::Live, MessageOutcome::Live),
        };
        for time_ms in &self.times_ms {
            let seconds = now_ms.saturating_sub(*time_ms) as f64 / 1000.0;
            node.metrics.delivery(path, seconds);
            if self.replay {
                node.metrics.waited(seconds);
            }
        }
        if !self.times_ms.is_empty() {
            (node.metrics).message(outcome, self.times_ms.len() as u64);
        }
        if self.replayed > 0 {
            let count = self.replayed;
            tracing::info!("Delivered {count} offline messages to user {user}");
        }
    }
}
