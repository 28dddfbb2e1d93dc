//! Health and metrics: what a known course of events leaves in `/metrics`, and who is ready.

use std::collections::BTreeSet;

use async_nats::HeaderMap;
use serde_json::json;

use crate::support::http;
use crate::support::{Role, System, event, eventually, user};

/// Waits until a metric has this value, over all roles.
async fn until(system: &System, name: &str, labels: &[(&str, &str)], value: f64) {
    let what = format!("{name}{labels:?} = {value}");
    let mut last = f64::NAN;
    let start = std::time::Instant::now();
    while last != value {
        last = system.metric(name, labels).await;
        assert!(
            start.elapsed() < crate::support::DEADLINE,
            "{what}; it is {last}"
        );
        tokio::task::yield_now().await;
    }
}

async fn messages(system: &System, outcome: &str, count: f64) {
    until(
        system,
        "catchup_messages_total",
        &[("outcome", outcome)],
        count,
    )
    .await;
}

async fn events(system: &System, event_type: &str, outcome: &str, count: f64) {
    let labels = [("type", event_type), ("outcome", outcome)];
    until(system, "catchup_events_total", &labels, count).await;
}

#[tokio::test]
async fn each_message_is_counted_by_what_becomes_of_it() {
    let builder = System::builder().env("CATCHUP_MAX_MESSAGES", "4");
    let system = builder.gateways(2).workers(2).start().await;
    let (ann, bob) = (user("secret-ann"), user("secret-bob"));
    let mut anns = system.connect(&ann).await;
    anns.until_live().await;
    until(&system, "catchup_connections", &[], 1.0).await;

    // Three live for one; three more wait for the other, of whose six the cap pushes two out.
    for number in 1..=6 {
        let targets = [bob.as_str(), &ann];
        let targets = if number <= 3 {
            &targets[..]
        } else {
            &targets[..1]
        };
        system.publish("new_post.1", event(targets, number)).await;
    }
    anns.messages(3).await;
    messages(&system, "stored", 9.0).await;
    messages(&system, "live", 3.0).await;
    messages(&system, "acked", 3.0).await;
    messages(&system, "evicted", 2.0).await;
    messages(&system, "replayed", 0.0).await;
    events(&system, "new_post", "routed", 6.0).await;

    let mut bobs = system.gateway(1).socket().user(&bob).connect().await;
    let frames = bobs.frames_until("live").await;
    until(&system, "catchup_connections", &[], 2.0).await;
    messages(&system, "replayed", 4.0).await;
    messages(&system, "acked", 3.0).await;
    bobs.ack(frames.last().unwrap()).await;
    messages(&system, "acked", 7.0).await;

    // One that expires, and one that is refused, with its type and with none.
    let mut short = event(&[&bob], 7);
    short["ttlSeconds"] = json!(1);
    bobs.close().await;
    system.publish("new_post.1", short).await;
    system.until_waiting(&bob, 1).await;
    system.until_expired(&bob, &[0]).await;
    let mut bobs = system.connect(&bob).await;
    let missed = &bobs.frames_until("live").await[1];
    assert_eq!(
        (&missed["op"], &missed["reason"]),
        (&json!("missed"), &json!("expired"))
    );
    messages(&system, "expired", 1.0).await;
    system.publish("new_post.1", json!({})).await;
    system.publish("Bad", event(&[], 1)).await;
    system.publish("new_post.\u{200b}", event(&[], 1)).await;
    events(&system, "new_post", "dead_letter", 1.0).await;
    events(&system, "invalid", "dead_letter", 2.0).await;
    // Nobody is a target: routed all the same.
    system.publish("quiet", event(&[], 1)).await;
    events(&system, "quiet", "routed", 1.0).await;
    for absent in ["collapsed", "muted", "duplicate"] {
        messages(&system, absent, 0.0).await;
    }
    drop((anns, bobs));
    until(&system, "catchup_connections", &[], 0.0).await;
}

