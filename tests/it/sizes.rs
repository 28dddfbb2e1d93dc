//! Large events: bodies at the server's limit, many targets, frames that stay below 512 KiB.

use async_nats::HeaderMap;
use serde_json::json;

use crate::support::socket::{cursor, messages_of};
use crate::support::{System, event, eventually, eventually_within, user};

/// `max_payload` of a nats-server that was told nothing else.
const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
const FRAME_BYTES_MAX: usize = 512 * 1024;

#[tokio::test]
async fn a_body_at_the_servers_limit_is_taken() {
    let system = System::shared().await;
    let ann = user("ann");
    let mut body = event(&[&ann], 7).to_string().into_bytes();
    body.resize(PAYLOAD_BYTES_MAX, b' ');
    let ack = system.publish_with("new_post.large", HeaderMap::new(), body);
    ack.await.unwrap();
    system.until_waiting(&ann, 1).await;
    assert!(system.waiting(&ann).await[0].len() < 300);
}

#[tokio::test]
async fn a_refused_body_at_the_servers_limit_is_left_out() {
    let system = System::shared().await;
    let mut letters = system.letters().await;
    let largest = vec![b'x'; PAYLOAD_BYTES_MAX];
    // Just as large as leaves room for the headers of the dead letter, whatever they are.
    let large = vec![b'x'; PAYLOAD_BYTES_MAX - 1024];
    for (body, is_kept) in [(largest, false), (large, true)] {
        let ack = system.publish_with("new_post.large", HeaderMap::new(), body.clone());
        let sequence = ack.await.unwrap().sequence;
        let letter = letters.of(sequence).await;
        assert!(letter.reason().contains("body"), "{}", letter.reason());
        let expected = if is_kept { body } else { Vec::new() };
        assert!(letter.body == expected, "{} bytes", letter.body.len());
    }
    // With headers of the publisher's own the body alone is smaller than the limit.
    let mut headers = HeaderMap::new();
    headers.insert("X-Long", "y".repeat(60_000).as_str());
    let ack = system.publish_with("new_post.large", headers, "{");
    let sequence = ack.await.unwrap().sequence;
    assert_eq!(letters.of(sequence).await.body, "{");
}

#[tokio::test]
async fn frames_stay_below_their_limit_whatever_they_carry() {
    let system = System::shared().await;
    let ann = user("ann");
    let address = format!("new_post.{ann}");
    // 64 KiB of data each; quotation marks and the rest come on top.
    let text = "x".repeat(65_534);
    for _ in 0..20 {
        let body = json!({"targetUserIds": [ann], "data": text, "id": "\"".repeat(128)});
        system.publish(&address, body).await;
    }
    system.until_waiting(&ann, 20).await;
    let mut socket = system.connect(&ann).await;
    socket.expect("welcome").await;
    let mut count = 0;
    while count < 20 {
        let frame = socket.expect("messages").await;
        // As the gateway writes it: nothing in these bodies is written in another way here.
        let bytes = frame.to_string().len();
        assert!(bytes <= FRAME_BYTES_MAX, "{bytes} bytes");
        assert!(!cursor(&frame).is_empty());
        count += messages_of(&frame).len();
        socket.ack(&frame).await;
    }
    assert_eq!(count, 20);
    socket.expect("live").await;
    // The same live.
    for _ in 0..3 {
        system
            .publish(&address, event(&[&ann], text.as_str()))
            .await;
        let frame = socket.expect("messages").await;
        assert_eq!(messages_of(&frame)[0]["data"], json!(text));
        socket.ack(&frame).await;
    }
    system.until_waiting(&ann, 0).await;
}

#[tokio::test]
async fn many_targets_each_have_it_and_one_more_than_50_000_is_refused() {
    const TARGETS_MAX: usize = 50_000;
    let builder = System::builder().gateways(1).workers(1);
    let system = builder.start().await;
    let mut letters = system.letters().await;
    let prefix = user("t");
    let mut targets: Vec<_> = (0..TARGETS_MAX)
        .map(|index| format!("{prefix}-{index}"))
        .collect();
    // Repeated ones count once.
    targets.extend_from_within(..10);
    let mut last = system.connect(&targets[TARGETS_MAX - 1]).await;
    last.until_live().await;
    let names: Vec<&str> = targets.iter().map(String::as_str).collect();
    let all = system.publish("new_post", event(&names, 1)).await;
    targets.push(format!("{prefix}-one-more"));
    let names: Vec<&str> = targets.iter().map(String::as_str).collect();
    let refused = system.publish("new_post", event(&names, 2)).await;
    let letter = letters.of(refused).await;
    assert!(
        letter.reason().contains("targetUserIds"),
        "{}",
        letter.reason()
    );

    // Everybody's mailbox is written on one worker of the slow dev build.
    let limit = std::time::Duration::from_secs(60);
    eventually_within(limit, "every mailbox has it", async || {
        let stored = [("outcome", "stored")];
        let count = system.metric("catchup_messages_total", &stored).await;
        assert!(count <= TARGETS_MAX as f64);
        (count == TARGETS_MAX as f64).then_some(())
    })
    .await;
    assert!(!letters.has(all).await);
    assert_eq!(messages_of(&last.expect("messages").await)[0]["data"], 1);
    assert_eq!(system.waiting(&targets[0]).await.len(), 1);
    assert_eq!(system.waiting(&targets[TARGETS_MAX / 2]).await.len(), 1);
}

#[tokio::test]
async fn targets_times_data_are_limited() {
    const PRODUCT_MAX: usize = 256 * 1024 * 1024;
    let system = System::shared().await;
    let mut letters = system.letters().await;
    let text = "x".repeat(65_534);
    let count = PRODUCT_MAX / 65_536 + 1;
    let prefix = user("t");
    let targets: Vec<_> = (0..count)
        .map(|index| format!("{prefix}-{index}"))
        .collect();
    let names: Vec<&str> = targets.iter().map(String::as_str).collect();
    let refused = system
        .publish("new_post", event(&names, text.as_str()))
        .await;
    let letter = letters.of(refused).await;
    assert!(
        letter.reason().contains("targetUserIds"),
        "{}",
        letter.reason()
    );
    assert!(system.waiting(&targets[0]).await.is_empty());
    // Many targets, or much data: each alone is fine.
    let few = system
        .publish("new_post", event(&names[..2], text.as_str()))
        .await;
    let many = system.publish("new_post", event(&names, 1)).await;
    eventually("the last of many has it", async || {
        (system.waiting(&targets[count - 1]).await.len() == 1).then_some(())
    })
    .await;
    system.until_waiting(&targets[0], 2).await;
    assert!(!letters.has(few).await && !letters.has(many).await);
}
