//! A message waits for its time to live and no longer; what expired is told.

use std::time::Duration;

use redis::AsyncCommands;
use serde_json::{Value, json};

use crate::support::socket::{all_messages, cursor, data_of, messages_of, with_op};
use crate::support::store::clock_ms;
use crate::support::{Frame, Socket, System, event, eventually, user};

const SHORT_TTL: Duration = Duration::from_secs(3);

/// A system in which messages wait for 3 seconds.
async fn short() -> System {
    let builder = System::builder().env("CATCHUP_MESSAGE_TTL", "3s");
    builder.start_shared("3 s to live").await
}

/// Publishes a number that waits for so many seconds, and waits until it is stored.
async fn publish(system: &System, user: &str, number: u64, ttl_seconds: Option<u64>) {
    let place = system.last_place(user, "normal").await + 1;
    let mut body = event(&[user], number);
    if let Some(seconds) = ttl_seconds {
        body["ttlSeconds"] = json!(seconds);
    }
    system.publish(&format!("new_post.{user}"), body).await;
    system.until_stored(user, place).await;
}

async fn open(system: &System, user: &str) -> (Socket, Vec<Frame>) {
    let mut socket = system.connect(user).await;
    let frames = socket.frames_until("live").await;
    (socket, frames)
}

/// What a connection was told, in order: numbers that came, and gaps as "reason count".
fn told(frames: &[Frame]) -> Vec<Value> {
    let mut told = Vec::new();
    for frame in frames {
        match frame["op"].as_str() {
            Some("messages") => told.extend(data_of(&messages_of(frame))),
            Some("missed") => {
                let reason = frame["reason"].as_str().unwrap();
                told.push(json!(format!("{reason} {}", frame["count"])));
            }
            _ => {}
        }
    }
    told
}

#[tokio::test]
async fn a_young_message_stays_when_the_old_one_before_it_expires() {
    let system = System::shared().await;
    let ann = user("ann");
    publish(&system, &ann, 1, Some(1)).await;
    publish(&system, &ann, 2, None).await;
    system.until_expired(&ann, &[0]).await;
    let (mut socket, frames) = open(&system, &ann).await;
    assert_eq!(frames[0]["pending"], 1);
    assert_eq!(told(&frames), [json!("expired 1"), json!(2)]);
    let missed = with_op(&frames, "missed")[0];
    assert_eq!(missed["from"], Value::Null);
    assert_eq!(missed["to"], all_messages(&frames)[0]["time"]);
    assert_eq!(frames.last().unwrap()["replayed"], 1);
    // Told again until it is acknowledged; then never.
    socket.close().await;
    let frames;
    (socket, frames) = open(&system, &ann).await;
    assert_eq!(told(&frames), [json!("expired 1"), json!(2)]);
    socket.ack(with_op(&frames, "missed")[0]).await;
    socket.close().await;
    let (_, frames) = open(&system, &ann).await;
    assert_eq!(told(&frames), [json!(2)]);
}

#[tokio::test]
async fn what_expired_in_the_middle_is_told_in_its_place() {
    let system = System::shared().await;
    let ann = user("ann");
    let (mut socket, _) = open(&system, &ann).await;
    publish(&system, &ann, 1, None).await;
    let first = socket.expect("messages").await;
    socket.ack(&first).await;
    socket.close().await;
    for (number, ttl) in [
        (2, None),
        (3, Some(1)),
        (4, Some(1)),
        (5, None),
        (6, Some(1)),
    ] {
        publish(&system, &ann, number, ttl).await;
    }
    system.until_expired(&ann, &[1, 2, 4]).await;
    let (mut socket, frames) = open(&system, &ann).await;
    let expected = [json!(2), json!("expired 2"), json!(5), json!("expired 1")];
    assert_eq!(told(&frames), expected);
    let missed = with_op(&frames, "missed");
    // Acknowledged is only the first, when these are sent; after the last there is only now.
    assert_eq!(missed[0]["from"], messages_of(&first)[0]["time"]);
    assert_eq!(missed[0]["to"], all_messages(&frames)[1]["time"]);
    assert!(missed[1]["to"].as_str() > all_messages(&frames)[1]["time"].as_str());
    socket.ack(frames.last().unwrap()).await;
    system.until_waiting(&ann, 0).await;
    socket.close().await;
    let (_, frames) = open(&system, &ann).await;
    assert!(told(&frames).is_empty(), "{frames:?}");
}

#[tokio::test]
async fn a_whole_list_that_expired_is_told() {
    let system = short().await;
    let ann = user("ann");
    for number in 1..=5 {
        publish(&system, &ann, number, None).await;
    }
    let last = crate::support::store::message(&system.waiting(&ann).await[4]);
    let key = system.key(&format!("offline_messages:{{{ann}}}"));
    let mut redis = system.redis().await;
    eventually("the list's own expiry", async || {
        let exists: bool = redis.exists(&key).await.unwrap();
        (!exists).then_some(())
    })
    .await;
    let (mut socket, frames) = open(&system, &ann).await;
    assert_eq!(frames[0]["pending"], 0);
    assert_eq!(told(&frames), [json!("expired 5")]);
    let missed = with_op(&frames, "missed")[0];
    assert_eq!(missed["from"], Value::Null);
    assert!(missed["to"].as_str() > last["time"].as_str(), "{missed}");
    assert_eq!(frames.last().unwrap()["replayed"], 0);
    // The places go on: what comes next is not taken for something else.
    socket.ack(missed).await;
    publish(&system, &ann, 6, None).await;
    let frame = socket.expect("messages").await;
    assert_eq!(data_of(&messages_of(&frame)), [6]);
    socket.close().await;
    let (_, frames) = open(&system, &ann).await;
    assert_eq!(told(&frames), [json!(6)]);
}

