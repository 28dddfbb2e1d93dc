//! `CATCHUP_DURABILITY`: each kind, and the servers that cannot keep it.

use std::time::{Duration, Instant};

use super::{acknowledgements, assert_once, deliveries, publish, until_acknowledged};
use crate::support::servers::Servers;
use crate::support::{Catchup, NatsServer, RedisServer, System, event, eventually};

const SETTING: &str = "CATCHUP_DURABILITY";
const COUNT: usize = 100;

/// Whether a server has `WAITAOF`; Redis 7.0 has not.
async fn has_waitaof(server: &RedisServer) -> bool {
    let client = redis::Client::open(server.url()).expect("a URL");
    let mut redis = client
        .get_multiplexed_async_connection()
        .await
        .expect("it answers");
    let mut command = redis::cmd("WAITAOF");
    command.arg(0).arg(0).arg(0);
    let answer: redis::RedisResult<redis::Value> = command.query_async(&mut redis).await;
    answer.is_ok()
}

/// The end of a worker with these servers and this durability.
async fn refused(servers: &Servers, durability: &str) -> String {
    let command = Catchup::new(["worker"])
        .env("CATCHUP_ADMIN_LISTEN", "127.0.0.1:0")
        .env("CATCHUP_NATS_URL", &servers.nats.url())
        .env("CATCHUP_REDIS_URL", &servers.redis.url())
        .env(SETTING, durability);
    let ended = command.run().await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    assert!(
        ended.stderr.contains("CATCHUP_DURABILITY=fsync"),
        "{ended:?}"
    );
    ended.stderr
}

#[tokio::test]
async fn none_acknowledges_at_once() {
    let system = System::builder().env(SETTING, "none").start().await;
    publish(&system, "ann", 0..COUNT).await;
    until_acknowledged(&system, "at_once", COUNT as f64).await;
    system.processed().await;
    assert_once(&system, "ann", COUNT).await;
    assert_eq!(acknowledgements(&system, "confirmed").await, 0.0);
}

#[tokio::test]
async fn fsync_acknowledges_what_is_on_the_disk_or_is_refused() {
    let servers = Servers::start();
    if !has_waitaof(&servers.redis).await {
        let told = refused(&servers, "fsync").await;
        assert!(told.contains("7.2") && told.contains("WAITAOF"), "{told}");
        return;
    }
    let builder = System::builder().servers(servers).env(SETTING, "fsync");
    let system = builder.start().await;
    publish(&system, "ann", 0..COUNT).await;
    system.processed().await;
    until_acknowledged(&system, "confirmed", COUNT as f64).await;
    let metrics = system.worker(0).metrics().await;
    let sum = metrics.sum("catchup_acknowledgement_held_seconds_sum");
    println!("fsync: held {:.2} s each", sum / COUNT as f64);

    // A store that is killed has all that was acknowledged; what was held is found or stored.
    publish(&system, "ann", COUNT..2 * COUNT).await;
    system.until_waiting("ann", 2 * COUNT).await;
    system.redis_server().kill();
    system.redis_server().start_again();
    eventually("all of it waits", async || {
        (super::waiting(&system, "ann").await.len() == 2 * COUNT).then_some(())
    })
    .await;
    system.processed().await;
    assert_once(&system, "ann", 2 * COUNT).await;
}

#[tokio::test]
async fn fsync_needs_a_server_that_writes_to_its_disk() {
    for arguments in [
        "--appendonly no --maxmemory-policy noeviction",
        "--appendonly yes --appendfsync no --maxmemory-policy noeviction",
    ] {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let servers = Servers {
            nats: NatsServer::start(),
            redis: RedisServer::start_with(&arguments),
        };
        let told = refused(&servers, "fsync").await;
        let has_waitaof = has_waitaof(&servers.redis).await;
        assert!(!has_waitaof || told.contains("append"), "{told}");
    }
}

