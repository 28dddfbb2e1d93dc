//! What an idle socket costs its gateway. The clients are this test's own process, so what they
//! hold is not counted, and neither is the kernel's side of a socket.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{allow_sockets, mebibytes, parameter};
use crate::support::System;
use crate::support::patient::Patient;
use crate::support::process::memory;

/// Memory of the node's own that an idle socket may cost, by the design.
const SOCKET_BYTES_MAX: u64 = 5 * 1024;
/// And what the allocator adds by chance, where the sockets are few.
const FEW_SOCKETS_BYTES_MAX: u64 = 6 * 1024;
/// The first ones pay for what all share.
const WARM_SOCKETS: usize = 200;
/// How many connect at one time.
const CONNECTING_MAX: usize = 64;

struct Scale {
    sockets: usize,
    /// How long they are left alone once their last acknowledgements are stored. From 120 s on,
    /// every connection has sent heartbeats and was asserted again.
    rest: Duration,
    bytes_max: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_socket_costs_little() {
    idle(Scale {
        sockets: 1_500,
        rest: Duration::ZERO,
        bytes_max: FEW_SOCKETS_BYTES_MAX,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "large: scripts/bench idle"]
async fn bench_idle() {
    idle(Scale {
        sockets: parameter("TEST_SOCKETS", 10_000),
        rest: Duration::from_secs(parameter("TEST_SECONDS", 130)),
        bytes_max: SOCKET_BYTES_MAX,
    })
    .await;
}

async fn idle(scale: Scale) {
    let Scale { sockets, rest, .. } = scale;
    allow_sockets(WARM_SOCKETS + sockets);
    let system = System::builder()
        .env("CATCHUP_CONNECTS_PER_SECOND", "5000")
        .start()
        .await;
    let gateway = system.gateway(0);
    let process_id = gateway.process_id().expect("it runs");
    let mut idle = JoinSet::new();
    connect(&mut idle, gateway.port(), 0..WARM_SOCKETS).await;
    let before = settled_memory(process_id).await;
    let rest_of_them = WARM_SOCKETS..WARM_SOCKETS + sockets;
    connect(&mut idle, gateway.port(), rest_of_them).await;
    let connected = memory(process_id).resident;
    let settled = settled_memory(process_id).await;
    // Time is what is tried.
    sleep(rest).await;
    let after = memory(process_id).resident;
    let each = |resident: u64| resident.saturating_sub(before) / sockets as u64;
    println!(
        "idle: {sockets} sockets on one gateway, process {process_id}; the clients are process {}",
        std::process::id()
    );
    println!(
        "idle: resident memory of the gateway: {:.1} MiB with {WARM_SOCKETS} sockets, {:.1} MiB \
         when all are live, {:.1} MiB settled, {:.1} MiB {} s later",
        mebibytes(before),
        mebibytes(connected),
        mebibytes(settled),
        mebibytes(after),
        rest.as_secs(),
    );
    println!(
        "idle: bytes a socket: {} when live, {} settled, {} at the end",
        each(connected),
        each(settled),
        each(after),
    );
    let metrics = gateway.metrics().await;
    let connections = metrics.value("catchup_connections", &[]);
    assert_eq!(connections, (WARM_SOCKETS + sockets) as f64);
    let most = each(settled).max(each(after));
    assert!(most <= scale.bytes_max, "{most} bytes a socket");
}

/// Connects users, some at a time; each then only reads, and so answers pings.
async fn connect(idle: &mut JoinSet<()>, port: u16, users: Range<usize>) {
    let turns = Arc::new(Semaphore::new(CONNECTING_MAX));
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
            client.get_in().await.socket
        });
    }
    for mut socket in clients.join_all().await {
        idle.spawn(async move { while let Some(Ok(_)) = socket.next().await {} });
    }
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
