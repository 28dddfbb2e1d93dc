//! High priority comes first in a replay, has a list of its own, and is named.

use serde_json::{Value, json};

use crate::support::socket::{all_messages, data_of};
use crate::support::{System, event, user};

fn high(users: &[&str], data: impl Into<Value>) -> Value {
    let mut body = event(users, data);
    body["priority"] = json!("high");
    body
}

#[tokio::test]
async fn the_users_own_high_messages_are_replayed_first() {
    let system = System::shared().await;
    let ann = user("ann");
    let address = format!("new_post.{ann}");
    for number in 1..=6 {
        let body = match number % 3 {
            0 => high(&[&ann], number),
            _ => event(&[&ann], number),
        };
        system.publish(&address, body).await;
    }
    system.until_waiting(&ann, 6).await;
    assert_eq!(system.waiting_high(&ann).await.len(), 2);
    let mut socket = system.connect(&ann).await;
    let frames = socket.frames_until("live").await;
    assert_eq!(
        (&frames[0]["pending"], &frames.last().unwrap()["replayed"]),
        (&json!(6), &json!(6))
    );
    let messages = all_messages(&frames);
    assert_eq!(data_of(&messages), [3, 6, 1, 2, 4, 5]);
    for message in &messages {
        let is_high = message["data"].as_u64().unwrap() % 3 == 0;
        assert_eq!(
            message.get("priority"),
            is_high.then_some(&json!("high")),
            "{message}"
        );
    }
    socket.ack(frames.last().unwrap()).await;
    system.until_waiting(&ann, 0).await;
}

#[tokio::test]
async fn each_lane_is_acknowledged_by_itself() {
    let system = System::shared().await;
    let ann = user("ann");
    let address = format!("new_post.{ann}");
    system.publish(&address, event(&[&ann], "normal")).await;
    system.publish(&address, high(&[&ann], "high")).await;
    system.until_waiting(&ann, 2).await;
    let mut socket = system.connect(&ann).await;
    let frames = socket.frames_until("live").await;
    assert_eq!(data_of(&all_messages(&frames)), ["high", "normal"]);
    // The first frame holds only what is high.
    socket.ack(&frames[1]).await;
    socket.close().await;
    assert!(system.waiting_high(&ann).await.is_empty());
    assert_eq!(system.waiting(&ann).await.len(), 1);
    let mut socket = system.connect(&ann).await;
    assert_eq!(data_of(&socket.until_live().await), ["normal"]);
}

#[tokio::test]
async fn live_messages_of_both_priorities_come_as_they_are_published() {
    let system = System::shared().await;
    let ann = user("ann");
    let mut socket = system.connect(&ann).await;
    socket.until_live().await;
    let address = format!("new_post.{ann}");
    for round in 0..5 {
        system.publish(&address, event(&[&ann], round * 2)).await;
        system.publish(&address, high(&[&ann], round * 2 + 1)).await;
        let messages = socket.messages(2).await;
        let priorities: Vec<_> = messages
            .iter()
            .map(|it| it.get("priority").cloned())
            .collect();
        assert_eq!(priorities, [None, Some(json!("high"))]);
        assert_eq!(data_of(&messages), [round * 2, round * 2 + 1]);
    }
    system.until_waiting(&ann, 0).await;
}

#[tokio::test]
async fn high_messages_that_come_during_a_replay_are_no_part_of_it() {
    let system = System::shared().await;
    let ann = user("ann");
    let address = format!("new_post.{ann}");
    system
        .publish_all(300, |index| (address.clone(), event(&[&ann], index)))
        .await;
    system.until_waiting(&ann, 300).await;
    let mut socket = system.connect(&ann).await;
    assert_eq!(socket.expect("welcome").await["pending"], 300);
    // The window is full; the rest of the backlog waits behind it.
    system.publish(&address, high(&[&ann], "urgent")).await;
    system.until_waiting(&ann, 301).await;
    let (mut replayed, mut live) = (Vec::new(), Vec::new());
    let mut told = None;
    while replayed.len() + live.len() < 301 || told.is_none() {
        let frame = socket.frame().await;
        socket.ack(&frame).await;
        match frame["op"].as_str() {
            Some("live") => told = Some(frame["replayed"].clone()),
            Some("messages") if frame["replay"] == true => replayed.extend(all_messages(&[frame])),
            Some("messages") => live.extend(all_messages(&[frame])),
            _ => panic!("{frame}"),
        }
    }
    assert_eq!(told, Some(json!(300)));
    assert_eq!(
        data_of(&replayed),
        (0..300).map(|it| json!(it)).collect::<Vec<_>>()
    );
    assert_eq!(data_of(&live), ["urgent"]);
    system.until_waiting(&ann, 0).await;
}
