//! Many clients behind a load balancer: each keeps one device connected, does what it is told
//! when it is sent away or refused, and writes down how that went.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::oracle::Oracle;
use super::patient::{Outside, open};
use super::role::Role;

/// How often the balancer asks a gateway whether it is ready.
const PROBE_INTERVAL: Duration = Duration::from_millis(50);
/// Twice the gateway's heartbeat: silence for this long means that the connection is dead.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long the first frame may take.
const WELCOME_WAIT: Duration = Duration::from_secs(30);
/// Pause where nobody answered.
const UNANSWERED_PAUSE: Duration = Duration::from_millis(100);
/// How long a gateway may take to answer a close.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// Gives new connections to the gateways that said they are ready, in turn.
struct Balancer {
    gateways: Vec<Arc<Role>>,
    is_ready: Vec<AtomicBool>,
    next: AtomicUsize,
}

impl Balancer {
    /// The gateway for the next connection; `None` where none is ready.
    fn pick(&self) -> Option<usize> {
        let is_ready = |gateway: &usize| self.is_ready[*gateway].load(Ordering::Relaxed);
        let ready: Vec<usize> = (0..self.gateways.len()).filter(is_ready).collect();
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let index = turn.checked_rem(ready.len())?;
        Some(ready[index])
    }

    async fn probe(self: Arc<Balancer>, gateway: usize) {
        loop {
            let response = self.gateways[gateway].admin("/readyz").await;
            let is_ready = response.is_ok_and(|response| response.status == 200);
            self.is_ready[gateway].store(is_ready, Ordering::Relaxed);
            // As a balancer does.
            sleep(PROBE_INTERVAL).await;
        }
    }
}

/// One way back in.
#[derive(Clone, Copy, Debug)]
pub struct Return {
    /// The gateway that sent it away, by its index.
    pub from: usize,
    /// When it was to come back, by the first delay it was told.
    pub told: Instant,
    /// When it was in.
    pub inside: Instant,
    /// The time outside that nobody had asked it to stay: all but the delays it was told.
    pub unasked: Duration,
    /// How often it was told to come back later.
    pub refusals: usize,
    pub unanswered: usize,
}

/// What all clients wrote down.
#[derive(Default)]
pub struct Journal {
    /// Each attempt: when, and at which gateway.
    pub attempts: Vec<(Instant, usize)>,
    pub returns: Vec<Return>,
    /// Connections that ended without being told to go.
    pub lost: usize,
}

/// The clients, until they are dropped or told to end.
pub struct Crowd {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
    _probes: JoinSet<()>,
}

struct Shared {
    balancer: Arc<Balancer>,
    oracle: Arc<Oracle>,
    journal: Mutex<Journal>,
    inside: AtomicUsize,
    ends: CancellationToken,
}

impl Crowd {
    /// One client a user, each on its way to a gateway.
    pub fn start(oracle: &Arc<Oracle>, gateways: &[Arc<Role>], users: &[String]) -> Crowd {
        let balancer = Arc::new(Balancer {
            gateways: gateways.to_vec(),
            is_ready: gateways.iter().map(|_| AtomicBool::new(true)).collect(),
            next: AtomicUsize::new(0),
        });
        let mut probes = JoinSet::new();
        for gateway in 0..gateways.len() {
            probes.spawn(Arc::clone(&balancer).probe(gateway));
        }
        let shared = Arc::new(Shared {
            balancer,
            oracle: Arc::clone(oracle),
            journal: Mutex::default(),
            inside: AtomicUsize::new(0),
            ends: CancellationToken::new(),
        });
        let mut clients = JoinSet::new();
        for (index, user) in users.iter().enumerate() {
            oracle.expect_device(user, "default");
            let client = Client {
                shared: Arc::clone(&shared),
                user: user.clone(),
                refuse_by_close: index % 2 == 0,
                cursor: None,
            };
            clients.spawn(client.run());
        }
        Crowd {
            shared,
            clients,
            _probes: probes,
        }
    }

    /// How many have a connection.
    pub fn inside(&self) -> usize {
        self.shared.inside.load(Ordering::Relaxed)
    }

    /// What was written down since the last call.
    pub fn take_journal(&self) -> Journal {
        std::mem::take(&mut self.shared.journal())
    }

    /// All close properly; panics where one of them had panicked.
    pub async fn end(self) {
        self.shared.ends.cancel();
        self.clients.join_all().await;
    }
}

impl Shared {
    fn journal(&self) -> std::sync::MutexGuard<'_, Journal> {
        self.journal.lock().expect("not poisoned")
    }
}

type Stream = WebSocketStream<TcpStream>;

struct Client {
    shared: Arc<Shared>,
    user: String,
    /// Wants refusals as a close after the upgrade, instead of HTTP.
    refuse_by_close: bool,
    cursor: Option<String>,
}

/// Why a connection ended.
enum Left {
    SentAway(Duration),
    Lost,
    Ended,
}

/// On the way in.
struct Outsider {
    from: Option<usize>,
    told: Instant,
    refusals: usize,
    unanswered: usize,
    unasked: Duration,
}

