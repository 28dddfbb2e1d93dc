//! Contract §3: what breaks a rule goes to `DEAD_LETTERS` whole, with a reason that names the
//! field, and holds nothing up.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use serde_json::{Value, json};

use crate::support::store::message;
use crate::support::{RawNats, System, eventually};

/// Publishes a good event and waits until it has arrived: nothing before it is in the way.
async fn still_works(system: &System, address: &str) {
    let before = system.waiting("witness").await.len();
    let event = json!({"targetUserIds": ["witness"], "data": "still here"});
    system.publish(address, event).await;
    eventually("the event behind the refused ones", async || {
        (system.waiting("witness").await.len() > before).then_some(())
    })
    .await;
}

/// The reasons and subjects of the dead letters, by the sequence of the refused event.
async fn reasons(system: &System) -> BTreeMap<u64, (String, String, usize)> {
    let letters = system.dead_letters().await.into_iter();
    let letters = letters.map(|(subject, headers, body)| {
        let header = |name: &str| headers.get(name).expect("the header").to_string();
        let reason = header("Catchup-Reason");
        assert!(reason.len() <= 200 && reason.is_ascii(), "{reason}");
        let sequence = header("Catchup-Sequence").parse().expect("a number");
        (sequence, (subject, reason, body.len()))
    });
    letters.collect()
}

#[tokio::test]
async fn every_refused_body_is_kept_with_the_name_of_its_field() {
    let system = System::builder().gateways(0).start().await;
    let long_name = "n".repeat(10_000);
    let deep = format!("{}1{}", "[".repeat(65), "]".repeat(65));
    let good = "\"targetUserIds\":[\"ann\"],\"data\":1";
    let cases: Vec<(&str, String)> = vec![
        ("body: ", "".into()),
        ("body: ", "nonsense".into()),
        ("body: ", "[]".into()),
        ("data: ", "{\"targetUserIds\":[\"ann\"]}".into()),
        ("targetUserIds: ", "{\"data\":1}".into()),
        (
            "targetUserIds: ",
            "{\"data\":1,\"targetUserIds\":null}".into(),
        ),
        (
            "targetUserIds: ",
            "{\"data\":1,\"targetUserIds\":\"ann\"}".into(),
        ),
        (
            "targetUserIds: ",
            "{\"data\":1,\"targetUserIds\":[\"a b\"]}".into(),
        ),
        (
            "targetUserIDs: ",
            "{\"data\":1,\"targetUserIDs\":[\"ann\"]}".into(),
        ),
        ("a??b: ", format!("{{{good},\"a\\r\\nb\":1}}")),
        ("nnn", format!("{{{good},\"{long_name}\":1}}")),
        ("type: ", format!("{{{good},\"type\":\"other\"}}")),
        ("ttlSeconds: ", format!("{{{good},\"ttlSeconds\":0}}")),
        ("priority: ", format!("{{{good},\"priority\":\"urgent\"}}")),
        ("ephemeral: ", format!("{{{good},\"ephemeral\":1}}")),
        ("id: ", format!("{{{good},\"id\":\"\"}}")),
        (
            "excludeUserId: ",
            format!("{{{good},\"excludeUserId\":null}}"),
        ),
        ("collapseKey: ", format!("{{{good},\"collapseKey\":\"\"}}")),
        (
            "data: ",
            format!("{{\"targetUserIds\":[\"ann\"],\"data\":{deep}}}"),
        ),
        ("data: ", {
            let data = "x".repeat(64 * 1024);
            format!("{{\"targetUserIds\":[\"ann\"],\"data\":\"{data}\"}}")
        }),
    ];
    let mut expected = BTreeMap::new();
    for (index, (reason, body)) in cases.iter().enumerate() {
        let address = if index % 2 == 0 {
            "new_post.k1"
        } else {
            "new_post"
        };
        let ack = system.publish_with(address, HeaderMap::new(), body.clone());
        let sequence = ack.await.expect("a PubAck").sequence;
        expected.insert(
            sequence,
            (format!("dead_letters.events.{address}"), *reason, body),
        );
    }
    still_works(&system, "new_post.k1").await;
    still_works(&system, "new_post").await;
    system.processed().await;
    let found = reasons(&system).await;
    assert_eq!(found.len(), expected.len());
    for (sequence, (subject, reason, body)) in expected {
        let (found_subject, found_reason, length) = &found[&sequence];
        assert_eq!(*found_subject, subject, "{body:.100}");
        assert!(
            found_reason.starts_with(reason),
            "{body:.100}: {found_reason}"
        );
        assert_eq!(*length, body.len(), "{found_reason}");
    }
    assert!(system.waiting("ann").await.is_empty());
    let refused = [("type", "new_post"), ("outcome", "dead_letter")];
    let count = system.metric("catchup_events_total", &refused).await;
    assert_eq!(count as usize, found.len());
}

#[tokio::test]
async fn a_body_that_leaves_no_room_for_the_reason_is_left_out() {
    let system = System::builder().gateways(0).start().await;
    let limit = system.nats().await.max_payload();
    for (body, kept) in [(limit, false), (limit - 400, true)] {
        let ack = system.publish_with("new_post.k", HeaderMap::new(), vec![b'x'; body]);
        let sequence = ack.await.expect("a PubAck").sequence;
        system.processed().await;
        let (_, reason, length) = reasons(&system).await.remove(&sequence).expect("a letter");
        assert!(reason.starts_with("body: "), "{reason}");
        assert_eq!(length, if kept { body } else { 0 });
    }
    still_works(&system, "new_post.k").await;
}

