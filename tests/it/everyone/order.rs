//! The order of events for everyone among the user's own messages, and the limits of frames.

use serde_json::{Value, json};

use super::{Hall, data_in, for_everyone, open};
use crate::support::socket::{data_of, messages_of};
use crate::support::{System, event};

#[tokio::test]
async fn what_waits_comes_in_the_order_of_the_events_high_priority_first() {
    let mut hall = Hall::open(System::builder().workers(2)).await;
    hall.introduce("ann", "default").await;
    let mut expected = [Vec::new(), Vec::new()];
    for number in 0..150 {
        let address = format!("new_post.{}", number % 5);
        match number % 3 {
            0 => hall.tell_event(&address, for_everyone(number)).await,
            1 => {
                hall.system.publish(&address, event(&["ann"], number)).await;
            }
            _ => {
                let mut high = event(&["ann"], number);
                let priority = if number % 30 == 2 { "high" } else { "normal" };
                high["priority"] = json!(priority);
                hall.system.publish(&address, high).await;
            }
        }
        let is_high = number % 30 == 2;
        expected[usize::from(!is_high)].push(json!(number));
    }
    hall.system.processed().await;
    let (mut ann, frames) = open(hall.gateway(), "ann", "default").await;
    assert_eq!(frames[0]["pending"], 150);
    let [live] = &frames[frames.len() - 1..] else {
        panic!("{frames:?}");
    };
    assert_eq!(live["replayed"], 150);
    let data = data_in(&frames);
    assert_eq!(data, expected.concat());
    for frame in &frames[1..frames.len() - 1] {
        assert_eq!(frame["replay"], true, "{frame}");
    }
    // Acknowledging one frame in the middle leaves exactly what followed it.
    let middle = frames.len() / 2;
    ann.ack(&frames[middle]).await;
    ann.close().await;
    let (mut ann, rest) = open(hall.gateway(), "ann", "default").await;
    assert_eq!(data_in(&rest), data_in(&frames[middle + 1..]));
    ann.ack(rest.last().unwrap()).await;
    ann.close().await;
    let (_, frames) = open(hall.gateway(), "ann", "default").await;
    assert_eq!(data_in(&frames), [Value::Null; 0]);
}

#[tokio::test]
async fn one_key_keeps_its_order_live_and_waiting() {
    let mut hall = Hall::open(System::builder().workers(2)).await;
    hall.introduce("ann", "default").await;
    let numbers: Vec<u64> = (0..300).collect();
    hall.system
        .publish_all(300, |index| {
            // One key, several types.
            let address = ["new_post.k", "post_update.k", "delete_post.k"][index % 3];
            (address.to_owned(), for_everyone(index))
        })
        .await;
    let live = hall.watchers[0].messages_to(300).await;
    assert_eq!(data_of(&live), numbers);
    let mut ann = hall.system.connect("ann").await;
    assert_eq!(data_of(&ann.until_live().await), numbers);
}

#[tokio::test]
async fn at_most_a_window_is_sent_unacknowledged_live_and_waiting() {
    let hall = Hall::open(System::builder()).await;
    hall.introduce("bob", "default").await;
    let (mut ann, frames) = open(hall.gateway(), "ann", "default").await;
    let window = frames[0]["window"].as_u64().expect("a window") as usize;
    let total = window + 100;
    hall.system
        .publish_all(total, |index| {
            let body = match index % 4 {
                3 => event(&["ann", "bob"], index),
                _ => for_everyone(index),
            };
            (format!("new_post.{}", index % 2), body)
        })
        .await;
    hall.system.processed().await;
    let mut bob = hall.system.connect("bob").await;
    bob.expect("welcome").await;
    for (name, socket) in [("ann", &mut ann), ("bob", &mut bob)] {
        let (mut frames, mut received) = (Vec::new(), Vec::new());
        while received.len() < window {
            let frame = socket.expect("messages").await;
            received.extend(data_of(&messages_of(&frame)));
            frames.push(frame);
        }
        assert_eq!(received.len(), window, "{name}");
        socket
            .expect_silence(std::time::Duration::from_millis(300))
            .await;
        // Acknowledged one frame at a time, the rest follows.
        for frame in frames {
            socket.ack(&frame).await;
        }
        while received.len() < total {
            let frame = socket.frame().await;
            socket.ack(&frame).await;
            match frame["op"].as_str() {
                Some("messages") => received.extend(data_of(&messages_of(&frame))),
                Some("live") => {}
                _ => panic!("{frame}"),
            }
        }
        let mut numbers: Vec<u64> = received
            .iter()
            .map(|data| data.as_u64().expect("a number"))
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..total as u64).collect::<Vec<_>>(), "{name}");
    }
}

#[tokio::test]
async fn large_ones_come_in_frames_that_fit() {
    let mut hall = Hall::open(System::builder()).await;
    hall.introduce("ann", "default").await;
    let text = "x".repeat(60_000);
    for number in 0..12 {
        let data = json!([number, text]);
        match number % 2 {
            0 => hall.tell(data).await,
            _ => hall.tell_user(event(&["ann"], data)).await,
        }
    }
    let mut ann = hall.system.connect("ann").await;
    let frames = ann.frames_until("live").await;
    let numbers: Vec<Value> = (data_in(&frames).iter())
        .map(|data| data[0].clone())
        .collect();
    assert_eq!(numbers, (0..12).collect::<Vec<_>>());
    for frame in &frames {
        assert!(frame.to_string().len() <= 512 * 1024);
    }
}