impl Client {
    async fn run(mut self) {
        let ends = self.shared.ends.clone();
        let (mut from, mut told) = (None, Instant::now());
        loop {
            let outsider = Outsider {
                from,
                told,
                refusals: 0,
                unanswered: 0,
                unasked: Duration::ZERO,
            };
            let entered = ends.run_until_cancelled(self.get_in(outsider)).await;
            let Some((stream, gateway)) = entered else {
                return;
            };
            self.shared.inside.fetch_add(1, Ordering::Relaxed);
            let left = self.follow(stream).await;
            self.shared.inside.fetch_sub(1, Ordering::Relaxed);
            let delay = match left {
                Left::SentAway(delay) => delay,
                Left::Lost => {
                    self.shared.journal().lost += 1;
                    Duration::ZERO
                }
                Left::Ended => return,
            };
            (from, told) = (Some(gateway), Instant::now() + delay);
        }
    }

    /// Tries until it is in, when it is told to.
    async fn get_in(&mut self, mut outsider: Outsider) -> (Stream, usize) {
        let mut due = outsider.told;
        loop {
            // The delay that the gateway asked for.
            sleep_until(due).await;
            let Some(gateway) = self.shared.balancer.pick() else {
                outsider.unanswered += 1;
                // As after no answer.
                sleep(UNANSWERED_PAUSE).await;
                continue;
            };
            let now = Instant::now();
            self.shared.journal().attempts.push((now, gateway));
            match self.attempt(gateway).await {
                Ok(stream) => {
                    outsider.unasked += due.elapsed();
                    self.note_return(&outsider);
                    return (stream, gateway);
                }
                Err(Outside::Refused(delay)) => {
                    outsider.refusals += 1;
                    outsider.unasked += due.elapsed();
                    due = Instant::now() + delay;
                }
                Err(Outside::Unanswered) => {
                    outsider.unanswered += 1;
                    // Somebody else has to answer; the time counts.
                    sleep(UNANSWERED_PAUSE).await;
                }
            }
        }
    }

    fn note_return(&self, outsider: &Outsider) {
        let Some(from) = outsider.from else { return };
        self.shared.journal().returns.push(Return {
            from,
            told: outsider.told,
            inside: Instant::now(),
            unasked: outsider.unasked,
            refusals: outsider.refusals,
            unanswered: outsider.unanswered,
        });
    }

    /// Connects; in is who was welcomed.
    async fn attempt(&mut self, gateway: usize) -> Result<Stream, Outside> {
        let mut path = format!("/v1/ws?user={}", self.user);
        if let Some(cursor) = &self.cursor {
            path.push_str(&format!("&cursor={cursor}"));
        }
        if self.refuse_by_close {
            path.push_str("&refuse=close");
        }
        let port = self.shared.balancer.gateways[gateway].port();
        let mut stream = open(port, &path).await?;
        let mut away = None;
        loop {
            let next = timeout(WELCOME_WAIT, stream.next()).await;
            match next {
                Ok(Some(Ok(Message::Text(text)))) => {
                    let frame: Value = serde_json::from_str(&text).expect("JSON");
                    match frame["op"].as_str() {
                        Some("welcome") => {
                            self.shared.oracle.connected(&self.user, "default");
                            return Ok(stream);
                        }
                        Some("away") => away = Some(delay_of(&frame)),
                        _ => panic!("{}: not a first frame: {frame}", self.user),
                    }
                }
                Ok(Some(Ok(Message::Close(_)))) => {
                    let delay = away.expect("a delay before the close");
                    return Err(Outside::Refused(delay));
                }
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(_)) | None) | Err(_) => return Err(Outside::Unanswered),
            }
        }
    }

    /// Reads and acknowledges until the connection ends.
    async fn follow(&mut self, mut stream: Stream) -> Left {
        let ends = self.shared.ends.clone();
        let mut away = None;
        loop {
            let next = tokio::select! {
                next = timeout(SILENCE_MAX, stream.next()) => next,
                () = ends.cancelled() => {
                    let closing = async {
                        let _ = stream.close(None).await;
                        while let Some(Ok(_)) = stream.next().await {}
                    };
                    let _ = timeout(CLOSE_WAIT, closing).await;
                    return Left::Ended;
                }
            };
            match next {
                Ok(Some(Ok(Message::Text(text)))) => {
                    let frame: Value = serde_json::from_str(&text).expect("JSON");
                    self.shared.oracle.hear(&self.user, "default", &frame);
                    if frame["op"] == "away" {
                        away = Some(delay_of(&frame));
                    }
                    if let Some(cursor) = frame["cursor"].as_str() {
                        self.cursor = Some(cursor.to_owned());
                        let ack = json!({ "op": "ack", "cursor": cursor }).to_string();
                        let _ = stream.send(Message::text(ack)).await;
                    }
                }
                Ok(Some(Ok(Message::Close(frame)))) => {
                    let code = frame.map(|frame| u16::from(frame.code));
                    assert!(matches!(code, Some(1001 | 1012)), "closed with {code:?}");
                    // The library answers while it reads on.
                    let _ = timeout(CLOSE_WAIT, async {
                        while let Some(Ok(_)) = stream.next().await {}
                    })
                    .await;
                    return Left::SentAway(away.expect("a delay before the close"));
                }
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(_)) | None) | Err(_) => return Left::Lost,
            }
        }
    }
}

fn delay_of(frame: &Value) -> Duration {
    let milliseconds = frame["retryMilliseconds"].as_u64();
    Duration::from_millis(milliseconds.expect("a delay in milliseconds"))
}
