//! Servers that lose what they held, and a Redis that refuses: what has a PubAck still arrives, and
//! devices are told where it may not be all.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{all_not_ready, alone, load, loaded, publish, readers, settle, users};
use crate::support::oracle::{Audience, Event};
use crate::support::role::Kind;
use crate::support::servers::Servers;
use crate::support::socket::{all_messages, data_of, with_op};
use crate::support::store::message;
use crate::support::{NatsServer, Oracle, RedisServer, Role, System, event, eventually};

/// How far Redis goes back.
const LOST: Duration = Duration::from_secs(2);

fn servers() -> Servers {
    Servers {
        nats: NatsServer::start(),
        redis: RedisServer::with_timestamps(),
    }
}

/// What `/readyz` names where the store cannot be used.
fn store(kind: Kind) -> &'static str {
    match kind {
        Kind::Gateway => "store",
        Kind::Worker => "redis",
    }
}

/// Waits until a worker says so for the first time.
async fn until_whole(system: &System) {
    let is_whole = |role: &Role| role.log().contains("the store is complete again");
    eventually("the store is whole", async || {
        let mut workers = system.workers().iter();
        workers.any(|role| is_whole(role)).then_some(())
    })
    .await;
    system.ready().await;
}

async fn restored(system: &System) -> f64 {
    let labels = [("outcome", "restored")];
    system.metric("catchup_messages_total", &labels).await
}

/// Redis loses its last seconds in the middle of the traffic. The file is written as it goes, so it
/// is cut, as a promoted replica that lagged would have it.
#[tokio::test]
async fn a_redis_that_went_back_gets_again_what_it_lost() {
    let _alone = alone().await;
    let builder = loaded().gateways(2).workers(2).servers(servers());
    let system = builder.start().await;
    let redis = system.redis_server();
    let oracle = Arc::new(Oracle::default());
    let users = users(10);
    let readers = readers(&oracle, &system, &users);
    let count = load(1_500);
    // What waits for somebody who is away is not acknowledged by anyone.
    let away = ["away"];
    system.connect("away").await.close().await;
    oracle.expect_device("away", "default");
    let back = async {
        oracle.until_delivered(count / 3).await;
        let checkpoint = redis.checkpoint();
        // So that something was written before, and stays.
        tokio::time::sleep(LOST).await;
        publish(&oracle, &system, &users, count).await;
        for number in 0..20 {
            let key = format!("k{}", number % 4);
            let event = Event {
                key: Some(&key),
                audience: Audience::Users(&away),
                is_high: false,
            };
            oracle.publish(&system, event).await;
        }
        system.processed().await;
        let began = Instant::now();
        match RedisServer::has_checker() {
            true => redis.cut_off(LOST),
            false => redis.roll_back(&checkpoint),
        }
        until_whole(&system).await;
        println!("ready again after {:.1} s", began.elapsed().as_secs_f64());
    };
    tokio::join!(publish(&oracle, &system, &users, count), back);
    assert!(restored(&system).await >= 20.0, "nothing was lost: no test");
    let mut late = system.connect("away").await;
    let frames = late.frames_until("live").await;
    frames
        .iter()
        .for_each(|frame| oracle.hear("away", "default", frame));
    let tally = settle("Redis went back", &oracle, readers).await;
    assert_eq!(tally.reconnects, 0, "the sockets stay: {tally}");
    assert_eq!(system.waiting("away").await.len(), 20, "each once");
    oracle.assert_order();
}