#[tokio::test]
async fn odd_subjects_are_refused_and_stop_nothing() {
    let system = System::builder().gateways(0).start().await;
    let mut raw = RawNats::connect(system.nats_server().port()).await;
    let body = br#"{"targetUserIds":["ann"],"data":1}"#;
    let long = "k".repeat(3_800);
    let subjects: Vec<Vec<u8>> = ["Bad.k", "a-b", "*", ">", "t.*", "*.k", "t.>", "t.a\u{a0}b"]
        .iter()
        .map(|address| system.subject(&format!("events.{address}")).into_bytes())
        .chain([system.subject(&format!("events.t.{long}")).into_bytes()])
        .collect();
    for subject in &subjects {
        let ack = raw.publish(subject, body).await;
        assert!(ack.is_some(), "{}", String::from_utf8_lossy(subject));
    }
    for subject in ["events.1.t.k", "events.t.k.more"] {
        let subject = system.subject(subject);
        assert_eq!(raw.publish(subject.as_bytes(), body).await, None);
    }
    still_works(&system, "t.k").await;
    system.processed().await;
    let reasons = reasons(&system).await;
    assert_eq!(reasons.len(), subjects.len());
    for (subject, reason, _) in reasons.values() {
        let is_named = reason.starts_with("type: ") || reason.starts_with("key: ");
        assert!(is_named, "{subject}: {reason}");
    }
    let subjects: Vec<&str> = reasons.values().map(|(subject, ..)| &**subject).collect();
    assert!(subjects.contains(&"dead_letters.events.Bad.k"));
    assert!(subjects.contains(&"dead_letters.events.t.*"));
    let refused = [("type", "invalid"), ("outcome", "dead_letter")];
    let count = system.metric("catchup_events_total", &refused).await;
    assert_eq!(count as usize, reasons.len());
}

/// The client library takes a message that it cannot parse for a broken connection.
#[tokio::test]
async fn messages_that_the_client_library_cannot_read_stop_nothing() {
    let system = System::builder().gateways(0).start().await;
    let mut raw = RawNats::connect(system.nats_server().port()).await;
    let body = br#"{"targetUserIds":["ann"],"data":1}"#;
    let blocks: [&[u8]; 4] = [
        b"NATS/1.0\r\n\xff: x\r\n\r\n",
        b"junk",
        b"NATS/1.0\r\nno colon\r\n\r\n",
        b"NATS/1.0\r\na b: c\r\n\r\n",
    ];
    for address in ["t.k", "t"] {
        let subject = system.subject(&format!("events.{address}"));
        for headers in blocks {
            let ack = raw.publish_with_headers(subject.as_bytes(), headers, body);
            assert!(ack.await.is_some());
            still_works(&system, address).await;
        }
    }
    let mut broken = system.subject("events.t.").into_bytes();
    broken.extend(b"\xff\xfe");
    assert!(raw.publish(&broken, body).await.is_some());
    let spaced = system.subject("events.t.a\u{2003}b");
    let headers = b"NATS/1.0\r\na: b\r\n\r\n";
    let ack = raw.publish_with_headers(spaced.as_bytes(), headers, body);
    assert!(ack.await.is_some());
    // The replacement character itself is a character like others.
    let replaced = system.subject("events.t.a\u{fffd}b");
    assert!(raw.publish(replaced.as_bytes(), body).await.is_some());
    still_works(&system, "t.k").await;
    system.processed().await;

    let reasons = reasons(&system).await;
    let count = |start: &str| {
        let reasons = reasons.values();
        let found = reasons.filter(|(_, reason, length)| {
            assert_eq!(*length, body.len());
            reason.starts_with(start)
        });
        found.count()
    };
    assert_eq!(count("headers: "), 2 * blocks.len());
    assert_eq!(count("subject: "), 2);
    assert_eq!(reasons.len(), 2 * blocks.len() + 2);
    assert_eq!(system.waiting("ann").await.len(), 1);
    system.worker(0).ready().await;
}

#[tokio::test]
async fn an_id_comes_from_the_body_the_header_or_the_stream() {
    let system = System::builder().gateways(0).start().await;
    let header = |id: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, id);
        headers
    };
    let body = |more: Value| {
        let mut event = json!({"targetUserIds": ["ann", "ann"], "data": 1});
        event
            .as_object_mut()
            .expect("an object")
            .extend(more.as_object().cloned().unwrap());
        event.to_string()
    };
    let long = "h".repeat(129);
    for (headers, more) in [
        (HeaderMap::new(), json!({"id": "body"})),
        (header("header"), json!({})),
        (header("other"), json!({"id": "wins"})),
        (header(&long), json!({})),
        (HeaderMap::new(), json!({})),
        (HeaderMap::new(), json!({"targetUserIds": []})),
        (
            HeaderMap::new(),
            json!({"targetUserIds": ["ann", "ben"], "excludeUserId": "ann"}),
        ),
    ] {
        let ack = system.publish_with("new_post.k", headers, body(more)).await;
        ack.expect("a PubAck");
    }
    // Within two minutes a publish with the same header is the same publish.
    let again = system.publish_with("new_post.k", header("header"), body(json!({})));
    assert!(again.await.expect("a PubAck").duplicate);
    system.processed().await;
    let waiting = system.waiting("ann").await;
    let ids: Vec<Value> = waiting
        .iter()
        .map(|entry| message(entry)["id"].clone())
        .collect();
    assert_eq!(ids[..3], [json!("body"), json!("header"), json!("wins")]);
    assert_eq!(ids.len(), 5);
    assert_ne!(ids[3], ids[4]);
    assert_ne!(ids[3], json!(long));
    assert_eq!(system.waiting("ben").await.len(), 1);
    assert!(system.dead_letters().await.is_empty());
}
