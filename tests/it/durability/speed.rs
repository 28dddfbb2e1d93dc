//! What holding acknowledgements costs. Not run by itself: `cargo test --release --test it -- \
//! --ignored --nocapture what_holding_costs`. `TEST_EVENTS` is the number of events of one round.

use std::time::Instant;

use crate::support::{System, event, eventually_within};

const ROUNDS: usize = 3;
const USERS: usize = 200;
const PUBLISHED_AT_ONCE: usize = 1_000;
const WITHIN: std::time::Duration = std::time::Duration::from_secs(180);

/// How many events `TEST_EVENTS` asks for.
pub(super) fn events(default: usize) -> usize {
    let events = std::env::var("TEST_EVENTS").map(|text| text.parse::<usize>());
    events.map_or(default, |events| {
        events.expect("TEST_EVENTS is a whole number")
    })
}

#[tokio::test]
#[ignore = "a measurement"]
async fn what_holding_costs() {
    let count = events(20_000);
    let kinds = ["none", "delayed", "fsync"];
    let mut best = [0.0_f64; 3];
    for _ in 0..ROUNDS {
        for (kind, best) in kinds.iter().zip(&mut best) {
            *best = best.max(one(kind, count).await);
        }
    }
    for (kind, best_of_kind) in kinds.iter().zip(best) {
        println!(
            "{kind}: {best_of_kind:.0} events a second, {:.2} of none",
            best_of_kind / best[0]
        );
    }
    assert!(best[1] > 0.7 * best[0], "holding must not cost throughput");
}

/// Events a second, from the stream into mailboxes, of one worker that finds them all there.
async fn one(kind: &str, count: usize) -> f64 {
    let builder = System::builder()
        .own_servers()
        .env("CATCHUP_DURABILITY", kind);
    let system = builder.env("CATCHUP_MAX_MESSAGES", "100000").start().await;
    system.worker(0).stop().await;
    for first in (0..count).step_by(PUBLISHED_AT_ONCE) {
        let some = PUBLISHED_AT_ONCE.min(count - first);
        system
            .publish_all(some, |index| {
                let number = first + index;
                let user = format!("user-{}", number % USERS);
                (format!("new_post.{user}"), event(&[&user], number))
            })
            .await;
    }
    system.worker(0).start_again();
    let labels = [("outcome", "stored")];
    let stored = async || {
        let metrics = system.worker(0).metrics().await;
        metrics.value("catchup_messages_total", &labels)
    };
    system.worker(0).ready().await;
    let (began, before) = (Instant::now(), stored().await);
    eventually_within(WITHIN, "all is stored", async || {
        (stored().await >= count as f64).then_some(())
    })
    .await;
    let rate = (count as f64 - before) / began.elapsed().as_secs_f64();
    system.processed().await;
    println!("{kind}: {rate:.0} events a second");
    rate
}
