//! One connection after the other: receive, print, acknowledge.

use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::http::header::RETRY_AFTER;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};
use tokio_util::sync::CancellationToken;

use super::end::End;
use super::frame::{Frame, Messages, Welcome, message_id, message_line};
use super::recent::Recent;
use super::status;
use super::target::Target;

/// How long connecting, and then the first frame, may take.
const CONNECT_SECONDS_MAX: Duration = Duration::from_secs(10);
/// How long an acknowledgement may take to be written.
const SEND_SECONDS_MAX: Duration = Duration::from_secs(10);
/// How long the last lines may take to be printed, and the gateway to answer a close.
const END_SECONDS_MAX: Duration = Duration::from_secs(2);
/// Twice what a frame from a gateway may have (contract §4).
const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// The longest that a gateway may tell a client to stay away: more would be a mistake.
const AWAY_MAX: Duration = Duration::from_secs(300);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Where messages are printed; shared with the thread that does it.
type Output = Arc<Mutex<Box<dyn io::Write + Send>>>;

/// What a client keeps from one connection to the next.
pub(super) struct Client {
    target: Target,
    output: Output,
    /// The last one received: printed, or told by a welcome.
    cursor: Option<String>,
    recent: Recent,
    was_welcome: bool,
    /// What the gateway said before it closed.
    away: Option<Duration>,
    fault: Option<String>,
    /// Silence for this long means that the connection is dead.
    silence_max: Duration,
}

impl Client {
    pub(super) fn new(target: Target, output: Box<dyn io::Write + Send>) -> Client {
        Client {
            target,
            output: Arc::new(Mutex::new(output)),
            cursor: None,
            recent: Recent::default(),
            was_welcome: false,
            away: None,
            fault: None,
            silence_max: CONNECT_SECONDS_MAX,
        }
    }

    /// Whether a gateway took this client in since it was last asked.
    pub(super) fn take_was_welcome(&mut self) -> bool {
        std::mem::take(&mut self.was_welcome)
    }

    /// Connects once and prints what comes until the connection ends.
    pub(super) async fn connect_and_follow(&mut self, shutdown: &CancellationToken) -> End {
        self.away = None;
        self.fault = None;
        self.silence_max = CONNECT_SECONDS_MAX;
        let connected = tokio::select! {
            connected = timeout(CONNECT_SECONDS_MAX, self.connect()) => connected,
            () = shutdown.cancelled() => return End::Finished,
        };
        let mut socket = match connected {
            Ok(Ok(socket)) => socket,
            Ok(Err(end)) => return end,
            Err(_) => return End::lost(format!("{} does not answer", self.target.shown())),
        };
        let Err(end) = self.follow(&mut socket, shutdown).await;
        if end == End::Finished || matches!(end, End::Refused(_)) {
            close(&mut socket).await;
        }
        end
    }