/// Waits until the worker is ready but for the missing replica.
async fn until_without_replica(system: &System) {
    let reason = eventually("it says why it is not ready", async || {
        let body = system.worker(0).admin("/readyz").await.ok()?.json();
        // Everything else is there.
        let reasons = body["reasons"]
            .as_object()
            .filter(|reasons| reasons.len() == 1)?;
        let reason = reasons.get("durability")?.as_str()?.to_owned();
        reason.contains("no replica").then_some(reason)
    })
    .await;
    println!("without a replica: {reason}");
}

#[tokio::test]
async fn replica_acknowledges_nothing_before_a_replica_has_it() {
    let builder = System::builder().own_servers().env(SETTING, "replica");
    let system = builder.start_unready();
    until_without_replica(&system).await;
    publish(&system, "ann", 0..COUNT).await;
    system.until_waiting("ann", COUNT).await;
    let stored = Instant::now();
    // Longer than any hold, and longer than JetStream waits for a sign of life.
    while stored.elapsed() < Duration::from_secs(12) {
        let now = deliveries(&system).await;
        assert_eq!((now.unacknowledged, now.again), (COUNT, 0));
        // It has to stay so for all of this time.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let _replica = replica_of(system.redis_server());
    system.processed().await;
    system.ready().await;
    assert_once(&system, "ann", COUNT).await;
    until_acknowledged(&system, "confirmed", COUNT as f64).await;
}

#[tokio::test]
async fn delayed_waits_for_the_replicas_that_redis_needs() {
    let good = "--appendonly yes --maxmemory-policy noeviction --repl-diskless-sync-delay 0 \
                --min-replicas-to-write 1 --min-replicas-max-lag 3";
    let servers = Servers {
        nats: NatsServer::start(),
        redis: RedisServer::start_with(&good.split_whitespace().collect::<Vec<_>>()),
    };
    let replica = replica_of(&servers.redis);
    let system = System::builder().gateways(0).servers(servers).start().await;
    // The replica has nothing of what follows. The primary misses it only when its last answer is
    // older than 3 s, in whole seconds and seen once a second; until then it takes all of it.
    replica.pause();
    let paused = Instant::now();
    publish(&system, "ann", 0..COUNT).await;
    while paused.elapsed() < Duration::from_secs(10) {
        let now = deliveries(&system).await;
        let open = now.unacknowledged + now.pending as usize;
        assert_eq!((open, now.again), (COUNT, 0));
        // It has to stay so for all of this time.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    replica.resume();
    system.processed().await;
    assert_once(&system, "ann", COUNT).await;
}

fn replica_of(primary: &RedisServer) -> RedisServer {
    let port = primary.port().to_string();
    let good = "--appendonly yes --maxmemory-policy noeviction --repl-diskless-sync-delay 0";
    let mut arguments: Vec<&str> = good.split(' ').collect();
    arguments.extend(["--replicaof", "127.0.0.1", &port]);
    RedisServer::start_with(&arguments)
}

#[tokio::test]
async fn beyond_what_may_be_held_nothing_is_pulled_and_nothing_lost() {
    // What a consumer may have delivered and not acknowledged.
    const MOST: usize = 8_192;
    const PUBLISHED: usize = MOST + 1_000;
    let builder = System::builder().own_servers().env(SETTING, "replica");
    let system = builder
        .env("CATCHUP_MAX_MESSAGES", "100000")
        .start_unready();
    until_without_replica(&system).await;
    for first in (0..PUBLISHED).step_by(MOST / 8) {
        let some = (MOST / 8).min(PUBLISHED - first);
        let number = |index: usize| first + index;
        system
            .publish_all(some, |index| {
                (
                    "new_post.one-key".to_owned(),
                    event(&["ann"], number(index)),
                )
            })
            .await;
    }
    let limit = [("limit", "held_acknowledgements")];
    eventually("the limit is hit", async || {
        (system.metric("catchup_limits_total", &limit).await > 0.0).then_some(())
    })
    .await;
    let now = deliveries(&system).await;
    assert!(now.unacknowledged <= MOST && now.pending > 0, "{now:?}");
    println!("at the limit: {now:?}");
    let _replica = replica_of(system.redis_server());
    system.processed().await;
    // The first replica gives a primary another time line: what was held was looked for again.
    assert_once(&system, "ann", PUBLISHED).await;
}
