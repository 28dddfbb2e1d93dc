//! A TCP proxy that can be told to misbehave, for between two processes of a test.
//!
//! ```ignore
//! let proxy = Proxy::start(system.redis_server().port());
//! let url = format!("redis://127.0.0.1:{}", proxy.port());
//! proxy.set(Mode::BlackHole);                      // nothing moves, nothing ends
//! proxy.set(Mode::Pass);                           // what was under way arrives
//! ```
//!
//! A mode holds for the connections that are open and for those that come. [`Proxy::vanish`]
//! takes only those that are open: their network is gone, and others can be made at once.

use std::net::TcpListener as StdListener;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Read at one time.
const CHUNK_BYTES: usize = 16 * 1024;
/// Under way in one direction: as much as a network has in its buffers.
const CHUNKS_MAX: usize = 16;
/// How long the ends of a vanished connection are kept: longer than anybody waits for a sign of
/// life.
const VANISHED_KEPT: Duration = Duration::from_secs(120);

/// What a proxy does with the bytes of its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Hands everything on, at once.
    Pass,
    /// Hands everything on, each byte so much later.
    Delay(Duration),
    /// Resets every connection, and each new one as soon as it is accepted.
    Cut,
    /// Keeps connections open and accepts new ones, and hands nothing on, not even an end.
    BlackHole,
    /// The same for one direction; the other passes.
    HalfOpen { passes: Direction },
    /// Hands on so many bytes a second, in each direction of each connection.
    Bandwidth { bytes_per_second: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    ToClient,
}

/// A proxy in front of one server. Dropping it ends it and all its connections.
pub struct Proxy {
    port: u16,
    state: watch::Sender<State>,
    task: AbortHandle,
}

#[derive(Clone, Copy)]
struct State {
    mode: Mode,
    /// The number of the next connection.
    next: u64,
    /// Connections with lower numbers are reset, even where the mode is another one again.
    cut_below: u64,
    /// Connections with lower numbers have no network any more.
    vanished_below: u64,
}

/// One connection's view of what it has to do.
#[derive(Clone)]
struct Rule {
    number: u64,
    state: watch::Receiver<State>,
}

impl Proxy {
    /// Listens on a port of its own, in mode [`Mode::Pass`], for a server at
    /// `127.0.0.1:server_port` that need not run yet. Must be called in a runtime.
    pub fn start(server_port: u16) -> Proxy {
        let listener = StdListener::bind(("127.0.0.1", 0)).expect("the kernel has free ports");
        listener.set_nonblocking(true).expect("an open socket");
        let port = listener.local_addr().expect("a bound socket").port();
        let listener = TcpListener::from_std(listener).expect("a runtime");
        let (state, _) = watch::channel(State {
            mode: Mode::Pass,
            next: 0,
            cut_below: 0,
            vanished_below: 0,
        });
        let task = tokio::spawn(accept(listener, server_port, state.clone()));
        Proxy {
            port,
            state,
            task: task.abort_handle(),
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on, for all connections.
    pub fn set(&self, mode: Mode) {
        self.state.send_modify(|state| {
            state.mode = mode;
            if mode == Mode::Cut {
                state.cut_below = state.next;
            }
        });
    }

    /// The network of the open connections is gone for good: neither side hears of the other
    /// again, nor that it left.
    pub fn vanish(&self) {
        self.state
            .send_modify(|state| state.vanished_below = state.next);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        // The connections' tasks end by this.
        self.set(Mode::Cut);
    }
}

async fn accept(listener: TcpListener, server_port: u16, state: watch::Sender<State>) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            // Too many open files, which pass.
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        let mut number = 0;
        state.send_modify(|state| {
            number = state.next;
            state.next += 1;
        });
        let rule = Rule {
            number,
            state: state.subscribe(),
        };
        tokio::spawn(connection(client, server_port, rule));
    }
}

/// Serves one connection to its end.
async fn connection(mut client: TcpStream, server_port: u16, mut rule: Rule) {
    let (mut cut, mut network) = (rule.clone(), rule.clone());
    let mut server = tokio::select! {
        server = rule.connect(server_port) => match server {
            Ok(server) => server,
            Err(_) => return reset(&client),
        },
        () = cut.cut() => return reset(&client),
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let fate = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let there = carry(from_client, to_server, rule.clone(), Direction::ToServer);
        let back = carry(from_server, to_client, rule.clone(), Direction::ToClient);
        let both = async { tokio::try_join!(there, back).map(|_| ()) };
        tokio::select! {
            biased;
            () = cut.cut() => Fate::Reset,
            () = network.vanished() => Fate::Vanished,
            ended = both => match ended {
                Ok(()) => Fate::Ended,
                // An error of one end is a reset for the other.
                Err(_) => Fate::Reset,
            },
        }
    };
    match fate {
        Fate::Ended => return,
        Fate::Reset => {}
        Fate::Vanished => {
            let kept = timeout(VANISHED_KEPT, cut.cut());
            let _ = kept.await;
        }
    }
    reset(&client);
    reset(&server);
}

