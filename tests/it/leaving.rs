//! A gateway that is told to end sends its clients away one after the other, loses nothing of
//! theirs, and does not wait for what will not come. `LEAVING_SOCKETS=3000 LEAVING_SECONDS=10`
//! make the first test a large one, with `--nocapture` for its figures.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use redis::AsyncCommands;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use crate::support::patient::{Inside, Patient};
use crate::support::process::raise_open_files;
use crate::support::{Role, System, eventually};

/// How a client of the crowd was sent away.
struct Left {
    user: String,
    code: Option<u16>,
    at: Instant,
    retry: Duration,
    messages: usize,
}

/// Reads and acknowledges until the gateway closes, and answers that.
async fn until_sent_away(user: String, inside: Inside) -> Left {
    let mut socket = inside.socket;
    let (mut retry, mut messages) = (None, inside.messages.len());
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => {
                let frame: Value = serde_json::from_str(&text).expect("JSON");
                match frame["op"].as_str() {
                    Some("messages") => {
                        messages += frame["messages"].as_array().expect("messages").len();
                        let ack = json!({ "op": "ack", "cursor": frame["cursor"] });
                        let _ = socket.send(Message::text(ack.to_string())).await;
                    }
                    Some("away") => retry = frame["retryMilliseconds"].as_u64(),
                    _ => {}
                }
            }
            Some(Ok(Message::Close(frame))) => {
                let at = Instant::now();
                // The library answers while it reads on.
                while let Some(Ok(_)) = socket.next().await {}
                return Left {
                    user,
                    code: frame.map(|frame| frame.code.into()),
                    at,
                    retry: Duration::from_millis(retry.expect("a delay before the close")),
                    messages,
                };
            }
            Some(Ok(_)) => {}
            other => panic!("no close: {other:?}"),
        }
    }
}

/// The most reconnects that come within one second.
fn peak(returns: &[Instant]) -> usize {
    let within = |start: &Instant| {
        let second = *start..*start + Duration::from_secs(1);
        returns.iter().filter(|at| second.contains(*at)).count()
    };
    returns.iter().map(within).max().unwrap_or(0)
}

fn number(variable: &str, default: usize) -> usize {
    let given = std::env::var(variable).ok();
    given.map_or(default, |text| text.parse().expect("a number"))
}

/// Connects users and has them read until they are sent away.
async fn crowd(gateway: &Role, users: &[String]) -> JoinSet<Left> {
    let mut joining = JoinSet::new();
    for user in users.iter().cloned() {
        let client = Patient {
            port: gateway.port(),
            user: user.clone(),
            refuse_by_close: false,
        };
        joining.spawn(async move { (user, client.get_in().await) });
    }
    let mut leaving = JoinSet::new();
    for (user, inside) in joining.join_all().await {
        leaving.spawn(until_sent_away(user, inside));
    }
    leaving
}

/// A gateway that leaves is not ready and lets nobody in, and says so.
async fn assert_leaving(gateway: &Role) {
    assert_eq!(gateway.not_ready().await["reasons"]["process"], "draining");
    let late = gateway.socket().user("late");
    let refused = late.try_connect().await.err().expect("nobody is let in");
    assert_eq!((refused.status, &refused.body["code"]), (503, &json!(1013)));
    assert!(refused.retry_after.is_some());
    let mut closing = late.query("refuse", "close").connect().await;
    let frames = closing.expect_close(1013).await;
    assert_eq!(frames[0]["op"], "away");
    assert!(frames[0]["retryMilliseconds"].as_u64().is_some());
}

