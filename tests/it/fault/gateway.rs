//! Gateways killed and replaced: their users come back elsewhere, and nothing of them stays.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::AsyncCommands;

use super::{alone, load, loaded, publish, readers, settle, users};
use crate::support::role::Kind;
use crate::support::{Oracle, Role, System, eventually, eventually_within};

/// How long a dead node may be taken for alive (contract §5).
const NODE_DEATH_MAX: Duration = Duration::from_secs(10);

#[tokio::test]
async fn users_of_a_killed_gateway_go_on_elsewhere() {
    let _alone = alone().await;
    let system = loaded().gateways(2).workers(2).start().await;
    let oracle = Arc::new(Oracle::default());
    let users = users(10);
    let readers = readers(&oracle, &system, &users);
    let count = load(10_000);
    let kill_and_restart = async {
        oracle.until_delivered(count / 4).await;
        system.gateway(0).kill();
        oracle.until_delivered(count / 2).await;
        system.gateway(0).start_again();
        system.gateway(0).ready().await;
        // The users are all at the other one by now.
        system.gateway(1).kill();
        system.gateway(1).start_again();
    };
    tokio::join!(publish(&oracle, &system, &users, count), kill_and_restart);
    let tally = settle("gateways killed", &oracle, readers).await;
    oracle.assert_order();
    assert!(tally.reconnects >= 10, "{tally}");
    for user in &users {
        assert_eq!(connections(&system, user).await, "", "of {user}");
    }
}

#[tokio::test]
async fn a_dead_gateway_is_forgotten() {
    let system = System::builder().gateways(2).start().await;
    let mut here = system.gateway(1).socket().user("here").connect().await;
    let mut gone = system.connect("gone").await;
    for socket in [&mut gone, &mut here] {
        socket.until_live().await;
    }
    let mut redis = system.redis().await;
    let mut online = async |node: &str| -> Vec<String> {
        let key = system.key(&format!("online_users:{node}"));
        redis.smembers(key).await.expect("a set")
    };
    eventually("gone is online", async || {
        (online("gateway-1").await == ["gone"]).then_some(())
    })
    .await;

    system.gateway(0).kill();
    let died = Instant::now();
    eventually_within(
        NODE_DEATH_MAX,
        "the set of the dead node expires",
        async || online("gateway-1").await.is_empty().then_some(()),
    )
    .await;
    let expired = died.elapsed();
    assert_eq!(online("gateway-2").await, ["here"]);
    // The next messages find that the process is gone; the first may come while the lease that
    // was last seen still counts.
    let forgotten = async || {
        system.publish("new_post", event("gone")).await;
        connections(&system, "gone").await.is_empty().then_some(())
    };
    eventually("the mailbox forgets the connection", forgotten).await;
    println!(
        "a dead gateway: offline after {:.1} s, forgotten after {:.1} s",
        expired.as_secs_f64(),
        died.elapsed().as_secs_f64()
    );
    assert!(connections(&system, "here").await.contains("gateway-2"));
    drop(gone);
    let waited = system.gateway(1).socket().user("gone").connect().await;
    let waited = { waited }.until_live().await;
    assert!(!waited.is_empty());
    here.close().await;
}

#[tokio::test]
async fn a_restarted_gateway_takes_over_its_name_at_once() {
    let system = System::start().await;
    let mut ann = system.connect("ann").await;
    ann.until_live().await;
    system.gateway(0).kill();
    ann.closed().await;
    system.gateway(0).start_again();
    system.gateway(0).ready().await;
    let mut redis = system.redis().await;
    let key = system.key("online_users:gateway-1");
    let online: Vec<String> = redis.smembers(&key).await.expect("a set");
    assert!(online.is_empty(), "left by the dead process: {online:?}");
    // The dead process's connection stands in the mailbox until the next message.
    assert!(!connections(&system, "ann").await.is_empty());
    eventually("the mailbox forgets the connection", async || {
        system.publish("new_post", event("ann")).await;
        connections(&system, "ann").await.is_empty().then_some(())
    })
    .await;
    let mut ann = system.connect("ann").await;
    assert!(!ann.until_live().await.is_empty());
    ann.close().await;
}

#[tokio::test]
async fn an_older_process_of_the_same_name_gives_way() {
    let system = System::start().await;
    let older = system.gateway(0);
    let mut ann = system.connect("ann").await;
    let mut bob = system.connect("bob").await;
    for socket in [&mut ann, &mut bob] {
        socket.until_live().await;
    }

    let newer = Role::start(
        Kind::Gateway,
        "gateway-1",
        Vec::new(),
        system.env().to_vec(),
    );
    newer.ready().await;
    // Bob comes to the newer process before the older one notices.
    let mut bob_again = newer.socket().user("bob").connect().await;
    bob_again.until_live().await;
    bob.expect_close(4009).await;
    drop(bob);
    let mut redis = system.redis().await;
    let key = system.key("online_users:gateway-1");
    let mut bob_is_online = async || {
        let is_member: bool = redis.sismember(&key, "bob").await.expect("a set");
        is_member
    };
    eventually("bob is online", async || {
        bob_is_online().await.then_some(())
    })
    .await;
    let frames = ann.expect_close(1012).await;
    assert_eq!(frames.last().expect("a frame")["op"], "away");
    drop(ann);
    assert_eq!(older.ended().await.code(), Some(1));
    let line = older.log().line_with("catchup: ").await;
    assert!(line.contains("CATCHUP_NODE"), "{line}");
    assert!(
        bob_is_online().await,
        "the older process removed what the newer one wrote"
    );
    let mut ann = newer.socket().user("ann").connect().await;
    ann.until_live().await;
    system.publish("new_post", event("ann")).await;
    ann.messages(1).await;
    for socket in [ann, bob_again] {
        socket.close().await;
    }
    newer.stop().await;
}

#[tokio::test]
async fn an_older_process_that_leaves_takes_nothing_from_the_newer() {
    let system = System::start().await;
    let older = system.gateway(0);
    let newer = Role::start(
        Kind::Gateway,
        "gateway-1",
        Vec::new(),
        system.env().to_vec(),
    );
    newer.ready().await;
    let mut bob = newer.socket().user("bob").connect().await;
    bob.until_live().await;
    let mut redis = system.redis().await;
    let key = system.key("online_users:gateway-1");
    let mut is_online = async || -> bool { redis.sismember(&key, "bob").await.expect("a set") };
    eventually("bob is online", async || is_online().await.then_some(())).await;
    // Before it renews its lease, most often; it may also have found it taken.
    older.terminate();
    older.ended().await;
    assert!(
        is_online().await,
        "the older process emptied the newer's set"
    );
    bob.close().await;
    newer.stop().await;
}

fn event(user: &str) -> serde_json::Value {
    serde_json::json!({ "targetUserIds": [user], "data": 1 })
}

/// Where a user is connected, as the mailbox says.
async fn connections(system: &System, user: &str) -> String {
    let mailbox = system.mailbox(user).await;
    let connections = mailbox.get("connections").cloned().unwrap_or_default();
    String::from_utf8(connections).expect("text")
}
