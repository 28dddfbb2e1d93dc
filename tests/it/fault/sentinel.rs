//! A primary that dies, and the sentinels' next one.

use redis::AsyncCommands as _;

use crate::support::servers::Servers;
use crate::support::socket::data_of;
use crate::support::{NatsServer, RedisServer, System, event, eventually};

#[tokio::test]
async fn the_next_primary_is_found_and_nothing_is_lost() {
    let arguments = "--appendonly yes --maxmemory-policy noeviction --repl-diskless-sync-delay 0";
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let primary = RedisServer::start_with(&arguments);
    let port = primary.port().to_string();
    let replica_of = ["--replicaof", "127.0.0.1", &port];
    let replica = RedisServer::start_with(&[&arguments[..], &replica_of].concat());
    let sentinel = RedisServer::start_sentinel("main", &primary);
    know_replica(&sentinel).await;
    // One that does not answer is passed over.
    let url = format!("redis+sentinel://127.0.0.1:1,{}/main", sentinel.address());
    let nats = NatsServer::start();
    let servers = Servers {
        nats,
        redis: primary,
    };
    let system = System::builder()
        .servers(servers)
        .env("CATCHUP_REDIS_URL", &url)
        .start()
        .await;
    let mut ann = system.connect("ann").await;
    ann.until_live().await;
    system
        .publish("new_post.1", event(&["ann", "ben"], 1))
        .await;
    assert_eq!(data_of(&ann.messages(1).await), [1]);
    let mut at_primary = system.redis().await;
    eventually("the replica has it all", async || {
        let () = at_primary.set("written", "last").await.ok()?;
        let wait = redis::cmd("WAIT").arg(&[1, 200]).to_owned();
        let replicas: i64 = wait.query_async(&mut at_primary).await.ok()?;
        (replicas == 1).then_some(())
    })
    .await;

    system.redis_server().kill();
    for number in 2..=20 {
        system
            .publish("new_post.1", event(&["ann", "ben"], number))
            .await;
    }
    let all: Vec<i64> = (1..=20).collect();
    // It registered anew at the next primary, from what that had; a client drops repeats.
    let mut received: Vec<i64> = Vec::new();
    while received.last() != Some(&20) {
        let frame = ann.expect("messages").await;
        let messages = frame["messages"].as_array().expect("messages");
        received.extend(
            messages
                .iter()
                .filter_map(|message| message["data"].as_i64()),
        );
    }
    received.retain(|number| *number > 1);
    received.dedup();
    assert_eq!(received, all[1..]);
    let mut ben = system.connect("ben").await;
    assert_eq!(data_of(&ben.until_live().await), all);
    let role: (String, i64, redis::Value) = redis::cmd("ROLE")
        .query_async(&mut connect(&replica).await)
        .await
        .unwrap();
    assert_eq!(role.0, "master");
}

async fn know_replica(sentinel: &RedisServer) {
    let mut connection = connect(sentinel).await;
    eventually("the sentinel knows the replica", async || {
        let replicas: redis::Value = redis::cmd("SENTINEL")
            .arg(&["REPLICAS", "main"])
            .query_async(&mut connection)
            .await
            .ok()?;
        format!("{replicas:?}").contains("127.0.0.1").then_some(())
    })
    .await;
}

async fn connect(server: &RedisServer) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(server.url()).expect("a URL");
    let connection = client.get_multiplexed_async_connection().await;
    connection.expect("it answers")
}
