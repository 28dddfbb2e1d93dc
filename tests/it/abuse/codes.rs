//! Every close code and every refusal of the contract's table (§4), seen by a client below any
//! library, each at least once.

use std::collections::BTreeSet;
use std::time::Duration;

use catchup::protocol::{CloseCode, Cursor};
use serde_json::json;

use crate::support::http;
use crate::support::role::Kind;
use crate::support::wire::{FIN, Heard, PONG, TEXT, UPGRADE, frame};
use crate::support::{Role, System, Wire};

/// What a client can be told: by a close, or by HTTP before the upgrade.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Close(u16),
    Http(u16, u16),
}

const ALL: [CloseCode; 10] = [
    CloseCode::GoingAway,
    CloseCode::Restarting,
    CloseCode::TryAgainLater,
    CloseCode::Unauthorised,
    CloseCode::BadRequest,
    CloseCode::OriginNotAllowed,
    CloseCode::NoProgress,
    CloseCode::Replaced,
    CloseCode::NeverSent,
    CloseCode::TooMany,
];

/// The contract's table: the close code, and the HTTP status where a refusal has one.
fn table(code: CloseCode) -> (u16, Option<u16>) {
    match code {
        CloseCode::GoingAway => (1001, None),
        CloseCode::Restarting => (1012, None),
        CloseCode::TryAgainLater => (1013, Some(503)),
        CloseCode::Unauthorised => (4001, Some(401)),
        CloseCode::BadRequest => (4002, Some(400)),
        CloseCode::OriginNotAllowed => (4003, Some(403)),
        CloseCode::NoProgress => (4008, None),
        CloseCode::Replaced => (4009, None),
        CloseCode::NeverSent => (4010, None),
        CloseCode::TooMany => (4029, Some(429)),
    }
}

#[tokio::test]
async fn every_code_of_the_contract_is_told() {
    // Two of the three gateways end on the way.
    let system = System::builder().gateways(3).workers(0).start().await;
    let gateway = system.gateway(0);
    let (refusals, faults, taken_over, no_progress, leaving) = tokio::join!(
        refusals(gateway),
        faults(gateway),
        taken_over(&system, system.gateway(1)),
        no_progress(gateway),
        leaving(system.gateway(2)),
    );
    let told: BTreeSet<Told> = [refusals, faults, taken_over, no_progress, leaving]
        .into_iter()
        .flatten()
        .collect();
    let mut expected = BTreeSet::new();
    for code in ALL {
        let (close, status) = table(code);
        assert_eq!(code.code(), close);
        expected.insert(Told::Close(close));
        if let Some(status) = status {
            assert_eq!(code.http_status(), status);
            expected.insert(Told::Http(status, close));
        }
    }
    assert_eq!(told, expected);
}

/// What a refused request is told, by HTTP and by a close.
async fn refused(port: u16, query: &str, headers: &[(&str, &str)]) -> [Told; 2] {
    let headers = [&UPGRADE[..], headers].concat();
    let path = format!("/v1/ws?{query}");
    let answer = http::request(port, "GET", &path, &headers, b"").await;
    let (response, mut stream) = answer.expect("an answer");
    let response = http::read_body(response, &mut stream)
        .await
        .expect("a body");
    let code = response.json()["code"].as_u64().expect("a code");
    let http = Told::Http(response.status, code.try_into().expect("a code"));

    let path = format!("{path}&refuse=close");
    let answer = http::request(port, "GET", &path, &headers, b"").await;
    let (response, stream) = answer.expect("an answer");
    assert_eq!(response.status, 101, "{query}");
    let mut wire = Wire::from_parts(stream, response.body);
    [http, until_close(&mut wire).await]
}

/// Reads until the gateway closes; before that it says why, or when to come back.
async fn until_close(wire: &mut Wire) -> Told {
    let mut last = String::new();
    loop {
        match wire.next().await {
            Heard::Text(frame) => last = frame["op"].as_str().unwrap_or_default().to_owned(),
            Heard::Ping(_) => {}
            Heard::Close(Some((code, reason))) => {
                assert!(!reason.is_empty());
                let is_announced = match code {
                    1001 | 1012 | 1013 => last == "away",
                    4008 | 4009 => true,
                    _ => last == "error",
                };
                assert!(is_announced, "{code} after {last:?}");
                return Told::Close(code);
            }
            other => panic!("no close: {other:?}"),
        }
    }
}

async fn refusals(gateway: &Role) -> Vec<Told> {
    let port = gateway.port();
    let mut told = Vec::new();
    told.extend(refused(port, "", &[]).await);
    told.extend(refused(port, "user=a%20b", &[]).await);
    let origin = ("Origin", "https://elsewhere.example");
    told.extend(refused(port, "user=ann", &[origin]).await);
    let mut devices = Vec::new();
    for device in 0..16 {
        let path = format!("/v1/ws?user=many&device={device}");
        devices.push(Wire::open_path(port, &path).await);
    }
    told.extend(refused(port, "user=many&device=more", &[]).await);
    told
}