#[tokio::test]
async fn an_emptied_redis_is_rebuilt_under_load() {
    let flush = async |system: &System| {
        let mut redis = system.redis().await;
        let flushed = redis::cmd("FLUSHALL").query_async(&mut redis).await;
        let () = flushed.expect("it is emptied");
    };
    emptied("Redis emptied", flush).await;
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_is_rebuilt_under_load() {
    let wipe = async |system: &System| system.redis_server().wipe();
    emptied("Redis came back empty", wipe).await;
}

async fn emptied(name: &str, empty: impl AsyncFn(&System)) {
    let _alone = alone().await;
    let builder = loaded().gateways(2).workers(2).own_servers();
    let system = builder.start().await;
    let oracle = Arc::new(Oracle::default());
    let users = users(10);
    let readers = readers(&oracle, &system, &users);
    let count = load(3_000);
    let away = async {
        oracle.until_delivered(count / 2).await;
        let began = Instant::now();
        empty(&system).await;
        until_whole(&system).await;
        println!(
            "{name}: ready again after {:.1} s",
            began.elapsed().as_secs_f64()
        );
    };
    tokio::join!(publish(&oracle, &system, &users, count), away);
    oracle.until_kept().await;
    // Whoever is connected hears of it within a moment.
    eventually("all are told", async || oracle.all_missed().then_some(())).await;
    for reader in readers {
        reader.stop().await;
    }
    let tally = oracle.assert_told();
    println!("{name}: {tally}");
    assert_eq!(tally.reconnects, 0, "the sockets stay: {tally}");
    for user in &users {
        assert_once(&system, user).await;
    }
    oracle.assert_order();
}

/// That a user's lists hold each message once.
async fn assert_once(system: &System, user: &str) {
    for list in [system.waiting(user).await, system.waiting_high(user).await] {
        let keys: HashSet<&str> = list.iter().map(|entry| &entry[2..29]).collect();
        assert_eq!(keys.len(), list.len(), "{user} has messages twice");
    }
}

/// Each kind of event, and who gets it, in a rebuilt store.
#[tokio::test]
async fn what_is_rebuilt_is_what_waited() {
    let builder = System::builder()
        .own_servers()
        .env("CATCHUP_MAX_MESSAGES", "5");
    let system = builder.start().await;
    system.connect("ann").await.close().await;
    let of = |extra: Value| {
        let mut event = json!({ "targetUserIds": ["ann", "ben"], "data": 0 });
        let fields = extra.as_object().expect("fields").clone();
        event.as_object_mut().expect("an event").extend(fields);
        event
    };
    system
        .publish("note.k", of(json!({ "data": "short", "ttlSeconds": 1 })))
        .await;
    for number in 0..7 {
        system
            .publish("note.k", of(json!({ "data": number })))
            .await;
    }
    system
        .publish("note", of(json!({ "data": "high", "priority": "high" })))
        .await;
    system
        .publish(
            "note.k",
            of(json!({ "data": "other", "excludeUserId": "ann" })),
        )
        .await;
    system
        .publish("note", of(json!({ "data": "gone", "ephemeral": true })))
        .await;
    system.publish("note", json!({ "data": "all" })).await;
    system
        .publish("note", json!({ "data": "bad", "targetUserId": "ann" }))
        .await;
    system.processed().await;
    let data = async |list: Vec<String>| -> Vec<Value> {
        list.iter()
            .map(|entry| message(entry)["data"].clone())
            .collect()
    };
    let (ann, ben) = (
        data(system.waiting("ann").await).await,
        data(system.waiting("ben").await).await,
    );
    assert_eq!(ann, [2, 3, 4, 5, 6].map(Value::from));

    system.redis_server().wipe();
    until_whole(&system).await;
    assert_eq!(data(system.waiting("ann").await).await, ann);
    assert_eq!(data(system.waiting("ben").await).await, ben);
    assert_eq!(data(system.waiting_high("ann").await).await, ["high"]);
    let dead = system.dead_letters().await;
    assert_eq!(dead.len(), 1, "a refused event is buried once");

    everybody_gets_everything(&system, &ann).await;
    assert_eq!(
        data(system.waiting("ann").await).await,
        ann,
        "nothing is trimmed"
    );
}

/// Devices come back one by one, without a cursor: each gets everything, also the second.
async fn everybody_gets_everything(system: &System, ann: &[Value]) {
    for device in ["phone", "desk"] {
        let socket = system.gateway(0).socket().user("ann").device(device);
        // The gateway may not know yet that the store is back.
        let connected = async || socket.try_connect().await.ok();
        let mut socket = eventually("it lets in", connected).await;
        let frames = socket.frames_until("live").await;
        let lost = with_op(&frames, "missed");
        assert!(
            lost.iter().any(|frame| frame["reason"] == "store_lost"),
            "{frames:?}"
        );
        let got = data_of(&all_messages(&frames));
        for expected in ann.iter().chain(&[json!("high"), json!("all")]) {
            assert!(got.contains(expected), "{device} lacks {expected}: {got:?}");
        }
        for frame in &frames {
            if frame["cursor"].is_string() {
                socket.ack(frame).await;
            }
        }
        socket.close().await;
    }
}

#[tokio::test]
async fn a_redis_that_is_full_is_waited_for_and_named() {
    let _alone = alone().await;
    let builder = loaded().gateways(2).workers(2).own_servers();
    let system = builder.start().await;
    let oracle = Arc::new(Oracle::default());
    let users = users(10);
    let readers = readers(&oracle, &system, &users);
    let count = load(2_000);
    let full = async {
        oracle.until_delivered(count / 4).await;
        let mut redis = system.redis().await;
        let mut set = async |value: &str| {
            let mut command = redis::cmd("CONFIG");
            command.arg("SET").arg("maxmemory").arg(value);
            let () = command.query_async(&mut redis).await.expect("it is set");
        };
        set("1mb").await;
        all_not_ready(&system, store).await;
        for role in system.roles() {
            role.log().line_with("Redis is up and refuses").await;
            let metrics = role.metrics().await;
            let labels = [("reason", "out_of_memory")];
            assert!(metrics.value("catchup_store_refusals_total", &labels) > 0.0);
        }
        set("0").await;
        system.ready().await;
    };
    tokio::join!(publish(&oracle, &system, &users, count), full);
    let tally = settle("Redis full", &oracle, readers).await;
    oracle.assert_order();
    assert_eq!(tally.reconnects, 0, "the sockets stay: {tally}");
    for role in system.roles() {
        let alarms = role
            .log()
            .lines()
            .into_iter()
            .filter(|line| line.contains("up and refuses"));
        assert_eq!(alarms.count(), 1, "{} says it once an outage", role.name());
    }
}

#[tokio::test]
async fn an_emptied_nats_is_filled_again_and_told() {
    let _alone = alone().await;
    let builder = loaded().gateways(2).workers(2).own_servers();
    let system = builder.start().await;
    let oracle = Arc::new(Oracle::default());
    let users = users(4);
    let readers = readers(&oracle, &system, &users);
    let count = load(200);
    publish(&oracle, &system, &users, count).await;
    oracle.until_kept().await;
    system.publish("note", event(&["away"], "kept")).await;
    system.processed().await;
    system.nats_server().wipe();
    system.ready().await;
    publish(&oracle, &system, &users, count).await;
    oracle.until_kept().await;
    eventually("all are told", async || oracle.all_missed().then_some(())).await;
    let mut away = system.connect("away").await;
    let frames = away.frames_until("live").await;
    assert_eq!(all_messages(&frames).len(), 1, "mailboxes stay");
    for reader in readers {
        reader.stop().await;
    }
    let tally = oracle.assert_told();
    println!("NATS emptied: {tally}");
    assert_eq!(tally.reconnects, 0, "the sockets stay: {tally}");
}

/// How long it takes to rebuild `TEST_REBUILD_MESSAGES` (200,000) messages of
/// `TEST_REBUILD_USERS` (1,000) users.
#[tokio::test]
#[ignore = "a measurement that takes a minute"]
async fn many_messages_are_rebuilt() {
    let _alone = alone().await;
    let number = |name: &str, default: usize| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a whole number"))
    };
    let messages = number("TEST_REBUILD_MESSAGES", 200_000);
    let users = number("TEST_REBUILD_USERS", 1_000);
    let system = loaded().own_servers().start().await;
    for begin in (0..messages).step_by(2_000) {
        let count = 2_000.min(messages - begin);
        let make = |index: usize| {
            let user = format!("user-{}", (begin + index) % users);
            let data = json!({ "text": "x".repeat(120), "number": begin + index });
            (format!("note.{user}"), event(&[&user], data))
        };
        system.publish_all(count, make).await;
    }
    let whole = Duration::from_secs(600);
    crate::support::eventually_within(whole, "all are stored", async || {
        let labels = [("outcome", "stored")];
        let stored = system.metric("catchup_messages_total", &labels).await;
        (stored >= messages as f64).then_some(())
    })
    .await;
    let began = Instant::now();
    system.redis_server().wipe();
    let rebuilt = || {
        system
            .worker(0)
            .log()
            .contains("the store is complete again")
    };
    crate::support::eventually_within(whole, "it is rebuilt", async || rebuilt().then_some(()))
        .await;
    system.ready().await;
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!(restored(&system).await, messages as f64);
    println!("{messages} messages of {users} users rebuilt in {seconds:.1} s");
}

