//! Redis killed, paused and restarted under load: the workers wait and go on by themselves, the
//! sockets stay, and nothing is lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{all_not_ready, alone, load, loaded, publish, readers, settle, users};
use crate::support::role::Kind;
use crate::support::{Oracle, RedisServer, System};

/// How long a request of a worker that was open when the store went may still take events: 5 s, and
/// a moment for the last of them.
const REQUESTS_OPEN: Duration = Duration::from_secs(6);
/// Longer than JetStream waits for a sign of life (`ack_wait`, 10 s): what workers hold meanwhile
/// must not be delivered again.
const LONG_OUTAGE: Duration = Duration::from_secs(13);

#[tokio::test]
async fn a_killed_redis_is_waited_for() {
    let outage = async |redis: &RedisServer| {
        redis.kill();
        Instant::now()
    };
    under_load("Redis killed", outage, RedisServer::start_again).await;
}

#[tokio::test]
async fn a_paused_redis_is_waited_for() {
    let outage = async |redis: &RedisServer| {
        redis.pause();
        Instant::now()
    };
    under_load("Redis paused", outage, RedisServer::resume).await;
}

async fn under_load(
    name: &str,
    outage: impl AsyncFn(&RedisServer) -> Instant,
    end: impl Fn(&RedisServer),
) {
    let _alone = alone().await;
    let builder = loaded().gateways(2).workers(2).own_servers();
    let system = builder.start().await;
    let redis = system.redis_server();
    let oracle = Arc::new(Oracle::default());
    let users = users(10);
    let readers = readers(&oracle, &system, &users);
    let count = load(5_000);
    let away = async {
        oracle.until_delivered(count / 4).await;
        let began = outage(redis).await;
        all_not_ready(&system, component).await;
        // What is published meanwhile is taken as long as a request is open for it.
        tokio::time::sleep_until((began + REQUESTS_OPEN).into()).await;
        let delivered = deliveries(&system).await;
        let again = delivered.iter().filter(|(_, _, again)| *again > 0);
        assert_eq!(again.count(), 0, "delivered again: {delivered:?}");
        // The outage has to last: that nothing is delivered again is what is tried.
        tokio::time::sleep_until((began + LONG_OUTAGE).into()).await;
        assert_eq!(
            deliveries(&system).await,
            delivered,
            "pulled or delivered again"
        );
        end(redis);
        system.ready().await;
        println!(
            "{name}: ready again after {:.1} s",
            began.elapsed().as_secs_f64()
        );
    };
    tokio::join!(publish(&oracle, &system, &users, count), away);
    let tally = settle(name, &oracle, readers).await;
    oracle.assert_order();
    assert_eq!(tally.reconnects, 0, "the sockets stay: {tally}");
}

/// What `/readyz` names while Redis is away.
fn component(kind: Kind) -> &'static str {
    match kind {
        Kind::Gateway => "store",
        Kind::Worker => "redis",
    }
}

/// For each consumer of `EVENTS`: its name, its last delivery, and how many were made again.
async fn deliveries(system: &System) -> Vec<(String, u64, usize)> {
    use futures_util::TryStreamExt;
    let jetstream = system.jetstream().await;
    let stream = jetstream.get_stream(system.stream_name("EVENTS")).await;
    let stream = stream.expect("the stream EVENTS");
    let consumers = stream.consumers().try_collect::<Vec<_>>().await;
    let mut deliveries = Vec::new();
    for consumer in consumers.expect("its consumers") {
        let again = consumer.num_redelivered;
        deliveries.push((consumer.name, consumer.delivered.consumer_sequence, again));
    }
    deliveries
}
