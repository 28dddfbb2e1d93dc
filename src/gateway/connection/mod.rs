//! One WebSocket: feeds the session machine and carries out what it says.
//!
//! A single task a connection, with a single timer. Forwards are taken from the queue, and pages
//! are read, only while nothing waits to be written: a slow socket holds one step's frames and
//! falls back to its mailbox.

mod calls;
mod clock;
mod ending;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::SplitStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::allowance::{Allowance, TooManyBytes};
use super::auth::{Auth, Identified, Unauthorised};
use super::chance::once_to_twice;
use super::membership::Membership;
use super::node::Node;
use super::operations::{Answer, Peer, Reading, Writing, read_everyone, registration};
use super::outbox::{Account, Outbox};
use super::places::Place;
use super::registry::{Inbox, Item, Signal, Taken};
use super::websocket::Socket;
use crate::mailbox::{MailboxError, Registered};
use crate::protocol::{ClientFrame, CloseCode, Everyone, Life, Position};
use crate::session::{Effect, HOLD_MILLISECONDS, Identity, Session, WINDOW_MESSAGES};
use crate::telemetry::{Limit, MessageOutcome};

/// When nothing was sent for this long, a heartbeat goes out (contract §4, `heartbeatSeconds`).
pub const HEARTBEAT_SECONDS: u64 = 15;
/// An acknowledgement waits this long for others of its connection before it is stored.
const ACKNOWLEDGE_DELAY: Duration = Duration::from_millis(250);
/// One that only moves the place among the events for everyone waits this long, and up to twice of
/// it by chance (contract §4: 10 minutes).
const ACKNOWLEDGE_EVERYONE_DELAY: Duration = Duration::from_secs(295);
/// An ephemeral message that is older than this is dropped (contract §3).
const EPHEMERAL_AGE_MILLISECONDS_MAX: u64 = 10_000;
/// The connection is asserted again after this, and up to twice of it by chance.
const REASSERT_SECONDS: u64 = 60;

/// A connection that was let in, before its socket is there.
pub struct Admitted {
    pub node: Arc<Node>,
    pub peer: Peer,
    pub identified: Identified,
    pub acknowledges_itself: bool,
    pub registered: Registered,
    pub inbox: Inbox,
    pub membership: Membership,
    pub place: Place,
}

/// Why a connection ended.
enum Ending {
    /// The client closed, and waits for the answer.
    ClosedByClient,
    /// The socket is gone.
    Gone,
    /// The peer made no progress; nothing more can be said to it.
    Stalled,
    Closed {
        code: CloseCode,
        message: String,
    },
}

/// What is to be read next.
#[derive(Clone, Copy)]
enum Wanted {
    Register {
        again: Option<Life>,
    },
    Page {
        number: u64,
        after: Position,
        messages_max: usize,
    },
}

pub struct Connection {
    node: Arc<Node>,
    peer: Peer,
    order: u64,
    session: Session,
    outbox: Outbox,
    inbox: Inbox,
    /// Changes with every event for everyone.
    broadcasts: watch::Receiver<Everyone>,
    frames: Allowance,
    expires: Option<Instant>,
    wanted: Option<Wanted>,
    reading: Option<Reading>,
    writing: Option<Writing>,
    /// The check of a fresh token whose key has to be fetched.
    checking: Option<BoxFuture<'static, Result<Identified, Unauthorised>>>,
    /// The newest acknowledgement that is not stored, and when to store it.
    unstored: Option<(Position, Instant)>,
    hold_ends: Option<Instant>,
    reassert_at: Instant,
    reasserted: Instant,
    retry_at: Instant,
    last_received: Instant,
    pinged: Instant,
    ending: Option<Ending>,
    membership: Membership,
    _place: Place,
}

/// One thing that happened.
enum Input {
    Written(Result<Account, Error>),
    Frame(Option<Result<Message, Error>>),
    Item(Item),
    Signals(Taken),
    Read(Result<Answer, MailboxError>),
    Stored(Result<(), MailboxError>),
    Checked(Result<Identified, Unauthorised>),
    Time,
}

/// Runs a connection on its socket until it ends.
///
/// This future is what an idle socket costs, so it is kept small: what moves from one wait to the
/// next has a place of its own in it for each of them, and what happens once is boxed.
pub fn run(admitted: Admitted, socket: Socket) -> impl Future<Output = ()> {
    let (sink, mut stream) = socket.split();
    let mut connection = Box::new(Connection::new(admitted, Outbox::new(sink)));
    async move {
        let ending = connection.serve(&mut stream).await;
        Box::pin(connection.end(ending, stream)).await;
    }
}

