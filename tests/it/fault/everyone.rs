//! Events for everyone while processes and servers die, users come and go.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};

use super::{alone, load, loaded, readers, settle, users};
use crate::support::oracle::{Audience, Event};
use crate::support::socket::{all_messages, cursor, data_of, with_op};
use crate::support::{Frame, Oracle, Reader, System, eventually};

/// Events under way to JetStream at one time.
const PUBLISHES_MAX: usize = 64;

/// One reader a user, all of whom were seen: each has heard something.
async fn seen_readers(oracle: &Arc<Oracle>, system: &System, users: &[String]) -> Vec<Reader> {
    let readers = readers(oracle, system, users);
    for user in users {
        let event = Event {
            key: None,
            audience: Audience::Users(&[user.as_str()]),
            is_high: false,
        };
        oracle.publish(system, event).await;
    }
    oracle.until_delivered(users.len()).await;
    readers
}

/// Publishes `count` events: two of three for everyone under a few keys, the others for one user
/// each.
async fn publish_mixed(oracle: &Oracle, system: &System, users: &[String], count: usize) {
    let all: Vec<&str> = users.iter().map(String::as_str).collect();
    let all = all.as_slice();
    let one = async |index: usize| {
        let user = index / 3 % all.len();
        let keys = ["everyone-1", "everyone-2", "everyone-3"];
        let (key, audience) = match index % 3 {
            0 => (all[user], Audience::Users(&all[user..=user])),
            _ => (keys[index % 7 % 3], Audience::Everyone),
        };
        let event = Event {
            key: Some(key),
            audience,
            is_high: false,
        };
        oracle.publish(system, event).await;
    };
    let events = futures_util::stream::iter(0..count).map(one);
    events.buffer_unordered(PUBLISHES_MAX).collect::<()>().await;
}

#[tokio::test]
async fn gateways_and_workers_killed_during_broadcasts_lose_nothing() {
    let _alone = alone().await;
    let system = loaded().gateways(2).workers(2).start().await;
    let oracle = Arc::new(Oracle::default());
    let users = users(10);
    let readers = seen_readers(&oracle, &system, &users).await;
    let count = load(3_000);
    let before = users.len();
    let deliveries = count * 7;
    let kill_and_restart = async {
        for step in 1..=6 {
            oracle
                .until_delivered(before + deliveries * step / 10)
                .await;
            match step % 3 {
                0 => {
                    system.worker(step / 3 - 1).kill();
                    system.worker(step / 3 - 1).start_again();
                }
                gateway => {
                    system.gateway(gateway - 1).kill();
                    system.gateway(gateway - 1).start_again();
                    system.gateway(gateway - 1).ready().await;
                }
            }
        }
    };
    tokio::join!(
        publish_mixed(&oracle, &system, &users, count),
        kill_and_restart
    );
    let tally = settle("broadcasts, gateways and workers killed", &oracle, readers).await;
    assert!(tally.reconnects >= 10, "{tally}");
}

#[tokio::test]
async fn order_holds_for_events_for_everyone() {
    let _alone = alone().await;
    let system = loaded().gateways(2).workers(3).start().await;
    let oracle = Arc::new(Oracle::default());
    let users = users(5);
    let readers = seen_readers(&oracle, &system, &users).await;
    publish_mixed(&oracle, &system, &users, load(3_000)).await;
    settle("broadcasts in order", &oracle, readers).await;
    oracle.assert_order();
}

#[tokio::test]
async fn nats_killed_and_restarted_during_broadcasts_loses_nothing() {
    let _alone = alone().await;
    let system = loaded().own_servers().gateways(2).start().await;
    let oracle = Arc::new(Oracle::default());
    let users = users(6);
    let readers = seen_readers(&oracle, &system, &users).await;
    let count = load(1_500);
    let outages = async {
        for step in 1..=3 {
            oracle.until_delivered(count * 4 * step / 5).await;
            system.nats_server().kill();
            system.nats_server().start_again();
        }
    };
    tokio::join!(publish_mixed(&oracle, &system, &users, count), outages);
    settle("broadcasts, NATS killed", &oracle, readers).await;
    oracle.assert_order();
}