#[tokio::test]
async fn times_are_measured_and_no_user_is_a_label() {
    let system = System::builder().start().await;
    let (ann, bob) = (user("secret-ann"), user("secret-bob"));
    let mut anns = system.connect(&ann).await;
    anns.until_live().await;
    system
        .publish("new_post.secret-key", event(&[&ann, &bob], "secret-data"))
        .await;
    anns.messages(1).await;
    system.until_waiting(&bob, 1).await;
    let mut bobs = system.connect(&bob).await;
    bobs.until_live().await;
    let count = |name: &str| format!("catchup_{name}_count");
    until(
        &system,
        &count("delivery_seconds"),
        &[("path", "live")],
        1.0,
    )
    .await;
    until(
        &system,
        &count("delivery_seconds"),
        &[("path", "replay")],
        1.0,
    )
    .await;
    until(&system, &count("waited_seconds"), &[], 1.0).await;
    let sum = system
        .metric("catchup_delivery_seconds_sum", &[("path", "live")])
        .await;
    assert!((0.0..60.0).contains(&sum), "{sum} s");
    let register = [("op", "register")];
    until(&system, &count("mailbox_seconds"), &register, 2.0).await;

    let mut names = BTreeSet::new();
    for role in system.gateways().iter().chain(system.workers()) {
        let response = role.admin("/metrics").await.unwrap();
        let kind = response.header("content-type").unwrap().to_owned();
        assert!(kind.starts_with("text/plain"), "{kind}");
        let text = response.text();
        assert!(!text.contains("secret"), "{text}");
        for line in text.lines() {
            if line.starts_with('#') || line.is_empty() {
                continue;
            }
            assert!(line.starts_with("catchup_"), "{line}");
            names.insert(line.split(['{', ' ']).next().unwrap().to_owned());
        }
    }
    for name in [
        "catchup_events_total",
        "catchup_messages_total",
        "catchup_connections",
        "catchup_delivery_seconds_bucket",
        "catchup_waited_seconds_bucket",
        "catchup_mailbox_seconds_bucket",
        "catchup_reconciles_total",
    ] {
        assert!(names.contains(name), "{name} in {names:?}");
    }
}

#[tokio::test]
async fn types_beyond_the_first_fifty_are_counted_together() {
    let system = System::builder().gateways(0).start().await;
    for index in 0..60 {
        let address = format!("type_{index}");
        let ack = system.publish_with(
            &address,
            HeaderMap::new(),
            "{\"targetUserIds\":[],\"data\":1}",
        );
        ack.await.unwrap();
    }
    let total = async || system.worker(0).metrics().await.sum("catchup_events_total");
    eventually("60 events are counted", async || {
        (total().await == 60.0).then_some(())
    })
    .await;
    events(&system, "other", "routed", 10.0).await;
    let text = system.worker(0).metrics().await.text().to_owned();
    let types: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| {
            line.strip_prefix("catchup_events_total{")?
                .split('"')
                .nth(1)
        })
        .collect();
    // Fifty of their own, and two for all others.
    assert!(types.len() <= 52, "{types:?}");
}

#[tokio::test]
async fn every_role_says_that_it_lives_and_is_ready() {
    let system = System::shared().await;
    for role in [system.gateway(0), system.worker(0)] {
        for path in ["/healthz", "/readyz"] {
            let response = role.admin(path).await.unwrap();
            assert_eq!(response.status, 200, "{} {path}", role.name());
            assert!(response.json().is_object());
            assert_eq!(response.header("content-type"), Some("application/json"));
        }
        let missing = role.admin("/").await.unwrap();
        assert_eq!(missing.status, 404);
        let posted = http::send(role.admin_port(), "POST", "/metrics", &[], b"")
            .await
            .unwrap();
        assert_eq!(posted.status, 405);
    }
}

#[tokio::test]
async fn a_role_without_its_servers_lives_and_says_what_it_lacks() {
    let nowhere = [
        ("CATCHUP_NATS_URL", "nats://127.0.0.1:1"),
        ("CATCHUP_REDIS_URL", "redis://127.0.0.1:1"),
    ];
    for (name, url) in nowhere {
        let system = System::builder().env(name, url).start_unready();
        let assert_lacks = async |role: &Role| {
            let reasons = role.not_ready().await;
            let reasons = reasons["reasons"].as_object().expect("reasons").clone();
            assert!(!reasons.is_empty());
            assert_eq!(role.admin("/healthz").await.unwrap().status, 200);
        };
        assert_lacks(system.gateway(0)).await;
        assert_lacks(system.worker(0)).await;
        // It is told to end before it ever began.
        for role in system.gateways().iter().chain(system.workers()) {
            role.stop().await;
        }
    }
}

#[tokio::test]
async fn the_log_is_text_or_json_and_the_replay_line_is_exact() {
    let builder = System::builder().env("CATCHUP_LOG_FORMAT", "json");
    let system = builder.start().await;
    let ann = user("ann");
    for number in 1..=2 {
        system.publish("new_post.1", event(&[&ann], number)).await;
    }
    system.until_waiting(&ann, 2).await;
    system.connect(&ann).await.until_live().await;
    let line = system.gateway(0).log().line_with("Delivered").await;
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let expected = format!("Delivered 2 offline messages to user {ann}");
    let message = line
        .get("message")
        .or_else(|| line["fields"].get("message"));
    assert_eq!(message, Some(&json!(expected)), "{line}");
    assert_eq!(line["level"], "INFO");
    for role in system.gateways().iter().chain(system.workers()) {
        for line in role.log().lines() {
            let value: Result<serde_json::Value, _> = serde_json::from_str(&line);
            assert!(value.is_ok(), "{}: {line}", role.name());
        }
    }
}
