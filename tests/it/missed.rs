//! What will not come is told: how many, why, and between which times.

use serde_json::{Value, json};

use crate::support::socket::{all_messages, cursor, data_of, messages_of, with_op};
use crate::support::{Frame, Socket, System, event, user};

/// A system in which at most 8 messages wait for a user in each lane.
async fn small() -> System {
    let builder = System::builder().env("CATCHUP_MAX_MESSAGES", "8");
    builder.start_shared("cap of 8").await
}

/// Publishes these numbers to one user, and waits until the mailbox has them and the cap is kept.
async fn publish(system: &System, user: &str, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        let address = format!("new_post.{user}");
        system.publish(&address, event(&[user], number)).await;
    }
    system.processed().await;
}

async fn open(system: &System, user: &str) -> (Socket, Vec<Frame>) {
    let mut socket = system.connect(user).await;
    let frames = socket.frames_until("live").await;
    (socket, frames)
}

/// Checks that exactly these were told as missed, each as (reason, count), in this order.
fn assert_missed(frames: &[Frame], expected: &[(&str, u64)]) {
    let missed = with_op(frames, "missed");
    let told: Vec<_> = missed
        .iter()
        .map(|frame| (frame["reason"].as_str().unwrap(), frame["count"].as_u64()))
        .collect();
    let expected: Vec<_> = expected
        .iter()
        .map(|(reason, count)| (*reason, Some(*count)))
        .collect();
    assert_eq!(told, expected, "{frames:?}");
}

fn assert_data(frames: &[Frame], expected: std::ops::RangeInclusive<u64>) {
    let expected: Vec<Value> = expected.map(|number| json!(number)).collect();
    assert_eq!(data_of(&all_messages(frames)), expected);
}

#[tokio::test]
async fn what_the_cap_evicted_is_told_exactly_until_it_is_acknowledged() {
    let system = small().await;
    let ann = user("ann");
    publish(&system, &ann, 1..=20).await;
    assert_eq!(system.waiting(&ann).await.len(), 8);
    let (mut socket, frames) = open(&system, &ann).await;
    let ops: Vec<_> = frames.iter().map(|frame| frame["op"].as_str()).collect();
    assert_eq!(ops, ["welcome", "missed", "messages", "live"].map(Some));
    assert_eq!(frames[0]["pending"], 8);
    assert_missed(&frames, &[("evicted", 12)]);
    let messages = all_messages(&frames);
    assert_eq!(frames[1]["from"], Value::Null);
    assert_eq!(frames[1]["to"], messages[0]["time"]);
    assert_eq!(frames[3]["replayed"], 8);
    assert_data(&frames, 13..=20);
    socket.close().await;

    // Not acknowledged: told again, and more where more went.
    publish(&system, &ann, 21..=22).await;
    let frames;
    (socket, frames) = open(&system, &ann).await;
    assert_missed(&frames, &[("evicted", 14)]);
    assert_data(&frames, 15..=22);
    // Acknowledging what was told leaves the messages.
    socket.ack(&frames[1]).await;
    socket.close().await;
    let frames;
    (socket, frames) = open(&system, &ann).await;
    assert_missed(&frames, &[]);
    assert_data(&frames, 15..=22);
    // A later cursor acknowledges all before it.
    publish(&system, &ann, 23..=24).await;
    socket.close().await;
    let frames;
    (socket, frames) = open(&system, &ann).await;
    assert_missed(&frames, &[("evicted", 2)]);
    socket.ack(with_op(&frames, "messages")[0]).await;
    socket.close().await;
    let (_, frames) = open(&system, &ann).await;
    assert_missed(&frames, &[]);
    assert_eq!(frames[0]["pending"], 0);
}

#[tokio::test]
async fn the_gap_lies_between_the_last_acknowledged_and_the_next_message() {
    let system = small().await;
    let ann = user("ann");
    let (mut socket, _) = open(&system, &ann).await;
    publish(&system, &ann, 1..=3).await;
    let received = socket.messages(3).await;
    socket.close().await;
    publish(&system, &ann, 4..=15).await;
    let (_, frames) = open(&system, &ann).await;
    assert_missed(&frames, &[("evicted", 4)]);
    assert_eq!(frames[1]["from"], received[2]["time"]);
    assert_eq!(frames[1]["to"], all_messages(&frames)[0]["time"]);
    assert_data(&frames, 8..=15);
}

#[tokio::test]
async fn the_count_is_exact_from_the_cursor_that_the_client_gives() {
    let system = small().await;
    let ann = user("ann");
    let (mut socket, _) = open(&system, &ann).await;
    publish(&system, &ann, 1..=5).await;
    let mut frames = Vec::new();
    while all_messages(&frames).len() < 5 {
        frames.push(socket.expect("messages").await);
    }
    // The acknowledgement of the last three never arrives.
    socket.ack(&frames[1]).await;
    socket.close().await;
    publish(&system, &ann, 6..=20).await;
    // From the stored acknowledgement 3 to 12; but 3, 4 and 5 were received.
    let (socket, stored) = open(&system, &ann).await;
    assert_missed(&stored, &[("evicted", 10)]);
    assert_eq!(stored[1]["from"], messages_of(&frames[1])[0]["time"]);
    socket.close().await;
    let request = system.gateway(0).socket().user(&ann);
    let mut socket = request.cursor(cursor(&frames[4])).connect().await;
    let given = socket.frames_until("live").await;
    assert_missed(&given, &[("evicted", 7)]);
    assert_eq!(given[1]["from"], messages_of(&frames[4])[0]["time"]);
    assert_data(&given, 13..=20);
}

