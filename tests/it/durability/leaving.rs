//! Workers that end or die while they hold acknowledgements.

use std::time::{Duration, Instant};

use super::{assert_once, deliveries, publish};
use crate::support::{System, event, eventually, eventually_within};

const COUNT: usize = 300;
/// JetStream delivers again what nobody answered for 10 s, and the worker has to be missed first.
const REDELIVERED_WITHIN: Duration = Duration::from_secs(25);

#[tokio::test]
async fn a_worker_that_ends_acknowledges_what_it_did_and_nobody_waits_for_it() {
    let system = System::builder().workers(2).start().await;
    publish(&system, "ann", 0..COUNT).await;
    system.until_waiting("ann", COUNT).await;
    system.worker(0).terminate();
    let told = Instant::now();
    // What comes now is stored without waiting for what is held.
    let mut longest = Duration::ZERO;
    let mut count = COUNT;
    while told.elapsed() < Duration::from_secs(3) {
        let published = Instant::now();
        let number = count;
        let address = format!("new_post.key-{}", number % 16);
        system.publish(&address, event(&["ann"], number)).await;
        count += 1;
        system.until_waiting("ann", count).await;
        longest = longest.max(published.elapsed());
    }
    let status = system.worker(0).ended().await;
    assert!(status.success(), "{status}");
    let ended = told.elapsed();
    system.processed().await;
    assert_eq!(deliveries(&system).await.again, 0, "delivered again");
    assert_once(&system, "ann", count).await;
    let metrics = system.worker(1).metrics().await;
    let duplicates = metrics.value("catchup_messages_total", &[("outcome", "duplicate")]);
    assert_eq!(duplicates, 0.0);
    println!("ended after {ended:.1?}; the longest wait of an event meanwhile: {longest:.2?}");
    assert!(longest < Duration::from_secs(2), "{longest:?}");
    assert!(ended < Duration::from_secs(6), "{ended:?}");
}

#[tokio::test]
async fn what_a_dead_worker_held_is_found_however_much_came_since() {
    let system = System::builder().workers(2).start().await;
    publish(&system, "ann", 0..COUNT).await;
    system.until_waiting("ann", COUNT).await;
    system.worker(0).kill();
    // Deeper than the newest 256.
    publish(&system, "ann", COUNT..3 * COUNT).await;
    let survivor = system.worker(1);
    eventually_within(REDELIVERED_WITHIN, "what it held is found", async || {
        let metrics = survivor.metrics().await;
        let labels = [("outcome", "found")];
        (metrics.value("catchup_redelivered_total", &labels) > 0.0).then_some(())
    })
    .await;
    eventually("everything is acknowledged", async || {
        let now = deliveries(&system).await;
        (now.unacknowledged == 0 && now.pending == 0).then_some(())
    })
    .await;
    assert_once(&system, "ann", 3 * COUNT).await;
    let metrics = survivor.metrics().await;
    println!(
        "a worker killed: {} messages found, {} stored late",
        metrics.value("catchup_redelivered_total", &[("outcome", "found")]),
        metrics.value("catchup_redelivered_total", &[("outcome", "stored")])
    );
}
