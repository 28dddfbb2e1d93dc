//! All clients connect at once, each with a message that waits: all get in at the accept limit,
//! nobody is lost, and one storm after the other needs no more memory.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{allow_sockets, mebibytes, parameter};
use crate::support::patient::{Inside, Patient};
use crate::support::process::memory;
use crate::support::{Role, System, eventually_within};

/// Of what storms add to the memory of a node, for each socket: the design's 5 KB, and what the
/// allocator adds by chance.
const SOCKET_BYTES_MAX: u64 = 6 * 1024;
/// The rest, however many storms there are: the requests at one time, 28 MiB at the limit of them,
/// and holes between them.
const STORM_BYTES_MAX: u64 = 48 * 1024 * 1024;
/// How long what is no storm may take.
const WAIT: Duration = Duration::from_secs(60);
/// Seconds of the limit that are let in at once, before it begins to count.
const BURST: f64 = 0.05;

#[derive(Clone, Copy)]
struct Scale {
    sockets: usize,
    /// `CATCHUP_CONNECTS_PER_SECOND`.
    limit: usize,
    /// How often they come.
    rounds: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_connects_is_let_in_at_the_limit_and_nobody_is_lost() {
    let refusals = storm(Scale {
        sockets: 1_500,
        limit: 500,
        rounds: 2,
    })
    .await;
    assert!(refusals > 0, "nobody came faster than the limit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "large: scripts/bench storm"]
async fn bench_storm() {
    storm(Scale {
        sockets: parameter("TEST_SOCKETS", 10_000),
        limit: parameter("TEST_LIMIT", 500),
        rounds: parameter("TEST_ROUNDS", 3),
    })
    .await;
}

/// Returns how often somebody was refused.
async fn storm(scale: Scale) -> usize {
    allow_sockets(scale.sockets);
    let limit = scale.limit.to_string();
    let builder = System::builder().env("CATCHUP_CONNECTS_PER_SECOND", &limit);
    let system = builder.start().await;
    let process_id = system.gateway(0).process_id().expect("it runs");
    let before = memory(process_id);
    let mut refusals = 0;
    for round in 1..=scale.rounds {
        refusals += one_storm(&system, scale, round).await;
        let after = memory(process_id);
        println!(
            "storm {round}: resident memory of the gateway: {:.1} MiB before the first, {:.1} MiB \
             at most, {:.1} MiB after",
            mebibytes(before.resident),
            mebibytes(after.peak),
            mebibytes(after.resident),
        );
    }
    // The allocator keeps what the requests of a storm had, with holes in it: a second and third
    // storm may find them too small and add a little, the ones after them add nothing.
    let grown = memory(process_id).peak - before.resident;
    let allowed = scale.sockets as u64 * SOCKET_BYTES_MAX + STORM_BYTES_MAX;
    assert!(grown <= allowed, "{} KiB", grown / 1024);
    refusals
}

/// All connect at once, get the message that waits for them, and leave. Returns how often somebody
/// was refused.
async fn one_storm(system: &System, scale: Scale, round: usize) -> usize {
    let Scale { sockets, limit, .. } = scale;
    let gateway = system.gateway(0);
    let users: Vec<String> = (0..sockets).map(|index| format!("user-{index}")).collect();
    let event = json!({ "targetUserIds": users, "data": round });
    system.publish("new_post", event).await;
    eventually_within(WAIT, "all have a message", async || {
        let stored = [("outcome", "stored")];
        let stored = system.metric("catchup_messages_total", &stored).await;
        (stored == (round * sockets) as f64).then_some(())
    })
    .await;
    let limited = async || {
        let metrics = gateway.metrics().await;
        metrics.value("catchup_limits_total", &[("limit", "accept_rate")])
    };
    let limited_before = limited().await;
    let start = Instant::now();
    let inside = all_get_in(gateway, users).await;
    let took = start.elapsed();
    let sum = |count: fn(&Inside) -> usize| inside.iter().map(count).sum::<usize>();
    let refusals = sum(|inside| inside.refusals);
    let unanswered = sum(|inside| inside.unanswered);
    let least = (sockets as f64 - limit as f64 * BURST).max(0.0) / limit as f64;
    println!(
        "storm {round}: {sockets} sockets at {limit}/s: all in after {:.1} s, {least:.1} s at the \
         limit; {refusals} refusals, at most {} of one client, {} attempts unanswered",
        took.as_secs_f64(),
        inside
            .iter()
            .map(|inside| inside.refusals)
            .max()
            .unwrap_or(0),
        unanswered,
    );
    // An attempt that nobody answered in time can take over from the one after it, whose
    // acknowledgement is refused then: its message is repeated.
    let is_new = |message: &&Value| message["data"] == round;
    let count = |inside: &Inside| inside.messages.iter().filter(is_new).count();
    let lost = inside.iter().filter(|inside| count(inside) == 0).count();
    let repeats = sum(|inside| inside.messages.len()) - sockets;
    println!("storm {round}: {lost} lost, {repeats} repeats of earlier messages");
    assert!(lost == 0 && inside.iter().all(|inside| count(inside) == 1));
    assert!(repeats == 0 || unanswered > 0, "{repeats} repeats");
    let connections = async || {
        let metrics = gateway.metrics().await;
        metrics.value("catchup_connections", &[])
    };
    assert_eq!(connections().await, sockets as f64);
    let limited = limited().await - limited_before;
    assert!(limited >= refusals as f64, "{limited}");
    // Not faster than the limit.
    assert!(took.as_secs_f64() >= least, "{took:?}");
    join_all(inside.into_iter().map(leave)).await;
    eventually_within(WAIT, "all have left", async || {
        (connections().await == 0.0).then_some(())
    })
    .await;
    refusals
}

/// Closes as a client does: what it acknowledged is stored before the answer.
async fn leave(inside: Inside) {
    let mut socket = inside.socket;
    let _ = socket.close(None).await;
    while let Some(Ok(_)) = socket.next().await {}
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
