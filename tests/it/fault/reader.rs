//! Clients that stop reading: the gateway's memory does not grow, the others are served, and
//! whoever reads on gets everything.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{alone, load, users};
use crate::support::socket::data_of;
use crate::support::{Socket, System, eventually, eventually_within};

/// `data` may have 64 KiB.
const TEXT_BYTES: usize = 60 * 1024;
/// What the stopped clients' sockets may cost the gateway: each may hold a page of 256 KiB and a
/// frame made of it, and what is forwarded is shared.
const GROWTH_BYTES_MAX: u64 = 24 * 1024 * 1024;
/// A peer that neither reads nor answers loses its connection after this (contract §4, 4008).
const NO_PROGRESS: Duration = Duration::from_secs(30);

#[tokio::test]
async fn clients_that_stop_reading_cost_no_memory_and_get_everything_later() {
    let _alone = alone().await;
    let system = System::start().await;
    let gateway = system.gateway(0);
    let names = users(12);
    let mut stopped: Vec<Socket> = Vec::new();
    for name in &names {
        let request = gateway.socket().user(name).receive_buffer_bytes(4096);
        let mut socket = request.connect().await;
        socket.until_live().await;
        stopped.push(socket);
    }
    let mut other = system.connect("other").await;
    other.until_live().await;

    let before = gateway.resident_bytes();
    let began = Instant::now();
    let mut most = before;
    let mut targets = names.clone();
    targets.push("other".to_owned());
    let count = load(80);
    for number in 0..count {
        let data = json!({ "number": number, "text": "x".repeat(TEXT_BYTES) });
        let event = json!({ "targetUserIds": targets, "data": data });
        system.publish("new_post.large", event).await;
        // Whoever reads has each message at once.
        let messages = other.messages(1).await;
        assert_eq!(messages[0]["data"]["number"], number);
        most = most.max(gateway.resident_bytes());
    }
    assert!(began.elapsed() < NO_PROGRESS, "too slow for this test");
    let mebibytes = |bytes: u64| bytes as f64 / 1024.0 / 1024.0;
    println!(
        "stopped readers: {:.0} MiB waiting, {:.1} MiB of memory before, {:.1} MiB at most, {:.1} s",
        mebibytes((names.len() * count * TEXT_BYTES) as u64),
        mebibytes(before),
        mebibytes(most),
        began.elapsed().as_secs_f64()
    );
    assert!(most < before + GROWTH_BYTES_MAX, "{before} to {most} bytes");

    let numbers: Vec<Value> = (0..count).map(Value::from).collect();
    let read_on = stopped.iter_mut().map(async |socket| {
        let data = data_of(&socket.messages(count).await);
        data.iter().map(|data| data["number"].clone()).collect()
    });
    let read: Vec<Vec<Value>> = futures_util::future::join_all(read_on).await;
    for (name, read) in names.iter().zip(read) {
        assert_eq!(read, numbers, "{name}");
    }
    // They fell back to their mailboxes, which is not a replay.
    let metrics = gateway.metrics().await;
    let messages = |outcome| metrics.value("catchup_messages_total", &[("outcome", outcome)]);
    assert_eq!(messages("replayed"), 0.0);
    assert_eq!(messages("live"), (targets.len() * count) as f64);
    for socket in stopped {
        socket.close().await;
    }
    other.close().await;
}

#[tokio::test]
async fn a_peer_that_neither_reads_nor_answers_is_closed_after_30_seconds() {
    let system = System::start().await;
    let gateway = system.gateway(0);
    // One that will have nothing to read, and one that leaves a full socket unread.
    let mut silent = system.connect("silent").await;
    let request = gateway.socket().user("full").receive_buffer_bytes(4096);
    let mut full = request.connect().await;
    for socket in [&mut silent, &mut full] {
        socket.until_live().await;
    }
    let began = Instant::now();
    for number in 0..40 {
        let data = json!({ "number": number, "text": "x".repeat(TEXT_BYTES) });
        let event = json!({ "targetUserIds": ["full"], "data": data });
        system.publish("new_post.large", event).await;
    }
    // One that reads, says nothing but what the protocol says by itself, and stays.
    let mut idle = system.connect("idle").await;
    idle.until_live().await;
    let connections = async || gateway.metrics().await.value("catchup_connections", &[]);
    assert_eq!(connections().await, 3.0);
    let heartbeats = async {
        for _ in 0..2 {
            let within = NO_PROGRESS;
            idle.expect_any("heartbeat", within).await;
        }
    };
    let closed = eventually_within(2 * NO_PROGRESS, "both are closed", async || {
        (connections().await == 1.0).then_some(began.elapsed())
    });
    let (closed, ()) = tokio::join!(closed, heartbeats);
    println!(
        "peers without progress: closed after {:.1} s",
        closed.as_secs_f64()
    );
    assert!(closed >= NO_PROGRESS, "{closed:?}");
    assert!(closed <= NO_PROGRESS + Duration::from_secs(5), "{closed:?}");
    silent.expect_close(4008).await;

    // Its frames wait in its own buffers; then it is gone, without a word or with a reset.
    drop(full);
    let mut again = system.connect("full").await;
    let messages = again.until_live().await;
    assert_eq!(messages.len(), 40);
    eventually("it is counted", async || {
        let metrics = gateway.metrics().await;
        let hits = metrics.value("catchup_limits_total", &[("limit", "no_progress")]);
        (hits == 2.0).then_some(())
    })
    .await;
    again.close().await;
    idle.close().await;
}
