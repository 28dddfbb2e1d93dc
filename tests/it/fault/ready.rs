//! Ready and not ready: starts without servers, outages with their reason, and the end.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::all_not_ready;
use crate::support::role::Kind;
use crate::support::servers::Servers;
use crate::support::{Role, Socket, System};

#[tokio::test]
async fn a_system_that_starts_before_its_servers_waits_for_them() {
    let servers = Servers::start();
    servers.nats.kill();
    servers.redis.kill();
    let system = System::builder().servers(servers).start_unready();
    let both = |kind| match kind {
        Kind::Gateway => "bus",
        Kind::Worker => "nats",
    };
    for role in system.roles() {
        // The admin port answers before anything else is there.
        role.not_ready().await;
    }
    all_not_ready(&system, both).await;
    for role in system.roles() {
        let alive = role.admin("/healthz").await.expect("an answer");
        assert_eq!(alive.status, 200, "{}", alive.text());
    }
    // A gateway answers its clients, too.
    let request = system.gateway(0).socket().user("ann");
    let refused = request.try_connect().await.err().expect("a refusal");
    assert_eq!(refused.status, 503);
    let closed = request.query("refuse", "close").connect().await;
    { closed }.expect_close(1013).await;

    // One of them is not enough, and the other is named.
    system.redis_server().start_again();
    all_not_ready(&system, both).await;
    system.nats_server().start_again();
    system.ready().await;
    let mut ann = system.connect("ann").await;
    ann.until_live().await;
    system.publish("new_post", event("ann", 1)).await;
    ann.messages(1).await;
    ann.close().await;
}

#[tokio::test]
async fn readiness_follows_the_servers() {
    let system = System::builder().own_servers().start().await;
    let (nats, redis) = (system.nats_server(), system.redis_server());
    let mut ann = system.connect("ann").await;
    ann.until_live().await;
    for round in 0..2 {
        redis.kill();
        all_not_ready(&system, |kind| match kind {
            Kind::Gateway => "store",
            Kind::Worker => "redis",
        })
        .await;
        // The reason is about the store alone.
        for role in system.roles() {
            let body = role.not_ready().await;
            assert_eq!(body["status"], "not ready");
            let reasons = body["reasons"].as_object().expect("reasons");
            assert!(
                !reasons.contains_key("bus") && !reasons.contains_key("nats"),
                "{body}"
            );
        }
        redis.start_again();
        system.ready().await;
        nats.kill();
        all_not_ready(&system, |kind| match kind {
            Kind::Gateway => "bus",
            Kind::Worker => "nats",
        })
        .await;
        nats.start_again();
        system.ready().await;
        system.publish("new_post", event("ann", round)).await;
        // What she acknowledged last may not have been stored, and come once more.
        ann.until_message(&json!(round)).await;
    }
    ann.close().await;
}

#[tokio::test]
async fn a_gateway_that_is_told_to_end_says_goodbye() {
    let system = System::builder().gateways(2).start().await;
    let gateway = system.gateway(0);
    let mut ann = system.connect("ann").await;
    ann.until_live().await;
    system.publish("new_post", event("ann", 1)).await;
    // Acknowledged, and not yet stored.
    ann.messages(1).await;
    // This one never answers the close, which the node waits for.
    let stuck = stuck(&system).await;
    gateway.terminate();
    gateway_is_draining(gateway).await;
    let frames = ann.expect_close(1001).await;
    let away = frames.last().expect("a frame");
    assert_eq!(away["op"], "away");
    assert!(away["retryMilliseconds"].is_u64(), "{away}");
    let refused = gateway.socket().user("bob").attempt().await;
    if let Ok(refused) = refused {
        assert_eq!(refused.err().expect("a refusal").status, 503);
    }
    assert!(gateway.ended().await.success());
    assert_eq!(
        system.waiting("ann").await,
        [""; 0],
        "the acknowledgement was stored"
    );
    for user in ["ann", "stuck"] {
        let mailbox = system.mailbox(user).await;
        assert_eq!(mailbox.get("connections"), None, "presence of {user}");
    }
    let keys = ["node:gateway-1", "online_users:gateway-1"].map(|key| system.key(key));
    let left: u32 = redis::cmd("EXISTS")
        .arg(&keys)
        .query_async(&mut system.redis().await)
        .await
        .expect("a count");
    assert_eq!(left, 0, "{keys:?}");
    drop(stuck);

    let mut ann = system.gateway(1).socket().user("ann").connect().await;
    assert_eq!(ann.until_live().await, [] as [Value; 0]);
    ann.close().await;
}

#[tokio::test]
async fn a_second_sigterm_ends_at_once() {
    let system = System::builder().own_servers().start().await;
    let gateway = system.gateway(0);
    let stuck = stuck(&system).await;
    gateway.terminate();
    gateway_is_draining(gateway).await;
    ends_at_once(gateway).await;
    drop(stuck);

    // A worker that holds an event waits for the store.
    let worker = system.worker(0);
    system.redis_server().pause();
    system.publish("new_post", event("ann", 1)).await;
    worker.not_ready().await;
    worker.terminate();
    worker.log().line_with("told to end").await;
    ends_at_once(worker).await;
    system.redis_server().resume();
    worker.start_again();
    gateway.start_again();
    system.ready().await;
    let mut ann = system.connect("ann").await;
    ann.messages(1).await;
    ann.close().await;
}

async fn ends_at_once(role: &Role) {
    let began = Instant::now();
    assert!(role.process_id().is_some());
    role.terminate();
    let status = role.ended().await;
    assert_eq!(status.code(), Some(1), "{status}");
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
}

async fn gateway_is_draining(gateway: &Role) {
    let body = gateway.not_ready().await;
    assert_eq!(body["reasons"]["process"], "draining", "{body}");
}

/// A live connection that does nothing more.
async fn stuck(system: &System) -> Socket {
    let mut socket = system.connect("stuck").await;
    socket.until_live().await;
    socket
}

fn event(user: &str, data: u32) -> Value {
    json!({ "targetUserIds": [user], "data": data })
}