/// Each user is seen, and has to get what is published from then on, on whatever node.
#[tokio::test]
async fn who_joins_during_broadcasts_gets_all_from_then_on() {
    const USERS: usize = 30;
    const EVENTS: usize = 10;
    let system = System::builder().gateways(2).workers(2).start().await;
    let publishing = async {
        for number in 0..300 {
            let event = json!({ "data": ["noise", number] });
            system.publish("noise.1", event).await;
        }
    };
    let join = async |number: usize| {
        let user = format!("user-{number}");
        let mut socket = system
            .gateway(number % 2)
            .socket()
            .user(&user)
            .connect()
            .await;
        socket.until_live().await;
        let mut due: Vec<Value> = Vec::new();
        for event in 0..EVENTS {
            let data = json!([user, event]);
            let address = format!("new_post.{user}");
            system.publish(&address, json!({ "data": data })).await;
            due.push(data);
            // Gone for a moment in the middle, and back at the other node.
            if event == EVENTS / 2 {
                socket.close().await;
                let gateway = system.gateway((number + 1) % 2);
                socket = gateway.socket().user(&user).connect().await;
            }
        }
        let mut received: Vec<Value> = Vec::new();
        while !due.iter().all(|data| received.contains(data)) {
            received.extend(data_of(&socket.messages_to(1).await));
        }
        let mut own: Vec<Value> = received;
        own.retain(|data| due.contains(data));
        own.dedup();
        assert_eq!(own, due, "of {user}");
        socket.close().await;
    };
    let joining = async {
        let users = futures_util::stream::iter(0..USERS).map(join);
        users.buffer_unordered(6).collect::<()>().await;
    };
    tokio::join!(publishing, joining);
}

fn reasons(frames: &[Frame]) -> Vec<&str> {
    let missed = with_op(frames, "missed").into_iter();
    missed
        .map(|frame| frame["reason"].as_str().unwrap())
        .collect()
}

/// The place among the events for everyone is not the store's: a Redis that lost everything takes
/// away the user's own messages, and nothing else.
#[tokio::test]
async fn a_redis_that_lost_everything_takes_no_event_for_everyone_away() {
    let system = System::builder().own_servers().start().await;
    let mut ann = system.connect("ann").await;
    let mut bob = system.connect("bob").await;
    for socket in [&mut ann, &mut bob] {
        socket.until_live().await;
    }
    for number in 1..=3 {
        system
            .publish("new_post.1", json!({ "data": number }))
            .await;
    }
    assert_eq!(data_of(&ann.messages(3).await), [1, 2, 3]);
    let mut bobs_frames = Vec::new();
    while all_messages(&bobs_frames).len() < 3 {
        bobs_frames.push(bob.expect("messages").await);
    }
    let cursor = cursor(&bobs_frames[0]);
    let mut due = data_of(&all_messages(&bobs_frames[1..]));
    due.push(json!(4));
    bob.close().await;

    system.redis_server().wipe();
    system.ready().await;
    system.publish("new_post.1", json!({ "data": 4 })).await;
    let mut frames = Vec::new();
    while all_messages(&frames).is_empty() {
        let frame = ann.frame().await;
        ann.ack(&frame).await;
        frames.push(frame);
    }
    // For the mailbox, and again until it is acknowledged: she did not read meanwhile.
    let told = reasons(&frames);
    assert!(
        told.iter().all(|reason| *reason == "store_lost"),
        "{frames:?}"
    );
    // What was acknowledged does not come again.
    assert_eq!(data_of(&all_messages(&frames)), [4]);
    let request = system.gateway(0).socket().user("bob").cursor(cursor);
    let mut bob = eventually("the gateway serves", async || {
        request.attempt().await.ok()?.ok()
    })
    .await;
    let frames = bob.frames_until("live").await;
    assert_eq!(data_of(&all_messages(&frames)), due, "{frames:?}");
    assert_eq!(reasons(&frames), ["store_lost"], "of the mailbox");
    for socket in [ann, bob] {
        socket.close().await;
    }
}

/// A store that went back brings events for everyone again, and loses none.
#[tokio::test]
async fn a_redis_that_went_back_repeats_and_loses_no_event_for_everyone() {
    let system = System::builder().own_servers().start().await;
    let mut ann = system.connect("ann").await;
    ann.until_live().await;
    system.publish("new_post.1", json!({ "data": 1 })).await;
    ann.messages(1).await;
    ann.close().await;
    // What is written once a second is on the disk by then.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let checkpoint = system.redis_server().checkpoint();
    system.publish("new_post.1", json!({ "data": 2 })).await;
    let mut ann = system.connect("ann").await;
    // It may still be on its way.
    assert_eq!(data_of(&ann.messages(1).await), [2]);
    ann.close().await;
    system.redis_server().roll_back(&checkpoint);
    system.ready().await;
    system.publish("new_post.1", json!({ "data": 3 })).await;
    system.processed().await;
    let request = system.gateway(0).socket().user("ann");
    let mut ann = eventually("the gateway serves", async || {
        request.attempt().await.ok()?.ok()
    })
    .await;
    // Nothing is told as missed on the way.
    assert_eq!(data_of(&ann.messages(2).await), [2, 3]);
}
