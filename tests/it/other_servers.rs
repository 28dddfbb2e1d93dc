//! Servers that are set up in other ways: with passwords, with small messages, or so that
//! Catchup cannot keep its promise on them.

use redis::AsyncCommands;
use serde_json::{Value, json};

use crate::support::command::Ended;
use crate::support::process::scratch_folder;
use crate::support::servers::Servers;
use crate::support::socket::data_of;
use crate::support::token::{claims, hs256};
use crate::support::{Catchup, NatsServer, RedisServer, System, event, user};

const REDIS_PASSWORD: &str = "s3cr3t/of@redis";
const NATS_PASSWORD: &str = "s3cr3t:of@nats";
const TOKEN_SECRET: &str = "s3cr3t of the tokens";

/// As a URL has it.
fn escaped(text: &str) -> String {
    text.replace('/', "%2F")
        .replace('@', "%40")
        .replace(':', "%3A")
}

/// Servers that ask for a password, and a connection to the store.
async fn guarded() -> (Servers, redis::aio::MultiplexedConnection) {
    let nats = NatsServer::start_with(&["--user", "ann", "--pass", NATS_PASSWORD]);
    let redis = RedisServer::start();
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let () = redis::cmd("CONFIG")
        .arg(&["SET", "requirepass", REDIS_PASSWORD])
        .query_async(&mut connection)
        .await
        .unwrap();
    (Servers { nats, redis }, connection)
}

#[tokio::test]
async fn passwords_and_a_database_work_and_are_never_logged() {
    let (servers, mut redis) = guarded().await;
    let (nats_port, redis_port) = (servers.nats.port(), servers.redis.port());
    let nats_url = format!(
        "nats://ann:{}@127.0.0.1:{nats_port}",
        escaped(NATS_PASSWORD)
    );
    let redis_url = format!(
        "redis://:{}@127.0.0.1:{redis_port}/3",
        escaped(REDIS_PASSWORD)
    );
    let system = System::builder()
        .servers(servers)
        .env("CATCHUP_NATS_URL", &nats_url)
        .env("CATCHUP_REDIS_URL", &redis_url)
        .env("CATCHUP_AUTH", "jwt")
        .env("CATCHUP_JWT_SECRET", TOKEN_SECRET)
        // Libraries say the most there.
        .env("CATCHUP_LOG", "trace")
        .start()
        .await;
    let mut publish = Catchup::new(["publish", "--type", "a", "--to", "ann", "--data", "7"]);
    for (name, value) in system.env() {
        publish = publish.env(name, value);
    }
    let ended = publish.run().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let tokens = [60, 61, 62].map(|seconds| hs256(TOKEN_SECRET, &claims("ann", seconds)));
    let gateway = system.gateway(0);
    let mut socket = gateway.socket().query("token", &tokens[0]).connect().await;
    assert_eq!(data_of(&socket.messages(1).await), [7]);
    let fresh = json!({ "op": "token", "token": tokens[1] }).to_string();
    socket.send(&fresh).await;
    socket.close().await;
    let mut socket = gateway.socket().bearer(&tokens[2]).connect().await;
    socket.until_live().await;
    socket.close().await;

    let () = redis::cmd("SELECT")
        .arg(3)
        .query_async(&mut redis)
        .await
        .unwrap();
    let key = system.key("mailbox:{ann}");
    assert!(
        redis.exists::<_, bool>(key).await.unwrap(),
        "in another database"
    );
    let signatures = tokens.iter().map(|token| token.rsplit('.').next().unwrap());
    let escaped = [escaped(REDIS_PASSWORD), escaped(NATS_PASSWORD)];
    let secrets: Vec<&str> = [REDIS_PASSWORD, NATS_PASSWORD, TOKEN_SECRET]
        .into_iter()
        .chain(escaped.iter().map(String::as_str))
        .chain(signatures)
        .collect();
    let roles = system.gateways().iter().chain(system.workers());
    let lines = roles.flat_map(|role| role.log().lines());
    for line in lines.chain([ended.stdout, ended.stderr]) {
        let found = secrets.iter().find(|secret| line.contains(**secret));
        assert_eq!(found, None, "{line}");
    }
}

#[tokio::test]
async fn refused_credentials_stop_the_start_and_are_not_repeated() {
    let (servers, _) = guarded().await;
    let nats_url = format!("nats://ann:wr0ng@127.0.0.1:{}", servers.nats.port());
    let env = [
        ("CATCHUP_NATS_URL".to_owned(), nats_url),
        (
            "CATCHUP_REDIS_URL".to_owned(),
            Servers::shared().redis.url(),
        ),
    ];
    for role in ["gateway", "worker"] {
        let ended = assert_unsuitable(&env, role, "CATCHUP_NATS_URL").await;
        assert!(!ended.stdout.contains("wr0ng") && !ended.stderr.contains("wr0ng"));
    }
}

