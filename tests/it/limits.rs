//! The limits of a gateway: what happens at each of them, and that it passes.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::socket::Refused;
use crate::support::{Role, SocketRequest, System, eventually, user};

async fn hits(gateway: &Role, limit: &str) -> f64 {
    let metrics = gateway.metrics().await;
    metrics.value("catchup_limits_total", &[("limit", limit)])
}

/// Asserts a refusal with 429, and with 4029 after the upgrade; both count.
async fn assert_too_many(gateway: &Role, request: SocketRequest, limit: &str) {
    let before = hits(gateway, limit).await;
    let refused = request.try_connect().await.err().expect("a refusal");
    assert_eq!((refused.status, &refused.body["code"]), (429, &json!(4029)));
    assert!(refused.retry_after.is_some_and(|seconds| seconds >= 1));
    let mut closing = request.query("refuse", "close").connect().await;
    let frames = closing.expect_close(4029).await;
    assert_eq!(frames[0]["op"], "error");
    assert_eq!(frames[0]["code"], 4029);
    assert_eq!(hits(gateway, limit).await, before + 2.0);
}

#[tokio::test]
async fn a_full_node_lets_nobody_in_until_somebody_leaves() {
    let builder = System::builder().workers(0);
    let system = builder.env("CATCHUP_MAX_CONNECTIONS", "2").start().await;
    let gateway = system.gateway(0);
    let ann = system.connect("ann").await;
    let mut bob = system.connect("bob").await;
    let cyd = gateway.socket().user("cyd");
    assert_too_many(gateway, cyd.clone(), "connections").await;
    ann.close().await;
    eventually("a free place", async || cyd.try_connect().await.ok()).await;
    bob.until_live().await;
}

#[tokio::test]
async fn an_address_has_its_own_limit() {
    let builder = System::builder().workers(0);
    let builder = builder.env("CATCHUP_MAX_CONNECTIONS_PER_ADDRESS", "2");
    let system = builder.start().await;
    let gateway = system.gateway(0);
    let _first = system.connect("ann").await;
    let _second = system.connect("bob").await;
    let cyd = gateway.socket().user("cyd");
    assert_too_many(gateway, cyd.clone(), "address_connections").await;
    let mut elsewhere = cyd.from([127, 0, 0, 2]).connect().await;
    elsewhere.until_live().await;
}

#[tokio::test]
async fn a_user_has_so_many_sockets_at_a_node() {
    let system = System::builder().workers(0).start().await;
    let gateway = system.gateway(0);
    let request = gateway.socket().user("ann");
    // One device replaces itself again and again, and its older sockets do not answer the close.
    let mut deaf = Vec::new();
    let refused = eventually("a refusal", async || match request.try_connect().await {
        Ok(socket) => {
            deaf.push(socket);
            // At once: those before are given up after 2 s.
            while let Ok(socket) = request.try_connect().await {
                deaf.push(socket);
                assert!(deaf.len() < 1_000, "no limit");
            }
            request.try_connect().await.err()
        }
        Err(refused) => Some(refused),
    })
    .await;
    assert_eq!((refused.status, &refused.body["code"]), (429, &json!(4029)));
    assert!(hits(gateway, "user_connections").await >= 1.0);
    // Others are not concerned, and it passes.
    system.connect("bob").await.until_live().await;
    drop(deaf);
    let mut ann = eventually("a place", async || request.try_connect().await.ok()).await;
    ann.until_live().await;
}

