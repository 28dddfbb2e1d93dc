//! What is published while a user is away waits, and comes in order on connecting.

use redis::AsyncCommands;
use serde_json::json;

use crate::support::socket::{all_messages, cursor, data_of, messages_of, with_op};
use crate::support::store::message;
use crate::support::{System, event, eventually, user};

#[tokio::test]
async fn five_messages_wait_are_replayed_in_order_logged_and_cleared() {
    let system = System::shared().await;
    for number in 1..=5 {
        let ack = system.publish("new_comment.42", event(&["12345"], number));
        assert!(ack.await > 0);
    }
    system.until_waiting("12345", 5).await;

    let mut socket = system.connect("12345").await;
    let welcome = socket.expect("welcome").await;
    assert_eq!(welcome["pending"], 5);
    let frames = socket.frames_until("live").await;
    let [messages, live] = &frames[..] else {
        panic!("one frame of messages, then live: {frames:?}");
    };
    assert_eq!(messages["replay"], true);
    assert_eq!(live["replayed"], 5);
    assert_eq!(data_of(&messages_of(messages)), [1, 2, 3, 4, 5]);
    let log = system.gateway(0).log();
    log.line_with("Delivered 5 offline messages to user 12345")
        .await;

    // Sent is not received: it all waits until it is acknowledged.
    assert_eq!(system.waiting("12345").await.len(), 5);
    socket.ack(live).await;
    system.until_waiting("12345", 0).await;
    let key = system.key("offline_messages:{12345}");
    let exists: bool = system.redis().await.exists(key).await.unwrap();
    assert!(!exists, "the list is gone");

    // On coming back nothing is repeated, and nothing logged.
    socket.close().await;
    let mut socket = system.connect("12345").await;
    let frames = socket.frames_until("live").await;
    assert_eq!(with_op(&frames, "live")[0]["replayed"], 0);
    assert!(all_messages(&frames).is_empty());
    let lines = log.lines();
    let delivered = lines
        .iter()
        .filter(|line| line.contains("messages to user 12345"));
    assert_eq!(delivered.count(), 1);
}

#[tokio::test]
async fn a_message_has_the_fields_of_the_contract() {
    let system = System::shared().await;
    let ann = user("ann");
    let data = json!({"text": "hé\u{2028}llo 😀", "n": [1, null, {"deep": true}]});
    let before = time::OffsetDateTime::now_utc() - time::Duration::SECOND;
    let sequence = system.publish("new_post.p-1", event(&[&ann], data.clone()));
    let sequence = sequence.await;
    system
        .publish("deploy_done", event(&[&ann], json!(null)))
        .await;
    system.until_waiting(&ann, 2).await;

    let mut socket = system.connect(&ann).await;
    let mut messages = socket.until_live().await;
    messages.sort_by_key(|message| message["type"] == "deploy_done");
    let [post, deploy] = &messages[..] else {
        panic!("two messages: {messages:?}");
    };
    assert_eq!(post["data"], data);
    assert_eq!(
        (&post["type"], &post["key"]),
        (&json!("new_post"), &json!("p-1"))
    );
    for absent in ["priority", "collapsed"] {
        assert_eq!(post.get(absent), None, "{post}");
    }
    let text = post["time"].as_str().unwrap();
    let format = time::macros::format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
    );
    let time = time::PrimitiveDateTime::parse(text, format).expect("milliseconds and Z");
    let stored = system.stored(sequence).await;
    let stored_ms = stored.time.unix_timestamp_nanos() / 1_000_000;
    assert_eq!(
        time.assume_utc().unix_timestamp_nanos() / 1_000_000,
        stored_ms
    );
    assert!(time.assume_utc() > before, "{text}");
    // Null is a value like any other; no key is no field.
    assert_eq!(deploy.get("data"), Some(&json!(null)));
    assert_eq!(deploy.get("key"), None, "{deploy}");
}

