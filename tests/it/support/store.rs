//! What users' mailboxes hold, read from Redis as contract §5 names it.

use std::collections::BTreeMap;

use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use serde_json::Value;

use super::{System, eventually};

impl System {
    /// A connection to the system's Redis.
    pub async fn redis(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.redis_server().url()).expect("a URL");
        let connection = client.get_multiplexed_async_connection().await;
        connection.expect("the test's Redis answers")
    }

    /// The namespaced form of a key from the contract, for example `offline_messages:{ann}`.
    pub fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.namespace())
    }

    /// The raw entries that wait for a user with normal priority, oldest first.
    pub async fn waiting(&self, user: &str) -> Vec<String> {
        self.list(&format!("offline_messages:{{{user}}}")).await
    }

    /// The raw entries that wait for a user with high priority, oldest first.
    pub async fn waiting_high(&self, user: &str) -> Vec<String> {
        self.list(&format!("offline_messages:{{{user}}}:high"))
            .await
    }

    /// The user's hash: presence, cursors, counters.
    pub async fn mailbox(&self, user: &str) -> BTreeMap<String, Vec<u8>> {
        let key = self.key(&format!("mailbox:{{{user}}}"));
        self.redis().await.hgetall(key).await.expect("a hash")
    }

    /// Waits until so many messages wait for a user, both priorities together.
    pub async fn until_waiting(&self, user: &str, count: usize) {
        let what = format!("{count} messages wait for {user}");
        eventually(what, async || {
            let normal = self.waiting(user).await.len();
            (normal + self.waiting_high(user).await.len() == count).then_some(())
        })
        .await;
    }

    /// Whether the store's record says that it is whole, on the time line that the server is on.
    pub async fn is_store_whole(&self) -> redis::RedisResult<bool> {
        let client = redis::Client::open(self.redis_server().url())?;
        let mut redis = client.get_multiplexed_async_connection().await?;
        let record: BTreeMap<String, String> = redis.hgetall(self.key("catchup_store")).await?;
        let mut command = redis::cmd("INFO");
        let info: String = command.arg("replication").query_async(&mut redis).await?;
        let time_line = info
            .lines()
            .find_map(|line| line.strip_prefix("master_replid:"));
        let is_under_way = record.contains_key("rebuild:kind");
        let is_same = record.get("epoch").map(String::as_str) == time_line;
        Ok(record.contains_key("id") && is_same && !is_under_way)
    }

    /// A count in a user's hash, by its field.
    pub async fn last_place(&self, user: &str, lane: &str) -> u64 {
        let fields = self.mailbox(user).await;
        let value = fields.get(&format!("last:{lane}"));
        value.map_or(0, |value| {
            let text = String::from_utf8_lossy(value);
            text.parse().expect("a place")
        })
    }

    /// Waits until the user's mailbox has taken so many messages with normal priority, whatever
    /// became of them.
    pub async fn until_stored(&self, user: &str, count: u64) {
        let what = format!("{count} messages stored for {user}");
        eventually(what, async || {
            (self.last_place(user, "normal").await == count).then_some(())
        })
        .await;
    }

    /// Waits until the entries with these indexes in the user's normal list have expired, by
    /// Redis's clock.
    pub async fn until_expired(&self, user: &str, indexes: &[usize]) {
        let entries = self.waiting(user).await;
        let expiries = indexes.iter().map(|&index| {
            let expiry = &entries[index][44..57];
            expiry.parse::<u64>().expect("the entry's expiry")
        });
        let last = expiries.max().expect("an entry");
        let mut redis = self.redis().await;
        eventually(
            format!("entries {indexes:?} of {user} expire"),
            async || (clock_ms(&mut redis).await >= last).then_some(()),
        )
        .await;
    }

    /// Waits until anything was stored for the user.
    pub async fn until_first(&self, user: &str) {
        eventually(format!("a message for {user}"), async || {
            (self.last_place(user, "normal").await > 0).then_some(())
        })
        .await;
    }

    async fn list(&self, name: &str) -> Vec<String> {
        let entries: Vec<Vec<u8>> = self
            .redis()
            .await
            .lrange(self.key(name), 0, -1)
            .await
            .expect("a list");
        let text = |entry: Vec<u8>| String::from_utf8_lossy(&entry).into_owned();
        entries.into_iter().map(text).collect()
    }
}

/// Redis's own clock, by which messages expire and sights are compared; milliseconds since 1970.
pub async fn clock_ms(redis: &mut MultiplexedConnection) -> u64 {
    let time = redis::cmd("TIME").query_async(redis).await;
    let (seconds, microseconds): (u64, u64) = time.expect("the time");
    seconds * 1000 + microseconds / 1000
}

/// The message of a list entry: its JSON, which ends the entry.
pub fn message(entry: &str) -> Value {
    let start = entry.find('{').expect("an entry with JSON");
    serde_json::from_str(&entry[start..]).expect("the JSON ends the entry")
}
