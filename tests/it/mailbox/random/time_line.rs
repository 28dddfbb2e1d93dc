//! What happens to the store itself: time passes, it goes back, it starts another time line.

use std::collections::BTreeSet;
use std::path::PathBuf;

use redis::AsyncCommands;

use super::model::{Model, Time, UNIT};
use super::operation::{NewTimeLine, Operation, Reversal};
use super::world::{Checked, World, check, connect, open};
use crate::mailbox::{change_epoch, now_ms, time};

/// A gateway asserts its connections at least this often, so one that was not in touch for
/// longer has ended.
const SILENCE_MAX: Time = 2 * UNIT;

/// The mailbox as it was, to go back to.
pub struct Checkpoint {
    model: Model,
    aligned_ms: u64,
    /// A key's value and the milliseconds it had left, 0 for always.
    values: Vec<Option<(Vec<u8>, u64)>>,
    log_bytes: u64,
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
                | Operation::RollBack(_)
                | Operation::Wipe
        )
    }
}

impl World {
    pub async fn pass(&mut self, units: u64) {
        let duration = units * UNIT;
        self.model.pass(duration);
        self.shift(duration as i64).await;
        let epoch = self.link.epoch();
        let now = self.model.now;
        self.sessions.retain(|session| {
            session.position.epoch == epoch || now - session.contact <= SILENCE_MAX
        });
    }

    /// How far Redis's clock is ahead of the model's.
    pub fn drift_ms(&self) -> u64 {
        now_ms().saturating_sub(self.aligned_ms)
    }

    /// Takes back what really passed, by moving all that was written into the future: however slow
    /// the machine is, both clocks agree again.
    pub async fn align(&mut self) {
        let drift_ms = self.drift_ms();
        self.aligned_ms += drift_ms;
        self.shift(-(drift_ms as i64)).await;
    }

    async fn shift(&self, passed_ms: i64) {
        time::pass_ms(&self.redis, self.link.keys(), &self.user, passed_ms).await;
    }

    pub async fn lose_list(&mut self, lane: usize) {
        let key = self.keys()[1 + lane].clone();
        let _: () = self.redis.del(key).await.unwrap();
        self.model.lanes[lane].lose_list();
    }

    pub async fn reload(&mut self) {
        let mut command = redis::cmd("DEBUG");
        let _: () = (command.arg("RELOAD").query_async(&mut self.redis))
            .await
            .unwrap();
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
            aligned_ms: self.aligned_ms,
            values,
            log_bytes: std::fs::metadata(self.log()).unwrap().len(),
            events: self.events.len(),
            pending: self.ledger.pending.clone(),
        });
    }

    /// The store loses what was written since the checkpoint.
    pub async fn roll_back(&mut self, how: Reversal) -> Checked {
        let Some(checkpoint) = self.checkpoint.take() else {
            return Ok(());
        };
        match how {
            Reversal::Promotion => {
                self.put_back(&checkpoint).await;
                self.change_epoch(NewTimeLine::Promotion).await?;
            }
            Reversal::CutLog { torn_bytes } => {
                let length = checkpoint.log_bytes + torn_bytes;
                self.restart(Some(length)).await?;
            }
        }
        self.figures.rolled_back += 1;
        let passed = self.model.now - checkpoint.model.now;
        self.shift(passed as i64).await;
        self.aligned_ms = checkpoint.aligned_ms;
        self.align().await;
        self.model = checkpoint.model.clone();
        self.model.pass(passed);
        // JetStream has no acknowledgement for these yet.
        let lost = self.events[checkpoint.events..]
            .iter()
            .map(|event| event.key);
        self.ledger.pending = checkpoint.pending.iter().copied().chain(lost).collect();
        self.checkpoint = Some(checkpoint);
        Ok(())
    }

    async fn put_back(&mut self, checkpoint: &Checkpoint) {
        for (key, value) in self.keys().iter().zip(&checkpoint.values) {
            let _: () = self.redis.del(key).await.unwrap();
            if let Some((value, left)) = value {
                let mut command = redis::cmd("RESTORE");
                command.arg(key).arg(left).arg(value.as_slice());
                let _: () = command.query_async(&mut self.redis).await.unwrap();
            }
        }
    }

    pub async fn change_epoch(&mut self, how: NewTimeLine) -> Checked {
        if let NewTimeLine::Restart = how {
            return self.restart(None).await;
        }
        let before = self.link.epoch();
        change_epoch(&mut self.redis).await;
        let link = connect(&self.config).await;
        self.stale = Some(std::mem::replace(&mut self.link, link));
        check!(self.link.epoch() != before, "master_replid did not change");
        self.epoch += 1;
        Ok(())
    }

    /// `kill -9`, perhaps a log that ends early, and a start.
    async fn restart(&mut self, log_bytes: Option<u64>) -> Checked {
        let before = self.link.epoch();
        self.server.kill();
        if let Some(length) = log_bytes {
            let log = std::fs::File::options().write(true).open(self.log());
            let log = log.unwrap();
            let length = length.min(log.metadata().unwrap().len());
            log.set_len(length).unwrap();
        }
        self.server.start_again();
        self.redis = open(&self.config).await;
        self.link = connect(&self.config).await;
        // Its connection went with the server.
        self.stale = None;
        check!(self.link.epoch() != before, "master_replid did not change");
        self.epoch += 1;
        Ok(())
    }

    /// The part of the append-only file that grows.
    fn log(&self) -> PathBuf {
        let folder = self.server.folder().join("appendonlydir");
        let files = std::fs::read_dir(folder).unwrap();
        let mut paths = files.map(|file| file.unwrap().path());
        let found = paths.find(|path| path.to_string_lossy().ends_with(".incr.aof"));
        found.expect("a server with --appendonly yes")
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
