//! What must not be left in Redis and NATS at the end: first with all devices gone and the system
//! at rest, then with all its processes ended.

use std::collections::HashSet;
use std::time::Duration;

use async_nats::jetstream::consumer::Info;
use futures_util::TryStreamExt;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

use super::Run;
use super::report::Report;
use crate::support::{POLL_INTERVAL, System};

/// What nobody asks for any more is removed by then: a consumer after 30 s, a lease after 10 s.
const GONE_WITHIN: Duration = Duration::from_secs(40);
/// 32 partitions, the events without a key, and those of no partition.
const EVENTS_CONSUMERS: usize = 34;

impl Run {
    /// What is left that should not be, in words. Ends all processes.
    pub async fn leftovers(&self, report: &Report) -> Vec<String> {
        let is_store_kept = !report.rows.keys().any(|kind| kind.restarts_store());
        let at_rest = async || {
            let mut left = Vec::new();
            let mut redis = self.system.redis().await;
            let keys = keys(&self.system, &mut redis).await;
            left.extend(of_prefix(&keys, "online_users:"));
            left.extend(connections(&self.system, &mut redis, &keys).await);
            if is_store_kept {
                // All was acknowledged, and nothing has to wait for who might come back.
                left.extend(of_prefix(&keys, "offline_messages:"));
            }
            left.extend(in_nats(&self.system, self.system.gateways().len()).await);
            left
        };
        let mut left = until_nothing(at_rest).await;
        left.extend(self.twice().await);
        for role in self.system.roles() {
            role.stop().await;
        }
        let ended = async || {
            let mut redis = self.system.redis().await;
            let keys = keys(&self.system, &mut redis).await;
            let mut left = unknown_or_for_ever(&self.system, &mut redis, &keys).await;
            left.extend(in_nats(&self.system, 0).await);
            left
        };
        left.extend(until_nothing(ended).await);
        left
    }

    /// Messages that wait twice for one user.
    async fn twice(&self) -> Vec<String> {
        let mut twice = Vec::new();
        for user in self.users().chain(self.joiners()) {
            for list in [
                self.system.waiting(&user).await,
                self.system.waiting_high(&user).await,
            ] {
                let keys: HashSet<&str> = list.iter().map(|entry| &entry[2..29]).collect();
                if keys.len() < list.len() {
                    let count = list.len() - keys.len();
                    twice.push(format!("{count} messages twice for {user}"));
                }
            }
        }
        twice
    }
}

/// Looks again until nothing is left, or for too long.
async fn until_nothing(look: impl AsyncFn() -> Vec<String>) -> Vec<String> {
    let began = std::time::Instant::now();
    loop {
        let left = look().await;
        if left.is_empty() || began.elapsed() > GONE_WITHIN {
            return left;
        }
        // Until it is looked at again.
        tokio::time::sleep(10 * POLL_INTERVAL).await;
    }
}

/// All keys of the system, without its namespace.
async fn keys(system: &System, redis: &mut MultiplexedConnection) -> Vec<String> {
    let keys: Vec<String> = redis.keys(system.key("*")).await.expect("keys");
    let prefix = system.key("");
    let names = keys.iter().map(|key| key.trim_start_matches(&prefix));
    names.map(str::to_owned).collect()
}

fn of_prefix(keys: &[String], prefix: &str) -> Vec<String> {
    let left = keys.iter().filter(|key| key.starts_with(prefix));
    left.map(|key| format!("the key {key}")).collect()
}

/// Connections that stand in a mailbox although no device is there.
async fn connections(
    system: &System,
    redis: &mut MultiplexedConnection,
    keys: &[String],
) -> Vec<String> {
    let mut left = Vec::new();
    for key in keys.iter().filter(|key| key.starts_with("mailbox:")) {
        let connections: Option<String> = (redis.hget(system.key(key), "connections").await)
            .unwrap_or_else(|error| panic!("{key}: {error}"));
        if let Some(connections) = connections.filter(|connections| !connections.is_empty()) {
            left.push(format!("in {key} the connection {connections}"));
        }
    }
    left
}

/// Keys that no process should leave behind, and keys of users that would stay for ever.
async fn unknown_or_for_ever(
    system: &System,
    redis: &mut MultiplexedConnection,
    keys: &[String],
) -> Vec<String> {
    let mut left = Vec::new();
    for key in keys {
        let is_users = ["mailbox:{", "offline_messages:{"].iter();
        let is_users = { is_users }.any(|prefix| key.starts_with(prefix));
        let is_known = is_users || ["catchup_store", "newest_broadcast"].contains(&key.as_str());
        if !is_known {
            left.push(format!("the key {key}"));
        }
        let expires: i64 = redis.pttl(system.key(key)).await.expect("a time");
        // Redis says -1 where a key stays for ever.
        if is_users && expires == -1 {
            left.push(format!("the key {key} for ever"));
        }
    }
    left
}

/// Streams and consumers besides those of a system at rest, and events that are not done.
async fn in_nats(system: &System, gateways: usize) -> Vec<String> {
    let mut left = Vec::new();
    let jetstream = system.jetstream().await;
    let names: Result<Vec<String>, _> = jetstream.stream_names().try_collect().await;
    let mut names = names.expect("the streams' names");
    names.sort();
    let expected = ["BROADCASTS", "DEAD_LETTERS", "EVENTS"];
    if names != expected.map(|name| system.stream_name(name)) {
        left.push(format!("the streams {names:?}"));
    }
    let counts = [gateways, 0, EVENTS_CONSUMERS];
    for (name, count) in expected.into_iter().zip(counts) {
        let stream = jetstream.get_stream(system.stream_name(name)).await;
        let stream = stream.expect("a stream");
        let consumers: Result<Vec<Info>, _> = stream.consumers().try_collect().await;
        let consumers = consumers.expect("its consumers");
        if consumers.len() != count {
            let names: Vec<&str> = (consumers.iter()).map(|info| info.name.as_str()).collect();
            left.push(format!("{name} has the consumers {names:?}"));
        }
        // What a gateway follows is never acknowledged.
        for info in consumers.iter().filter(|_| name == "EVENTS") {
            if info.num_pending > 0 || info.num_ack_pending > 0 {
                let (pending, open) = (info.num_pending, info.num_ack_pending);
                let name = &info.name;
                left.push(format!(
                    "{pending} pending and {open} unacknowledged at {name}"
                ));
            }
        }
        let letters = stream.cached_info().state.messages;
        if name == "DEAD_LETTERS" && letters > 0 {
            left.push(format!("{letters} dead letters"));
        }
    }
    left
}