#[tokio::test]
async fn connects_beyond_the_rate_are_told_when_to_come_back() {
    let builder = System::builder().workers(0);
    let system = builder
        .env("CATCHUP_CONNECTS_PER_SECOND", "5")
        .start()
        .await;
    let gateway = system.gateway(0);
    let start = Instant::now();
    let mut attempts = JoinSet::new();
    for index in 0..30 {
        let request = gateway.socket().user(&format!("user-{index}"));
        attempts.spawn(async move { request.try_connect().await });
    }
    let (mut inside, mut refused): (Vec<_>, Vec<Refused>) = (Vec::new(), Vec::new());
    for attempt in attempts.join_all().await {
        match attempt {
            Ok(socket) => inside.push(socket),
            Err(refusal) => refused.push(refusal),
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let most = (5.0 * (seconds + 1.0)) as usize + 2;
    assert!(
        !inside.is_empty() && inside.len() <= most,
        "{}",
        inside.len()
    );
    assert!(!refused.is_empty());
    for refusal in &refused {
        assert_eq!((refusal.status, &refusal.body["code"]), (503, &json!(1013)));
        assert!(
            refusal
                .retry_after
                .is_some_and(|seconds| (1..=30).contains(&seconds))
        );
    }
    // They are spread over time, at the rate or slower.
    let mut delays: Vec<u64> = refused
        .iter()
        .filter_map(|refusal| refusal.retry_after)
        .collect();
    delays.sort_unstable();
    for second in delays.chunk_by(|one, other| one == other) {
        assert!(second.len() <= 5, "{delays:?}");
    }
    let limited = hits(gateway, "accept_rate").await;
    assert_eq!(limited, refused.len() as f64);
}

#[tokio::test]
async fn a_browser_is_told_by_an_away_frame_when_to_come_back() {
    let builder = System::builder().workers(0);
    let system = builder
        .env("CATCHUP_CONNECTS_PER_SECOND", "1")
        .start()
        .await;
    let gateway = system.gateway(0);
    let mut attempts = JoinSet::new();
    for index in 0..12 {
        let request = gateway.socket().user(&format!("user-{index}"));
        attempts.spawn(async move { request.query("refuse", "close").connect().await });
    }
    let mut delays = Vec::new();
    for mut socket in attempts.join_all().await {
        let first = socket.frame().await;
        if first["op"] == "away" {
            delays.push(first["retryMilliseconds"].as_u64().unwrap());
            socket.expect_close(1013).await;
        } else {
            assert_eq!(first["op"], "welcome");
        }
    }
    delays.sort_unstable();
    assert!(delays.len() >= 5, "{delays:?}");
    assert!(delays[0] >= 500);
    for pair in delays.windows(2) {
        assert!(pair[1] - pair[0] >= 200, "{delays:?}");
    }
}

#[tokio::test]
async fn who_does_not_finish_a_request_is_dropped() {
    let system = System::builder().workers(0).start().await;
    let gateway = system.gateway(0);
    let connect = || TcpStream::connect(("127.0.0.1", gateway.port()));
    let mut silent = connect().await.unwrap();
    let mut slow = connect().await.unwrap();
    slow.write_all(b"GET /v1/ws?user=ann HTTP/1.1\r\n")
        .await
        .unwrap();
    // Answered once, and then silent in the same connection.
    let mut kept = connect().await.unwrap();
    kept.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    for stream in [&mut silent, &mut slow, &mut kept] {
        let mut answer = Vec::new();
        let end = timeout(Duration::from_secs(15), stream.read_to_end(&mut answer)).await;
        let end = end.expect("the gateway gives it up");
        assert!(end.is_ok() || answer.is_empty(), "{end:?}");
    }
    assert!(hits(gateway, "handshake").await >= 2.0);
}

#[tokio::test]
async fn who_asks_again_and_again_is_dropped_as_well() {
    let system = System::shared().await;
    let stream = TcpStream::connect(("127.0.0.1", system.gateway(0).port()));
    let (mut answers, mut requests) = stream.await.unwrap().into_split();
    let asking = tokio::spawn(async move {
        let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        while requests.write_all(request).await.is_ok() {
            // Less than a head may take, so that no head is ever late.
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    });
    let start = Instant::now();
    let mut answer = Vec::new();
    let ended = timeout(Duration::from_secs(35), answers.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "the gateway gives it up");
    assert!(start.elapsed() > Duration::from_secs(15), "not at once");
    assert!(answer.starts_with(b"HTTP/1.1 404"));
    asking.abort();
}

#[tokio::test]
async fn fragments_without_end_are_counted() {
    let system = System::shared().await;
    let mut socket = system.connect(&user("flood")).await;
    socket.until_live().await;
    // A text frame that never ends, and empty continuations of it, masked with zeros.
    let tcp = socket.tcp();
    tcp.write_all(&[0x01, 0x80, 0, 0, 0, 0]).await.unwrap();
    let empty = [0x00, 0x80, 0, 0, 0, 0].repeat(10_000);
    for _ in 0..100 {
        if tcp.write_all(&empty).await.is_err() {
            break;
        }
    }
    assert_eq!(socket.closed().await.code, Some(4029));
}

#[tokio::test]
async fn a_client_that_leaves_while_it_is_let_in_leaves_nothing() {
    let system = System::builder().workers(0).own_servers().start().await;
    let gateway = system.gateway(0);
    system.redis_server().pause();
    let request = gateway.socket().user("ann");
    let attempt = timeout(Duration::from_millis(300), request.attempt()).await;
    assert!(attempt.is_err(), "Redis does not answer");
    system.redis_server().resume();
    eventually("nobody is connected", async || {
        let metrics = gateway.metrics().await;
        (metrics.value("catchup_connections", &[]) == 0.0).then_some(())
    })
    .await;
    // The registration may have been carried out after the client left.
    eventually("no presence", async || {
        let mailbox = system.mailbox("ann").await;
        mailbox
            .get("connections")
            .is_none_or(Vec::is_empty)
            .then_some(())
    })
    .await;
    system.connect("ann").await.until_live().await;
}

#[tokio::test]
async fn many_who_return_at_once_share_the_store() {
    const USERS: usize = 150;
    let builder = System::builder().env("CATCHUP_CONNECTS_PER_SECOND", "10000");
    let system = builder.start().await;
    let gateway = system.gateway(0);
    let users: Vec<String> = (0..USERS).map(|index| format!("user-{index}")).collect();
    for number in 0..200 {
        let event = json!({ "targetUserIds": users, "data": number });
        system.publish("new_post.1", event).await;
    }
    eventually("all is stored", async || {
        let stored = system
            .metric("catchup_messages_total", &[("outcome", "stored")])
            .await;
        (stored == (200 * USERS) as f64).then_some(())
    })
    .await;
    let mut clients = JoinSet::new();
    for user in users {
        let request = gateway.socket().user(&user);
        clients.spawn(async move {
            let mut socket = request.connect().await;
            socket.until_live().await.len()
        });
    }
    assert!(
        clients
            .join_all()
            .await
            .into_iter()
            .all(|count| count == 200)
    );
    assert!(hits(gateway, "replays").await > 0.0);
}
