//! That the tests' own footing holds: servers can be killed, paused, rolled back and wiped,
//! raw clients say what they are told to say, and a broken condition is noticed.

use std::time::Duration;

use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use serde_json::json;
use tokio::net::TcpListener;

use crate::support::command::BINARY;
use crate::support::metrics::Metrics;
use crate::support::ports::{free_port, free_ports};
use crate::support::process::{Log, Process};
use crate::support::socket::{data_of, messages_of};
use crate::support::token::{KeyPair, claims, hs256};
use crate::support::{Catchup, NatsServer, RawNats, RedisServer, System, eventually, http, store};

async fn redis_connection(server: &RedisServer) -> MultiplexedConnection {
    let client = redis::Client::open(server.url()).expect("a URL");
    eventually("Redis accepts", async || {
        client.get_multiplexed_async_connection().await.ok()
    })
    .await
}

#[tokio::test]
async fn a_killed_redis_comes_back_with_its_data() {
    let server = RedisServer::start();
    let mut redis = redis_connection(&server).await;
    let _: () = redis.set("key", 1).await.unwrap();
    server.kill();
    assert!(std::net::TcpStream::connect(server.address()).is_err());
    server.start_again();
    let mut redis = redis_connection(&server).await;
    assert_eq!(redis.get::<_, u32>("key").await.unwrap(), 1);
}

#[tokio::test]
async fn a_redis_can_be_rolled_back_and_wiped() {
    let server = RedisServer::start();
    let mut redis = redis_connection(&server).await;
    let _: () = redis.set("key", 1).await.unwrap();
    let checkpoint = server.checkpoint();
    let _: () = redis.set("key", 2).await.unwrap();
    server.roll_back(&checkpoint);
    let mut redis = redis_connection(&server).await;
    assert_eq!(redis.get::<_, u32>("key").await.unwrap(), 1);
    server.wipe();
    let mut redis = redis_connection(&server).await;
    assert_eq!(redis.get::<_, Option<u32>>("key").await.unwrap(), None);
}

#[tokio::test]
async fn a_paused_redis_answers_nothing_until_it_is_resumed() {
    let server = RedisServer::start();
    let mut redis = redis_connection(&server).await;
    redis.set_response_timeout(Duration::from_millis(200));
    server.pause();
    let answer: redis::RedisResult<()> = redis.set("key", 1).await;
    assert!(answer.unwrap_err().is_timeout());
    server.resume();
    eventually("the value that timed out", async || {
        let value: redis::RedisResult<u32> = redis.get("key").await;
        value.ok()
    })
    .await;
}

#[tokio::test]
async fn a_killed_nats_keeps_its_streams_and_raw_bytes_reach_them() {
    let server = NatsServer::start();
    let client = async_nats::connect(server.url()).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);
    let config = async_nats::jetstream::stream::Config {
        name: "RAW".to_owned(),
        subjects: vec!["raws.*".to_owned()],
        ..Default::default()
    };
    jetstream.create_stream(config).await.unwrap();
    server.kill();
    server.start_again();

    let mut raw = RawNats::connect(server.port()).await;
    let ack = raw.publish(b"raws.\xff", b"\xfe").await.unwrap();
    assert!(ack.contains("\"seq\":1"), "{ack}");
    let headers = b"NATS/1.0\r\nNats-Msg-Id: \xff\r\n\r\n";
    let ack = raw.publish_with_headers(b"raws.x", headers, b"").await;
    assert!(ack.unwrap().contains("\"seq\":2"));
    assert_eq!(raw.publish(b"nobody.listens", b"").await, None);
}

