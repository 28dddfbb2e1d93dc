//! A client that does what contract §4 asks of one: acknowledges, comes back, gives its cursor.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::oracle::Oracle;
use super::socket::{Socket, SocketRequest};
use super::{POLL_INTERVAL, Role};

/// Twice the gateway's heartbeat: silence for this long means that the connection is dead.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// A task that keeps one device of one user connected, and tells the oracle what it hears.
pub struct Reader {
    ends: CancellationToken,
    task: JoinHandle<()>,
}

/// Whether a reader gives its cursor when it comes back. Without, it gets again what the gateway
/// had not stored as acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ComesBack {
    WithCursor,
    WithoutCursor,
}

/// What the task knows.
struct Client {
    oracle: Arc<Oracle>,
    user: String,
    device: String,
    /// Tried in turn.
    gateways: Vec<SocketRequest>,
    comes_back: ComesBack,
    cursor: Option<String>,
}

impl Reader {
    /// The user's device `default` at these gateways, the first of them first. A connection that
    /// is lost is followed at once by one to the next gateway.
    pub fn start(
        oracle: &Arc<Oracle>,
        user: &str,
        gateways: &[&Role],
        comes_back: ComesBack,
    ) -> Reader {
        let client = Client {
            oracle: Arc::clone(oracle),
            user: user.to_owned(),
            device: "default".to_owned(),
            gateways: gateways.iter().map(|gateway| gateway.socket()).collect(),
            comes_back,
            cursor: None,
        };
        oracle.expect_device(&client.user, &client.device);
        let ends = CancellationToken::new();
        let task = tokio::spawn(client.run(ends.clone()));
        Reader { ends, task }
    }

    /// Closes the connection properly; panics where the task had panicked.
    pub async fn stop(self) {
        self.ends.cancel();
        self.task.await.expect("the reader did not panic");
    }
}

impl Client {
    async fn run(mut self, ends: CancellationToken) {
        let mut gateway = 0;
        while !ends.is_cancelled() {
            let mut request = self.gateways[gateway % self.gateways.len()].clone();
            gateway += 1;
            request = request.user(&self.user).device(&self.device);
            if let (ComesBack::WithCursor, Some(cursor)) = (self.comes_back, &self.cursor) {
                request = request.cursor(cursor);
            }
            match request.attempt().await {
                Ok(Ok(socket)) => self.follow(socket, &ends).await,
                // Nobody there, or not ready: the next one.
                Ok(Err(_)) | Err(_) => tokio::time::sleep(POLL_INTERVAL).await,
            }
        }
    }

    /// Reads and acknowledges until the connection ends.
    async fn follow(&mut self, mut socket: Socket, ends: &CancellationToken) {
        self.oracle.connected(&self.user, &self.device);
        loop {
            let frame = tokio::select! {
                frame = socket.any_frame_within(SILENCE_MAX) => frame,
                () = ends.cancelled() => return socket.close().await,
            };
            let Some(Ok(frame)) = frame else { return };
            self.oracle.hear(&self.user, &self.device, &frame);
            if let Some(cursor) = frame["cursor"].as_str() {
                self.cursor = Some(cursor.to_owned());
                socket.ack(&frame).await;
            }
        }
    }
}