#[tokio::test]
async fn a_server_that_takes_only_small_messages_is_enough_for_small_events() {
    const PAYLOAD_BYTES_MAX: usize = 2_048;
    let folder = scratch_folder("nats-config");
    let file = folder.path().join("small.conf");
    std::fs::write(&file, format!("max_payload: {PAYLOAD_BYTES_MAX}\n")).unwrap();
    let nats = NatsServer::start_with(&["-c", &file.display().to_string()]);
    let redis = RedisServer::start();
    let system = System::builder()
        .servers(Servers { nats, redis })
        .start()
        .await;
    let ann = user("ann");
    let mut socket = system.connect(&ann).await;
    socket.until_live().await;
    // The message with all that it carries is larger than the event that was published.
    let empty = event(&[&ann], "").to_string().len();
    let text = "x".repeat(PAYLOAD_BYTES_MAX - empty);
    for _ in 0..3 {
        system
            .publish("new_post.1", event(&[&ann], text.as_str()))
            .await;
        assert_eq!(data_of(&socket.messages(1).await), [text.as_str()]);
    }
    let names: Vec<String> = (0..100).map(|index| format!("{ann}-{index}")).collect();
    let targets: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut sockets = Vec::new();
    for name in &names {
        let mut socket = system.connect(name).await;
        socket.until_live().await;
        sockets.push(socket);
    }
    system.publish("new_post.1", event(&targets, "all")).await;
    for socket in &mut sockets {
        assert_eq!(data_of(&socket.messages(1).await), ["all"]);
    }
    // A refused body at this server's limit is left out as well.
    let ack = system.publish_with(
        "new_post.1",
        Default::default(),
        "x".repeat(PAYLOAD_BYTES_MAX),
    );
    let letter = system.letters().await.of(ack.await.unwrap().sequence).await;
    assert!(letter.body.is_empty() && !letter.reason().is_empty());
}

/// Starts a role with servers that will not do: it must end with 1 and one line that says why.
async fn assert_unsuitable(env: &[(String, String)], role: &str, named: &str) -> Ended {
    let mut command = Catchup::new([role, "--admin-listen", "127.0.0.1:0"]);
    for (name, value) in env {
        command = command.env(name, value);
    }
    if role == "gateway" {
        let listen = command.env("CATCHUP_LISTEN", "127.0.0.1:0");
        command = listen.env("CATCHUP_AUTH", "none");
    }
    let ended = command.run().await;
    assert_eq!(ended.code, Some(1), "{role}: {ended:?}");
    assert!(ended.stderr.contains(named), "{role}: {ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{role}: {ended:?}");
    ended
}

#[tokio::test]
async fn a_store_that_would_drop_messages_stops_the_start() {
    let redis = RedisServer::start_with(&["--maxmemory-policy", "allkeys-lru"]);
    let shared = Servers::shared();
    let env = [
        ("CATCHUP_NATS_URL".to_owned(), shared.nats.url()),
        ("CATCHUP_REDIS_URL".to_owned(), redis.url()),
        ("CATCHUP_NAMESPACE".to_owned(), user("lru")),
    ];
    for role in ["gateway", "worker"] {
        assert_unsuitable(&env, role, "noeviction").await;
    }
}

#[tokio::test]
async fn a_stream_that_is_set_up_otherwise_stops_the_worker() {
    let shared = Servers::shared();
    let client = async_nats::connect(shared.nats.url()).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 3] = [
        ("subject_transform", |config| {
            let fields = config.as_object_mut().unwrap();
            fields.remove("subject_transform");
        }),
        ("retention", |config| {
            config["retention"] = json!("workqueue")
        }),
        ("subjects", |config| {
            let all = config["subjects"][0].as_str().unwrap().replace('*', ">");
            config["subjects"] = json!([all]);
        }),
    ];
    for (named, change) in changes {
        let namespace = user("other");
        let mut config = json!({
            "name": format!("{namespace}_EVENTS"),
            "subjects": [format!("{namespace}.events.*"), format!("{namespace}.events.*.*")],
            "retention": "limits",
            "storage": "memory",
            "duplicate_window": 120_000_000_000_u64,
        });
        config["subject_transform"] = json!({
            "src": format!("{namespace}.events.*.*"),
            "dest": format!(
                "{namespace}.events.{{{{partition(32,2)}}}}.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}"
            ),
        });
        change(&mut config);
        let subject = format!("STREAM.CREATE.{namespace}_EVENTS");
        let answer: Value = jetstream.request(subject, &config).await.unwrap();
        assert!(answer.get("error").is_none(), "{answer}");
        let env = [
            ("CATCHUP_NATS_URL".to_owned(), shared.nats.url()),
            ("CATCHUP_REDIS_URL".to_owned(), shared.redis.url()),
            ("CATCHUP_NAMESPACE".to_owned(), namespace),
        ];
        assert_unsuitable(&env, "worker", named).await;
    }
}

#[tokio::test]
async fn scripts_that_the_store_forgot_are_loaded_again() {
    let system = System::shared().await;
    let ann = user("ann");
    let mut redis = system.redis().await;
    for number in 1..=3 {
        let () = redis::cmd("SCRIPT")
            .arg("FLUSH")
            .query_async(&mut redis)
            .await
            .unwrap();
        system.publish("new_post.1", event(&[&ann], number)).await;
        system.until_waiting(&ann, 1).await;
        let () = redis::cmd("SCRIPT")
            .arg("FLUSH")
            .query_async(&mut redis)
            .await
            .unwrap();
        let mut socket = system.connect(&ann).await;
        assert_eq!(data_of(&socket.until_live().await), [number]);
        let () = redis::cmd("SCRIPT")
            .arg("FLUSH")
            .query_async(&mut redis)
            .await
            .unwrap();
        socket.close().await;
        assert!(system.waiting(&ann).await.is_empty());
    }
}
