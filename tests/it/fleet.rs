//! Workers among themselves: order within a key while they come and go, nothing stored twice by
//! one that stood still; and what makes a worker not ready, or ends it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::store::message;
use crate::support::{Catchup, System, eventually, eventually_within};

const USERS: usize = 8;

fn user(index: usize) -> String {
    format!("user-{index}")
}

/// One key a user, numbered in publish order.
async fn publish(system: &System, numbers: std::ops::Range<usize>) {
    let first = numbers.start;
    let count = numbers.len() * USERS;
    system
        .publish_all(count, |index| {
            let user = user(index % USERS);
            let event = json!({"targetUserIds": [user], "data": first + index / USERS});
            (format!("step.{user}"), event)
        })
        .await;
}

/// What a user has, in order.
async fn received(system: &System, user: &str) -> Vec<Value> {
    let waiting = system.waiting(user).await;
    let data = |entry: &String| message(entry)["data"].clone();
    waiting.iter().map(data).collect()
}

#[tokio::test]
async fn workers_that_come_and_go_in_order_lose_and_swap_nothing() {
    let mut system = System::builder().gateways(0).workers(2).start().await;
    publish(&system, 0..100).await;
    system.add_worker().await;
    publish(&system, 100..200).await;
    system.worker(0).stop().await;
    publish(&system, 200..300).await;
    system.processed().await;
    for index in 0..USERS {
        let received = received(&system, &user(index)).await;
        let expected: Vec<Value> = (0..300).map(|number| json!(number)).collect();
        assert_eq!(received, expected, "{}", user(index));
    }
}

#[tokio::test]
async fn a_worker_that_stood_still_stores_nothing_twice() {
    let system = System::builder().gateways(0).workers(2).start().await;
    publish(&system, 0..20).await;
    system.processed().await;
    // Paused while it has requests open: what it is sent goes to the other after ten seconds.
    system.worker(0).pause();
    publish(&system, 20..60).await;
    let has_all = async || {
        let mut count = 0;
        for index in 0..USERS {
            count += received(&system, &user(index)).await.len();
        }
        (count == 60 * USERS).then_some(())
    };
    eventually_within(Duration::from_secs(40), "all that was published", has_all).await;
    system.worker(0).resume();
    publish(&system, 60..80).await;
    system.ready().await;
    system.processed().await;
    for index in 0..USERS {
        let count = received(&system, &user(index)).await.len();
        assert_eq!(count, 80, "{}", user(index));
    }
}

#[tokio::test]
async fn a_redis_that_refuses_makes_not_ready_until_it_takes_messages_again() {
    let system = System::builder().gateways(0).own_servers().start().await;
    let mut redis = system.redis().await;
    let mut set_memory = async |bytes: &str| {
        let mut command = redis::cmd("CONFIG");
        command.arg("SET").arg("maxmemory").arg(bytes);
        let _: () = command.query_async(&mut redis).await.expect("the setting");
    };
    set_memory("1000").await;
    publish(&system, 0..3).await;
    let body = system.worker(0).not_ready().await;
    let reason = body["reasons"]["redis"].as_str().expect("a reason");
    assert!(reason.contains("OOM"), "{reason}");
    set_memory("0").await;
    system.worker(0).ready().await;
    for index in 0..USERS {
        eventually("what waited for Redis", async || {
            (received(&system, &user(index)).await == [0, 1, 2]).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_consumer_that_cannot_be_made_as_asked_ends_the_start() {
    use async_nats::jetstream::consumer::{DeliverPolicy, pull};
    let system = System::builder().gateways(0).start().await;
    system.worker(0).stop().await;
    let jetstream = system.jetstream().await;
    let stream = jetstream.get_stream(system.stream_name("EVENTS")).await;
    let stream = stream.expect("the stream");
    let name = system.stream_name("partition_07");
    stream.delete_consumer(&name).await.expect("it was there");
    let config = pull::Config {
        durable_name: Some(name),
        deliver_policy: DeliverPolicy::New,
        ..Default::default()
    };
    stream.create_consumer(config).await.expect("a consumer");
    let mut command = Catchup::new(["worker"]).env("CATCHUP_ADMIN_LISTEN", "127.0.0.1:0");
    for (name, value) in system.env() {
        command = command.env(name, value);
    }
    let ended = command.run().await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("partition_07"), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
}
