//! What an append costs the server. Not run by itself: `cargo test --release --test it -- \
//! --ignored --nocapture the_cost_of`.

use catchup::event::UserId;
use catchup::mailbox::{Append, Entry};
use catchup::protocol::Lane;

use super::{Bench, HOUR_MS, event_key, now_ms};

const USERS: u64 = 256;
const ROUNDS: u64 = 400;
const BODY_BYTES: usize = 200;

#[tokio::test]
#[ignore = "a measurement"]
async fn the_cost_of_an_append() {
    let users: Vec<UserId> = (0..USERS)
        .map(|index| UserId::parse(&format!("user-{index}")).unwrap())
        .collect();
    for (name, once) in [("append", false), ("append_once", true)] {
        let bench = Bench::own(|_| ()).await;
        let body = format!("\"{}\"", "x".repeat(BODY_BYTES - 2));
        let before = cpu_seconds(&bench).await;
        let start = std::time::Instant::now();
        for round in 0..ROUNDS {
            let expires_ms = now_ms() + HOUR_MS;
            let entry = Entry::new(event_key(round), now_ms(), expires_ms, &body);
            let batch: Vec<Append> = (users.iter())
                .map(|user| Append {
                    user: user.clone(),
                    lane: Lane::Normal,
                    entry: entry.clone(),
                })
                .collect();
            let outcomes = match once {
                false => bench.link.append(&batch).await,
                true => bench.link.append_once(&batch).await,
            };
            assert!(outcomes.iter().all(Result::is_ok));
        }
        let count = (USERS * ROUNDS) as f64;
        println!(
            "{name}: {:.1} s of the server's CPU a million, {:.0} a second",
            (cpu_seconds(&bench).await - before) / count * 1e6,
            count / start.elapsed().as_secs_f64()
        );
    }
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
