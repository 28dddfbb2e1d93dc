//! A client whose network vanishes: nobody tells the gateway that it is gone, and the device is
//! back elsewhere at once.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::proxy::{Direction, Mode, Proxy};
use crate::support::socket::{SocketRequest, data_of, messages_of};
use crate::support::{Socket, System, eventually_within};

/// A replaced connection whose peer does not answer is given up soon.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(10);
const EVENTS: usize = 20;

async fn publish(system: &System, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let event = json!({ "targetUserIds": ["ann"], "data": number });
        system.publish("new_post.1", event).await;
    }
    system.processed().await;
}

/// Ann through a network of her own, with the first event received and acknowledged.
async fn ann(system: &System) -> (Proxy, Socket, Value) {
    let network = Proxy::start(system.gateway(0).port());
    let request = SocketRequest::new(network.port()).user("ann");
    let mut socket = request.connect().await;
    socket.until_live().await;
    publish(system, 0..1).await;
    let frame = socket.expect("messages").await;
    assert_eq!(data_of(&messages_of(&frame)), [0]);
    socket.ack(&frame).await;
    // Or the acknowledgement vanishes with the network.
    system.until_waiting("ann", 0).await;
    (network, socket, frame["cursor"].clone())
}

async fn connections_at(system: &System, gateway: usize) -> f64 {
    let metrics = system.gateway(gateway).metrics().await;
    metrics.value("catchup_connections", &[])
}

/// Reads until all events came, which must be in order and without a `missed`.
async fn expect_all(socket: &mut Socket, first: usize) {
    let mut numbers: Vec<u64> = Vec::new();
    while !numbers.contains(&(EVENTS as u64 - 1)) {
        let data = data_of(&socket.messages_to(1).await);
        numbers.extend(data.iter().filter_map(Value::as_u64));
    }
    numbers.dedup();
    let due: Vec<u64> = (first as u64..EVENTS as u64).collect();
    assert_eq!(numbers, due);
}

#[tokio::test]
async fn a_device_whose_network_vanished_gets_everything_elsewhere() {
    let system = System::builder().gateways(2).start().await;
    let (network, gone, cursor) = ann(&system).await;
    network.set(Mode::BlackHole);
    // What is sent to the dead connection counts as sent to nobody.
    publish(&system, 1..EVENTS / 2).await;
    let request = system.gateway(1).socket().user("ann");
    let cursor = cursor.as_str().expect("a cursor");
    let mut ann = request.cursor(cursor).connect().await;
    publish(&system, EVENTS / 2..EVENTS).await;
    expect_all(&mut ann, 1).await;
    eventually_within(GIVEN_UP_WITHIN, "the old one is given up", async || {
        (connections_at(&system, 0).await == 0.0).then_some(())
    })
    .await;
    // The old connection's end takes nothing of the new one away.
    assert_eq!(connections_at(&system, 1).await, 1.0);
    publish(&system, EVENTS..EVENTS + 1).await;
    assert_eq!(data_of(&ann.messages(1).await), [EVENTS]);
    ann.close().await;
    drop(gone);
}

#[tokio::test]
async fn a_device_whose_network_vanished_gets_everything_at_the_same_node() {
    let system = System::start().await;
    let (network, gone, _) = ann(&system).await;
    network.vanish();
    publish(&system, 1..EVENTS / 2).await;
    // Without its cursor: what it acknowledged is stored, whatever became of the connection.
    let request = SocketRequest::new(network.port()).user("ann");
    let mut ann = request.connect().await;
    publish(&system, EVENTS / 2..EVENTS).await;
    expect_all(&mut ann, 1).await;
    ann.close().await;
    drop(gone);
}

/// The gateway's frames arrive, and nothing comes back: what was received is not acknowledged.
#[tokio::test]
async fn acknowledgements_that_never_arrive_cost_a_repeat_and_no_message() {
    let system = System::builder().gateways(2).start().await;
    let (network, mut deaf, _) = ann(&system).await;
    network.set(Mode::HalfOpen {
        passes: Direction::ToClient,
    });
    publish(&system, 1..EVENTS / 2).await;
    let received = data_of(&deaf.messages(EVENTS / 2 - 1).await);
    assert_eq!(received.len(), EVENTS / 2 - 1);
    let mut ann = system.gateway(1).socket().user("ann").connect().await;
    let repeated = data_of(&ann.until_live().await);
    assert_eq!(repeated, received);
    publish(&system, EVENTS / 2..EVENTS).await;
    expect_all(&mut ann, EVENTS / 2).await;
    // What it says too late is of no effect.
    network.set(Mode::Pass);
    deaf.expect_close(4009).await;
    publish(&system, EVENTS..EVENTS + 1).await;
    assert_eq!(data_of(&ann.messages(1).await), [EVENTS]);
    ann.close().await;
}

/// What a gateway asked of Redis may be carried out long after it gave up: a registration that is
/// late must not take the place of the connection that the device has made elsewhere meanwhile.
#[tokio::test]
async fn a_registration_that_comes_late_takes_nothing_from_a_newer_connection() {
    let system = System::builder().gateways(2).proxied().start().await;
    let first = system.gateway(0);
    // So that the gateway has its connection to Redis, with a script of each kind behind it.
    let mut ann = first.socket().user("ann").connect().await;
    ann.until_live().await;
    ann.close().await;

    let link = &system.links(first).redis;
    link.set(Mode::HalfOpen {
        passes: Direction::ToClient,
    });
    let refused = first.socket().user("ann").try_connect().await;
    assert_eq!(refused.err().map(|refused| refused.status), Some(503));
    let mut ann = system.gateway(1).socket().user("ann").connect().await;
    ann.until_live().await;
    link.set(Mode::Pass);
    first.ready().await;
    for number in 0..EVENTS {
        publish(&system, number..number + 1).await;
        assert_eq!(data_of(&ann.messages(1).await), [number]);
    }
    let mailbox = system.mailbox("ann").await;
    let connections = String::from_utf8_lossy(&mailbox["connections"]).into_owned();
    assert!(connections.contains("gateway-2"), "{connections}");
    ann.close().await;
}
