//! `catchup publish` and `catchup listen` against a running system.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::command::{Ended, binary};
use crate::support::process::{Log, Process};
use crate::support::token::{claims, hs256};
use crate::support::{Catchup, System, event, eventually, user};

/// `catchup publish` with these flags, in the system's namespace.
async fn publish(system: &System, flags: &[&str]) -> Ended {
    let mut command = Catchup::new(["publish"].iter().chain(flags).copied());
    for (name, value) in system.env() {
        command = command.env(name, value);
    }
    command.run().await
}

/// The id and the sequence that a successful call printed.
fn printed(ended: &Ended) -> (String, u64) {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let [line] = &ended.stdout.lines().collect::<Vec<_>>()[..] else {
        panic!("one line: {ended:?}");
    };
    let words: Vec<&str> = line.split(' ').collect();
    let sequence = words.iter().find_map(|word| word.parse().ok());
    (words[1].to_owned(), sequence.expect("a sequence"))
}

/// `catchup listen` with these flags.
fn listen(flags: &[&str]) -> Process {
    let mut command = binary();
    command.arg("listen").args(flags);
    Process::spawn("listen", command, Log::default())
}

/// The messages that a listener has printed.
fn messages(process: &Process) -> Vec<Value> {
    let lines = process.log().lines();
    let values = lines.iter().map(|line| serde_json::from_str(line));
    values.filter_map(Result::ok).collect()
}

