//! Clients that send junk as fast as they can, and come back as soon as they are thrown out.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::{GoodUsers, assert_nothing_left, holdings};
use crate::figures::{mebibytes, parameter};
use crate::support::System;
use crate::support::http;
use crate::support::process::memory;
use crate::support::wire::{CONTINUATION, FIN, PING, TEXT, UPGRADE, frame};

/// Written at one time, about.
const CHUNK_BYTES: usize = 64 * 1024;
/// What one attacker may cost the gateway: what the kernel hands it at one time, a message, and what
/// waits to be written.
const ATTACKER_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// What the gateway may take beyond that.
const PEAK_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What is sent, again and again.
const KINDS: [&str; 7] = [
    "junk in text of 65,536 bytes",
    "frames of 65,537 bytes",
    "tiny frames",
    "pings",
    "the longest pings, and their pongs are not read",
    "fragments without end",
    "bytes that are no frames",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn junk_harms_nobody() {
    flood(KINDS.len(), Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "large: scripts/abuse flood"]
async fn abuse_flood() {
    let seconds = Duration::from_secs(parameter("TEST_SECONDS", 30));
    flood(parameter("TEST_ATTACKERS", 4 * KINDS.len()), seconds).await;
}

async fn flood(attackers: usize, duration: Duration) {
    let system = System::builder()
        .env("CATCHUP_CONNECTS_PER_SECOND", "100000")
        .own_servers()
        .start()
        .await;
    let gateway = system.gateway(0);
    let process_id = gateway.process_id().expect("it runs");
    let before = holdings(gateway);
    let good = GoodUsers::start(&system).await;
    let until = Instant::now() + duration;
    let mut clients = JoinSet::new();
    for number in 0..attackers {
        clients.spawn(attack(gateway.port(), number, until));
    }
    let mut all = [Sent::default(); KINDS.len()];
    for (kind, sent) in clients.join_all().await {
        all[kind].connections += sent.connections;
        all[kind].bytes += sent.bytes;
    }
    let peak = memory(process_id).peak;
    for (kind, sent) in KINDS.iter().zip(all) {
        println!(
            "flood: {kind}: {:.0} MiB on {} connections",
            mebibytes(sent.bytes),
            sent.connections
        );
        assert!(sent.connections > 0, "{kind}");
    }
    println!(
        "flood: {attackers} attackers for {:.0} s; resident memory of the gateway: {:.1} MiB before, \
         {:.1} MiB at most",
        duration.as_secs_f64(),
        mebibytes(before.resident_bytes),
        mebibytes(peak),
    );
    good.assert_served("flood").await;
    let taken = peak.saturating_sub(before.resident_bytes);
    let allowed = PEAK_BYTES_MAX + ATTACKER_BYTES_MAX * attackers as u64;
    assert!(taken <= allowed, "{taken} bytes at the peak");
    assert_nothing_left(&system, "flood", before).await;
}

#[derive(Default, Clone, Copy)]
struct Sent {
    connections: usize,
    bytes: u64,
}

/// Attacks until the time is over; returns the kind and what was sent.
async fn attack(port: u16, number: usize, until: Instant) -> (usize, Sent) {
    let kind = number % KINDS.len();
    let (first, chunk) = junk(kind);
    let path = format!("/v1/ws?user=flood-{number}");
    let mut sent = Sent::default();
    while Instant::now() < until {
        let answer = http::request(port, "GET", &path, &UPGRADE, &first).await;
        let Ok((answer, mut stream)) = answer else {
            continue;
        };
        if answer.status != 101 {
            continue;
        }
        sent.connections += 1;
        let attack = async {
            let mut answers = [0; 1024];
            while stream.write_all(&chunk).await.is_ok() {
                sent.bytes += chunk.len() as u64;
                // One kind never reads; the others see when they are thrown out.
                if kind != 4 && stream.try_read(&mut answers).is_ok_and(|count| count == 0) {
                    return;
                }
            }
            while stream.read(&mut answers).await.is_ok_and(|count| count > 0) {}
        };
        let _ = timeout_at(until, attack).await;
    }
    (kind, sent)
}

/// What a kind sends right after its handshake, and then again and again.
fn junk(kind: usize) -> (Vec<u8>, Vec<u8>) {
    let many = |frame: Vec<u8>| frame.repeat(CHUNK_BYTES / frame.len());
    let token = json!({ "op": "token", "token": "x" }).to_string();
    let large = format!("{}{token}", " ".repeat(65_536 - token.len()));
    match kind {
        0 => (Vec::new(), frame(FIN | TEXT, large.as_bytes())),
        1 => (Vec::new(), frame(FIN | TEXT, &[b' '; 65_537])),
        2 => (Vec::new(), many(frame(FIN | TEXT, token.as_bytes()))),
        3 => (Vec::new(), many(frame(FIN | PING, b""))),
        4 => (Vec::new(), many(frame(FIN | PING, &[b'x'; 125]))),
        5 => (frame(TEXT, b""), many(frame(CONTINUATION, b""))),
        _ => (Vec::new(), vec![0xA5; CHUNK_BYTES]),
    }
}
