//! Many clients at one node: a storm of connects under the accept limit, and what an idle socket
//! costs. For a large one: `STORM_SOCKETS=10000 cargo test --test it storm:: -- --nocapture`.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::support::patient::{Inside, Patient};
use crate::support::process::{memory, raise_open_files};
use crate::support::{System, eventually_within};

/// Sockets in the suite; more by hand.
const SOCKETS: usize = 1_500;
/// The accept limit of the storm, which is the default.
const CONNECTS_PER_SECOND: usize = 500;
/// Memory of the node's own that an idle socket may cost: the design's 5 KB, and what the
/// allocator adds by chance.
const IDLE_BYTES_MAX: u64 = 6 * 1024;
/// Of what a storm adds to the memory of the sockets it leaves: the requests at one time.
const STORM_BYTES_MAX: u64 = 48 * 1024 * 1024;

fn sockets() -> usize {
    let given = std::env::var("STORM_SOCKETS").ok();
    given.map_or(SOCKETS, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_connects_is_let_in_at_the_limit_and_nobody_is_lost() {
    let sockets = sockets();
    raise_open_files();
    let system = System::start().await;
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
    let mut clients = JoinSet::new();
    for (index, user) in users.into_iter().enumerate() {
        let client = Patient {
            port: gateway.port(),
            user,
            refuse_by_close: index % 2 == 0,
        };
        clients.spawn(client.get_in());
    }
    let inside = clients.join_all().await;
    let took = start.elapsed();
    let after = memory(process_id);
    let sum = |count: fn(&Inside) -> usize| inside.iter().map(count).sum::<usize>();
    let refusals = sum(|inside| inside.refusals);
    println!(
        "storm: {sockets} sockets in after {:.1} s, {refusals} refusals, {} unanswered; \
         resident {} KiB before, {} after, {} at most",
        took.as_secs_f32(),
        sum(|inside| inside.unanswered),
        before.resident / 1024,
        after.resident / 1024,
        after.peak / 1024,
    );
    assert!(inside.iter().all(|inside| inside.messages.len() == 1));
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value("catchup_connections", &[]), sockets as f64);
    let limited = metrics.value("catchup_limits_total", &[("limit", "accept_rate")]);
    assert!(limited >= refusals as f64 && refusals > 0, "{limited}");
    // Not faster than the limit.
    let at_limit = sockets.saturating_sub(CONNECTS_PER_SECOND / 10) / CONNECTS_PER_SECOND;
    assert!(took >= Duration::from_secs(at_limit as u64), "{took:?}");
    let grown = after.peak - before.resident;
    let allowed = sockets as u64 * IDLE_BYTES_MAX + STORM_BYTES_MAX;
    assert!(grown <= allowed, "{} KiB", grown / 1024);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_socket_costs_little() {
    let sockets = sockets();
    raise_open_files();
    let system = System::builder()
        .env("CATCHUP_CONNECTS_PER_SECOND", "5000")
        .start()
        .await;
    let gateway = system.gateway(0);
    let process_id = gateway.process_id().expect("it runs");
    // The first ones pay for what all share.
    let warm = connect(gateway.port(), 0..200).await;
    let before = settled_memory(process_id).await;
    let idle = connect(gateway.port(), 200..200 + sockets).await;
    let after = settled_memory(process_id).await;
    let each = after.saturating_sub(before) / sockets as u64;
    println!(
        "idle: {sockets} sockets, resident {} KiB before, {} KiB after: {each} bytes a socket",
        before / 1024,
        after / 1024,
    );
    assert!(each <= IDLE_BYTES_MAX, "{each} bytes a socket");
    drop((warm, idle));
}

/// Connects users, some at a time.
async fn connect(port: u16, users: Range<usize>) -> Vec<Inside> {
    let turns = Arc::new(Semaphore::new(64));
    let mut clients = JoinSet::new();
    for user in users {
        let turns = Arc::clone(&turns);
        clients.spawn(async move {
            let _turn = turns.acquire().await;
            let client = Patient {
                port,
                user: format!("user-{user}"),
                refuse_by_close: false,
            };
            client.get_in().await
        });
    }
    clients.join_all().await
}

/// Resident memory, once it changes no more: the last acknowledgements are stored.
async fn settled_memory(process_id: u32) -> u64 {
    let mut last = memory(process_id).resident;
    loop {
        // Longer than an acknowledgement waits for others.
        sleep(Duration::from_millis(600)).await;
        let resident = memory(process_id).resident;
        if resident.abs_diff(last) < 64 * 1024 {
            return resident;
        }
        last = resident;
    }
}
