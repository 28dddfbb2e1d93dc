//! What is held, for how long, and what becomes of it when the store is not what it was.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    acknowledgements, assert_once, deliveries, inversions, numbered, publish, until_acknowledged,
    waiting,
};
use crate::support::store::message;
use crate::support::system::Builder;
use crate::support::{RedisServer, System, eventually};

/// How long an acknowledgement is held at least.
const HOLD: Duration = Duration::from_millis(2_500);
/// JetStream delivers again what nobody answered for this long.
const ACK_WAIT: Duration = Duration::from_secs(10);

/// Servers of its own, and mailboxes for all events of a test.
fn roomy() -> Builder {
    let builder = System::builder().own_servers();
    builder.env("CATCHUP_MAX_MESSAGES", "100000")
}

#[tokio::test]
async fn what_is_stored_is_acknowledged_when_it_is_there_to_stay() {
    let system = System::start().await;
    publish(&system, "ann", 0..3).await;
    system.until_waiting("ann", 3).await;
    let stored = Instant::now();
    let held = system.metric("catchup_acknowledgements_held", &[]).await;
    assert_eq!((held, deliveries(&system).await.unacknowledged), (3.0, 3));
    system.processed().await;
    let took = stored.elapsed();
    until_acknowledged(&system, "confirmed", 3.0).await;
    let metrics = system.worker(0).metrics().await;
    let mean = metrics.sum("catchup_acknowledgement_held_seconds_sum") / 3.0;
    println!("held {mean:.2} s each; acknowledged {took:?} after they were seen");
    assert!(mean >= HOLD.as_secs_f64(), "{mean}");
    assert_eq!(metrics.value("catchup_acknowledgements_held", &[]), 0.0);
    assert_eq!(acknowledgements(&system, "repeated").await, 0.0);
}

#[tokio::test]
async fn what_is_in_no_mailbox_is_acknowledged_at_once() {
    let system = System::start().await;
    let ephemeral = json!({ "targetUserIds": ["ann"], "ephemeral": true, "data": 1 });
    system.publish("typing", ephemeral).await;
    system
        .publish("new_post", json!({ "data": "for everyone" }))
        .await;
    let nobody = json!({ "targetUserIds": [], "data": 1 });
    system.publish("new_post", nobody).await;
    system
        .publish("new_post", json!({ "dat": "refused" }))
        .await;
    until_acknowledged(&system, "at_once", 3.0).await;
    system.processed().await;
    assert_eq!(acknowledgements(&system, "confirmed").await, 0.0);
}

#[tokio::test]
async fn a_cut_connection_confirms_nothing_and_repeats_nothing() {
    let system = roomy().start().await;
    let cut = async |system: &System| {
        let mut command = redis::cmd("CLIENT");
        command
            .arg("KILL")
            .arg("TYPE")
            .arg("normal")
            .arg("SKIPME")
            .arg("yes");
        let killed: u32 = (command.query_async(&mut system.redis().await).await).expect("a count");
        assert!(killed > 0);
    };
    within_the_hold("connections cut", &system, 0, cut).await;
}

#[tokio::test]
async fn a_killed_store_confirms_nothing_and_repeats_nothing() {
    let system = roomy().start().await;
    let kill = async |system: &System| {
        let redis: &RedisServer = system.redis_server();
        redis.kill();
        redis.start_again();
    };
    within_the_hold("Redis killed", &system, 0, kill).await;
}

#[tokio::test]
async fn what_a_rolled_back_store_lost_is_appended_again_in_order() {
    let system = roomy().start().await;
    publish(&system, "ann", 0..20).await;
    system.processed().await;
    let checkpoint = system.redis_server().checkpoint();
    let roll_back = async |system: &System| system.redis_server().roll_back(&checkpoint);
    within_the_hold("Redis rolled back", &system, 20, roll_back).await;
}

/// Does something to the store while events are held and others come in, and asserts that all are
/// there once, in order, and were not acknowledged with the word of the old connection.
async fn within_the_hold(name: &str, system: &System, before: usize, fault: impl AsyncFn(&System)) {
    const COUNT: usize = 400;
    const ALL: usize = 5 * COUNT;
    publish(system, "ann", before..COUNT).await;
    system.until_waiting("ann", COUNT).await;
    let meanwhile = async {
        for first in (COUNT..ALL).step_by(COUNT / 4) {
            publish(system, "ann", first..first + COUNT / 4).await;
        }
    };
    let (happened, ()) = tokio::join!(
        async {
            fault(system).await;
            Instant::now()
        },
        meanwhile
    );
    let held = (COUNT - before) as f64;
    eventually("what was held is taken back", async || {
        (acknowledgements(system, "repeated").await >= held).then_some(())
    })
    .await;
    eventually("all of it waits", async || {
        (waiting(system, "ann").await.len() == ALL).then_some(())
    })
    .await;
    let recovered = happened.elapsed();
    let now = deliveries(system).await;
    assert!(
        now.unacknowledged >= COUNT - before || happened.elapsed() >= HOLD,
        "acknowledged too early: {now:?}"
    );
    assert_eq!(now.again, 0, "delivered again");
    system.processed().await;
    let acknowledged = happened.elapsed();
    assert!(acknowledged >= HOLD, "acknowledged after {acknowledged:?}");
    assert!(recovered < ACK_WAIT, "there again only after {recovered:?}");
    assert_once(system, "ann", ALL).await;
    let entries = system.waiting("ann").await;
    let messages = entries.iter().map(|entry| message(entry));
    let numbered: Vec<_> = messages.map(|message| numbered(&message)).collect();
    assert_eq!(inversions(numbered), 0);
    let found = [("outcome", "duplicate")];
    let duplicates = system.metric("catchup_messages_total", &found).await;
    println!(
        "{name}: all there after {:.1} s, acknowledged after {:.1} s, {duplicates} found again",
        recovered.as_secs_f64(),
        acknowledged.as_secs_f64()
    );
}
