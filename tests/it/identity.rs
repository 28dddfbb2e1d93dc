//! Which id a message has, and publishing that may be repeated.

use async_nats::HeaderMap;
use serde_json::{Value, json};

use crate::support::{System, event, user};

fn header(id: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", id);
    headers
}

#[tokio::test]
async fn a_publish_with_a_message_id_is_idempotent() {
    let system = System::shared().await;
    let ann = user("ann");
    let mut socket = system.connect(&ann).await;
    socket.until_live().await;
    let address = format!("new_post.{ann}");
    let publish = async |id: &str, data: &str| {
        let body = event(&[&ann], data).to_string();
        let ack = system.publish_with(&address, header(id), body).await;
        ack.expect("a PubAck")
    };
    let id = format!("once-{ann}");
    let first = publish(&id, "first").await;
    assert!(!first.duplicate);
    // Whatever the second one says, and even under another type: it is the first.
    for data in ["first", "other"] {
        let again = publish(&id, data).await;
        assert!(again.duplicate);
        assert_eq!(again.sequence, first.sequence);
    }
    publish(&format!("{id}-2"), "second").await;
    let messages = socket.messages(2).await;
    let received: Vec<_> = messages
        .iter()
        .map(|message| (message["id"].clone(), message["data"].clone()))
        .collect();
    let expected = [
        (json!(id), json!("first")),
        (json!(format!("{id}-2")), json!("second")),
    ];
    assert_eq!(received, expected);
}

#[tokio::test]
async fn the_body_names_the_id_else_the_header_else_the_stream() {
    let system = System::shared().await;
    let ann = user("ann");
    let address = format!("new_post.{ann}");
    let mut with_id = event(&[&ann], 1);
    with_id["id"] = json!("of the body ✓");
    let publish = async |headers: HeaderMap, body: &Value| -> u64 {
        let ack = system.publish_with(&address, headers, body.to_string());
        ack.await.unwrap().sequence
    };
    publish(header(&format!("h1-{ann}")), &with_id).await;
    publish(header(&format!("h2-{ann}")), &event(&[&ann], 2)).await;
    let third = publish(HeaderMap::new(), &event(&[&ann], 3)).await;
    let fourth = publish(HeaderMap::new(), &event(&[&ann], 4)).await;
    system.until_waiting(&ann, 4).await;
    let mut socket = system.connect(&ann).await;
    let messages = socket.until_live().await;
    let ids: Vec<&str> = messages
        .iter()
        .map(|it| it["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids[0], "of the body ✓");
    assert_eq!(ids[1], format!("h2-{ann}"));
    // Made from the store time and the sequence: the same at every delivery, and no other's.
    for (id, sequence) in [(ids[2], third), (ids[3], fourth)] {
        let stored = system.stored(sequence).await;
        let time_ms = stored.time.unix_timestamp_nanos() / 1_000_000;
        assert!(
            id.contains(&sequence.to_string()) && id.contains(&time_ms.to_string()),
            "{id}"
        );
    }
    assert_ne!(ids[2], ids[3]);
}

#[tokio::test]
async fn two_events_may_have_one_id_and_both_are_sent() {
    // For a client they are one; the system itself only notices the header.
    let system = System::shared().await;
    let ann = user("ann");
    let address = format!("new_post.{ann}");
    for number in 1..=2 {
        let mut body = event(&[&ann], number);
        body["id"] = json!("same");
        system.publish(&address, body).await;
    }
    system.until_waiting(&ann, 2).await;
    let messages = system.connect(&ann).await.until_live().await;
    assert!(messages.iter().all(|message| message["id"] == "same"));
    assert_eq!(messages.len(), 2);
}

#[tokio::test]
async fn a_collapse_key_is_accepted_and_every_message_kept() {
    let system = System::shared().await;
    let ann = user("ann");
    let address = format!("post_update.{ann}");
    for number in 1..=3 {
        let mut body = event(&[&ann], number);
        body["collapseKey"] = json!("likes of post 1");
        system.publish(&address, body).await;
    }
    system.until_waiting(&ann, 3).await;
    let messages = system.connect(&ann).await.until_live().await;
    let data: Vec<_> = messages.iter().map(|message| &message["data"]).collect();
    assert_eq!(data, [&json!(1), &json!(2), &json!(3)]);
    assert!(
        messages
            .iter()
            .all(|message| message.get("collapsed").is_none())
    );
}