#[tokio::test]
async fn an_old_list_does_not_take_a_young_message_with_it() {
    let system = short().await;
    let ann = user("ann");
    publish(&system, &ann, 1, None).await;
    let key = system.key(&format!("offline_messages:{{{ann}}}"));
    let mut redis = system.redis().await;
    let mut list_expiry = async || -> i64 { redis.pexpire_time(&key).await.unwrap() };
    let first_expiry = list_expiry().await;
    system.until_expired(&ann, &[0]).await;
    // The list has to grow older than the time to live, and not yet twice as old.
    tokio::time::sleep(SHORT_TTL.mul_f32(0.45)).await;
    publish(&system, &ann, 2, None).await;
    let moved = list_expiry().await;
    assert!(moved > first_expiry, "the list's expiry moves");
    let mut redis = system.redis().await;
    eventually("the moment at which the list would have gone", async || {
        let now = i64::try_from(clock_ms(&mut redis).await).unwrap();
        (now > first_expiry).then_some(())
    })
    .await;
    let (_, frames) = open(&system, &ann).await;
    assert_eq!(told(&frames), [json!("expired 1"), json!(2)]);
}

#[tokio::test]
async fn evicted_and_expired_are_told_apart() {
    let builder = System::builder().env("CATCHUP_MAX_MESSAGES", "8");
    let system = builder.start_shared("cap of 8").await;
    let ann = user("ann");
    for number in 1..=12 {
        let ttl = (number <= 7).then_some(1);
        publish(&system, &ann, number, ttl).await;
    }
    // The cap took 1 to 4, their time 5 to 7.
    system.processed().await;
    system.until_expired(&ann, &[0, 1, 2]).await;
    let (mut socket, frames) = open(&system, &ann).await;
    assert_eq!(frames[0]["pending"], 5);
    let mut expected = vec![json!("evicted 4"), json!("expired 3")];
    expected.extend((8..=12).map(|number| json!(number)));
    assert_eq!(told(&frames), expected);
    // Acknowledging the first of the two frames leaves the second.
    socket.ack(with_op(&frames, "missed")[0]).await;
    socket.close().await;
    let (_, frames) = open(&system, &ann).await;
    assert_eq!(told(&frames)[0], json!("expired 3"));
}

#[tokio::test]
async fn a_device_unseen_for_the_time_to_live_holds_nothing_up() {
    let system = short().await;
    let ann = user("ann");
    let connect = |device: &str| system.gateway(0).socket().user(&ann).device(device);
    let mut old = connect("old").connect().await;
    let frames = old.frames_until("live").await;
    let cursor = cursor(frames.last().unwrap()).to_owned();
    old.close().await;
    // The device has to be unseen for longer than a message may wait.
    tokio::time::sleep(SHORT_TTL + Duration::from_millis(50)).await;
    for number in 1..=3 {
        publish(&system, &ann, number, None).await;
    }
    // For a user whose devices are all forgotten the next one is the first.
    let mut fresh = connect("fresh").connect().await;
    let frames = fresh.frames_until("live").await;
    assert_eq!(told(&frames), [1, 2, 3]);
    fresh.ack(frames.last().unwrap()).await;
    system.until_waiting(&ann, 0).await;
    // With its cursor the old one hears what the other took; without it, it is new.
    let mut back = connect("old").cursor(&cursor).connect().await;
    let frames = back.frames_until("live").await;
    assert_eq!(told(&frames), [json!("expired 3")]);
}

#[tokio::test]
async fn an_expired_message_never_comes_live_or_late() {
    let system = short().await;
    let ann = user("ann");
    let (mut socket, _) = open(&system, &ann).await;
    publish(&system, &ann, 1, Some(1)).await;
    // Connected users have it at once, however short its life.
    let frame = socket.expect("messages").await;
    assert_eq!(data_of(&messages_of(&frame)), [1]);
    system.until_expired(&ann, &[0]).await;
    socket.close().await;
    // It was received and not acknowledged; its place is told and nothing repeated.
    let request = system.gateway(0).socket().user(&ann);
    let mut socket = request.cursor(cursor(&frame)).connect().await;
    let frames = socket.frames_until("live").await;
    assert!(told(&frames).is_empty(), "{frames:?}");
}

#[tokio::test]
async fn a_connected_device_is_known_however_long_it_says_nothing() {
    let system = short().await;
    let ann = user("ann");
    let connect = |device: &str| system.gateway(0).socket().user(&ann).device(device);
    let gone = connect("gone").connect().await;
    let mut silent = connect("silent").connect().await;
    let mut busy = connect("busy").connect().await;
    silent.frames_until("live").await;
    busy.until_live().await;
    gone.close().await;
    // Both are last seen longer ago than a message may wait; but one is still there.
    tokio::time::sleep(SHORT_TTL + Duration::from_millis(200)).await;
    publish(&system, &ann, 1, None).await;
    let frame = silent.expect("messages").await;
    busy.messages(1).await;
    busy.close().await;
    assert_eq!(
        system.waiting(&ann).await.len(),
        1,
        "the silent one may need it again"
    );
    // The one that was away for so long starts anew: at the present, and nothing is missed.
    let mut back = connect("gone").connect().await;
    let frames = back.frames_until("live").await;
    assert!(told(&frames).is_empty(), "{frames:?}");
    silent.ack(&frame).await;
    system.until_waiting(&ann, 0).await;
}
