//! A Redis Cluster: users' slots move between servers under load, servers come, die and are emptied.

use super::race::race;
use super::{alone, loaded, users};
use crate::support::redis_cluster::RedisCluster;
use crate::support::servers::Servers;
use crate::support::socket::data_of;
use crate::support::system::Builder;
use crate::support::{NatsServer, RedisServer, System, event};

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
        assert_eq!(data_of(&socket.until_live().await), [1, 2, 3]);
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
    for slot in 0..32 {
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
    assert!(moves >= 20, "{moves}");
}
