//! The order of what comes, with several workers and many keys.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::support::{System, event, user};

/// Milliseconds since 1970 of a message's time.
fn time_ms(message: &Value) -> i128 {
    let text = message["time"].as_str().expect("a time");
    let format = &time::format_description::well_known::Rfc3339;
    let time = time::OffsetDateTime::parse(text, format).expect("RFC 3339");
    time.unix_timestamp_nanos() / 1_000_000
}

/// Asserts that each key's messages are in the order of their numbers.
fn assert_keys_in_order(messages: &[Value]) {
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    for message in messages {
        let key = message["key"].to_string();
        let number = message["data"].as_u64().expect("a number");
        let before = last.insert(key, number);
        assert!(
            before < Some(number),
            "{number} after {before:?}: {message}"
        );
    }
}

/// How far back in time a message may lie behind the latest before it.
fn disorder_ms(messages: &[Value]) -> i128 {
    let mut latest = 0;
    let mut worst = 0;
    for message in messages {
        let time = time_ms(message);
        worst = worst.max(latest - time);
        latest = latest.max(time);
    }
    worst
}

#[tokio::test]
async fn what_waits_comes_in_event_time_order_over_all_keys() {
    const COUNT: usize = 900;
    let system = System::builder().workers(3).start().await;
    let ann = user("ann");
    system
        .publish_all(COUNT, |index| {
            // 40 keys over all partitions, and some without a key.
            let address = match index % 41 {
                40 => "new_post".to_owned(),
                key => format!("new_post.key-{key}"),
            };
            (address, event(&[&ann], index))
        })
        .await;
    system.until_waiting(&ann, COUNT).await;
    let mut socket = system.connect(&ann).await;
    let messages = socket.until_live().await;
    assert_eq!(messages.len(), COUNT);
    let (keyed, _): (Vec<_>, Vec<_>) =
        (messages.iter().cloned()).partition(|message| message.get("key").is_some());
    assert_keys_in_order(&keyed);
    let disorder = disorder_ms(&messages);
    assert!(disorder < 1_000, "{disorder} ms");
}

#[tokio::test]
async fn seconds_apart_nothing_changes_places() {
    let system = System::builder().workers(3).start().await;
    let ann = user("ann");
    let mut total = 0;
    // Three bursts over many keys, more than a second between one and the next.
    for burst in 0..3 {
        if burst > 0 {
            // Only events that are less than a second apart may change places.
            tokio::time::sleep(Duration::from_millis(1_100)).await;
        }
        let address = |index: usize| format!("new_post.{}", (index * 7 + burst) % 23);
        system
            .publish_all(100, |index| (address(index), event(&[&ann], burst as u64)))
            .await;
        total += 100;
    }
    system.until_waiting(&ann, total).await;
    let messages = system.connect(&ann).await.until_live().await;
    let bursts: Vec<u64> = messages
        .iter()
        .map(|it| it["data"].as_u64().unwrap())
        .collect();
    assert!(bursts.is_sorted(), "{bursts:?}");
}

#[tokio::test]
async fn a_key_keeps_its_order_from_waiting_to_live() {
    const COUNT: usize = 400;
    let system = System::shared().await;
    let ann = user("ann");
    let address = format!("new_post.{ann}");
    // Connects in the middle of the stream: some of it waits, some comes live.
    let publishing = system.publish_all(COUNT, |index| (address.clone(), event(&[&ann], index)));
    let connecting = async {
        system.until_first(&ann).await;
        let mut socket = system.connect(&ann).await;
        socket.messages(COUNT).await
    };
    let ((), messages) = tokio::join!(publishing, connecting);
    assert_keys_in_order(&messages);
    system.until_waiting(&ann, 0).await;
}

#[tokio::test]
async fn messages_of_one_event_reach_many_users_in_each_ones_order() {
    const COUNT: usize = 60;
    let system = System::shared().await;
    let names: Vec<String> = (0..10).map(|_| user("ann")).collect();
    let targets: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut sockets = Vec::new();
    for (index, name) in names.iter().enumerate() {
        // Half of them are away.
        if index % 2 == 0 {
            let gateway = system.gateway(index / 2 % 2);
            let mut socket = gateway.socket().user(name).connect().await;
            socket.until_live().await;
            sockets.push(socket);
        }
    }
    system
        .publish_all(COUNT, |index| {
            (
                format!("new_post.{}-{}", names[0], index % 3),
                event(&targets, index),
            )
        })
        .await;
    for socket in &mut sockets {
        assert_keys_in_order(&socket.messages(COUNT).await);
    }
    for name in names.iter().skip(1).step_by(2) {
        system.until_waiting(name, COUNT).await;
        assert_keys_in_order(&system.connect(name).await.until_live().await);
    }
}
