//! The race that everybody loses: users connect and drop without end while workers append.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{alone, load, loaded, publish, users};
use crate::support::chance::{Chance, seed};
use crate::support::{Oracle, Socket, SocketRequest, System, eventually};

const USERS: usize = 20;
/// One event in ten goes to all.
const DELIVERIES_PER_100_EVENTS: usize = 90 + 10 * USERS;
/// Who hears nothing for this long drops the connection, too.
const PATIENCE: Duration = Duration::from_millis(100);
/// Most frames that a client reads of one connection.
const FRAMES_MAX: u64 = 12;

#[tokio::test]
async fn nobody_loses_a_message_between_two_connections() {
    let _alone = alone().await;
    let system = loaded().gateways(2).workers(3).start().await;
    race(&system, async || ()).await;
}

/// The race, and what is done to the system meanwhile, again and again.
pub(super) async fn race(system: &System, mut meanwhile: impl AsyncFnMut()) {
    let oracle = Arc::new(Oracle::default());
    let users = users(USERS);
    let (seed, ends) = (seed(), CancellationToken::new());
    let mut clients = Vec::new();
    for (index, user) in users.iter().enumerate() {
        // Every other user has a second device.
        for device in &["phone", "tablet"][..=index % 2] {
            let client = Restless {
                oracle: Arc::clone(&oracle),
                user: user.clone(),
                device,
                gateways: system.gateways().iter().map(|it| it.socket()).collect(),
                chance: Chance::new(seed.wrapping_add(clients.len() as u64)),
                cursor: None,
            };
            // A further device is owed what comes after it was first seen.
            let mut socket = eventually("a first connection", async || {
                client.request(0).try_connect().await.ok()
            })
            .await;
            socket.until_live().await;
            oracle.expect_device(user, device);
            clients.push(client);
        }
    }
    let clients = clients
        .into_iter()
        .map(|client| tokio::spawn(client.run(ends.clone())));
    let clients: Vec<_> = clients.collect();

    let deliveries = load(10_000);
    let events = deliveries.div_ceil(DELIVERIES_PER_100_EVENTS) * 100;
    let published = async {
        publish(&oracle, system, &users, events).await;
        oracle.until_kept().await;
    };
    let mut published = std::pin::pin!(published);
    loop {
        tokio::select! {
            () = &mut published => break,
            () = meanwhile() => tokio::task::yield_now().await,
        }
    }
    ends.cancel();
    for client in clients {
        client.await.expect("a client did not panic");
    }
    let tally = oracle.assert_kept();
    println!("the race: {tally}, TEST_SEED={seed}");
    assert!(tally.deliveries >= deliveries, "{tally}");
    assert!(tally.reconnects >= 5 * USERS as u64, "{tally}");
    oracle.assert_order();
}

/// A client that is never content with its connection.
struct Restless {
    oracle: Arc<Oracle>,
    user: String,
    device: &'static str,
    gateways: Vec<SocketRequest>,
    chance: Chance,
    /// The last one it received.
    cursor: Option<String>,
}

impl Restless {
    async fn run(mut self, ends: CancellationToken) {
        let mut older: Option<Socket> = None;
        while !ends.is_cancelled() {
            let gateway = self.chance.below(self.gateways.len() as u64) as usize;
            let mut request = self.request(gateway);
            if let (Some(cursor), 0) = (&self.cursor, self.chance.below(2)) {
                request = request.cursor(cursor);
            }
            let Ok(mut socket) = request.try_connect().await else {
                // The store does not answer in time: come back, says the contract.
                tokio::task::yield_now().await;
                continue;
            };
            self.oracle.connected(&self.user, self.device);
            // The connection that this one replaced, if it was left open.
            drop(older.take());
            self.read_some(&mut socket).await;
            match self.chance.below(4) {
                // The end of the TCP connection, a proper close, or another one beside it.
                0 | 1 => drop(socket),
                2 => socket.close().await,
                _ => older = Some(socket),
            }
        }
    }

    fn request(&self, gateway: usize) -> SocketRequest {
        let request = self.gateways[gateway].clone();
        request.user(&self.user).device(self.device)
    }

    async fn read_some(&mut self, socket: &mut Socket) {
        for left in (0..=self.chance.below(FRAMES_MAX)).rev() {
            let Some(Ok(frame)) = socket.any_frame_within(PATIENCE).await else {
                return;
            };
            self.oracle.hear(&self.user, self.device, &frame);
            // What it received last it may not have acknowledged.
            if let (true, Some(cursor)) = (left > 0, frame["cursor"].as_str()) {
                self.cursor = Some(cursor.to_owned());
                socket.ack(&frame).await;
            }
        }
    }
}
