//! NATS or Redis away, refusing or unsuitable: a worker says so, holds what it has and goes on
//! where it was.

use std::time::Duration;

use redis::AsyncCommands as _;
use serde_json::json;

use crate::support::servers::Servers;
use crate::support::store::message;
use crate::support::{Catchup, NatsServer, RedisServer, System, eventually, eventually_within};

/// Longer than the time after which JetStream gives a silent worker's messages to another.
const LONGER_THAN_ACK_WAIT: Duration = Duration::from_secs(12);

async fn publish(system: &System, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let event = json!({"targetUserIds": ["ann"], "data": number});
        system.publish("step.k", event).await;
    }
}

async fn received(system: &System) -> Vec<u64> {
    let waiting = system.waiting("ann").await;
    let data = |entry: &String| message(entry)["data"].as_u64().expect("a number");
    waiting.iter().map(data).collect()
}

async fn eventually_received(system: &System, count: u64) {
    eventually_within(Duration::from_secs(40), "all events in order", async || {
        let received = received(system).await;
        assert!(received.is_sorted(), "{received:?}");
        (received.len() as u64 >= count).then_some(())
    })
    .await;
    assert_eq!(received(system).await, (0..count).collect::<Vec<_>>());
}

#[tokio::test]
async fn events_wait_for_a_redis_that_is_away_and_keep_their_order() {
    let system = System::builder().gateways(0).own_servers().start().await;
    publish(&system, 0..50).await;
    eventually_received(&system, 50).await;
    system.redis_server().kill();
    publish(&system, 50..400).await;
    let reasons = system.worker(0).not_ready().await;
    assert!(reasons["reasons"]["redis"].is_string(), "{reasons}");
    // What is held stays held, by signs of progress: the test is that time.
    tokio::time::sleep(LONGER_THAN_ACK_WAIT).await;
    system.redis_server().start_again();
    system.worker(0).ready().await;
    eventually_received(&system, 400).await;
    system.processed().await;
}

#[tokio::test]
async fn a_redis_that_refuses_makes_not_ready_until_it_takes_messages_again() {
    let system = System::builder().gateways(0).own_servers().start().await;
    let mut redis = system.redis().await;
    let set_memory = async |redis: &mut redis::aio::MultiplexedConnection, bytes: &str| {
        let mut command = redis::cmd("CONFIG");
        command.arg("SET").arg("maxmemory").arg(bytes);
        let _: () = command.query_async(redis).await.expect("the setting");
    };
    set_memory(&mut redis, "1000").await;
    publish(&system, 0..3).await;
    let reasons = system.worker(0).not_ready().await;
    let reason = reasons["reasons"]["redis"].as_str().expect("a reason");
    assert!(reason.contains("OOM"), "{reason}");
    set_memory(&mut redis, "0").await;
    system.worker(0).ready().await;
    eventually_received(&system, 3).await;
    let _: u64 = redis.exists(system.key("mailbox:{ann}")).await.unwrap();
}

#[tokio::test]
async fn a_worker_goes_on_when_nats_comes_back() {
    let system = System::builder().gateways(0).own_servers().start().await;
    publish(&system, 0..50).await;
    system.nats_server().kill();
    let reasons = system.worker(0).not_ready().await;
    assert!(reasons["reasons"]["nats"].is_string(), "{reasons}");
    system.nats_server().start_again();
    eventually("NATS takes events again", async || {
        let event = json!({"targetUserIds": ["ann"], "data": 50}).to_string();
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", "fifty");
        (system.publish_with("step.k", headers, event).await).ok()
    })
    .await;
    publish(&system, 51..100).await;
    system.worker(0).ready().await;
    eventually_received(&system, 100).await;
}

#[tokio::test]
async fn a_worker_starts_before_its_servers() {
    let servers = Servers {
        nats: NatsServer::start(),
        redis: RedisServer::start(),
    };
    servers.nats.kill();
    servers.redis.kill();
    let builder = System::builder().gateways(0).servers(servers);
    let system = builder.start_unready();
    let reasons = system.worker(0).not_ready().await;
    assert!(reasons["reasons"]["nats"].is_string(), "{reasons}");
    system.nats_server().start_again();
    system.redis_server().start_again();
    system.worker(0).ready().await;
    publish(&system, 0..3).await;
    eventually_received(&system, 3).await;
}

#[tokio::test]
async fn a_stream_that_is_set_up_differently_ends_the_start() {
    let system = System::builder().gateways(0).workers(0).start().await;
    let jetstream = system.jetstream().await;
    let config = async_nats::jetstream::stream::Config {
        name: system.stream_name("EVENTS"),
        subjects: vec![system.subject("events.*"), system.subject("events.*.*")],
        ..Default::default()
    };
    jetstream.create_stream(config).await.expect("a stream");
    ends_at_start(&system, "subject_transform").await;
}

#[tokio::test]
async fn a_consumer_that_cannot_be_made_as_asked_ends_the_start() {
    let system = System::builder().gateways(0).start().await;
    system.worker(0).stop().await;
    let jetstream = system.jetstream().await;
    let stream = jetstream.get_stream(system.stream_name("EVENTS")).await;
    let stream = stream.expect("the stream");
    let name = system.stream_name("partition_07");
    stream.delete_consumer(&name).await.expect("it was there");
    let config = async_nats::jetstream::consumer::pull::Config {
        durable_name: Some(name),
        deliver_policy: async_nats::jetstream::consumer::DeliverPolicy::New,
        ..Default::default()
    };
    stream.create_consumer(config).await.expect("a consumer");
    ends_at_start(&system, "partition_07").await;
}

#[tokio::test]
async fn a_redis_that_may_drop_messages_ends_the_start() {
    let servers = Servers {
        nats: NatsServer::start(),
        redis: RedisServer::start_with(&[
            "--appendonly",
            "yes",
            "--maxmemory-policy",
            "allkeys-lru",
        ]),
    };
    let builder = System::builder().gateways(0).workers(0).servers(servers);
    ends_at_start(&builder.start().await, "maxmemory-policy").await;
}

/// A worker of this system ends with exit code 1 and one line that names `what`.
async fn ends_at_start(system: &System, what: &str) {
    let mut command = Catchup::new(["worker"]).env("CATCHUP_ADMIN_LISTEN", "127.0.0.1:0");
    for (name, value) in system.env() {
        command = command.env(name, value);
    }
    let ended = command.run().await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains(what), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
}
