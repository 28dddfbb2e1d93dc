//! Servers and settings that cannot keep the promise: the start is refused in one line that says
//! what to do.

use std::path::Path;

use async_nats::jetstream::stream::Config;

use crate::support::command::Ended;
use crate::support::process::scratch_folder;
use crate::support::servers::Servers;
use crate::support::{Catchup, NatsServer, RedisServer};

const ROLES: [&str; 2] = ["gateway", "worker"];

/// Runs a role on these servers until it refuses.
async fn role(role: &str, nats: &NatsServer, redis: &RedisServer) -> Ended {
    let command = Catchup::new([role])
        .env("CATCHUP_NATS_URL", &nats.url())
        .env("CATCHUP_REDIS_URL", &redis.url())
        .env("CATCHUP_LISTEN", "127.0.0.1:0")
        .env("CATCHUP_ADMIN_LISTEN", "127.0.0.1:0")
        .env("CATCHUP_AUTH", "none");
    command.run().await
}

/// That it ended with this code, and said all of `texts` in one line.
fn assert_refused(ended: &Ended, code: i32, texts: &[&str]) {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    let lines: Vec<&str> = ended.stderr.lines().collect();
    assert!(
        lines.len() == 1 && lines[0].starts_with("catchup: "),
        "{ended:?}"
    );
    for text in texts {
        assert!(lines[0].contains(text), "no {text:?} in {:?}", lines[0]);
    }
}

#[tokio::test]
async fn a_redis_that_evicts_is_refused() {
    let nats = NatsServer::start();
    let arguments = ["--appendonly", "yes", "--maxmemory-policy", "allkeys-lru"];
    let redis = RedisServer::start_with(&arguments);
    for name in ROLES {
        let ended = role(name, &nats, &redis).await;
        assert_refused(
            &ended,
            1,
            &["maxmemory-policy", "allkeys-lru", "noeviction"],
        );
    }
}

#[tokio::test]
async fn a_redis_that_evicts_is_refused_also_later() {
    let servers = Servers::start();
    let system = crate::support::System::builder().servers(servers);
    let system = system.start().await;
    let redis = system.redis_server();
    let mut admin = system.redis().await;
    let set = ["SET", "maxmemory-policy", "volatile-ttl"];
    let _: () = redis::cmd("CONFIG")
        .arg(&set)
        .query_async(&mut admin)
        .await
        .expect("it is set");
    // What it was set to holds for whoever connects.
    for role in system.roles() {
        role.kill();
    }
    for name in ROLES {
        let ended = role(name, system.nats_server(), redis).await;
        assert_refused(&ended, 1, &["volatile-ttl", "noeviction"]);
    }
}

#[tokio::test]
async fn a_stream_of_another_shape_is_refused() {
    let servers = Servers::start();
    let client = async_nats::connect(servers.nats.url())
        .await
        .expect("a connection");
    let jetstream = async_nats::jetstream::new(client);
    let config = Config {
        name: "EVENTS".to_owned(),
        subjects: vec!["events.*".to_owned(), "events.*.*".to_owned()],
        duplicate_window: std::time::Duration::from_secs(120),
        ..Default::default()
    };
    jetstream.create_stream(config).await.expect("a stream");
    let ended = role("worker", &servers.nats, &servers.redis).await;
    assert_refused(
        &ended,
        1,
        &["EVENTS", "subject_transform", "CATCHUP_NAMESPACE"],
    );

    // Another stream sits on the subjects.
    jetstream.delete_stream("EVENTS").await.expect("it is gone");
    let config = Config {
        name: "OTHER".to_owned(),
        subjects: vec!["events.>".to_owned()],
        ..Default::default()
    };
    jetstream.create_stream(config).await.expect("a stream");
    let ended = role("worker", &servers.nats, &servers.redis).await;
    assert_refused(&ended, 1, &["another stream", "CATCHUP_NAMESPACE"]);
}