    async fn connect(&self) -> Result<Socket, End> {
        let request = self
            .target
            .request(self.cursor.as_deref())
            .map_err(End::Refused)?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(FRAME_BYTES_MAX))
            .max_frame_size(Some(FRAME_BYTES_MAX));
        match connect_async_with_config(request, Some(config), true).await {
            Ok((socket, _)) => Ok(socket),
            Err(Error::Http(response)) => {
                let retry_after = response.headers().get(RETRY_AFTER);
                let seconds = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
                let retry_after = seconds.map(|seconds| Duration::from_secs(seconds).min(AWAY_MAX));
                let body = response.body().as_deref().unwrap_or_default();
                Err(End::from_refusal(response.status(), retry_after, body))
            }
            // Its text holds the whole URL, and that may hold a token.
            Err(Error::Url(_)) => Err(End::Refused(format!(
                "{} is no usable --url",
                self.target.shown()
            ))),
            Err(error) => {
                let shown = self.target.shown();
                Err(End::lost(format!("cannot connect to {shown}: {error}")))
            }
        }
    }

    /// Handles frame after frame; the only way out is the end.
    async fn follow(
        &mut self,
        socket: &mut Socket,
        shutdown: &CancellationToken,
    ) -> Result<std::convert::Infallible, End> {
        loop {
            let received = tokio::select! {
                received = timeout(self.silence_max, socket.next()) => received,
                () = shutdown.cancelled() => return Err(End::Finished),
            };
            let message = match received {
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(error))) => return Err(End::lost(format!("connection lost: {error}"))),
                Ok(None) => return Err(End::lost("connection lost")),
                Err(_) => return Err(End::lost("no sign of life from the gateway")),
            };
            match message {
                Message::Text(text) => {
                    let cursor = self.handle(&text, shutdown).await?;
                    if let Some(cursor) = cursor {
                        acknowledge(socket, &cursor).await?;
                        self.cursor = Some(cursor);
                    }
                }
                Message::Close(frame) => {
                    return Err(End::from_close(frame, self.fault.take(), self.away));
                }
                // Pings are answered by the library; there are no binary frames.
                _ => {}
            }
        }
    }

    /// Does what a frame asks for; returns the cursor to acknowledge.
    async fn handle(
        &mut self,
        text: &str,
        shutdown: &CancellationToken,
    ) -> Result<Option<String>, End> {
        let frame = Frame::parse(text).map_err(|error| {
            End::lost(format!("the gateway sent something unreadable: {error}"))
        })?;
        match frame {
            Frame::Welcome(welcome) => {
                self.welcome(welcome)?;
                Ok(None)
            }
            Frame::Messages(frame) => {
                self.print(&frame, shutdown).await?;
                Ok(Some(frame.cursor))
            }
            Frame::Missed(frame) => {
                let count = frame
                    .count
                    .map_or("unknown".to_owned(), |count| count.to_string());
                status(format_args!("missed messages: {count} ({})", frame.reason));
                Ok(Some(frame.cursor))
            }
            Frame::Live(frame) => {
                status(format_args!(
                    "live after {} waiting messages",
                    frame.replayed
                ));
                Ok(Some(frame.cursor))
            }
            Frame::Away(frame) => {
                self.away = Some(Duration::from_millis(frame.retry_milliseconds).min(AWAY_MAX));
                Ok(None)
            }
            Frame::Error(frame) => {
                self.fault = Some(frame.message);
                Ok(None)
            }
            Frame::Heartbeat | Frame::Unknown => Ok(None),
        }
    }

    fn welcome(&mut self, welcome: Welcome) -> Result<(), End> {
        let Welcome {
            user,
            device,
            node,
            pending,
            ..
        } = &welcome;
        if *user != self.target.user {
            let asked = &self.target.user;
            return Err(End::Refused(format!(
                "the gateway knows this client as the user {user}, not {asked}: give the matching \
                 --user or --token"
            )));
        }
        status(format_args!(
            "connected to {node} as {user}, device {device}: {pending} waiting"
        ));
        self.was_welcome = true;
        self.silence_max = Duration::from_secs(welcome.heartbeat_seconds.clamp(1, 3_600)) * 2;
        self.cursor = Some(welcome.cursor);
        Ok(())
    }

    /// Prints what was not seen before, one line a message.
    async fn print(
        &mut self,
        frame: &Messages<'_>,
        shutdown: &CancellationToken,
    ) -> Result<(), End> {
        let mut lines = String::new();
        for message in &frame.messages {
            if message_id(message).is_none_or(|id| self.recent.insert(&id)) {
                lines.push_str(&message_line(message));
            }
        }
        // On a thread that may wait: standard output is often a pipe that nobody reads for a while.
        let output = self.output.clone();
        let mut printing = tokio::task::spawn_blocking(move || print_all(&output, &lines));
        let printed = tokio::select! {
            biased;
            printed = &mut printing => Ok(printed),
            () = shutdown.cancelled() => timeout(END_SECONDS_MAX, printing).await,
        };
        match printed {
            Ok(Ok(Ok(()))) => Ok(()),
            // The reader has left, as `head` does, or does not read: what is not printed is not
            // acknowledged, and comes again.
            Ok(Ok(Err(error))) if error.kind() == io::ErrorKind::BrokenPipe => Err(End::Finished),
            Ok(Ok(Err(error))) => Err(End::Refused(format!("cannot print: {error}"))),
            Ok(Err(_)) | Err(_) => Err(End::Finished),
        }
    }
}

fn print_all(output: &Output, lines: &str) -> io::Result<()> {
    let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
    output.write_all(lines.as_bytes())?;
    output.flush()
}

async fn acknowledge(socket: &mut Socket, cursor: &str) -> Result<(), End> {
    let frame = json!({ "op": "ack", "cursor": cursor }).to_string();
    match timeout(SEND_SECONDS_MAX, socket.send(Message::text(frame))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(End::lost(format!("connection lost: {error}"))),
        Err(_) => Err(End::lost("the gateway does not read")),
    }
}

/// Says goodbye and waits for the answer, before which the gateway stores the acknowledgements.
async fn close(socket: &mut Socket) {
    let frame = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    let closing = async {
        socket.close(Some(frame)).await?;
        while socket.next().await.is_some_and(|message| message.is_ok()) {}
        Ok::<(), Error>(())
    };
    let _ = timeout(END_SECONDS_MAX, closing).await;
}
