//! One event for very many users.

use std::time::{Duration, Instant};

use serde_json::json;

use super::deliveries;
use crate::support::{Role, System, eventually, eventually_within};

/// Most targets of one event.
const USERS: usize = 50_000;
/// The redelivery time of 10 s, and storing twice for all on a machine that does more.
const WITHIN: Duration = Duration::from_secs(90);

async fn stored(worker: &Role) -> f64 {
    let metrics = worker.metrics().await;
    metrics.value("catchup_messages_total", &[("outcome", "stored")])
}

#[tokio::test]
async fn each_of_50_000_has_it_once_though_the_worker_dies_in_the_middle() {
    let _alone = crate::fault::alone().await;
    let system = System::builder().gateways(0).workers(2).start().await;
    let users: Vec<String> = (0..USERS).map(|index| format!("u{index}")).collect();
    let event = json!({ "targetUserIds": users, "data": "for many" });
    system.publish("new_post.many", event).await;
    let published = Instant::now();
    let (killed, survivor, at) = eventually("a worker in the middle of it", async || {
        for (one, other) in [(0, 1), (1, 0)] {
            let count = stored(system.worker(one)).await;
            if count > USERS as f64 / 10.0 {
                return Some((one, other, count));
            }
        }
        None
    })
    .await;
    system.worker(killed).kill();
    assert!(at < USERS as f64, "it was done already: {at}");
    let survivor = system.worker(survivor);
    eventually_within(WITHIN, "another worker has done it all", async || {
        let now = deliveries(&system).await;
        (now.unacknowledged == 0 && now.pending == 0).then_some(())
    })
    .await;
    let took = published.elapsed();

    let mut redis = system.redis().await;
    for some in users.chunks(5_000) {
        let mut pipeline = redis::pipe();
        for user in some {
            pipeline.llen(system.key(&format!("offline_messages:{{{user}}}")));
            pipeline.hget(system.key(&format!("mailbox:{{{user}}}")), "last:normal");
        }
        let counts: Vec<u64> = pipeline.query_async(&mut redis).await.expect("lengths");
        assert!(counts.iter().all(|count| *count == 1), "not once");
    }
    let metrics = survivor.metrics().await;
    let found = metrics.value("catchup_redelivered_total", &[("outcome", "found")]);
    println!(
        "one event for {USERS}: killed after {at} or more, {found} found again, done {:.1} s after \
         it was published",
        took.as_secs_f64()
    );
    assert!(found > 0.0);
}