#[tokio::test]
#[ignore = "needs Debian's nats-server 2.9: scripts/test sets TEST_OLD_NATS_SERVER to it"]
async fn nats_2_9_is_refused() {
    let program = std::env::var("TEST_OLD_NATS_SERVER").expect("TEST_OLD_NATS_SERVER");
    let nats = NatsServer::start_program(Path::new(&program), &[]);
    let redis = RedisServer::start();
    for name in ROLES {
        assert_refused(
            &role(name, &nats, &redis).await,
            1,
            &["2.9", "2.10 or newer"],
        );
    }
    let publish = "publish --type new_post --to ann --data 1".split(' ');
    let publish = Catchup::new(publish).env("CATCHUP_NATS_URL", &nats.url());
    assert_refused(&publish.run().await, 1, &["2.9", "2.10 or newer"]);
}

#[tokio::test]
async fn what_is_no_setting_is_named() {
    let folder = scratch_folder("settings");
    let file = folder.path().join("catchup.toml");
    std::fs::write(
        &file,
        "nats_url = \"nats://127.0.0.1:1\"\ncolour = \"blue\"\n",
    )
    .unwrap();
    let file = file.display().to_string();
    for command in ["gateway", "worker", "publish", "listen", "dev"] {
        let flag = Catchup::new([command, "--colour", "blue"]);
        assert_refused(&flag.run().await, 2, &["--colour"]);
        let arguments = match command {
            "publish" => "publish --type new_post --to ann --data 1",
            "listen" => "listen --url ws://127.0.0.1:1 --user ann",
            other => other,
        };
        let call = || Catchup::new(arguments.split(' ')).env("CATCHUP_AUTH", "none");
        let variable = call().env("CATCHUP_COLOUR", "blue");
        assert_refused(&variable.run().await, 2, &["CATCHUP_COLOUR"]);
        let key = call().env("CATCHUP_CONFIG", &file);
        assert_refused(&key.run().await, 2, &["colour", "catchup.toml"]);
    }
    let command = Catchup::new(["bench"]).run().await;
    assert_refused(&command, 2, &["bench"]);
}

#[tokio::test]
async fn what_cannot_be_and_contradictions_are_named() {
    for (command, variables, named) in [
        (
            "gateway",
            [("CATCHUP_REDIS_URL", "redis+cluster://:hidden@a:1,b:2/1")].as_slice(),
            "CATCHUP_REDIS_URL",
        ),
        (
            "worker",
            &[("CATCHUP_REDIS_URL", "redis+sentinel://:hidden@a:1")],
            "CATCHUP_REDIS_URL",
        ),
        (
            "worker",
            &[("CATCHUP_REDIS_URL", "rediss://:hidden@")],
            "CATCHUP_REDIS_URL",
        ),
        (
            "worker",
            &[("CATCHUP_NATS_URL", "http://ann:hidden@a")],
            "CATCHUP_NATS_URL",
        ),
        (
            "gateway",
            &[("CATCHUP_JWKS_URL", "ftp://a/hidden")],
            "CATCHUP_JWKS_URL",
        ),
        ("gateway", &[("CATCHUP_AUTH", "jwt")], "CATCHUP_JWT"),
        (
            "gateway",
            &[
                ("CATCHUP_AUTH", "none"),
                ("CATCHUP_JWT_SECRET", "hidden-hidden-hidden-hidden-hidden"),
            ],
            "CATCHUP_JWT_SECRET",
        ),
        (
            "worker",
            &[("CATCHUP_MESSAGE_TTL", "1 day")],
            "CATCHUP_MESSAGE_TTL",
        ),
        (
            "worker",
            &[("CATCHUP_MAX_MESSAGES", "many")],
            "CATCHUP_MAX_MESSAGES",
        ),
        ("worker", &[("CATCHUP_NODE", "a b")], "CATCHUP_NODE"),
        (
            "worker",
            &[("CATCHUP_NAMESPACE", "a.b")],
            "CATCHUP_NAMESPACE",
        ),
        (
            "worker",
            &[("CATCHUP_LOG_FORMAT", "xml")],
            "CATCHUP_LOG_FORMAT",
        ),
    ] {
        let call = |call: Catchup, (name, value): &(&str, &str)| call.env(name, value);
        let ended = variables
            .iter()
            .fold(Catchup::new([command]), call)
            .run()
            .await;
        assert_refused(&ended, 2, &[named]);
        assert!(!ended.stderr.contains("hidden"), "{ended:?}");
    }
}
