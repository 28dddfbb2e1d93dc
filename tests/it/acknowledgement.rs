//! What was not acknowledged comes again; what was is gone within a second, or with the close.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::socket::{all_messages, cursor, data_of, messages_of};
use crate::support::{Frame, Socket, System, event, user};

/// Publishes these numbers to one user, in order, and waits until they are stored.
async fn publish(system: &System, user: &str, numbers: std::ops::RangeInclusive<u64>) {
    let before = system.last_place(user, "normal").await;
    let address = format!("new_post.{user}");
    let (first, count) = (*numbers.start(), numbers.count());
    system
        .publish_all(count, |index| {
            (address.clone(), event(&[user], first + index as u64))
        })
        .await;
    system.until_stored(user, before + count as u64).await;
}

/// Connects the default device and reads to its `live` frame, acknowledging nothing.
async fn open(system: &System, user: &str) -> (Socket, Vec<Frame>) {
    let mut socket = system.connect(user).await;
    let frames = socket.frames_until("live").await;
    (socket, frames)
}

fn numbers(range: std::ops::RangeInclusive<u64>) -> Vec<Value> {
    range.map(|number| json!(number)).collect()
}

#[tokio::test]
async fn unacknowledged_messages_come_again_with_the_same_ids() {
    let system = System::shared().await;
    let ann = user("ann");
    publish(&system, &ann, 1..=4).await;
    let (socket, frames) = open(&system, &ann).await;
    let first = all_messages(&frames);
    socket.close().await;
    // A close acknowledges nothing, and neither does a connection that breaks off.
    let (socket, frames) = open(&system, &ann).await;
    assert_eq!(frames[0]["pending"], 4);
    assert_eq!(all_messages(&frames), first);
    drop(socket);
    let (mut socket, frames) = open(&system, &ann).await;
    assert_eq!(all_messages(&frames), first);
    // What came live and was not acknowledged is a replay the next time.
    publish(&system, &ann, 5..=5).await;
    let live = messages_of(&socket.expect("messages").await);
    socket.close().await;
    let (_, frames) = open(&system, &ann).await;
    let again = all_messages(&frames);
    assert_eq!(again[..4], first);
    assert_eq!(again[4..], live);
}

#[tokio::test]
async fn an_acknowledgement_is_cumulative_and_holds_for_its_part() {
    let system = System::shared().await;
    let ann = user("ann");
    let (mut socket, _) = open(&system, &ann).await;
    let mut cursors = Vec::new();
    for number in 1..=5 {
        publish(&system, &ann, number..=number).await;
        cursors.push(cursor(&socket.expect("messages").await).to_owned());
    }
    socket.ack_cursor(&cursors[2]).await;
    system.until_waiting(&ann, 2).await;
    // An earlier one, or the same again, changes nothing and is no fault.
    for earlier in [&cursors[0], &cursors[2], &cursors[1]] {
        socket.ack_cursor(earlier).await;
    }
    socket.close().await;
    assert_eq!(system.waiting(&ann).await.len(), 2);
    let (mut socket, frames) = open(&system, &ann).await;
    assert_eq!(frames[0]["pending"], 2);
    assert_eq!(data_of(&all_messages(&frames)), numbers(4..=5));
    // The cursor of `live`, or of `welcome`, counts like any other.
    socket.ack_cursor(cursor(&frames[0])).await;
    socket.ack_cursor(cursor(frames.last().unwrap())).await;
    system.until_waiting(&ann, 0).await;
}

#[tokio::test]
async fn an_acknowledgement_is_stored_within_a_second() {
    let system = System::shared().await;
    let ann = user("ann");
    let (mut socket, _) = open(&system, &ann).await;
    publish(&system, &ann, 1..=1).await;
    let frame = socket.expect("messages").await;
    let start = Instant::now();
    socket.ack(&frame).await;
    system.until_waiting(&ann, 0).await;
    let elapsed = start.elapsed();
    assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
}

#[tokio::test]
async fn the_last_acknowledgement_is_stored_before_the_close_is_answered() {
    let system = System::shared().await;
    let ann = user("ann");
    for round in 1..=20 {
        publish(&system, &ann, round..=round).await;
        let gateway = system.gateway(usize::from(round % 2 == 0));
        let mut socket = gateway.socket().user(&ann).connect().await;
        let frames = socket.frames_until("live").await;
        assert_eq!(data_of(&all_messages(&frames)), numbers(round..=round));
        socket.ack(frames.last().unwrap()).await;
        socket.close().await;
        assert_eq!(
            system.waiting(&ann).await,
            Vec::<String>::new(),
            "round {round}"
        );
        // The device is away now, and said so.
        assert!(!system.mailbox(&ann).await.contains_key("connections"));
    }
}