async fn until_printed(process: &Process, expected: &[Value]) {
    eventually(format!("{expected:?} printed"), async || {
        let printed = messages(process);
        let data: Vec<_> = printed.iter().map(|message| &message["data"]).collect();
        (data == expected.iter().collect::<Vec<_>>()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_published_by_the_command_arrives_as_it_says() {
    let system = System::shared().await;
    let (ann, bob) = (user("ann"), user("bob"));
    let to = format!("{ann},{bob}");
    let plain = ["--type", "new_post", "--to", &to, "--data", "[1, 2.0]"];
    let (made, sequence) = printed(&publish(&system, &plain).await);
    let full = [
        "--type",
        "new_comment",
        "--key",
        "k-1",
        "--to",
        &to,
        "--exclude",
        &bob,
        "--id",
        "my id",
        "--priority",
        "high",
        "--ttl",
        "60",
        "--collapse-key",
        "c",
        "--data",
        "-5",
    ];
    let (id, _) = printed(&publish(&system, &full).await);
    assert_eq!(id, "my");
    let again = publish(&system, &full).await;
    assert!(again.stdout.contains("duplicate"), "{again:?}");
    system.until_waiting(&ann, 2).await;
    system.until_waiting(&bob, 1).await;

    let received = system.connect(&ann).await.until_live().await;
    assert_eq!(received[0]["id"], "my id");
    assert_eq!(
        (&received[0]["key"], &received[0]["priority"]),
        (&json!("k-1"), &json!("high"))
    );
    assert_eq!(received[0]["data"], -5);
    assert_eq!(received[1]["id"], json!(made));
    assert_eq!(received[1].get("key"), None);
    let stored = system.stored(sequence).await;
    assert!(stored.payload.ends_with(b"}") && stored.subject.ends_with("events.new_post"));
    let letter = system.letters().await.has(sequence).await;
    assert!(!letter);
    let ephemeral = [
        "--type",
        "typing",
        "--to",
        &ann,
        "--ephemeral",
        "--data",
        "1",
    ];
    printed(&publish(&system, &ephemeral).await);
    system.processed().await;
    assert_eq!(system.last_place(&ann, "normal").await, 1);
}

#[tokio::test]
async fn a_bad_event_or_usage_ends_with_2_in_one_line_that_names_it() {
    let system = System::shared().await;
    let good = ["--type", "new_post", "--to", "ann", "--data", "1"];
    let with = |extra: &[&'static str]| [&good[..], extra].concat();
    for (flags, named) in [
        (vec!["--type", "new_post", "--data", "1"], "--to"),
        (vec!["--type", "new_post", "--to", "ann"], "--data"),
        (vec!["--to", "ann", "--data", "1"], "--type"),
        (vec!["--type", "New", "--to", "ann", "--data", "1"], "type"),
        (
            vec!["--type", "a", "--to", "a b", "--data", "1"],
            "targetUserIds",
        ),
        (
            vec!["--type", "a", "--to", "", "--data", "1"],
            "targetUserIds",
        ),
        (vec!["--type", "a", "--to", "ann", "--data", "{"], "--data"),
        (with(&["--key", "a.b"]), "key"),
        (with(&["--ttl", "0"]), "ttlSeconds"),
        (with(&["--ttl", "86401"]), "ttlSeconds"),
        (with(&["--ttl", "1m"]), "--ttl"),
        (with(&["--priority", "urgent"]), "priority"),
        (with(&["--exclude", ""]), "excludeUserId"),
        (with(&["--id", ""]), "id"),
        (with(&["--collapse-key", "a\nb"]), "collapseKey"),
        (with(&["--unknown"]), "--unknown"),
    ] {
        let ended = publish(&system, &flags).await;
        assert_eq!(ended.code, Some(2), "{flags:?}: {ended:?}");
        assert!(ended.stderr.contains(named), "{flags:?}: {ended:?}");
        assert!(ended.stdout.is_empty(), "{flags:?}: {ended:?}");
    }
    let nowhere = Catchup::new(["publish"].iter().chain(&good).copied());
    let ended = nowhere
        .env("CATCHUP_NATS_URL", "nats://127.0.0.1:1")
        .run()
        .await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
}

#[tokio::test]
async fn a_listener_prints_acknowledges_and_goes_on_after_a_break() {
    let mut system = System::builder().start().await;
    let ann = user("ann");
    system.publish("new_post.1", event(&[&ann], 1)).await;
    system.until_waiting(&ann, 1).await;
    let url = format!("http://127.0.0.1:{}", system.gateway(0).port());
    let listener = listen(&["--url", &url, "--user", &ann, "--device", "terminal"]);
    until_printed(&listener, &[json!(1)]).await;
    system.publish("new_post.1", event(&[&ann], 2)).await;
    until_printed(&listener, &[json!(1), json!(2)]).await;
    system.until_waiting(&ann, 0).await;
    assert!(system.mailbox(&ann).await.contains_key("device:terminal"));

    // The gateway dies and comes back: what was published meanwhile is printed, and nothing twice.
    system.gateway(0).kill();
    system.publish("new_post.1", event(&[&ann], 3)).await;
    system.until_waiting(&ann, 1).await;
    system.gateway(0).start_again();
    until_printed(&listener, &[json!(1), json!(2), json!(3)]).await;
    system.until_waiting(&ann, 0).await;
    system.add_gateway().await;
    listener.signal(Signal::SIGTERM);
    let status = listener.exited().await;
    assert_eq!(status.code(), Some(0), "{:?}", listener.log().lines());
    // It said goodbye.
    eventually("the device is away", async || {
        (!system.mailbox(&ann).await.contains_key("connections")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_listener_that_is_refused_for_good_ends_with_1() {
    let system = System::builder()
        .workers(0)
        .env("CATCHUP_AUTH", "jwt")
        .env("CATCHUP_JWT_SECRET", "secret of the test")
        .start()
        .await;
    let url = format!("ws://127.0.0.1:{}", system.gateway(0).port());
    let good = hs256("secret of the test", &claims("ann", 60));
    let bad = hs256("another", &claims("ann", 60));
    for flags in [
        vec!["--url", &url, "--user", "ann"],
        vec!["--url", &url, "--user", "ann", "--token", &bad],
        vec!["--url", &url, "--user", "bob", "--token", &good],
    ] {
        let listener = listen(&flags);
        let status = listener.exited().await;
        let lines = listener.log().lines();
        assert_eq!(status.code(), Some(1), "{flags:?}: {lines:?}");
        assert!(
            !lines
                .iter()
                .any(|line| line.contains(&bad) || line.contains(&good))
        );
    }
    let first = listen(&["--url", &url, "--user", "ann", "--token", &good]);
    first.log().line_with("live").await;
    // Replaced by a newer connection of the device: it does not come back by itself.
    let second = listen(&["--url", &url, "--user", "ann", "--token", &good]);
    second.log().line_with("live").await;
    assert_eq!(first.exited().await.code(), Some(1));
    assert!(second.is_running());
    let ended = Catchup::new(["listen", "--url", "ftp://x", "--user", "ann"])
        .run()
        .await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
}

#[tokio::test]
async fn a_listener_waits_for_a_gateway_that_is_not_there_yet() {
    let system = System::builder().workers(1).gateways(0).start().await;
    let ann = user("ann");
    system.publish("new_post.1", event(&[&ann], 1)).await;
    let mut system = system;
    let index = system.add_gateway().await;
    let gateway = system.gateway(index);
    gateway.kill();
    let url = format!("http://127.0.0.1:{}", gateway.port());
    let listener = listen(&["--url", &url, "--user", &ann]);
    listener.log().line_with("trying again").await;
    gateway.start_again();
    until_printed(&listener, &[json!(1)]).await;
    let patience = Duration::from_secs(5);
    let waiting = crate::support::eventually_within(patience, "acknowledged", async || {
        system.waiting(&ann).await.is_empty().then_some(())
    });
    waiting.await;
}
