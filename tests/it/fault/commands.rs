//! `listen` and `publish` while servers and gateways come and go. `dev`: see `dev.rs` beside this
//! folder.

use std::ops::Range;
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::command::{Ended, binary};
use crate::support::ports::free_port;
use crate::support::process::{Log, Process};
use crate::support::{Catchup, DEADLINE, NatsServer, System, eventually};

const EVENTS: usize = 300;

#[tokio::test]
async fn listen_outlives_its_gateway_and_prints_every_message_once() {
    let system = System::start().await;
    let gateway = system.gateway(0);
    let mut command = binary();
    let url = format!("http://127.0.0.1:{}", gateway.port());
    command.args(["listen", "--url", &url, "--user", "ann"]);
    let listen = Process::spawn("listen", command, Log::default());
    listen.log().line_with("live after 0").await;
    // What it prints of messages; what it says of connections is no JSON.
    let printed = || -> Vec<Value> {
        let lines = listen.log().lines();
        let messages = lines.iter().filter(|line| line.starts_with('{'));
        let data = messages.map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        data.map(|message| message["data"].clone()).collect()
    };
    let until = async |count: usize| {
        eventually(format!("{count} lines"), async || {
            (printed().len() >= count).then_some(())
        })
        .await;
    };
    let publish = async |numbers: Range<usize>| {
        for number in numbers {
            let event = json!({ "targetUserIds": ["ann"], "data": number });
            system.publish("new_comment.7", event).await;
        }
    };
    let kill = async {
        until(EVENTS / 4).await;
        gateway.kill();
        gateway.start_again();
    };
    tokio::join!(publish(0..EVENTS / 2), kill);
    until(EVENTS / 2).await;
    gateway.ready().await;
    // This time in order: it is told to come back, while more is published.
    let stop = async {
        gateway.stop().await;
        gateway.start_again();
    };
    tokio::join!(publish(EVENTS / 2..EVENTS), stop);
    until(EVENTS).await;
    system.ready().await;
    let numbers: Vec<Value> = (0..EVENTS).map(Value::from).collect();
    assert_eq!(printed(), numbers);
    listen.signal(Signal::SIGTERM);
    assert!(listen.exited().await.success());

    // All of it is acknowledged.
    gateway.ready().await;
    let mut ann = system.connect("ann").await;
    assert_eq!(ann.until_live().await, [] as [Value; 0]);
    ann.close().await;
}

#[tokio::test]
async fn publish_refuses_what_a_worker_would_refuse() {
    for (arguments, named) in [
        ("--to ann --data 1", "--type"),
        ("--type new_post --to ann", "--data"),
        ("--type New --to ann --data 1", "type"),
        ("--type new_post --key a.b --to ann --data 1", "key"),
        ("--type new_post --to a{b --data 1", "targetUserIds"),
        (
            "--type new_post --to ann --exclude a{b --data 1",
            "excludeUserId",
        ),
        (
            "--type new_post --to ann --priority low --data 1",
            "priority",
        ),
        ("--type new_post --to ann --ttl 0 --data 1", "ttlSeconds"),
        (
            "--type new_post --to ann --ttl 86401 --data 1",
            "ttlSeconds",
        ),
        (
            "--type new_post --to ann --collapse-key= --data 1",
            "collapseKey",
        ),
        ("--type new_post --to ann --id= --data 1", "id"),
        ("--type new_post --to ann --data {", "--data"),
        (
            "--type new_post --to ann --data 1 --colour blue",
            "--colour",
        ),
        ("--type new_post --to ann --data 1 --ttl soon", "--ttl"),
    ] {
        let arguments = ["publish"].into_iter().chain(arguments.split(' '));
        assert_refused(&Catchup::new(arguments).run().await, named);
    }
    let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
    let large = format!("\"{}\"", "x".repeat(64 * 1024));
    for data in [&deep, &large] {
        let start = ["publish", "--type", "new_post", "--to", "ann", "--data"];
        let ended = Catchup::new(start.into_iter().chain([data.as_str()]));
        assert_refused(&ended.run().await, "data");
    }
}

fn assert_refused(ended: &Ended, named: &str) {
    assert_eq!(ended.code, Some(2), "{named}: {ended:?}");
    assert_eq!(ended.stdout, "", "{ended:?}");
    let is_one_line = ended.stderr.lines().count() == 1;
    assert!(
        is_one_line && ended.stderr.contains(named),
        "{named}: {ended:?}"
    );
}

#[tokio::test]
async fn publish_fails_in_one_line_where_nats_is_away_or_keeps_nothing() {
    let publish = |url: &str| {
        let arguments = "publish --type new_post --to ann --data 1".split(' ');
        Catchup::new(arguments).env("CATCHUP_NATS_URL", url)
    };
    let began = Instant::now();
    let nobody = format!("nats://ann:hidden@127.0.0.1:{}", free_port());
    let ended = publish(&nobody).run().await;
    assert!(began.elapsed() < DEADLINE);
    assert_failed(&ended, "NATS");
    assert!(!ended.stderr.contains("hidden"), "{ended:?}");

    // A server on which no worker has made the stream.
    let nats = NatsServer::start();
    assert_failed(&publish(&nats.url()).run().await, "start a worker first");
}

fn assert_failed(ended: &Ended, named: &str) {
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let is_one_line = ended.stderr.lines().count() == 1;
    assert!(is_one_line && ended.stderr.contains(named), "{ended:?}");
}