/// Each user's one message was acknowledged or waits; nobody is connected, and the name is free.
async fn assert_nothing_lost(system: &System, left: &[Left]) {
    eventually("every message is stored", async || {
        let metrics = system.worker(0).metrics().await;
        let stored = metrics.value("catchup_messages_total", &[("outcome", "stored")]);
        (stored == left.len() as f64).then_some(())
    })
    .await;
    for left in left {
        let waiting = system.waiting(&left.user).await.len();
        assert_eq!(left.messages + waiting, 1, "{}", left.user);
        let mailbox = system.mailbox(&left.user).await;
        let connections = mailbox.get("connections").cloned().unwrap_or_default();
        assert!(connections.is_empty(), "{}: {connections:?}", left.user);
    }
    let mut redis = system.redis().await;
    for key in ["node:gateway-1", "online_users:gateway-1"] {
        let exists: bool = redis.exists(system.key(key)).await.unwrap();
        assert!(!exists, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_leave_evenly_over_the_drain_time_and_lose_nothing() {
    let (sockets, seconds) = (number("LEAVING_SOCKETS", 60), number("LEAVING_SECONDS", 3));
    raise_open_files();
    let system = System::builder()
        .env("CATCHUP_DRAIN", &format!("{seconds}s"))
        .start()
        .await;
    let gateway = system.gateway(0);
    let users: Vec<String> = (0..sockets).map(|index| format!("user-{index}")).collect();
    let leaving = crowd(gateway, &users).await;
    let start = Instant::now();
    gateway.terminate();
    assert_leaving(gateway).await;
    // Those who are not told yet are served; for the others it waits.
    let event = json!({ "targetUserIds": users, "data": 1 });
    system.publish("new_post", event).await;
    let left = leaving.join_all().await;
    assert!(gateway.ended().await.success());

    let took = start.elapsed();
    let even = sockets as f64 / seconds as f64;
    let returns: Vec<Instant> = left.iter().map(|left| left.at + left.retry).collect();
    let peak = peak(&returns);
    let live = left.iter().filter(|left| left.messages > 0).count();
    println!(
        "leaving: {sockets} sockets over {seconds} s, ended after {:.1} s; {live} had a message \
         meanwhile; at most {peak} reconnects in a second, {even:.0} if even",
        took.as_secs_f32()
    );
    assert!(left.iter().all(|left| left.code == Some(1001)));
    // By the clock of a busy machine: a few more may fall into one second.
    assert!(peak as f64 <= even * 1.25 + 5.0, "{peak}");
    assert!(
        took >= Duration::from_secs_f64(seconds as f64 * 0.9),
        "{took:?}"
    );
    assert!(live > 0, "nobody was served while the node left");
    assert_nothing_lost(&system, &left).await;
}

#[tokio::test]
async fn a_node_with_few_sockets_does_not_wait() {
    let system = System::builder().env("CATCHUP_DRAIN", "10m").start().await;
    let gateway = system.gateway(0);
    let mut ann = system.connect("ann").await;
    ann.until_live().await;
    let mut bob = system.connect("bob").await;
    bob.until_live().await;
    let start = Instant::now();
    gateway.terminate();
    tokio::join!(ann.expect_close(1001), bob.expect_close(1001));
    assert!(gateway.ended().await.success());
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn clients_who_leave_by_themselves_end_the_drain() {
    let system = System::builder().env("CATCHUP_DRAIN", "10m").start().await;
    let gateway = system.gateway(0);
    let mut sockets = Vec::new();
    for index in 0..100 {
        sockets.push(system.connect(&format!("user-{index}")).await);
    }
    let start = Instant::now();
    gateway.terminate();
    gateway.not_ready().await;
    drop(sockets);
    assert!(gateway.ended().await.success());
    // The hundredth would have been told after 10 s.
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn a_client_that_does_not_answer_holds_nobody_up() {
    let system = System::builder().env("CATCHUP_DRAIN", "1s").start().await;
    let gateway = system.gateway(0);
    // Open, and never read from again.
    let mut deaf = Vec::new();
    for index in 0..5 {
        deaf.push(system.connect(&format!("deaf-{index}")).await);
    }
    let mut ann = system.connect("ann").await;
    ann.until_live().await;
    let start = Instant::now();
    gateway.terminate();
    let frames = ann.expect_close(1001).await;
    assert_eq!(frames.last().unwrap()["op"], "away");
    assert!(
        start.elapsed() < Duration::from_millis(1_900),
        "{:?}",
        start.elapsed()
    );
    assert!(gateway.ended().await.success());
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let system = System::builder().env("CATCHUP_DRAIN", "10m").start().await;
    let gateway = system.gateway(0);
    let mut sockets = Vec::new();
    for index in 0..100 {
        sockets.push(system.connect(&format!("user-{index}")).await);
    }
    gateway.terminate();
    gateway.not_ready().await;
    let start = Instant::now();
    gateway.terminate();
    assert_eq!(gateway.ended().await.code(), Some(1));
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn a_worker_hands_back_what_it_holds() {
    let mut system = System::builder().workers(2).start().await;
    let mut ann = system.connect("ann").await;
    ann.until_live().await;
    let publishing = async {
        for number in 0..300 {
            let event = json!({ "targetUserIds": ["ann"], "data": number });
            system
                .publish(&format!("new_post.{}", number % 40), event)
                .await;
            if number == 150 {
                system.worker(0).terminate();
            }
        }
    };
    let (messages, ()) = tokio::join!(ann.messages(300), publishing);
    assert!(system.worker(0).ended().await.success());
    let mut data: Vec<u64> = messages
        .iter()
        .map(|message| message["data"].as_u64().unwrap())
        .collect();
    data.sort_unstable();
    assert!(data.into_iter().eq(0..300));
    // Nothing waited for its redelivery, 10 s after a death.
    system.add_worker().await;
    ann.expect_silence(Duration::from_secs(1)).await;
}