#[tokio::test]
async fn data_comes_to_the_letter() {
    let system = System::shared().await;
    let ann = user("ann");
    let texts = [
        r#"{"big": 123456789012345678901234567890, "small":1.0e-7,  "a":1,"a":2}"#,
        r#""\u00e9\/\n""#,
        "[ 1 ,\n\t2 ]",
        "0.10",
        "-0",
        "\"\"",
        r#""\ud800""#,
        "1e999",
    ];
    for text in texts {
        let body = format!(r#"{{"targetUserIds":["{ann}"],"data":{text}}}"#);
        let address = format!("literal.{ann}");
        let ack = system
            .publish_with(&address, Default::default(), body)
            .await;
        ack.unwrap();
    }
    system.until_waiting(&ann, texts.len()).await;
    for (entry, text) in system.waiting(&ann).await.iter().zip(texts) {
        assert!(entry.ends_with(&format!(r#""data":{text}}}"#)), "{entry}");
    }
}

#[tokio::test]
async fn redis_shows_the_keys_of_the_contract() {
    let system = System::shared().await;
    let ann = user("ann");
    for number in 1..=3 {
        system.publish("new_post.7", event(&[&ann], number)).await;
    }
    let mut high = event(&[&ann], 4);
    high["priority"] = json!("high");
    system.publish("new_post.7", high).await;
    system.until_waiting(&ann, 4).await;

    let mut redis = system.redis().await;
    let list = system.key(&format!("offline_messages:{{{ann}}}"));
    let hash = system.key(&format!("mailbox:{{{ann}}}"));
    for (key, kind) in [
        (list.clone(), "list"),
        (format!("{list}:high"), "list"),
        (hash, "hash"),
        (system.key("node:gateway-1"), "string"),
    ] {
        let found: String = redis::cmd("TYPE")
            .arg(&key)
            .query_async(&mut redis)
            .await
            .unwrap();
        assert_eq!(found, kind, "{key}");
    }
    let data = |entries: Vec<String>| -> Vec<_> {
        let data = entries.iter().map(|entry| message(entry)["data"].clone());
        data.collect()
    };
    assert_eq!(data(system.waiting(&ann).await), [1, 2, 3]);
    assert_eq!(data(system.waiting_high(&ann).await), [4]);
    // Nobody waits for ever for a user who never comes.
    let expiry: i64 = redis.ttl(&list).await.unwrap();
    assert!(expiry > 0, "{expiry}");

    // The hash says where the user is connected, and how far the device has come.
    let mut socket = system.connect(&ann).await;
    socket.until_live().await;
    let fields = system.mailbox(&ann).await;
    let text = format!("{:?}", fields.keys());
    assert!(text.contains("device:default"), "{text}");
    let presence = fields.values().map(|value| String::from_utf8_lossy(value));
    assert!(
        presence
            .into_iter()
            .any(|value| value.contains("gateway-1"))
    );
    socket.close().await;
}

#[tokio::test]
async fn who_is_connected_is_online_at_their_node() {
    let system = System::shared().await;
    let ann = user("ann");
    let online = |node: &str| system.key(&format!("online_users:{node}"));
    let is_online = async |node: &str| -> bool {
        let key = online(node);
        system.redis().await.sismember(key, &ann).await.unwrap()
    };
    let until = async |node: &str, expected: bool| {
        eventually(format!("{ann} online at {node}: {expected}"), async || {
            (is_online(node).await == expected).then_some(())
        })
        .await;
    };
    let first = system.connect(&ann).await;
    let second = system.gateway(1).socket().user(&ann).device("two");
    let second = second.connect().await;
    until("gateway-1", true).await;
    until("gateway-2", true).await;
    let expiry: i64 = system
        .redis()
        .await
        .pttl(online("gateway-1"))
        .await
        .unwrap();
    assert!((1..=10_000).contains(&expiry), "{expiry} ms");
    first.close().await;
    until("gateway-1", false).await;
    assert!(is_online("gateway-2").await);
    // A connection that breaks off goes as well.
    drop(second);
    until("gateway-2", false).await;
}

#[tokio::test]
async fn a_long_backlog_comes_in_frames_of_at_most_64() {
    let system = System::shared().await;
    let ann = user("ann");
    let address = format!("new_post.{ann}");
    system
        .publish_all(200, |index| (address.clone(), event(&[&ann], index)))
        .await;
    system.until_waiting(&ann, 200).await;
    let mut socket = system.connect(&ann).await;
    assert_eq!(socket.expect("welcome").await["pending"], 200);
    let mut received = Vec::new();
    let mut cursors = Vec::new();
    loop {
        let frame = socket.frame().await;
        assert!(cursor(&frame).len() <= 200);
        cursors.push(cursor(&frame).to_owned());
        socket.ack(&frame).await;
        if frame["op"] == "live" {
            assert_eq!(frame["replayed"], 200);
            break;
        }
        assert_eq!(frame["replay"], true);
        received.extend(messages_of(&frame));
    }
    let expected: Vec<_> = (0..200).map(|index| json!(index)).collect();
    assert_eq!(data_of(&received), expected);
    let is_cursor = |text: &String| {
        let mut bytes = text.bytes();
        bytes.all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    assert!(cursors.iter().all(is_cursor), "{cursors:?}");
    system.until_waiting(&ann, 0).await;
    system
        .gateway(0)
        .log()
        .line_with(&format!("Delivered 200 offline messages to user {ann}"))
        .await;
}
