//! A NATS cluster of three that loses the leader of its streams.

use serde_json::{Value, json};

use crate::support::ports::free_port;
use crate::support::servers::Servers;
use crate::support::{NatsServer, RedisServer, System, event, eventually};

/// Three servers that know each other.
fn cluster() -> Vec<NatsServer> {
    let ports = [free_port(), free_port(), free_port()];
    let routes = ports.map(|port| format!("nats://127.0.0.1:{port}"));
    let start = |route: &String| {
        let arguments = ["--cluster_name", "test", "--cluster", route, "--routes"];
        let all = routes.join(",");
        NatsServer::start_with(&[&arguments[..], &[&all]].concat())
    };
    routes.iter().map(start).collect()
}

/// The name of the server that leads a stream.
async fn leader(system: &System, stream: &str) -> Option<String> {
    let subject = format!("STREAM.INFO.{}", system.stream_name(stream));
    let jetstream = system.jetstream().await;
    let info: Value = jetstream.request(subject, &json!({})).await.ok()?;
    assert_eq!(info["config"]["num_replicas"], 3, "{info}");
    info["cluster"]["leader"].as_str().map(str::to_owned)
}

#[tokio::test]
async fn the_leader_of_the_streams_dies_and_nothing_is_lost() {
    let mut servers = cluster();
    let urls: Vec<String> = servers.iter().map(NatsServer::url).collect();
    // The test's own connection is to the first one, which lives.
    let nats = servers.remove(0);
    let first = nats.name().to_owned();
    let redis = RedisServer::start();
    let system = System::builder()
        .servers(Servers { nats, redis })
        .gateways(2)
        .workers(2)
        .env("CATCHUP_NATS_URL", &urls.join(","))
        .env("CATCHUP_REPLICAS", "3")
        .start()
        .await;
    let mut ann = system.connect("ann").await;
    ann.until_live().await;
    system
        .publish("new_post.1", event(&["ann", "ben"], 1))
        .await;
    let jetstream = system.jetstream().await;
    let leader = eventually("another server leads EVENTS", async || {
        let leader = leader(&system, "EVENTS").await?;
        if leader != first {
            return Some(leader);
        }
        let subject = format!("STREAM.LEADER.STEPDOWN.{}", system.stream_name("EVENTS"));
        let _: Value = jetstream.request(subject, &json!({})).await.ok()?;
        None
    })
    .await;
    let dies = servers.iter().find(|server| server.name() == leader);
    dies.expect("one of ours").kill();
    for number in 2..=40 {
        // A PubAck may be missing in the change of leaders: then it is published once more.
        eventually("a PubAck", async || {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Nats-Msg-Id", format!("n{number}").as_str());
            let body = event(&["ann", "ben"], number).to_string();
            system.publish_with("new_post.1", headers, body).await.ok()
        })
        .await;
    }
    let mut received: Vec<i64> = Vec::new();
    while received.last() != Some(&40) {
        let frame = ann.expect("messages").await;
        let messages = frame["messages"].as_array().expect("messages");
        received.extend(
            messages
                .iter()
                .filter_map(|message| message["data"].as_i64()),
        );
        ann.ack(&frame).await;
    }
    received.dedup();
    let all: Vec<i64> = (1..=40).collect();
    assert_eq!(received, all);
    let mut ben = system.connect("ben").await;
    let waiting = ben.until_live().await;
    let waiting: Vec<i64> = (waiting.iter())
        .filter_map(|message| message["data"].as_i64())
        .collect();
    assert_eq!(waiting, all);
}
