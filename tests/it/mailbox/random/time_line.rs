//! What happens to the store itself: time passes, it goes back, it starts another time line.

use std::collections::BTreeSet;
use std::time::Duration;

use redis::AsyncCommands;

use super::model::{Model, Time, UNIT};
use super::operation::Operation;
use super::world::{Checked, World, check, connect};
use crate::mailbox::{change_epoch, time};

/// A gateway asserts its connections at least this often, so one that was not in touch for
/// longer has ended.
const SILENCE_MAX: Time = 2 * UNIT;

/// The mailbox as it was, to go back to.
pub struct Checkpoint {
    model: Model,
    /// A key's value and the milliseconds it had left, 0 for always.
    values: Vec<Option<(Vec<u8>, u64)>>,
    /// How many events there were, and which of them were not stored.
    events: usize,
    pending: BTreeSet<u64>,
}

impl Operation {
    /// True where entries leave without anybody's calling the mailbox.
    pub fn changes_the_store_itself(&self) -> bool {
        matches!(
            self,
            Operation::Pass { .. }
                | Operation::LoseList { .. }
                | Operation::RollBack
                | Operation::Wipe
        )
    }
}

impl World {
    pub async fn pass(&mut self, units: u64) {
        let duration = units * UNIT;
        self.model.pass(duration);
        self.shift(duration).await;
        let epoch = self.link.epoch();
        let now = self.model.now;
        self.sessions.retain(|session| {
            session.position.epoch == epoch || now - session.contact <= SILENCE_MAX
        });
    }

    async fn shift(&self, duration: Time) {
        let duration = Duration::from_millis(duration);
        time::pass(&self.redis, self.link.keys(), &self.user, duration).await;
    }

    pub async fn lose_list(&mut self, lane: usize) {
        let key = self.keys()[1 + lane].clone();
        let _: () = self.redis.del(key).await.unwrap();
        self.model.lanes[lane].lose_list();
    }

    pub async fn take_checkpoint(&mut self) {
        let mut values = Vec::new();
        for key in self.keys() {
            let value: Option<Vec<u8>> = redis::cmd("DUMP")
                .arg(&key)
                .query_async(&mut self.redis)
                .await
                .unwrap();
            let left: i64 = self.redis.pttl(&key).await.unwrap();
            values.push(value.map(|value| (value, left.max(0).unsigned_abs())));
        }
        self.checkpoint = Some(Checkpoint {
            model: self.model.clone(),
            values,
            events: self.events.len(),
            pending: self.ledger.pending.clone(),
        });
    }

    /// The store loses what was written since the checkpoint, as at a fail-over.
    pub async fn roll_back(&mut self) -> Checked {
        let Some(checkpoint) = self.checkpoint.take() else {
            return Ok(());
        };
        for (key, value) in self.keys().iter().zip(&checkpoint.values) {
            let _: () = self.redis.del(key).await.unwrap();
            if let Some((value, left)) = value {
                let mut command = redis::cmd("RESTORE");
                command.arg(key).arg(left).arg(value.as_slice());
                let _: () = command.query_async(&mut self.redis).await.unwrap();
            }
        }
        let passed = self.model.now - checkpoint.model.now;
        self.shift(passed).await;
        self.model = checkpoint.model.clone();
        self.model.pass(passed);
        // JetStream has no acknowledgement for these yet.
        let lost = self.events[checkpoint.events..]
            .iter()
            .map(|event| event.key);
        self.ledger.pending = checkpoint.pending.iter().copied().chain(lost).collect();
        self.checkpoint = Some(checkpoint);
        self.change_epoch().await
    }

    pub async fn change_epoch(&mut self) -> Checked {
        let before = self.link.epoch();
        change_epoch(&mut self.redis).await;
        let link = connect(&self.config).await;
        self.stale = Some(std::mem::replace(&mut self.link, link));
        check!(self.link.epoch() != before, "master_replid did not change");
        self.epoch += 1;
        Ok(())
    }

    pub async fn wipe(&mut self) {
        let _: () = self.redis.del(self.keys().to_vec()).await.unwrap();
        self.model.wipe();
    }

    fn keys(&self) -> [String; 3] {
        let (keys, user) = (self.link.keys(), self.user.as_str());
        [keys.mailbox(user), keys.normal(user), keys.high(user)]
    }
}
