//! NATS killed and restarted under load: everybody connects again, the sockets stay, and nothing
//! with a PubAck is lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{all_not_ready, alone, load, loaded, publish, readers, settle, users};
use crate::support::Oracle;
use crate::support::role::Kind;

/// Longer than a worker may be silent (4 s), and than a publisher waits for its PubAck (5 s).
const LONG_OUTAGE: Duration = Duration::from_secs(6);

#[tokio::test]
async fn a_killed_nats_is_waited_for() {
    let _alone = alone().await;
    let builder = loaded().gateways(2).workers(2).own_servers();
    let system = builder.start().await;
    let nats = system.nats_server();
    let oracle = Arc::new(Oracle::default());
    let users = users(10);
    let readers = readers(&oracle, &system, &users);
    let count = load(5_000);
    let away = async {
        oracle.until_delivered(count / 4).await;
        nats.kill();
        let began = Instant::now();
        all_not_ready(&system, component).await;
        // Every worker has to have reason to take the others for dead.
        tokio::time::sleep_until((began + LONG_OUTAGE).into()).await;
        nats.start_again();
        system.ready().await;
        println!(
            "NATS killed: ready again after {:.1} s",
            began.elapsed().as_secs_f64()
        );
    };
    tokio::join!(publish(&oracle, &system, &users, count), away);
    let tally = settle("NATS killed", &oracle, readers).await;
    oracle.assert_order();
    assert_eq!(tally.reconnects, 0, "the sockets stay: {tally}");
}

/// What `/readyz` names while NATS is away.
fn component(kind: Kind) -> &'static str {
    match kind {
        Kind::Gateway => "bus",
        Kind::Worker => "nats",
    }
}
