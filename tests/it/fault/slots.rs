//! A Redis Cluster: users' slots move between servers under load, servers come, die and are emptied.

use redis::AsyncCommands as _;

use super::race::race;
use super::{alone, loaded, users};
use crate::support::redis_cluster::RedisCluster;
use crate::support::servers::Servers;
use crate::support::socket::{all_messages, data_of};
use crate::support::system::Builder;
use crate::support::{NatsServer, RedisServer, System, event, eventually};

/// A system whose store is the cluster. Its own Redis is only a place holder.
fn on(cluster: &RedisCluster, builder: Builder) -> Builder {
    let servers = Servers {
        nats: NatsServer::start(),
        redis: RedisServer::start(),
    };
    builder
        .servers(servers)
        .env("CATCHUP_REDIS_URL", &cluster.url())
}

/// Some user whose mailbox is on a server.
async fn user_on(cluster: &mut RedisCluster, server: usize) -> String {
    for number in 0.. {
        let user = format!("user-{number}");
        let slot = cluster.slot_of(&user).await;
        if cluster.owner(slot) == server {
            return user;
        }
    }
    unreachable!("there are more users than slots")
}

async fn publish(system: &System, users: &[&str], numbers: std::ops::RangeInclusive<i64>) {
    for number in numbers {
        system.publish("new_post.1", event(users, number)).await;
    }
}

#[tokio::test]
async fn users_of_all_servers_get_what_waited_and_what_comes() {
    let mut cluster = RedisCluster::start(3, 0).await;
    let system = on(&cluster, System::builder()).start().await;
    let mut names = Vec::new();
    for server in 0..3 {
        names.push(user_on(&mut cluster, server).await);
    }
    let users: Vec<&str> = names.iter().map(String::as_str).collect();
    publish(&system, &users, 1..=3).await;
    for user in &users {
        let mut socket = system.connect(user).await;
        assert_eq!(data_of(&socket.messages(3).await), [1, 2, 3]);
        publish(&system, &[user], 4..=5).await;
        assert_eq!(data_of(&socket.messages(2).await), [4, 5]);
        socket.close().await;
    }
    let body = serde_json::json!({"data": 6, "targetUserIds": users, "ephemeral": true});
    let mut sockets = Vec::new();
    for user in &users {
        let mut socket = system.connect(user).await;
        socket.until_live().await;
        sockets.push(socket);
    }
    system.publish("typing", body).await;
    for socket in &mut sockets {
        assert_eq!(data_of(&socket.messages(1).await), [6]);
    }
}

#[tokio::test]
async fn nobody_loses_a_message_while_slots_move() {
    let _alone = alone().await;
    let mut cluster = RedisCluster::start(3, 1).await;
    let system = on(&cluster, loaded().gateways(2).workers(3)).start().await;
    // A server that had none gets its first slots.
    for slot in 0..4 {
        cluster.move_slot(slot, 3).await;
    }
    let mut slots = Vec::new();
    for user in users(20) {
        slots.push(cluster.slot_of(&user).await);
    }
    let mut moves = 0_usize;
    race(&system, async || {
        let slot = slots[moves % slots.len()];
        let to = (cluster.owner(slot) + 1) % 4;
        cluster.move_slot(slot, to).await;
        moves += 1;
    })
    .await;
    println!("{moves} slots moved");
    assert!(moves >= 3, "{moves}");
}

#[tokio::test]
async fn only_the_users_of_an_emptied_server_are_told() {
    let mut cluster = RedisCluster::start(3, 0).await;
    let system = on(&cluster, System::builder()).start().await;
    let emptied = user_on(&mut cluster, 1).await;
    let untouched = user_on(&mut cluster, 2).await;
    let users = [emptied.as_str(), untouched.as_str()];
    for user in users {
        system.connect(user).await.until_live().await;
    }
    publish(&system, &users, 1..=5).await;
    let waiting = format!("offline_messages:{{{emptied}}}");
    let mut redis = cluster.of_user(&emptied).await;
    eventually("all is stored", async || {
        let length: usize = redis.llen(system.key(&waiting)).await.ok()?;
        (length == 5).then_some(())
    })
    .await;
    let _: () = redis::cmd("FLUSHALL")
        .query_async(&mut redis)
        .await
        .expect("it is emptied");

    let mut socket = eventually("the store is whole again", async || {
        let length: usize = redis.llen(system.key(&waiting)).await.ok()?;
        let request = system.gateway(0).socket().user(&emptied);
        match length {
            5 => request.try_connect().await.ok(),
            _ => None,
        }
    })
    .await;
    let frames = socket.frames_until("live").await;
    let reasons: Vec<&str> = frames
        .iter()
        .filter_map(|frame| frame["reason"].as_str())
        .collect();
    assert_eq!(data_of(&all_messages(&frames)), [1, 2, 3, 4, 5]);
    // Until it acknowledges it may be told again.
    assert!(!reasons.is_empty() && reasons.iter().all(|reason| *reason == "store_lost"));
    let mut socket = system.connect(&untouched).await;
    assert_eq!(data_of(&socket.until_live().await), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_replica_that_takes_over_a_primary_has_its_users() {
    let mut cluster = RedisCluster::start(3, 0).await;
    let system = on(&cluster, System::builder()).start().await;
    let moved = user_on(&mut cluster, 1).await;
    let other = user_on(&mut cluster, 2).await;
    let users = [moved.as_str(), other.as_str()];
    let (replica, replica_id) = cluster.add_replica(1).await;
    publish(&system, &users, 1..=5).await;
    let waiting = system.key(&format!("offline_messages:{{{moved}}}"));
    let mut redis = cluster.of_user(&moved).await;
    eventually("the store's record names the replica", async || {
        let keys: Vec<String> = redis.keys(system.key("catchup_store:*")).await.ok()?;
        let members: String = redis.hget(keys.first()?, "members").await.ok()?;
        members.contains(&replica_id).then_some(())
    })
    .await;
    eventually("the replica has all", async || {
        let length: usize = redis.llen(&waiting).await.ok()?;
        let wait = redis::cmd("WAIT").arg(&[1, 200]).to_owned();
        let replicas: i64 = wait.query_async(&mut redis).await.ok()?;
        (length == 5 && replicas == 1).then_some(())
    })
    .await;
    cluster.server(1).kill();
    publish(&system, &users, 6..=10).await;
    let all: Vec<i64> = (1..=10).collect();
    for user in users {
        let request = system.gateway(0).socket().user(user);
        let mut socket = eventually("the user is let in", async || {
            request.try_connect().await.ok()
        })
        .await;
        let mut received: Vec<serde_json::Value> = Vec::new();
        while received.last() != Some(&10.into()) {
            received.extend(data_of(&socket.messages_to(1).await));
        }
        received.dedup();
        assert_eq!(received, all);
    }
    drop(replica);
}