/// An `EVENTS` that is full: publishers hear of it, and what has a PubAck goes on.
#[tokio::test]
async fn a_full_stream_is_the_publishers_to_know() {
    let system = System::builder().own_servers().start().await;
    let mut ann = system.connect("ann").await;
    ann.until_live().await;
    let jetstream = system.jetstream().await;
    let stream = jetstream.get_stream(system.stream_name("EVENTS")).await;
    let mut stream = stream.expect("the stream EVENTS");
    let found = stream
        .info()
        .await
        .expect("its configuration")
        .config
        .clone();
    let limited = async_nats::jetstream::stream::Config {
        max_bytes: 20_000,
        discard: async_nats::jetstream::stream::DiscardPolicy::New,
        ..found.clone()
    };
    jetstream
        .update_stream(limited)
        .await
        .expect("it is limited");
    let mut kept = 0;
    let refused = loop {
        let body = event(&["ann"], "x".repeat(1_000)).to_string();
        match system.publish_with("note", Default::default(), body).await {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
        assert!(kept < 100, "the limit holds");
    };
    println!("refused after {kept} events: {refused:?}");
    assert_eq!(ann.messages(kept).await.len(), kept);
    jetstream
        .update_stream(found)
        .await
        .expect("it is not limited");
    system.publish("note", event(&["ann"], "more")).await;
    assert_eq!(data_of(&ann.messages(1).await), ["more"]);
    system.ready().await;
}