impl Connection {
    fn new(admitted: Admitted, outbox: Outbox) -> Connection {
        let Admitted {
            node,
            peer,
            identified,
            registered,
            inbox,
            ..
        } = admitted;
        let now = Instant::now();
        let identity = Identity {
            user: peer.user.shared(),
            device: Arc::clone(&peer.device),
            node: Arc::clone(&node.name),
            heartbeat_seconds: HEARTBEAT_SECONDS,
            acknowledges_itself: admitted.acknowledges_itself,
        };
        // The first registration was carried out before the socket was accepted.
        let (mut session, _) = Session::new(identity, WINDOW_MESSAGES);
        let order = registered.order;
        let effects = session.registered(registration(&node, &peer, registered));
        let broadcasts = node.ring.changes();
        let mut connection = Connection {
            node,
            peer,
            order,
            session,
            outbox,
            inbox,
            broadcasts,
            frames: Allowance::of_frames(now),
            expires: identified.expires.map(instant_of),
            wanted: None,
            reading: None,
            writing: None,
            checking: None,
            unstored: None,
            hold_ends: None,
            reassert_at: now + once_to_twice(Duration::from_secs(REASSERT_SECONDS)),
            reasserted: now,
            retry_at: now,
            last_received: now,
            pinged: now,
            ending: None,
            membership: admitted.membership,
            _place: admitted.place,
        };
        connection.carry_out(effects);
        connection
    }

    async fn serve(&mut self, stream: &mut SplitStream<Socket>) -> Ending {
        loop {
            if let Some(ending) = self.ending.take() {
                return ending;
            }
            self.follow_everyone();
            self.start_calls();
            let is_busy = self.outbox.is_busy();
            let deadline = self.deadline();
            let input = tokio::select! {
                written = self.outbox.advance(), if is_busy => Input::Written(written),
                frame = stream.next() => Input::Frame(frame),
                item = self.inbox.item(), if !is_busy => Input::Item(item),
                // The ring lives as long as the node: there is no error.
                Ok(()) = self.broadcasts.changed(), if !is_busy => continue,
                signals = self.inbox.signals() => Input::Signals(signals),
                answer = settled(&mut self.reading) => Input::Read(answer),
                stored = settled(&mut self.writing) => Input::Stored(stored),
                checked = settled(&mut self.checking) => Input::Checked(checked),
                () = sleep_until(deadline) => Input::Time,
            };
            self.handle(input);
        }
    }

    /// Sends what the ring has beyond the place of a live session.
    fn follow_everyone(&mut self) {
        if self.outbox.is_busy() {
            return;
        }
        let newest = self.node.ring.newest();
        if let Some(place) = (self.session.follows_everyone()).filter(|place| *place < newest) {
            let now_ms = self.node.store_clock.now_ms();
            let read = read_everyone(&self.node, &self.peer, place, now_ms);
            let effects = self.session.everyone_read(read, now_ms);
            self.carry_out(effects);
        }
    }

    fn handle(&mut self, input: Input) {
        match input {
            Input::Written(Ok(account)) => account.settle(&self.node, self.peer.user.as_str()),
            Input::Written(Err(_)) | Input::Frame(None) => self.ending = Some(Ending::Gone),
            Input::Frame(Some(frame)) => self.receive(frame),
            Input::Item(Item::Forwarded(forwarded)) => {
                let effects = self.session.forwarded(forwarded);
                self.carry_out(effects);
            }
            Input::Item(Item::Ephemeral { time_ms, json }) => {
                let age_ms = self.node.store_clock.now_ms().saturating_sub(time_ms);
                // It may have waited here for a socket that is slow.
                if age_ms <= EPHEMERAL_AGE_MILLISECONDS_MAX {
                    let effects = self.session.ephemeral(time_ms, json);
                    self.carry_out(effects);
                }
            }
            Input::Signals(signals) => self.obey(signals),
            Input::Read(answer) => {
                self.reading = None;
                self.take_answer(answer);
            }
            Input::Stored(stored) => {
                self.writing = None;
                self.take_stored(stored);
            }
            Input::Checked(checked) => {
                self.checking = None;
                self.take_identity(checked);
            }
            Input::Time => self.tick(Instant::now()),
        }
    }

