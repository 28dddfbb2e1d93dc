//! What the tests stand on: real servers, real processes, plain clients.
//!
//! ```ignore
//! let system = System::start().await;                  // 1 gateway, 1 worker, shared servers
//! let event = json!({"targetUserIds": ["ann"], "data": {"text": "hello"}});
//! system.publish("new_comment.7", event).await;        // waits for the PubAck
//! system.processed().await;                            // every event is in its mailboxes
//! let mut ann = system.connect("ann").await;           // ?user=ann at the first gateway
//! let messages = ann.until_live().await;               // what waited; acknowledged on the way
//! ann.close().await;
//! ```
//!
//! | file | what it gives |
//! |---|---|
//! | `system` | [`System`]: servers, gateways and workers of one test; dropping it kills them and asserts that nothing is left. [`System::shared`]: roles that many tests use, each with users of its own |
//! | `role` | [`Role`]: one gateway or worker: ready, kill, pause, SIGTERM, logs, metrics |
//! | `command` | [`Catchup`]: any subcommand run to its end |
//! | `servers` | [`NatsServer`], [`RedisServer`]: start, kill, pause, restart, roll back, wipe |
//! | `aof` | a Redis whose append-only file is cut at a moment in the past |
//! | `socket` | [`Socket`]: a WebSocket client that does only what it is told |
//! | `wire` | [`Wire`]: the same below any library: bytes sent and bytes looked at |
//! | `patient` | thousands of clients that come back when they are told to |
//! | `crowd` | thousands of clients behind a load balancer, that move between gateways |
//! | `oracle` | [`Oracle`]: every id with a PubAck, and what each device heard |
//! | `reader` | [`Reader`]: a client that acknowledges and comes back by itself |
//! | `nats` | publishing by JetStream, and [`RawNats`] for bytes that no client library sends |
//! | `letters` | refused events by their sequence |
//! | `store` | what a user's mailbox holds, read from Redis |
//! | `http` | requests to the admin port and refusals; `metrics`: what `/metrics` says |
//! | `key_server` | a server of key sets that answers well, badly, or not at all |
//! | `token` | JSON Web Tokens, good and bad |
//! | `browser` | a page in headless Chromium |
//! | `proxy` | [`Proxy`]: between two processes: delays, cuts, black holes |
//! | `chance` | numbers by chance that `TEST_SEED` repeats |
//! | `process`, `ports` | children that cannot outlive the tests, free ports |
//!
//! By default all tests share one nats-server and one redis-server, started by the first and
//! told apart by `CATCHUP_NAMESPACE`. A test that kills, pauses or wipes a server starts its
//! own: `System::builder().own_servers()`.
//!
//! The servers are those of `TEST_NATS_SERVER` and `TEST_REDIS_SERVER`, by default the ones
//! that `scripts/servers` fetches. `TEST_ECHO=1` copies every line of every process to the
//! test's output at once; otherwise a failing test prints its roles' logs at its end.
//!
//! Nothing here sleeps to be safe: everything polls for a condition until a deadline.

// Each test file uses a part; that the parts work is shown by `harness.rs`.
#![allow(dead_code, unused_imports)]

pub mod aof;
pub mod browser;
pub mod certificates;
pub mod chance;
pub mod command;
pub mod crowd;
pub mod http;
pub mod key_server;
pub mod letters;
pub mod metrics;
pub mod nats;
pub mod oracle;
pub mod patient;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod reader;
pub mod redis_cluster;
pub mod role;
pub mod servers;
pub mod socket;
pub mod store;
pub mod system;
pub mod token;
pub mod wire;

use std::fmt::Display;
use std::time::{Duration, Instant};

pub use command::Catchup;
pub use nats::{RawNats, event};
pub use oracle::Oracle;
pub use proxy::Proxy;
pub use reader::Reader;
pub use role::Role;
pub use servers::{NatsServer, RedisServer};
pub use socket::{Frame, Socket, SocketRequest};
pub use system::{System, user};
pub use wire::Wire;

/// How long anything that should happen promptly may take before the test fails. Generous,
/// because two tests, their servers and their roles share two cores.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// How often a condition is looked at again.
pub const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Polls until `probe` gives a value, at most [`DEADLINE`]; then panics with `what`.
pub async fn eventually<T>(what: impl Display, probe: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(DEADLINE, what, probe).await
}

/// Polls until `probe` gives a value, at most `within`; then panics with `what`.
pub async fn eventually_within<T>(
    within: Duration,
    what: impl Display,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(
            start.elapsed() < within,
            "not within {} s: {what}",
            within.as_secs_f32()
        );
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Like [`eventually_within`], for code that runs without a runtime.
pub fn wait_until(what: impl Display, mut probe: impl FnMut() -> bool) {
    let start = Instant::now();
    while !probe() {
        assert!(
            start.elapsed() < DEADLINE,
            "not within {} s: {what}",
            DEADLINE.as_secs()
        );
        std::thread::sleep(POLL_INTERVAL);
    }
}
