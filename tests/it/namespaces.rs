//! Two systems on one NATS and one Redis do not see each other.

use std::collections::BTreeSet;

use futures_util::TryStreamExt;
use serde_json::json;

use crate::support::socket::data_of;
use crate::support::{System, event, eventually, user};

#[tokio::test]
async fn events_users_and_nodes_of_two_systems_are_apart() {
    let (one, two) = tokio::join!(System::start(), System::start());
    // The same user, device and node name in both.
    let ann = user("ann");
    let mut ones = one.connect(&ann).await;
    let mut twos = two.connect(&ann).await;
    ones.until_live().await;
    twos.until_live().await;
    one.publish("new_post.1", event(&[&ann], "one")).await;
    two.publish("new_post.1", event(&[&ann], "two")).await;
    assert_eq!(data_of(&ones.messages(1).await), ["one"]);
    assert_eq!(data_of(&twos.messages(1).await), ["two"]);

    // A cursor of the one means nothing in the other.
    one.publish("new_post.1", event(&[&ann], "more")).await;
    let frame = ones.expect("messages").await;
    let cursor = frame["cursor"].as_str().unwrap();
    twos.close().await;
    two.publish("new_post.1", event(&[&ann], "kept")).await;
    two.until_waiting(&ann, 1).await;
    let request = two.gateway(0).socket().user(&ann).cursor(cursor);
    let frames = request.connect().await.frames_until("live").await;
    let messages = crate::support::socket::all_messages(&frames);
    assert_eq!(data_of(&messages), ["kept"]);

    // A refused event is a dead letter of its own system.
    let sequence = one
        .publish("new_post.1", json!({ "targetUserIds": 1 }))
        .await;
    one.letters().await.of(sequence).await;
    assert!(two.dead_letters().await.is_empty());
    // Both nodes have the same name and their own lease: nobody was thrown out.
    for system in [&one, &two] {
        system.ready().await;
    }
}

#[tokio::test]
async fn every_name_carries_the_namespace() {
    let system = System::start().await;
    let ann = user("ann");
    let mut socket = system.connect(&ann).await;
    socket.until_live().await;
    let mut high = event(&[&ann], 1);
    high["priority"] = json!("high");
    system.publish("new_post.1", high).await;
    system.publish("new_post.1", event(&[&ann], 2)).await;
    socket.expect("messages").await;
    socket.expect("messages").await;

    // Only this test's system writes with this namespace, so that its keys can be counted.
    let namespace = system.namespace();
    let mut redis = system.redis().await;
    let keys: BTreeSet<String> = redis::cmd("KEYS")
        .arg(format!("*{ann}*"))
        .query_async(&mut redis)
        .await
        .unwrap();
    let expected = [
        "mailbox:{ANN}",
        "offline_messages:{ANN}",
        "offline_messages:{ANN}:high",
    ];
    let expected = expected.map(|key| format!("{namespace}:{}", key.replace("ANN", &ann)));
    assert_eq!(keys, BTreeSet::from(expected));
    let expected = ["node:gateway-1", "online_users:gateway-1"];
    let expected = BTreeSet::from(expected.map(|key| format!("{namespace}:{key}")));
    eventually(format!("{expected:?} in Redis"), async || {
        let nodes: BTreeSet<String> = redis::cmd("KEYS")
            .arg(format!("{namespace}:*gateway-1"))
            .query_async(&mut redis)
            .await
            .unwrap();
        (nodes == expected).then_some(())
    })
    .await;

    let jetstream = system.jetstream().await;
    let streams: Vec<String> = jetstream.stream_names().try_collect().await.unwrap();
    let own: BTreeSet<&String> = (streams.iter())
        .filter(|name| name.starts_with(&format!("{namespace}_")))
        .collect();
    assert_eq!(own.len(), 3, "{own:?}");
    for (stream, subjects) in [
        ("EVENTS", vec!["events.*", "events.*.*"]),
        ("DEAD_LETTERS", vec!["dead_letters.>"]),
        ("BROADCASTS", vec!["broadcasts.>"]),
    ] {
        let name = format!("{namespace}_{stream}");
        let stream = jetstream.get_stream(&name).await.unwrap();
        let config = &stream.cached_info().config;
        let expected: Vec<String> = subjects
            .into_iter()
            .map(|subject| format!("{namespace}.{subject}"))
            .collect();
        assert_eq!(config.subjects, expected);
        let mut consumers = stream.consumer_names();
        while let Some(consumer) = consumers.try_next().await.unwrap() {
            assert!(consumer.starts_with(&format!("{namespace}_")), "{consumer}");
        }
    }
}

#[tokio::test]
async fn a_keyed_event_is_stored_under_its_partition_for_other_consumers() {
    let system = System::shared().await;
    let events = system.jetstream().await;
    let events = events
        .get_stream(system.stream_name("EVENTS"))
        .await
        .unwrap();
    let config = &events.cached_info().config;
    let hours = config.max_age.as_secs_f64() / 3_600.0;
    assert!(
        hours >= 25.0,
        "{hours} h are less than the time to live and one hour"
    );
    assert_eq!(config.duplicate_window.as_secs(), 120);
    let mut partitions = BTreeSet::new();
    for key in 0..50 {
        let address = format!("new_post.{}-{key}", user("k"));
        let sequence = system.publish(&address, event(&[], 1)).await;
        let again = system.publish(&address, event(&[], 2)).await;
        let subject = system.stored(sequence).await.subject.to_string();
        let prefix = system.subject("events.");
        let rest = subject.strip_prefix(&prefix).expect("an event's subject");
        let (partition, rest) = rest.split_once('.').unwrap();
        assert_eq!(rest, address);
        let partition: u16 = partition.parse().expect("a partition");
        assert!(partition < 32);
        partitions.insert(partition);
        // One key, one partition.
        assert_eq!(system.stored(again).await.subject.to_string(), subject);
    }
    assert!(partitions.len() > 16, "spread over {partitions:?}");
    let keyless = system.publish("new_post", event(&[], 1)).await;
    let subject = system.stored(keyless).await.subject.to_string();
    assert_eq!(subject, system.subject("events.new_post"));
}
