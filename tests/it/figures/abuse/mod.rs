//! A gateway under abuse, in figures: `scripts/abuse KIND` runs the large form. While it lasts, users
//! who do nothing wrong are served; after it, nothing of it is left.
//!
//! | kind | what is done |
//! |---|---|
//! | `dropped` | connections are opened and dropped, in every state of a connection |
//! | `held` | connections are opened, and held with half a request |
//! | `flood` | clients send junk of each kind as fast as they can, and come back at once |

mod dropped;
mod flood;
mod held;

use std::time::Duration;

use redis::AsyncCommands;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use super::{mebibytes, milliseconds};
use crate::support::process::memory;
use crate::support::{Role, SocketRequest, System, eventually_within};

/// How often the user who stays is sent something.
const EVENT_INTERVAL: Duration = Duration::from_millis(50);
/// How long a user may wait at most, whatever others do: two cores are shared with all of them.
const SERVED_WITHIN: Duration = Duration::from_secs(5);
/// How long it may take until everything of the abuse is gone.
const GONE_WITHIN: Duration = Duration::from_secs(60);
/// Memory that a gateway may keep: what its allocator takes from the kernel for all 2,048 requests that
/// may be open, twice over. However many come, it is no more.
const KEPT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What a gateway holds.
#[derive(Clone, Copy)]
struct Holdings {
    resident_bytes: u64,
    open_files: usize,
}

fn holdings(gateway: &Role) -> Holdings {
    let process_id = gateway.process_id().expect("it runs");
    let files = std::fs::read_dir(format!("/proc/{process_id}/fd")).expect("Linux");
    Holdings {
        resident_bytes: memory(process_id).resident,
        open_files: files.count(),
    }
}

/// Two users who do nothing wrong: `stays` is connected all the time, `comes` again and again.
struct GoodUsers {
    ends: CancellationToken,
    stays: JoinHandle<Vec<Duration>>,
    comes: JoinHandle<Vec<Duration>>,
}

impl GoodUsers {
    /// Begins; they use a gateway of `system` until they are told to end.
    async fn start(system: &System) -> GoodUsers {
        let ends = CancellationToken::new();
        let request = system.gateway(0).socket();
        let publisher = Publisher::of(system).await;
        let stays = tokio::spawn(stay(request.clone().user("stays"), publisher, ends.clone()));
        let comes = tokio::spawn(come(request.user("comes"), ends.clone()));
        GoodUsers { ends, stays, comes }
    }

    /// Ends them and prints how long each had to wait; fails where one waited too long.
    async fn assert_served(self, kind: &str) {
        self.ends.cancel();
        let waits = [
            ("an event to its user", self.stays.await.expect("served")),
            (
                "a new connection to live",
                self.comes.await.expect("served"),
            ),
        ];
        for (what, mut waits) in waits {
            waits.sort_unstable();
            assert!(!waits.is_empty(), "nobody asked for {what}");
            let at = |share: f64| milliseconds(super::quantile(&waits, share));
            let most = *waits.last().expect("some");
            println!(
                "{kind}: {what}, {} times: {:.0} ms median, {:.0} ms 99 %, {:.0} ms at most",
                waits.len(),
                at(0.5),
                at(0.99),
                milliseconds(most),
            );
            assert!(most < SERVED_WITHIN, "{what} took {most:?}");
        }
    }
}

/// Publishes for the user who stays.
struct Publisher {
    jetstream: async_nats::jetstream::Context,
    subject: String,
}

impl Publisher {
    async fn of(system: &System) -> Publisher {
        Publisher {
            jetstream: system.jetstream().await,
            subject: system.subject("events.new_comment.good"),
        }
    }

    async fn publish(&self, number: u64) {
        let event = json!({ "targetUserIds": ["stays"], "data": number }).to_string();
        let sent = self.jetstream.publish(self.subject.clone(), event.into());
        sent.await.expect("sent").await.expect("a PubAck");
    }
}

/// How long each event took, from before its publish; every one comes, once and in order.
async fn stay(
    request: SocketRequest,
    publisher: Publisher,
    ends: CancellationToken,
) -> Vec<Duration> {
    let mut socket = request.connect().await;
    socket.until_live().await;
    let mut ticks = interval(EVENT_INTERVAL);
    let mut waits = Vec::new();
    for number in 0.. {
        tokio::select! {
            _ = ticks.tick() => {}
            () = ends.cancelled() => break,
        }
        let start = Instant::now();
        publisher.publish(number).await;
        let messages = socket.messages(1).await;
        assert_eq!(messages[0]["data"], json!(number));
        waits.push(start.elapsed());
    }
    socket.close().await;
    waits
}

/// How long each connection took to be live, with every wait that a refusal asked for.
async fn come(request: SocketRequest, ends: CancellationToken) -> Vec<Duration> {
    let mut ticks = interval(2 * EVENT_INTERVAL);
    let mut waits = Vec::new();
    while !ends.is_cancelled() {
        ticks.tick().await;
        let start = Instant::now();
        let mut socket = request.connect_within(SERVED_WITHIN).await;
        socket.until_live().await;
        waits.push(start.elapsed());
        socket.close().await;
    }
    waits
}

/// Waits until the gateway holds nothing of the abuse, and prints what it held before and after.
async fn assert_nothing_left(system: &System, kind: &str, before: Holdings) {
    let gateway = system.gateway(0);
    let start = Instant::now();
    let what = "all connections are gone";
    eventually_within(GONE_WITHIN, what, async || {
        let connections = gateway.metrics().await.value("catchup_connections", &[]);
        (connections == 0.0 && holdings(gateway).open_files <= before.open_files).then_some(())
    })
    .await;
    let mut redis = system.redis().await;
    let what = "nobody is online";
    eventually_within(GONE_WITHIN, what, async || {
        let key = system.key(&format!("online_users:{}", gateway.name()));
        let online: usize = redis.scard(key).await.expect("a set");
        let keys: Vec<String> = redis.keys(system.key("mailbox:*")).await.expect("keys");
        let mut present = 0;
        for key in keys {
            let is_present: bool = redis.hexists(key, "connections").await.expect("a hash");
            present += usize::from(is_present);
        }
        (online == 0 && present == 0).then_some(())
    })
    .await;
    let after = holdings(gateway);
    println!(
        "{kind}: nothing is left {:.1} s later: 0 connections, nobody online, open files {} before \
         and {} after, resident memory {:.1} MiB before and {:.1} MiB after",
        start.elapsed().as_secs_f64(),
        before.open_files,
        after.open_files,
        mebibytes(before.resident_bytes),
        mebibytes(after.resident_bytes),
    );
    let kept = after.resident_bytes.saturating_sub(before.resident_bytes);
    assert!(kept <= KEPT_BYTES_MAX, "{kept} bytes are kept");
}
