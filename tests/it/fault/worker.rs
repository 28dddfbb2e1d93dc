//! Workers killed, paused and told to end in the middle of their work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{alone, load, loaded, publish, readers, settle, users};
use crate::support::{Oracle, eventually};

/// How long JetStream waits for a worker's sign of life (`ack_wait`).
const REDELIVERY: Duration = Duration::from_secs(10);

#[tokio::test]
async fn what_a_killed_worker_held_arrives_from_another() {
    let _alone = alone().await;
    let system = loaded().workers(2).start().await;
    let oracle = Arc::new(Oracle::default());
    let users = users(10);
    let readers = readers(&oracle, &system, &users);
    let count = load(2_000);
    let kill = async {
        oracle.until_delivered(count / 2).await;
        system.worker(0).kill();
        Instant::now()
    };
    let (killed, ()) = tokio::join!(kill, publish(&oracle, &system, &users, count));
    settle("a worker killed", &oracle, readers).await;
    println!("all there {:.1} s after", killed.elapsed().as_secs_f64());

    // It comes back, and takes its part again.
    system.worker(0).start_again();
    system.ready().await;
    let mut late = system.connect("late").await;
    late.until_live().await;
    for key in 0..32 {
        let event = serde_json::json!({ "targetUserIds": ["late"], "data": key });
        system.publish(&format!("new_post.{key}"), event).await;
    }
    late.messages(32).await;
}

#[tokio::test]
async fn a_paused_worker_is_replaced_and_comes_back() {
    let _alone = alone().await;
    let system = loaded().workers(2).start().await;
    let oracle = Arc::new(Oracle::default());
    let users = users(10);
    let readers = readers(&oracle, &system, &users);
    let count = load(2_000);
    let pause = async {
        oracle.until_delivered(count / 2).await;
        system.worker(0).pause();
    };
    tokio::join!(pause, publish(&oracle, &system, &users, count));
    // The other one notices the silence, and what the paused one held is delivered again.
    oracle.until_kept().await;
    system.worker(0).resume();
    publish(&oracle, &system, &users, count).await;
    system.ready().await;
    settle("a worker paused", &oracle, readers).await;
}

#[tokio::test]
async fn a_worker_that_is_told_to_end_leaves_nothing_to_wait_for() {
    let _alone = alone().await;
    let system = loaded().workers(3).start().await;
    let oracle = Arc::new(Oracle::default());
    let users = users(10);
    let readers = readers(&oracle, &system, &users);
    let count = load(4_000);
    let end = async {
        oracle.until_delivered(count / 3).await;
        system.worker(0).stop().await;
        oracle.until_delivered(count).await;
        system.worker(0).start_again();
        system.worker(0).ready().await;
        system.worker(1).stop().await;
        Instant::now()
    };
    let (ended, ()) = tokio::join!(end, publish(&oracle, &system, &users, count));
    let tally = settle("workers ended in order", &oracle, readers).await;
    // Nobody had to wait for a redelivery, and nothing was done twice.
    assert!(ended.elapsed() < REDELIVERY, "{:?}", ended.elapsed());
    assert_eq!(tally.repeats, 0, "{tally}");
    oracle.assert_order();
    eventually("the others own all", async || {
        let response = system.worker(2).admin("/readyz").await.ok()?;
        (response.status == 200).then_some(())
    })
    .await;
}
