//! An event that JetStream was told is done is there to stay: acknowledgements are held until the
//! store confirmed what was appended, and what it did not confirm is appended once more, once.
//!
//! | file | what is shown |
//! |---|---|
//! | `held` | what is held, and for how long; connections cut and stores rolled back meanwhile |
//! | `leaving` | workers that end or die while they hold |
//! | `kinds` | `CATCHUP_DURABILITY`: each kind, and where it is refused |
//! | `order` | 3 workers and 64 keys, in peace, while one dies, and while one joins |
//! | `fan_out` | one event for 50,000 users whose worker dies in the middle |
//! | `speed` | what holding costs |
//!
//! Each prints its figures (`cargo test --test it durability -- --nocapture`).

mod fan_out;
mod held;
mod kinds;
mod leaving;
mod order;
mod speed;

use futures_util::TryStreamExt;
use serde_json::Value;

use crate::support::store::message;
use crate::support::{System, event, eventually};

/// What the consumers of `EVENTS` together say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Deliveries {
    /// Delivered and not acknowledged.
    unacknowledged: usize,
    /// Of these: delivered more than once.
    again: usize,
    /// Not delivered yet.
    pending: u64,
}

async fn deliveries(system: &System) -> Deliveries {
    let jetstream = system.jetstream().await;
    let stream = jetstream.get_stream(system.stream_name("EVENTS")).await;
    let consumers = stream.expect("the stream EVENTS").consumers();
    let consumers: Vec<_> = consumers.try_collect().await.expect("its consumers");
    Deliveries {
        unacknowledged: consumers.iter().map(|info| info.num_ack_pending).sum(),
        again: consumers.iter().map(|info| info.num_redelivered).sum(),
        pending: consumers.iter().map(|info| info.num_pending).sum(),
    }
}

/// Publishes events for one user, numbered, over some keys.
async fn publish(system: &System, user: &str, numbers: std::ops::Range<usize>) {
    let first = numbers.start;
    system
        .publish_all(numbers.len(), |index| {
            let number = first + index;
            (
                format!("new_post.key-{}", number % 16),
                event(&[user], number),
            )
        })
        .await;
}

/// The numbers that wait for a user, in the order of its mailbox.
async fn waiting(system: &System, user: &str) -> Vec<u64> {
    let entries = system.waiting(user).await;
    let number = |entry: &String| message(entry)["data"].as_u64().expect("a number");
    entries.iter().map(number).collect()
}

/// Asserts that each of `count` numbers waits once.
async fn assert_once(system: &System, user: &str, count: usize) {
    let mut numbers = waiting(system, user).await;
    numbers.sort_unstable();
    let expected: Vec<u64> = (0..count as u64).collect();
    assert_eq!(numbers, expected, "{user}");
}

/// How many numbers of a key came after a greater one of the same key. A repeat counts where it
/// came first.
fn inversions(received: impl IntoIterator<Item = (String, u64)>) -> usize {
    let mut seen = std::collections::HashSet::new();
    let mut greatest = std::collections::HashMap::new();
    let mut count = 0;
    for (key, number) in received {
        if !seen.insert((key.clone(), number)) {
            continue;
        }
        let greatest = greatest.entry(key).or_insert(number);
        match number < *greatest {
            true => count += 1,
            false => *greatest = number,
        }
    }
    count
}

/// A message's key and number.
fn numbered(message: &Value) -> (String, u64) {
    let key = message["key"].as_str().unwrap_or_default().to_owned();
    (key, message["data"].as_u64().expect("a number"))
}

/// How many acknowledgements the workers count with this outcome.
async fn acknowledgements(system: &System, outcome: &str) -> f64 {
    let name = "catchup_acknowledgements_total";
    system.metric(name, &[("outcome", outcome)]).await
}

async fn until_acknowledged(system: &System, outcome: &str, count: f64) {
    eventually(format!("{count} acknowledgements {outcome}"), async || {
        (acknowledgements(system, outcome).await == count).then_some(())
    })
    .await;
}

#[test]
fn inversions_are_counted() {
    let of = |numbers: &[(&str, u64)]| {
        let numbers = numbers
            .iter()
            .map(|(key, number)| ((*key).to_owned(), *number));
        inversions(numbers.collect::<Vec<_>>())
    };
    assert_eq!(of(&[("a", 1), ("b", 0), ("a", 2), ("a", 1)]), 0);
    assert_eq!(of(&[("a", 1), ("a", 3), ("a", 2), ("b", 4), ("b", 1)]), 2);
}