    fn receive(&mut self, frame: Result<Message, Error>) {
        let now = Instant::now();
        self.last_received = now;
        let message = match frame {
            Ok(message) => message,
            Err(Error::Capacity(_)) => {
                return self.close(
                    CloseCode::BadRequest,
                    "a frame may have at most 65536 bytes",
                );
            }
            Err(Error::Utf8(_)) => {
                return self.close(CloseCode::BadRequest, "a text frame must be UTF-8");
            }
            Err(Error::Protocol(_)) => {
                return self.close(CloseCode::BadRequest, "not a frame of RFC 6455");
            }
            Err(Error::Io(error)) if TooManyBytes::is_reason_of(&error) => {
                return self.close_flood();
            }
            Err(_) => {
                self.ending = Some(Ending::Gone);
                return;
            }
        };
        if !self.frames.take(1, now) {
            return self.close_flood();
        }
        match message {
            Message::Text(text) => match ClientFrame::parse(&text) {
                Ok(ClientFrame::Ack { cursor }) => {
                    let effects = self.session.ack(&cursor);
                    self.carry_out(effects);
                }
                Ok(ClientFrame::Token { token }) => self.renew_token(token),
                Err(error) => self.close(CloseCode::BadRequest, &error.to_string()),
            },
            Message::Binary(_) => self.close(CloseCode::BadRequest, "frames must be text"),
            Message::Close(_) => self.ending = Some(Ending::ClosedByClient),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }

    fn close_flood(&mut self) {
        self.node.metrics.limit_hit(Limit::ClientFrames);
        self.close(CloseCode::TooMany, "too many frames or bytes: send less");
    }

    fn renew_token(&mut self, token: String) {
        // Without tokens one proves nothing, good or bad; a client need not know how it was let in.
        if matches!(self.node.auth, Auth::None) {
            return;
        }
        match self.node.auth.check_at_once(&token) {
            Err(Unauthorised::UnknownKey) => {
                let node = Arc::clone(&self.node);
                self.checking = Some(Box::pin(async move { node.auth.check(&token).await }));
            }
            checked => {
                self.checking = None;
                self.take_identity(checked);
            }
        }
    }

    fn take_identity(&mut self, checked: Result<Identified, Unauthorised>) {
        match checked {
            Ok(identified) if identified.user == self.peer.user => {
                self.expires = identified.expires.map(instant_of);
            }
            Ok(_) => self.close(CloseCode::Unauthorised, "the token is another user's"),
            // The token before it holds for as long as it says.
            Err(Unauthorised::NoKeys) => {
                tracing::debug!("a fresh token could not be checked: the key set is not there");
            }
            Err(error) => self.close(CloseCode::Unauthorised, &error.to_string()),
        }
    }

    fn obey(&mut self, signals: Taken) {
        if signals.has(Signal::Replaced) {
            self.close(CloseCode::Replaced, "a newer connection of this device");
        } else if signals.has(Signal::NameTaken) {
            self.close(CloseCode::Restarting, "another process took over this node");
        } else if signals.has(Signal::Leave) {
            self.close(CloseCode::GoingAway, "the node goes away");
        } else {
            // What did not fit into the queue is known to be missing; anything else may be, and a
            // comparison is cheaper than a page.
            if signals.has(Signal::Register) {
                let effects = self.session.register_again();
                self.carry_out(effects);
            }
            if signals.has(Signal::Overflowed) {
                let effects = self.session.reconcile();
                self.carry_out(effects);
            }
            if signals.has(Signal::Reconcile) {
                self.reassert_soon();
            }
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { frame, times_ms } => {
                    self.outbox.push(&self.node, &frame, times_ms);
                }
                Effect::ReadPage {
                    number,
                    after,
                    messages_max,
                } => {
                    self.wanted = Some(Wanted::Page {
                        number,
                        after,
                        messages_max,
                    });
                }
                Effect::Register { again } => {
                    // What is under way belongs to the old registration.
                    self.reading = None;
                    self.unstored = None;
                    self.wanted = Some(Wanted::Register { again });
                }
                Effect::Acknowledge {
                    position,
                    messages,
                    urgent,
                } => {
                    let now = Instant::now();
                    let due = now
                        + match urgent {
                            true => ACKNOWLEDGE_DELAY,
                            false => once_to_twice(ACKNOWLEDGE_EVERYONE_DELAY),
                        };
                    let due = self.unstored.map_or(due, |(_, before)| before.min(due));
                    self.unstored = Some((position, due));
                    self.node.metrics.message(MessageOutcome::Acked, messages);
                }
                Effect::Hold => {
                    let ends = Instant::now() + Duration::from_millis(HOLD_MILLISECONDS);
                    self.hold_ends.get_or_insert(ends);
                }
                Effect::CheckEpoch => self.reassert_soon(),
                // Logged with the `live` frame, once that is written.
                Effect::Replayed { .. } => {}
                Effect::Close { code, message } => self.close(code, &message),
            }
        }
    }

    fn close(&mut self, code: CloseCode, message: &str) {
        if self.ending.is_none() {
            self.ending = Some(Ending::Closed {
                code,
                message: message.to_owned(),
            });
        }
    }
}

/// Waits for a call that is under way, for ever where there is none.
async fn settled<T>(call: &mut Option<BoxFuture<'static, T>>) -> T {
    match call {
        Some(call) => call.await,
        None => std::future::pending().await,
    }
}

/// The moment of the monotonic clock at which the wall clock will show `time`.
fn instant_of(time: SystemTime) -> Instant {
    let left = time.duration_since(SystemTime::now()).unwrap_or_default();
    // A token that outlives the process needs no exact end.
    Instant::now() + left.min(Duration::from_secs(365 * 24 * 3600))
}
