//! Connections that are opened and held with half a request, more than a gateway has places for.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep};

use super::{GoodUsers, assert_nothing_left, holdings};
use crate::figures::{allow_sockets, parameter};
use crate::support::{System, eventually};

/// Requests that are no sockets yet, at most, by `gateway::limits`.
const REQUESTS_MAX: usize = 2_048;
/// How long an attempt to connect may take where the kernel's queue is full.
const PACE: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_requests_keep_nobody_out() {
    held(REQUESTS_MAX + 500, Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "large: scripts/abuse held"]
async fn abuse_held() {
    let seconds = parameter("TEST_SECONDS", 30);
    held(
        parameter("TEST_CONNECTIONS", 10_000),
        Duration::from_secs(seconds),
    )
    .await;
}

/// Holds so many connections; one that the gateway drops is opened again, for `rest`.
async fn held(connections: usize, rest: Duration) {
    allow_sockets(connections);
    let system = System::builder().own_servers().start().await;
    let gateway = system.gateway(0);
    let at_rest = holdings(gateway);
    // Once before: what the gateway's allocator takes for so many, it keeps.
    drop(hold(gateway.port(), connections).await);
    eventually("all are gone", async || {
        (holdings(gateway).open_files <= at_rest.open_files).then_some(())
    })
    .await;
    let before = holdings(gateway);
    let mut held = hold(gateway.port(), connections).await;
    let good = GoodUsers::start(&system).await;
    let (start, mut again) = (Instant::now(), 0);
    while start.elapsed() < rest {
        for (number, stream) in held.iter_mut().enumerate() {
            if stream.try_read(&mut [0; 1]).is_ok() {
                *stream = half_a_request(gateway.port(), number).await;
                again += 1;
            }
            if start.elapsed() >= rest {
                break;
            }
        }
        // A client that is dropped notices it at some time.
        sleep(Duration::from_millis(20)).await;
    }
    let most = holdings(gateway);
    println!(
        "held: {connections} half requests, opened again {again} times in {:.1} s; at most \
         {REQUESTS_MAX} of them have a place: open files {} before and {} then",
        start.elapsed().as_secs_f64(),
        before.open_files,
        most.open_files,
    );
    assert!(most.open_files <= before.open_files + REQUESTS_MAX + 50);
    good.assert_served("held").await;
    drop(held);
    assert_nothing_left(&system, "held", before).await;
}

async fn hold(port: u16, connections: usize) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for number in 0..connections {
        held.push(half_a_request(port, number).await);
    }
    held
}

async fn half_a_request(port: u16, number: usize) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    let address = [127, 0, 2, (1 + number % 200) as u8];
    socket.bind((address, 0).into()).expect("a free port");
    let connecting = socket.connect(([127, 0, 0, 1], port).into());
    let connected = tokio::time::timeout(PACE, connecting).await;
    let mut stream = connected.expect("accepted in time").expect("a connection");
    // Dropped at once, where all others came later.
    let _ = stream
        .write_all(b"GET /v1/ws?user=held HTTP/1.1\r\nHost")
        .await;
    stream
}