/// How a connection ends.
enum Fate {
    Ended,
    Reset,
    Vanished,
}

/// Makes the end of a connection that is dropped next a reset.
fn reset(stream: &TcpStream) {
    // Where it is closed already there is nothing to reset.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Bytes under way and when they are due, `None` for the end.
type Chunk = (Instant, Option<Vec<u8>>);

/// Carries what one end writes to the other one, up to its end.
async fn carry(
    from: ReadHalf<'_>,
    to: WriteHalf<'_>,
    rule: Rule,
    direction: Direction,
) -> std::io::Result<()> {
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    let read = take_in(from, sender, rule.clone(), direction);
    let write = hand_on(to, receiver, rule, direction);
    tokio::try_join!(read, write).map(|_| ())
}

async fn take_in(
    mut from: ReadHalf<'_>,
    chunks: mpsc::Sender<Chunk>,
    mut rule: Rule,
    direction: Direction,
) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        rule.until(|mode| mode.passes(direction)).await;
        // Less at a time on a narrow line, or its bytes would come in bursts.
        let most = match rule.mode() {
            Mode::Bandwidth { bytes_per_second } => {
                CHUNK_BYTES.min((bytes_per_second as usize / 20).max(1))
            }
            _ => CHUNK_BYTES,
        };
        let count = match from.read(&mut buffer[..most]).await {
            Ok(count) => count,
            Err(error) => {
                // That there is nobody any more travels like everything else.
                rule.until(|mode| mode.passes(direction)).await;
                return Err(error);
            }
        };
        let delay = match rule.mode() {
            Mode::Delay(delay) => delay,
            _ => Duration::ZERO,
        };
        let bytes = (count > 0).then(|| buffer[..count].to_vec());
        let is_end = bytes.is_none();
        if chunks.send((Instant::now() + delay, bytes)).await.is_err() || is_end {
            return Ok(());
        }
    }
}

async fn hand_on(
    mut to: WriteHalf<'_>,
    mut chunks: mpsc::Receiver<Chunk>,
    mut rule: Rule,
    direction: Direction,
) -> std::io::Result<()> {
    while let Some((due, bytes)) = chunks.recv().await {
        sleep_until(due).await;
        rule.until(|mode| mode.passes(direction)).await;
        let Some(bytes) = bytes else {
            return to.shutdown().await;
        };
        if let Mode::Bandwidth { bytes_per_second } = rule.mode() {
            let seconds = bytes.len() as f64 / f64::from(bytes_per_second.max(1));
            sleep(Duration::from_secs_f64(seconds)).await;
        }
        if let Err(error) = to.write_all(&bytes).await {
            // The other end hears of it by what comes back.
            rule.until(|mode| mode.passes(direction.opposite())).await;
            return Err(error);
        }
    }
    Ok(())
}

impl Direction {
    fn opposite(self) -> Direction {
        match self {
            Direction::ToServer => Direction::ToClient,
            Direction::ToClient => Direction::ToServer,
        }
    }
}

impl Mode {
    fn passes(self, direction: Direction) -> bool {
        match self {
            Mode::Pass | Mode::Delay(_) | Mode::Bandwidth { .. } => true,
            Mode::HalfOpen { passes } => passes == direction,
            Mode::Cut | Mode::BlackHole => false,
        }
    }
}

impl Rule {
    fn mode(&self) -> Mode {
        self.state.borrow().mode
    }

    /// Waits until the mode is such a one.
    async fn until(&mut self, is_wanted: impl Fn(Mode) -> bool) {
        self.until_state(|state| is_wanted(state.mode)).await;
    }

    /// Waits until this connection is to be reset.
    async fn cut(&mut self) {
        let number = self.number;
        self.until_state(|state| state.mode == Mode::Cut || number < state.cut_below)
            .await;
    }

    async fn vanished(&mut self) {
        let number = self.number;
        self.until_state(|state| number < state.vanished_below)
            .await;
    }

    async fn until_state(&mut self, is_wanted: impl Fn(&State) -> bool) {
        let seen = self.state.wait_for(|state| is_wanted(state)).await.is_ok();
        if !seen {
            // The proxy is gone, and with it every connection is cut.
            std::future::pending::<()>().await;
        }
    }

    /// A connection to the server, once bytes may get there.
    async fn connect(&mut self, server_port: u16) -> std::io::Result<TcpStream> {
        self.until(|mode| mode.passes(Direction::ToServer)).await;
        TcpStream::connect(("127.0.0.1", server_port)).await
    }
}
