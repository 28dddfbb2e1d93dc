//! Connections that are opened and dropped, by a FIN or a reset, in every state of a connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{GoodUsers, assert_nothing_left, holdings};
use crate::figures::{allow_sockets, parameter};
use crate::support::http;
use crate::support::wire::{FIN, TEXT, UPGRADE, abort, frame};
use crate::support::{System, Wire};

/// Source addresses, so that one does not run out of ports while the kernel keeps closed ones.
const ADDRESSES: usize = 200;
/// Those before that count for nothing: what a gateway takes once, it takes then.
const WARM_CONNECTIONS: usize = 300;

/// How far a connection gets before it is dropped.
const STAGES: [&str; 7] = [
    "a TCP connection",
    "half a request",
    "a request",
    "an upgrade",
    "a live socket",
    "half a frame",
    "an acknowledgement",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_connections_leave_nothing() {
    dropped(1_000, 64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "large: scripts/abuse dropped"]
async fn abuse_dropped() {
    let connections = parameter("TEST_CONNECTIONS", 10_000);
    dropped(connections, parameter("TEST_AT_ONCE", 200)).await;
}

async fn dropped(connections: usize, at_once: usize) {
    allow_sockets(at_once);
    let system = System::builder()
        .env("CATCHUP_CONNECTS_PER_SECOND", "100000")
        .own_servers()
        .start()
        .await;
    let port = system.gateway(0).port();
    drop_all(port, 0, WARM_CONNECTIONS, at_once).await;
    let before = holdings(system.gateway(0));
    let good = GoodUsers::start(&system).await;
    let start = Instant::now();
    let reached = drop_all(port, WARM_CONNECTIONS, connections, at_once).await;
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "dropped: {connections} connections in {seconds:.1} s, {:.0} a second, {at_once} at once",
        connections as f64 / seconds,
    );
    for (stage, count) in STAGES.iter().zip(&reached) {
        println!("dropped: {count:>6} after {stage}");
    }
    assert_eq!(reached.iter().sum::<usize>(), connections);
    // Every stage was reached, by most that were to.
    for (stage, count) in STAGES.iter().zip(reached) {
        assert!(
            count > connections / STAGES.len() / 2,
            "{count} after {stage}"
        );
    }
    good.assert_served("dropped").await;
    assert_nothing_left(&system, "dropped", before).await;
}

/// Opens and drops so many connections; returns how many got how far.
async fn drop_all(port: u16, first: usize, count: usize, at_once: usize) -> [usize; STAGES.len()] {
    let next = Arc::new(AtomicUsize::new(first));
    let mut lanes = JoinSet::new();
    for _ in 0..at_once {
        let next = Arc::clone(&next);
        lanes.spawn(async move {
            let mut reached = [0; STAGES.len()];
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= first + count {
                    return reached;
                }
                reached[drop_one(port, number).await] += 1;
            }
        });
    }
    let mut all = [0; STAGES.len()];
    for reached in lanes.join_all().await {
        all.iter_mut()
            .zip(reached)
            .for_each(|(sum, count)| *sum += count);
    }
    all
}

/// Returns how far the connection got. One that the gateway refuses gets as far as a request.
async fn drop_one(port: u16, number: usize) -> usize {
    let stage = number % STAGES.len();
    let stream = connect(port, number).await;
    let Some(stream) = stream else { return 0 };
    let (stream, reached) = advance(stream, port, number, stage).await;
    match (number / STAGES.len()) % 2 {
        0 => abort(stream),
        // With nothing unread this is a FIN.
        _ => drop(stream),
    }
    reached
}

async fn connect(port: u16, number: usize) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().expect("a socket");
    let address = [127, 0, 1, (1 + number % ADDRESSES) as u8];
    socket.bind((address, 0).into()).expect("a free port");
    socket.connect(([127, 0, 0, 1], port).into()).await.ok()
}

async fn advance(
    mut stream: TcpStream,
    port: u16,
    number: usize,
    stage: usize,
) -> (TcpStream, usize) {
    let path = format!("/v1/ws?user=dropped-{number}");
    if stage == 0 {
        return (stream, 0);
    }
    if stage <= 2 {
        let mut head = format!("GET {path} HTTP/1.1\r\nHost: a\r\n");
        for (name, value) in UPGRADE {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let end = if stage == 1 { "" } else { "\r\n" };
        let _ = stream.write_all(format!("{head}{end}").as_bytes()).await;
        return (stream, stage);
    }
    let answer = http::request_over(&mut stream, port, "GET", &path, &UPGRADE, b"").await;
    let Ok(answer) = answer else {
        return (stream, 2);
    };
    if answer.status != 101 {
        assert_eq!(answer.status, 503, "{}", answer.text());
        return (stream, 2);
    }
    if stage == 3 {
        return (stream, 3);
    }
    let mut wire = Wire::from_parts(stream, answer.body);
    let live = wire.until("live").await;
    let ack = json!({ "op": "ack", "cursor": live["cursor"] }).to_string();
    let ack = frame(FIN | TEXT, ack.as_bytes());
    match stage {
        5 => wire.send(&ack[..ack.len() / 2]).await,
        6 => wire.send(&ack).await,
        _ => {}
    }
    (wire.stream, stage)
}
