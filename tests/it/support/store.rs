//! What users' mailboxes hold, read from Redis as contract §5 names it.

use std::collections::BTreeMap;

use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use serde_json::Value;

use super::System;

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

/// The message of a list entry: its JSON, which ends the entry.
pub fn message(entry: &str) -> Value {
    let start = entry.find('{').expect("an entry with JSON");
    serde_json::from_str(&entry[start..]).expect("the JSON ends the entry")
}