#[tokio::test]
async fn a_connected_device_has_all_whatever_the_cap() {
    let system = small().await;
    let ann = user("ann");
    let (mut socket, _) = open(&system, &ann).await;
    publish(&system, &ann, 1..=20).await;
    let mut frames = Vec::new();
    while all_messages(&frames).len() < 20 {
        // A `missed` frame would fail here: whoever reads has nothing to miss.
        frames.push(socket.expect("messages").await);
    }
    assert_data(&frames, 1..=20);
    // With its cursor nothing is missed; without one it may be told what it had received.
    socket.close().await;
    let request = system.gateway(0).socket().user(&ann);
    let request = request.cursor(cursor(frames.last().unwrap()));
    let mut socket = request.connect().await;
    let frames = socket.frames_until("live").await;
    assert_missed(&frames, &[]);
    assert!(all_messages(&frames).is_empty());
}

#[tokio::test]
async fn each_lane_has_its_own_cap_and_its_own_count() {
    let system = small().await;
    let ann = user("ann");
    let address = format!("new_post.{ann}");
    for number in 1..=11 {
        let mut high = event(&[&ann], 100 + number);
        high["priority"] = json!("high");
        system.publish(&address, high).await;
    }
    publish(&system, &ann, 1..=10).await;
    system.until_waiting(&ann, 16).await;
    assert_eq!(system.waiting_high(&ann).await.len(), 8);
    let (mut socket, frames) = open(&system, &ann).await;
    assert_eq!(frames[0]["pending"], 16);
    assert_missed(&frames, &[("evicted", 3), ("evicted", 2)]);
    let expected: Vec<_> = (104..=111)
        .chain(3..=10)
        .map(|number| json!(number))
        .collect();
    assert_eq!(data_of(&all_messages(&frames)), expected);
    // The first gap stands before the messages that follow it, the second before the others.
    let ops: Vec<_> = frames
        .iter()
        .map(|frame| frame["op"].as_str().unwrap())
        .collect();
    assert_eq!(
        ops,
        [
            "welcome", "missed", "messages", "missed", "messages", "live"
        ]
    );
    socket.ack(frames.last().unwrap()).await;
    system.until_waiting(&ann, 0).await;
    socket.close().await;
    let (_, frames) = open(&system, &ann).await;
    assert_missed(&frames, &[]);
}

#[tokio::test]
async fn a_cap_of_one_keeps_the_newest() {
    let builder = System::builder().env("CATCHUP_MAX_MESSAGES", "1");
    let system = builder.start().await;
    let ann = user("ann");
    publish(&system, &ann, 1..=5).await;
    let (mut socket, frames) = open(&system, &ann).await;
    assert_missed(&frames, &[("evicted", 4)]);
    assert_data(&frames, 5..=5);
    socket.ack(frames.last().unwrap()).await;
    // A burst in one batch to somebody who is there.
    let address = format!("new_post.{ann}");
    system
        .publish_all(50, |index| (address.clone(), event(&[&ann], index)))
        .await;
    let mut data = Vec::new();
    let mut missed = 0;
    while data.last() != Some(&json!(49)) {
        let frame = socket.frame().await;
        socket.ack(&frame).await;
        match frame["op"].as_str() {
            Some("messages") => data.extend(data_of(&messages_of(&frame))),
            Some("missed") => missed += frame["count"].as_u64().unwrap(),
            _ => panic!("{frame}"),
        }
    }
    // Whatever did not come was told.
    assert_eq!(data.len() as u64 + missed, 50);
}

#[tokio::test]
async fn a_connected_device_that_lags_is_told_what_the_cap_took() {
    let system = small().await;
    let ann = user("ann");
    let (mut socket, frames) = open(&system, &ann).await;
    let window = frames[0]["window"].as_u64().unwrap();
    let total = window + 50;
    let mut frames = Vec::new();
    for number in 1..=window {
        let address = format!("new_post.{ann}");
        system.publish(&address, event(&[&ann], number)).await;
        frames.push(socket.expect("messages").await);
    }
    publish(&system, &ann, window + 1..=total).await;
    assert_data(&frames, 1..=window);
    // With the window full the rest waits, and of that the cap leaves eight.
    let last = frames.last().unwrap();
    socket.ack(last).await;
    let missed = socket.expect("missed").await;
    assert_missed(std::slice::from_ref(&missed), &[("evicted", 42)]);
    assert_eq!(missed["from"], messages_of(last)[0]["time"]);
    let rest = socket.expect("messages").await;
    assert_eq!(rest.get("replay"), None);
    assert_eq!(missed["to"], messages_of(&rest)[0]["time"]);
    assert_data(std::slice::from_ref(&rest), total - 7..=total);
    socket.ack(&rest).await;
    system.until_waiting(&ann, 0).await;
    socket.close().await;
    let (_, frames) = open(&system, &ann).await;
    assert_missed(&frames, &[]);
}
