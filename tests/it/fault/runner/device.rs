//! A user's device that comes and goes through a network of its own.

use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::support::chance::Chance;
use crate::support::proxy::Proxy;
use crate::support::{Frame, Oracle, POLL_INTERVAL, Role, Socket, SocketRequest};

/// Twice the gateway's heartbeat: silence for this long means that the connection is dead.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Who is not let in within this time tries the next gateway.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
/// How long a polite client waits for the answer to its close.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);
/// Longest stay of a device that does not want to stay.
const STAY_MAX: Duration = Duration::from_secs(2);
/// Longest absence of a restless device.
const ABSENCE_MAX: Duration = Duration::from_millis(300);
/// Of a hundred frames, so many are acknowledged at once; the others with a later one, or by the
/// cursor that is given on the return, or not.
const ACKNOWLEDGED_PERCENT: u64 = 85;

/// What a device does as long as it is not told to be calm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// Stays for a moment, and comes back at once at the next gateway.
    Restless,
    /// The same, and is then away for up to this long, and at least for half of it.
    Sleepy { away_max: Duration },
    /// Stays at the gateway with this index as long as that lets it.
    Faithful { gateway: usize },
}

/// When devices change what they do.
#[derive(Clone, Default)]
pub struct Times {
    /// Everybody comes, and stays.
    pub calm: CancellationToken,
    /// Everybody closes properly.
    pub ends: CancellationToken,
}

pub struct Device {
    oracle: Arc<Oracle>,
    user: String,
    name: String,
    habit: Habit,
    chance: Chance,
    /// To each gateway.
    routes: Vec<Proxy>,
    /// The index of the route to take next.
    next: usize,
    cursor: Option<String>,
}

impl Device {
    pub fn new(
        oracle: &Arc<Oracle>,
        (user, name): (&str, &str),
        habit: Habit,
        gateways: &[Arc<Role>],
        mut chance: Chance,
    ) -> Device {
        let route = |gateway: &Arc<Role>| Proxy::start(gateway.port());
        let next = match habit {
            Habit::Faithful { gateway } => gateway,
            Habit::Restless | Habit::Sleepy { .. } => chance.below(gateways.len() as u64) as usize,
        };
        Device {
            oracle: Arc::clone(oracle),
            user: user.to_owned(),
            name: name.to_owned(),
            habit,
            chance,
            routes: gateways.iter().map(route).collect(),
            next,
            cursor: None,
        }
    }

    /// Lives in a task of its own until the times end.
    pub fn spawn(self, times: &Times) -> JoinHandle<()> {
        tokio::spawn(self.run(times.clone()))
    }

    async fn run(mut self, times: Times) {
        while !times.ends.is_cancelled() {
            let route = self.next;
            if !matches!(self.habit, Habit::Faithful { .. }) {
                self.next = (route + 1) % self.routes.len();
            }
            match self.come(route).await {
                Some(mut socket) => {
                    self.stay(&mut socket, &times).await;
                    self.leave(socket, route, &times).await;
                    let _ = timeout(self.absence(), times.calm.cancelled()).await;
                }
                // Nobody there, or not ready: the next one, soon.
                None => sleep(POLL_INTERVAL).await,
            }
        }
    }

    async fn come(&mut self, route: usize) -> Option<Socket> {
        let mut request = SocketRequest::new(self.routes[route].port())
            .user(&self.user)
            .device(&self.name);
        if let Some(cursor) = self.cursor.as_deref().filter(|_| self.chance.percent(50)) {
            request = request.cursor(cursor);
        }
        let attempt = timeout(CONNECT_PATIENCE, request.attempt()).await;
        let socket = attempt.ok()?.ok()?.ok()?;
        // The gateway upgrades once the device is in its user's mailbox: it is known.
        self.oracle.connected(&self.user, &self.name);
        Some(socket)
    }

    /// Reads and acknowledges until it is time to leave, or the connection ends.
    async fn stay(&mut self, socket: &mut Socket, times: &Times) {
        let stays_for = match self.habit {
            Habit::Faithful { .. } => None,
            Habit::Restless | Habit::Sleepy { .. } => {
                Some(self.chance.duration(Duration::ZERO..STAY_MAX))
            }
        };
        let leaves = async {
            match stays_for {
                Some(time) if timeout(time, times.calm.cancelled()).await.is_err() => {}
                _ => times.ends.cancelled().await,
            }
        };
        tokio::pin!(leaves);
        // The last frame of this connection, where it was not acknowledged.
        let mut open: Option<Frame> = None;
        loop {
            let frame = tokio::select! {
                frame = socket.any_frame_within(SILENCE_MAX) => frame,
                () = &mut leaves => {
                    // In the end nothing is left open.
                    if let Some(frame) = open.filter(|_| times.calm.is_cancelled()) {
                        socket.ack(&frame).await;
                    }
                    return;
                }
            };
            let Some(Ok(frame)) = frame else { return };
            self.oracle.hear(&self.user, &self.name, &frame);
            if let Some(cursor) = frame["cursor"].as_str() {
                self.cursor = Some(cursor.to_owned());
                if times.calm.is_cancelled() || self.chance.percent(ACKNOWLEDGED_PERCENT) {
                    socket.ack(&frame).await;
                    open = None;
                } else {
                    open = Some(frame);
                }
            }
        }
    }

    async fn leave(&mut self, mut socket: Socket, route: usize, times: &Times) {
        let way = match times.calm.is_cancelled() {
            true => 0,
            false => self.chance.below(4),
        };
        match way {
            // Politely; a gateway that is paused does not answer.
            0 => drop(timeout(CLOSE_PATIENCE, socket.close()).await),
            // The end of the TCP connection, or a reset.
            1 => drop(socket),
            2 => {
                let _ = SockRef::from(&*socket.tcp()).set_linger(Some(Duration::ZERO));
            }
            // Its network is gone: nobody hears that it left.
            _ => {
                self.routes[route].vanish();
                drop(socket);
            }
        }
    }

    fn absence(&mut self) -> Duration {
        let range = match self.habit {
            Habit::Restless => Duration::ZERO..ABSENCE_MAX,
            Habit::Sleepy { away_max } => away_max / 2..away_max,
            Habit::Faithful { .. } => return POLL_INTERVAL,
        };
        self.chance.duration(range)
    }
}