#[tokio::test]
async fn an_acknowledgement_before_a_broken_connection_counts() {
    let system = System::shared().await;
    let ann = user("ann");
    publish(&system, &ann, 1..=3).await;
    let (mut socket, frames) = open(&system, &ann).await;
    socket.ack(frames.last().unwrap()).await;
    drop(socket);
    system.until_waiting(&ann, 0).await;
}

#[tokio::test]
async fn a_client_may_have_its_messages_acknowledged_for_it() {
    let system = System::shared().await;
    let ann = user("ann");
    publish(&system, &ann, 1..=100).await;
    let request = system.gateway(0).socket().user(&ann).query("ack", "auto");
    let mut socket = request.connect().await;
    let frames = socket.frames_until("live").await;
    assert_eq!(data_of(&all_messages(&frames)), numbers(1..=100));
    system.until_waiting(&ann, 0).await;
    // No window holds it up, and what comes live counts as well.
    publish(&system, &ann, 101..=700).await;
    let mut received = Vec::new();
    while received.len() < 600 {
        received.extend(messages_of(&socket.expect("messages").await));
    }
    assert_eq!(data_of(&received), numbers(101..=700));
    system.until_waiting(&ann, 0).await;
    // An acknowledgement of its own is no fault, and the other way is the default.
    socket.ack_cursor(cursor(frames.last().unwrap())).await;
    socket.close().await;
    let request = system.gateway(0).socket().user(&ann).query("ack", "client");
    publish(&system, &ann, 701..=701).await;
    request.connect().await.frames_until("live").await;
    assert_eq!(system.waiting(&ann).await.len(), 1);
}

/// Reads a whole window of messages, and asserts that no more come.
async fn read_window(socket: &mut Socket, unacknowledged: &mut Vec<Frame>, window: usize) {
    const NOTHING_MORE: Duration = Duration::from_millis(300);
    // A client may wait for all of it before it acknowledges.
    while all_messages(unacknowledged).len() < window {
        unacknowledged.push(socket.frame().await);
    }
    assert_eq!(all_messages(unacknowledged).len(), window);
    socket.expect_silence(NOTHING_MORE).await;
}

#[tokio::test]
async fn at_most_a_window_of_messages_is_sent_unacknowledged() {
    let system = System::shared().await;
    let ann = user("ann");
    publish(&system, &ann, 1..=600).await;
    let mut socket = system.connect(&ann).await;
    let welcome = socket.expect("welcome").await;
    assert_eq!(welcome["pending"], 600);
    let window = usize::try_from(welcome["window"].as_u64().unwrap()).unwrap();
    assert!((64..600).contains(&window), "{welcome}");

    let mut unacknowledged = Vec::new();
    let mut received = Vec::new();
    read_window(&mut socket, &mut unacknowledged, window).await;
    // One frame acknowledged at a time, as slowly as a client may.
    while received.len() < 600 {
        let frame = unacknowledged.remove(0);
        assert_eq!(
            (&frame["op"], &frame["replay"]),
            (&json!("messages"), &json!(true))
        );
        received.extend(messages_of(&frame));
        socket.ack(&frame).await;
        if received.len() + all_messages(&unacknowledged).len() < 600 && unacknowledged.len() < 2 {
            unacknowledged.push(socket.frame().await);
        }
        let count = all_messages(&unacknowledged).len();
        assert!(count <= window, "{count} messages without acknowledgement");
    }
    assert_eq!(data_of(&received), numbers(1..=600));
    unacknowledged.extend(socket.frame_within(Duration::from_secs(5)).await);
    let live = unacknowledged.pop().unwrap();
    assert_eq!(
        (&live["op"], &live["replayed"]),
        (&json!("live"), &json!(600))
    );
    socket.ack(&live).await;
    system.until_waiting(&ann, 0).await;
}

#[tokio::test]
async fn the_window_holds_for_what_comes_live_as_well() {
    let system = System::shared().await;
    let ann = user("ann");
    let (mut socket, frames) = open(&system, &ann).await;
    let window = usize::try_from(frames[0]["window"].as_u64().unwrap()).unwrap();
    let total = window + 100;
    let mut unacknowledged = Vec::new();
    publish(&system, &ann, 1..=total as u64).await;
    read_window(&mut socket, &mut unacknowledged, window).await;
    // The rest waits in the mailbox, and is no replay when it comes.
    let mut received = all_messages(&unacknowledged);
    socket.ack(unacknowledged.last().unwrap()).await;
    while received.len() < total {
        let frame = socket.expect("messages").await;
        assert_eq!(frame.get("replay"), None, "{frame}");
        socket.ack(&frame).await;
        received.extend(messages_of(&frame));
    }
    assert_eq!(data_of(&received), numbers(1..=total as u64));
    // And it is live again.
    publish(&system, &ann, 9999..=9999).await;
    let frame = socket.expect("messages").await;
    assert_eq!(data_of(&messages_of(&frame)), [9999]);
    socket.ack(&frame).await;
    system.until_waiting(&ann, 0).await;
}
