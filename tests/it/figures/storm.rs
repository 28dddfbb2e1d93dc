//! All clients connect at once, each with a message that waits: all get in at the accept limit,
//! nobody is lost, and the storm leaves no memory behind but that of its sockets.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{allow_sockets, mebibytes, parameter};
use crate::support::patient::{Inside, Patient};
use crate::support::process::memory;
use crate::support::{Role, System, eventually_within};

/// Of what a storm adds to the memory of a node, for each socket that it leaves: the design's 5 KB,
/// and what the allocator adds by chance.
const SOCKET_BYTES_MAX: u64 = 6 * 1024;
/// The rest: the requests at one time.
const STORM_BYTES_MAX: u64 = 48 * 1024 * 1024;
/// Seconds of the limit that are let in at once, before it begins to count.
const BURST: f64 = 0.05;

#[derive(Clone, Copy)]
struct Scale {
    sockets: usize,
    /// `CATCHUP_CONNECTS_PER_SECOND`.
    limit: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_connects_is_let_in_at_the_limit_and_nobody_is_lost() {
    storm(Scale {
        sockets: 1_500,
        limit: 500,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "large: scripts/bench storm"]
async fn bench_storm() {
    storm(Scale {
        sockets: parameter("TEST_SOCKETS", 10_000),
        limit: parameter("TEST_LIMIT", 500),
    })
    .await;
}

async fn storm(Scale { sockets, limit }: Scale) {
    allow_sockets(sockets);
    let builder = System::builder();
    let builder = builder.env("CATCHUP_CONNECTS_PER_SECOND", &limit.to_string());
    let system = builder.start().await;
    let users: Vec<String> = (0..sockets).map(|index| format!("user-{index}")).collect();
    let event = json!({ "targetUserIds": users, "data": { "text": "welcome back" } });
    system.publish("new_post", event).await;
    eventually_within(Duration::from_secs(60), "all have a message", async || {
        let stored = [("outcome", "stored")];
        let stored = system.metric("catchup_messages_total", &stored).await;
        (stored == sockets as f64).then_some(())
    })
    .await;
    let gateway = system.gateway(0);
    let process_id = gateway.process_id().expect("it runs");
    let before = memory(process_id);
    let start = Instant::now();
    let inside = all_get_in(gateway, users).await;
    let took = start.elapsed();
    let after = memory(process_id);
    let sum = |count: fn(&Inside) -> usize| inside.iter().map(count).sum::<usize>();
    let refusals = sum(|inside| inside.refusals);
    let least = (sockets as f64 - limit as f64 * BURST).max(0.0) / limit as f64;
    println!(
        "storm: {sockets} sockets at {limit}/s: all in after {:.1} s, {least:.1} s at the limit; \
         {refusals} refusals, at most {} of one client, {} attempts unanswered",
        took.as_secs_f64(),
        inside
            .iter()
            .map(|inside| inside.refusals)
            .max()
            .unwrap_or(0),
        sum(|inside| inside.unanswered),
    );
    println!(
        "storm: resident memory of the gateway: {:.1} MiB before, {:.1} MiB at most, {:.1} MiB after",
        mebibytes(before.resident),
        mebibytes(after.peak),
        mebibytes(after.resident),
    );
    assert!(inside.iter().all(|inside| inside.messages.len() == 1));
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value("catchup_connections", &[]), sockets as f64);
    let limited = metrics.value("catchup_limits_total", &[("limit", "accept_rate")]);
    assert!(limited >= refusals as f64 && refusals > 0, "{limited}");
    // Not faster than the limit.
    assert!(took.as_secs_f64() >= least, "{took:?}");
    let grown = after.peak - before.resident;
    let allowed = sockets as u64 * SOCKET_BYTES_MAX + STORM_BYTES_MAX;
    assert!(grown <= allowed, "{} KiB", grown / 1024);
}

async fn all_get_in(gateway: &Role, users: Vec<String>) -> Vec<Inside> {
    let mut clients = JoinSet::new();
    for (index, user) in users.into_iter().enumerate() {
        let client = Patient {
            port: gateway.port(),
            user,
            refuse_by_close: index % 2 == 0,
        };
        clients.spawn(client.get_in());
    }
    clients.join_all().await
}