#[tokio::test]
async fn a_system_carries_messages_and_shows_what_it_holds() {
    let system = System::builder().gateways(2).start().await;
    let event = |data: u32| json!({"targetUserIds": ["ann"], "data": data});
    assert_eq!(system.publish("new_comment.7", event(1)).await, 1);
    system.processed().await;
    let waiting = system.waiting("ann").await;
    assert_eq!(
        (waiting.len(), &store::message(&waiting[0])["data"]),
        (1, &json!(1))
    );

    let mut ann = system.connect("ann").await;
    assert_eq!(data_of(&ann.until_live().await), [json!(1)]);
    system.publish("new_comment.7", event(2)).await;
    let live = ann.expect("messages").await;
    assert_eq!(data_of(&messages_of(&live)), [json!(2)]);
    ann.ack(&live).await;
    ann.close().await;
    assert!(system.waiting("ann").await.is_empty());
    assert!(!system.mailbox("ann").await.is_empty());
    let delivered = ["live", "replayed"].map(|outcome| [("outcome", outcome)]);
    for labels in &delivered {
        assert_eq!(system.metric("catchup_messages_total", labels).await, 1.0);
    }

    // The other gateway carries on where the device was; a killed one takes its lease with it.
    system.gateway(0).kill();
    system.publish("new_comment.7", event(3)).await;
    let mut ann = system.gateway(1).socket().user("ann").connect().await;
    assert_eq!(data_of(&ann.messages(1).await), [json!(3)]);
    system.worker(0).stop().await;
    system.worker(0).start_again();
    system.worker(0).ready().await;
}

#[tokio::test]
async fn a_refusal_is_seen_with_its_body() {
    let system = System::builder().workers(0).start().await;
    let refused = system.gateway(0).socket().try_connect().await.err();
    let refused = refused.expect("a gateway wants a user");
    assert_eq!((refused.status, refused.body["code"].is_u64()), (401, true));
    let closing = system.gateway(0).socket().query("refuse", "close");
    closing.connect().await.expect_close(4001).await;
}

#[tokio::test]
async fn a_commands_end_is_seen() {
    let ended = Catchup::new(["--version"]).env("TEST", "1").run().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.starts_with("catchup "), "{ended:?}");
}

#[tokio::test]
async fn a_process_is_killed_with_its_group_when_it_is_dropped() {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "sleep 1000 & echo child $!; echo problem >&2; wait"]);
    let process = Process::spawn("sh", command, Log::default());
    let line = process.log().line_with("child ").await;
    process.log().line_with("problem").await;
    let child: i32 = line.rsplit(' ').next().unwrap().parse().unwrap();
    drop(process);
    let child = nix::unistd::Pid::from_raw(child);
    eventually("the end of the child", async || {
        let is_gone = nix::sys::signal::kill(child, None).is_err() || is_zombie(child);
        is_gone.then_some(())
    })
    .await;
}

/// Killed, but not yet waited for by whoever inherited it.
fn is_zombie(process: nix::unistd::Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/stat"));
    status.is_ok_and(|status| status.contains(") Z "))
}

#[test]
fn ports_are_free_and_given_once() {
    let first = free_ports(5);
    let mut ports: Vec<u16> = (first..first + 5).collect();
    ports.extend((0..5).map(|_| free_port()));
    for &port in &ports {
        std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    }
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 10);
}

#[test]
fn metrics_are_found_by_their_labels() {
    let text = "# TYPE a counter\na{x=\"1\",y=\"2\"} 3\na{x=\"2\",y=\"2\"} 4\nab 5\n";
    let metrics = Metrics::parse(text.to_owned());
    assert_eq!(metrics.value("a", &[("y", "2"), ("x", "1")]), 3.0);
    assert_eq!(metrics.value("a", &[("x", "1")]), 0.0);
    assert_eq!(metrics.sum("a"), 7.0);
    assert_eq!(metrics.value("ab", &[]), 5.0);
}

#[test]
fn every_key_pair_signs() {
    let claims = claims("ann", 60);
    for pair in [KeyPair::Rsa, KeyPair::Ec, KeyPair::Ed25519] {
        assert_eq!(pair.sign(&claims).split('.').count(), 3);
        assert!(pair.public_key_file().is_file());
    }
    assert_eq!(hs256("secret", &claims).split('.').count(), 3);
    assert!(std::path::Path::new(BINARY).is_file());
}

#[tokio::test]
async fn http_bodies_are_read_whole() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answers = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nhello",
    ];
    let server = tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let _ = stream.read(&mut request).await.unwrap();
            // In two pieces, cut in the middle of the body.
            let (head, tail) = answer.split_at(answer.len() - 2);
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            tokio::task::yield_now().await;
            stream.write_all(tail.as_bytes()).await.unwrap();
        }
    });
    for _ in answers {
        let response = http::get(port, "/").await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, "hello"));
    }
    server.await.unwrap();
}
