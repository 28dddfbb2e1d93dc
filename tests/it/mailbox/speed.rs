//! What an append costs the server. Not run by itself: `cargo test --release --test it -- \
//! --ignored --nocapture the_cost_of`.

use catchup::event::UserId;
use catchup::mailbox::{Append, Entry};
use catchup::protocol::Lane;

use super::{Bench, HOUR_MS, event_key, now_ms};

const USERS: u64 = 256;
const ROUNDS: u64 = 400;
/// Above the sequences of what waits before.
const FIRST: u64 = 1_000_000;
const FILLED_AT_ONCE: u64 = 100;
const BODY_BYTES: usize = 200;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Append,
    First,
    Once,
}

#[tokio::test]
#[ignore = "a measurement"]
async fn the_cost_of_an_append() {
    let users: Vec<UserId> = (0..USERS)
        .map(|index| UserId::parse(&format!("user-{index}")).unwrap())
        .collect();
    for (kind, waiting) in [
        (Kind::Append, 0),
        (Kind::First, 0),
        (Kind::First, 1_000),
        (Kind::Once, 0),
        (Kind::Once, 1_000),
        (Kind::Once, 10_000),
    ] {
        let bench = Bench::own(|config| config.cap = 100_000).await;
        let body = format!("\"{}\"", "x".repeat(BODY_BYTES - 2));
        let users = match waiting {
            10_000 => &users[..16],
            _ => &users[..],
        };
        for some in 0..waiting / FILLED_AT_ONCE {
            fill(&bench, users, some * FILLED_AT_ONCE, &body).await;
        }
        let before = cpu_seconds(&bench).await;
        let start = std::time::Instant::now();
        for round in 0..ROUNDS {
            let expires_ms = now_ms() + HOUR_MS;
            let entry = Entry::new(event_key(FIRST + round), now_ms(), expires_ms, &body);
            let batch: Vec<Append> = (users.iter())
                .map(|user| Append {
                    user: user.clone(),
                    lane: Lane::Normal,
                    entry: entry.clone(),
                })
                .collect();
            let outcomes = match kind {
                Kind::Append => bench.link.append(&batch).await,
                Kind::First => bench.link.append_first(&batch).await,
                Kind::Once => bench.link.append_once(&batch).await,
            };
            assert!(outcomes.iter().all(Result::is_ok));
        }
        let count = (users.len() as u64 * ROUNDS) as f64;
        println!(
            "{kind:?} behind {waiting} that wait: {:.1} s of the server's CPU a million, {:.0} a second",
            (cpu_seconds(&bench).await - before) / count * 1e6,
            count / start.elapsed().as_secs_f64()
        );
    }
}

/// Lets some messages wait for each user.
async fn fill(bench: &Bench, users: &[UserId], first: u64, body: &str) {
    let mut batch = Vec::new();
    for sequence in first..first + FILLED_AT_ONCE {
        let entry = Entry::new(event_key(sequence), now_ms(), now_ms() + HOUR_MS, body);
        batch.extend(users.iter().map(|user| Append {
            user: user.clone(),
            lane: Lane::Normal,
            entry: entry.clone(),
        }));
    }
    let outcomes = bench.link.append(&batch).await;
    assert!(outcomes.iter().all(Result::is_ok));
}

async fn cpu_seconds(bench: &Bench) -> f64 {
    let mut command = redis::cmd("INFO");
    let text: String = command
        .arg("cpu")
        .query_async(&mut bench.redis())
        .await
        .unwrap();
    let field = |name: &str| -> f64 {
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)).unwrap();
        value.trim().parse().unwrap()
    };
    field("used_cpu_user:") + field("used_cpu_sys:")
}
