//! The end of a connection: acknowledgements stored, presence removed, then the close.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::SplitStream;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::{Connection, Ending};
use crate::gateway::limits::CLOSE_SECONDS_MAX;
use crate::gateway::linger::linger;
use crate::gateway::operations;
use crate::gateway::websocket::Socket;
use crate::protocol::{ClientFrame, CloseCode, ServerFrame};
use crate::session::Effect;
use crate::telemetry::MessageOutcome;

/// How long the acknowledgements may hold up a close that the gateway begins.
const BEFORE_CLOSE_SECONDS: Duration = Duration::from_secs(1);
/// How long the last acknowledgements of a connection may take to be stored.
const FAREWELL_SECONDS: Duration = Duration::from_secs(3);

impl Connection {
    /// Stores what was acknowledged, removes the connection, and answers or sends the close.
    pub(super) async fn end(mut self: Box<Self>, ending: Ending, mut stream: SplitStream<Socket>) {
        let reason = match &ending {
            Ending::ClosedByClient => "closed by the client".to_owned(),
            Ending::Gone => "the socket is gone".to_owned(),
            Ending::Stalled => "no progress".to_owned(),
            Ending::Closed { code, .. } => format!("closed with {}", code.code()),
        };
        if let Ending::Closed { code, message } = &ending {
            // A client may come back as soon as it sees the close, and should find what it
            // acknowledged before.
            (self.store_acknowledgement(Instant::now() + BEFORE_CLOSE_SECONDS)).await;
            self.say_goodbye(*code, message, &mut stream).await;
        }
        self.farewell().await;
        let close_by = Instant::now() + CLOSE_SECONDS_MAX;
        tracing::debug!(
            user = self.peer.user.as_str(),
            device = &*self.peer.device,
            "connection ended: {reason}"
        );
        match ending {
            Ending::ClosedByClient | Ending::Closed { .. } => {
                let _ = timeout_at(close_by, self.outbox.finish()).await;
                if let Ok(socket) = stream.reunite(self.outbox.into_sink()) {
                    linger(socket, close_by).await;
                }
            }
            Ending::Stalled => {
                let code = CloseCode::NoProgress;
                self.outbox.push_message(close_message(code, "no progress"));
                // The socket takes it at once or not at all.
                let at_once = Instant::now() + Duration::from_millis(100);
                let _ = timeout_at(at_once, self.outbox.finish()).await;
            }
            Ending::Gone => {}
        }
    }

    /// Sends the last frames, and reads on until the client answers: what it acknowledged before
    /// it saw them still counts.
    async fn say_goodbye(
        &mut self,
        code: CloseCode,
        message: &str,
        stream: &mut SplitStream<Socket>,
    ) {
        if code.is_clients_fault() {
            let message = message.to_owned();
            let frame = ServerFrame::Error { code, message };
            self.outbox.push(&self.node, &frame, Vec::new());
        }
        if matches!(code, CloseCode::GoingAway | CloseCode::Restarting) {
            let delay = self.inbox.retry_delay(Instant::now());
            let retry_milliseconds = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            let frame = ServerFrame::Away { retry_milliseconds };
            self.outbox.push(&self.node, &frame, Vec::new());
        }
        self.outbox.push_message(close_message(code, message));
        let until = Instant::now() + CLOSE_SECONDS_MAX;
        loop {
            let is_busy = self.outbox.is_busy();
            tokio::select! {
                written = self.outbox.advance(), if is_busy => match written {
                    Ok(account) => account.settle(&self.node, self.peer.user.as_str()),
                    Err(_) => return,
                },
                frame = stream.next() => match frame {
                    Some(Ok(Message::Text(text))) if !code.is_clients_fault() => {
                        if let Ok(ClientFrame::Ack { cursor }) = ClientFrame::parse(&text) {
                            let effects = self.session.ack(&cursor);
                            self.keep_acknowledgement(&effects);
                        }
                    }
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                    Some(Ok(_)) => {}
                },
                () = sleep_until(until) => return,
            }
        }
    }

    fn keep_acknowledgement(&mut self, effects: &[Effect]) {
        for effect in effects {
            if let Effect::Acknowledge {
                position, messages, ..
            } = effect
            {
                self.unstored = Some((*position, Instant::now()));
                self.node.metrics.message(MessageOutcome::Acked, *messages);
            }
        }
    }

    /// The acknowledgements first: once the connection is removed, the next one of this device
    /// may be served from the stored cursor.
    async fn farewell(&mut self) {
        let until = Instant::now() + FAREWELL_SECONDS;
        self.store_acknowledgement(until).await;
        if self.unstored.is_some() {
            tracing::debug!(
                user = self.peer.user.as_str(),
                "the last acknowledgement was not stored: its messages come again"
            );
        }
        let _ = timeout_at(until, self.membership.unregister()).await;
    }

    /// Stores what was acknowledged, if that can be done in time; else it stays unstored.
    async fn store_acknowledgement(&mut self, until: Instant) {
        if let Some(writing) = self.writing.take() {
            let stored = timeout_at(until, writing).await;
            if !matches!(stored, Ok(Ok(()))) && self.unstored.is_none() {
                self.unstored = (self.session.acknowledged()).map(|at| (at, Instant::now()));
            }
        }
        if let Some((position, _)) = self.unstored {
            let call = operations::acknowledge(self.node.clone(), self.peer.clone(), position);
            if matches!(timeout_at(until, call).await, Ok(Ok(()))) {
                self.unstored = None;
            }
        }
    }
}

fn close_message(code: CloseCode, message: &str) -> Message {
    Message::Close(Some(CloseFrame {
        code: code.code().into(),
        reason: message.to_owned().into(),
    }))
}