/// Faults of a client on its open connection.
async fn faults(gateway: &Role) -> Vec<Told> {
    let port = gateway.port();
    let mut told = Vec::new();
    let mut junk = Wire::open(port, "junk").await;
    junk.until("live").await;
    junk.send(&frame(FIN | TEXT, b"junk")).await;
    told.push(until_close(&mut junk).await);

    let mut ahead = Wire::open(port, "ahead").await;
    let live = ahead.until("live").await;
    let cursor = live["cursor"].as_str().expect("a cursor");
    let mut position = Cursor::decode(cursor).expect("the gateway's own").position;
    position.places.own[0] += 1;
    let forged = Cursor::new(position, "ahead", "default").to_string();
    let ack = json!({ "op": "ack", "cursor": forged }).to_string();
    ahead.send(&frame(FIN | TEXT, ack.as_bytes())).await;
    told.push(until_close(&mut ahead).await);

    let mut older = Wire::open(port, "twice").await;
    older.until("live").await;
    let mut newer = Wire::open(port, "twice").await;
    told.push(until_close(&mut older).await);
    newer.until("live").await;
    told
}

/// Another process comes with the name of this gateway.
async fn taken_over(system: &System, gateway: &Role) -> Vec<Told> {
    let mut socket = Wire::open(gateway.port(), "ann").await;
    socket.until("live").await;
    let env = system.env().to_vec();
    let newer = Role::start(Kind::Gateway, gateway.name(), Vec::new(), env);
    newer.ready().await;
    let told = until_close(&mut socket).await;
    assert_eq!(gateway.ended().await.code(), Some(1));
    newer.stop().await;
    vec![told]
}

async fn leaving(gateway: &Role) -> Vec<Told> {
    let mut socket = Wire::open(gateway.port(), "bob").await;
    socket.until("live").await;
    gateway.terminate();
    assert_eq!(gateway.not_ready().await["reasons"]["process"], "draining");
    // Who has not answered the close yet keeps the process there.
    let mut told = Vec::from(refused(gateway.port(), "user=late", &[]).await);
    told.push(until_close(&mut socket).await);
    drop(socket);
    assert_eq!(gateway.ended().await.code(), Some(0));
    told
}

/// Three clients that send nothing to be read: one is silent, one sends a frame byte by byte, and
/// one acknowledges nothing but answers each ping.
async fn no_progress(gateway: &Role) -> Vec<Told> {
    const LONGEST: Duration = Duration::from_secs(40);
    const STAYS: Duration = Duration::from_secs(33);
    let port = gateway.port();
    let silent = async {
        let mut wire = Wire::open(port, "silent").await;
        wire.until("live").await;
        until_close_within(&mut wire, LONGEST, async |_| {}).await
    };
    let slow = async {
        let mut wire = Wire::open(port, "slow").await;
        wire.until("live").await;
        let mut bytes = frame(FIN | TEXT, &[b' '; 1_000]).into_iter();
        until_close_within(&mut wire, LONGEST, async |wire| {
            wire.send(&[bytes.next().expect("more bytes than seconds")])
                .await;
        })
        .await
    };
    let answering = async {
        let mut wire = Wire::open(port, "answering").await;
        wire.until("live").await;
        let start = tokio::time::Instant::now();
        while start.elapsed() < STAYS {
            match wire.next_within(STAYS).await {
                Some(Heard::Ping(payload)) => wire.send(&frame(FIN | PONG, &payload)).await,
                Some(Heard::Text(frame)) => assert_eq!(frame["op"], "heartbeat", "{frame}"),
                other => panic!("who answers stays: {other:?}"),
            }
        }
    };
    let (silent, slow, ()) = tokio::join!(silent, slow, answering);
    vec![silent, slow]
}

/// Reads until the close, and does something about every 100 ms meanwhile.
async fn until_close_within(
    wire: &mut Wire,
    within: Duration,
    mut meanwhile: impl AsyncFnMut(&mut Wire),
) -> Told {
    let start = tokio::time::Instant::now();
    loop {
        assert!(start.elapsed() < within, "still open");
        match wire.next_within(Duration::from_millis(100)).await {
            Some(Heard::Close(Some((code, _)))) => {
                assert!(
                    start.elapsed() > Duration::from_secs(28),
                    "{:?}",
                    start.elapsed()
                );
                return Told::Close(code);
            }
            Some(Heard::Text(_) | Heard::Ping(_)) => {}
            None => meanwhile(wire).await,
            other => panic!("no close: {other:?}"),
        }
    }
}
