//! Storing messages: one `MULTI` a batch, or one script an entry where it may be there already.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use redis::{RedisResult, Value};

use super::link::{Connection, Link};
use super::reply::{Reply, parse_connections, text_of};
use super::{Entry, MailboxError, scripts};
use crate::event::UserId;
use crate::protocol::{Lane, Life};
use crate::telemetry::{MailboxOperation, MessageOutcome, Redelivered};

/// Most entries in one `MULTI`; a larger one would keep the server from everybody else.
const BATCH_ENTRIES_MAX: usize = 256;
/// Most bytes of entries in one `MULTI`, unless one entry alone is larger.
const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Most scripts under way at once. The server takes them one by one, and the last reply must come in
/// time however long each of them searches.
const SCRIPTS_MAX: usize = 64;
/// Among so many newest entries of a mailbox a repeated one is looked for. Most caps are lower, so
/// that it is the whole list: how much was stored since the first attempt, nobody knows. One that is
/// there is usually near the end; one that is not costs the server the whole search: 21 µs for 1,000
/// entries of 300 bytes that lie in its cache, 0.1 ms for those that do not, 0.8 ms for 10,000, and
/// for 100,000 at least 9 ms (Valkey 9.1).
const SEARCHED_REPEAT: usize = 16_384;
/// The same where an entry is new to this worker, on a young link.
const SEARCHED_FIRST: usize = 256;

/// One message for one user.
#[derive(Debug, Clone)]
pub struct Append {
    pub user: UserId,
    pub lane: Lane,
    pub entry: Entry,
}

/// Where a message was stored, and where its user was connected at that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    pub place: u64,
    /// `None` where no device of the user was ever registered.
    pub life: Option<Life>,
    pub connections: Vec<Connection>,
    /// True where it had been stored before.
    pub repeated: bool,
    /// How many older messages the cap pushed out for it.
    pub evicted: u64,
}

type Outcome = Result<Appended, MailboxError>;

impl Link {
    /// Stores messages in the order given; results in the same order.
    ///
    /// Each `MULTI` gives places, lengths and connections in the atomic step that stores; what a
    /// `register` cannot see in its first page therefore sees the connection. After the first
    /// failure of a user, later ones of that user are not tried ([`MailboxError::Skipped`]).
    pub async fn append(&self, batch: &[Append]) -> Vec<Outcome> {
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(batch.len());
        let mut failed: HashSet<&UserId> = HashSet::new();
        let mut rest = batch;
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(chunk_length(rest));
            rest = after;
            let chunk_outcomes = if self.is_broken() {
                vec![Err(MailboxError::Unreachable("given up".to_owned())); chunk.len()]
            } else {
                self.append_chunk(chunk, &failed).await
            };
            for (append, outcome) in chunk.iter().zip(&chunk_outcomes) {
                if outcome.is_err() {
                    failed.insert(&append.user);
                }
            }
            outcomes.extend(chunk_outcomes);
        }
        outcomes
    }

    async fn append_chunk(&self, chunk: &[Append], failed: &HashSet<&UserId>) -> Vec<Outcome> {
        let tried: Vec<&Append> = (chunk.iter())
            .filter(|append| !failed.contains(&append.user))
            .collect();
        let start = Instant::now();
        let stored = self.multi(&tried).await;
        let mut outcomes = match stored {
            Ok(stored) => self.settle(&tried, stored).await,
            Err(error) => vec![Err(error); tried.len()],
        };
        self.metrics()
            .mailbox_operation(MailboxOperation::Append, start.elapsed().as_secs_f64());
        self.repair_damaged(&tried, &mut outcomes).await;
        let mut outcomes = outcomes.into_iter();
        (chunk.iter())
            .map(|append| match failed.contains(&append.user) {
                true => Err(MailboxError::Skipped),
                false => outcomes.next().unwrap_or(Err(MailboxError::Skipped)),
            })
            .collect()
    }

    /// The first half: counter, list and presence of every entry in one `MULTI`, or in a cluster in
    /// one a user.
    async fn multi(&self, batch: &[&Append]) -> Result<Vec<StoredResult>, MailboxError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        if self.is_cluster() {
            return self.multi_by_user(batch).await;
        }
        let mut pipeline = redis::pipe();
        pipeline.atomic().ignore_errors();
        self.queue(&mut pipeline, batch.iter().copied());
        let replies: Vec<RedisResult<Value>> = pipeline
            .query_async(&mut self.raw())
            .await
            .map_err(|error| self.judge(error))?;
        self.read_stored(replies, batch.len())
    }

    /// All `MULTI`s go in one pipeline, and each is carried out or refused as a whole. All entries of
    /// a user are in one: where an earlier one is refused, no later one gets in before it.
    async fn multi_by_user(&self, batch: &[&Append]) -> Result<Vec<StoredResult>, MailboxError> {
        let mut by_user: HashMap<&UserId, Vec<usize>> = HashMap::new();
        for (index, append) in batch.iter().enumerate() {
            by_user.entry(&append.user).or_default().push(index);
        }
        let by_user: Vec<Vec<usize>> = by_user.into_values().collect();
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        for indexes in &by_user {
            pipeline.cmd("MULTI");
            self.queue(&mut pipeline, indexes.iter().map(|index| batch[*index]));
            pipeline.cmd("EXEC");
        }
        let replies: Vec<RedisResult<Value>> = pipeline
            .query_async(&mut self.raw())
            .await
            .map_err(|error| self.judge(error))?;
        let mut replies = replies.into_iter();
        let mut stored: Vec<StoredResult> =
            (batch.iter().map(|_| Err(MailboxError::Skipped))).collect();
        for indexes in by_user {
            // The answer to `MULTI` itself, those of what was queued, and the one that counts.
            let queued: Vec<_> = replies.by_ref().take(2 + 3 * indexes.len()).collect();
            let refusal = queued.into_iter().find_map(Result::err);
            let carried_out = match (refusal, replies.next()) {
                (Some(refusal), _) | (None, Some(Err(refusal))) => Err(self.judge(refusal)),
                (None, Some(Ok(Value::Array(replies)))) => {
                    let replies = replies.into_iter().map(Value::extract_error);
                    self.read_stored(replies.collect(), indexes.len())
                }
                (None, _) => Err(MailboxError::Unexpected("no answer to EXEC".to_owned())),
            };
            match carried_out {
                Ok(results) => {
                    for (index, result) in indexes.into_iter().zip(results) {
                        stored[index] = result;
                    }
                }
                Err(error) => {
                    for index in indexes {
                        stored[index] = Err(error.clone());
                    }
                }
            }
        }
        Ok(stored)
    }

    fn queue<'a>(&self, pipeline: &mut redis::Pipeline, batch: impl Iterator<Item = &'a Append>) {
        pipeline.cmd("TIME");
        for append in batch {
            let hash = self.keys().mailbox(append.user.as_str());
            let name = lane_name(append.lane);
            pipeline
                .hincr(&hash, format!("last:{name}"), 1)
                .rpush(self.list(append), append.entry.as_str())
                .cmd("HMGET")
                .arg(&hash)
                .arg("connections")
                .arg("life")
                .arg(format!("expiry:{name}"));
        }
    }

    fn read_stored(
        &self,
        replies: Vec<RedisResult<Value>>,
        count: usize,
    ) -> Result<Vec<StoredResult>, MailboxError> {
        if replies.len() != 1 + 3 * count {
            let text = format!("{} replies to {count} entries", replies.len());
            return Err(self.judge(MailboxError::Unreachable(text)));
        }
        let mut replies = replies.into_iter();
        let now_ms = match replies.next() {
            Some(Ok(time)) => read_time(time)?,
            _ => return Err(MailboxError::Unexpected("no time".to_owned())),
        };
        let mut stored = Vec::with_capacity(count);
        while let (Some(place), Some(length), Some(fields)) =
            (replies.next(), replies.next(), replies.next())
        {
            // One failed command of three shifts the places: the mailbox is damaged, whatever
            // the reason, and the repair looks at it.
            stored.push(match (place, length, fields) {
                (Ok(place), Ok(length), Ok(fields)) => Stored::read(place, length, fields, now_ms),
                (Err(error), _, _) | (_, Err(error), _) | (_, _, Err(error)) => {
                    Err(self.judge(error))
                }
            });
        }
        Ok(stored)
    }

    /// The second half: expiries where a list is fresh or its expiry old, and the cap. Where it
    /// fails, the entries are stored without it; the repeat puts it right.
    async fn settle(&self, batch: &[&Append], stored: Vec<StoredResult>) -> Vec<Outcome> {
        let limits = self.limits();
        let mut expiring: HashMap<(&UserId, Lane), u64> = HashMap::new();
        let mut capped: HashSet<(&UserId, Lane)> = HashSet::new();
        for (append, stored) in batch.iter().zip(&stored) {
            let Ok(stored) = stored else { continue };
            let lane = (&append.user, append.lane);
            // However a clock was set, an expiry was set within the last time to live.
            let age_ms = stored.now_ms.abs_diff(stored.expiry_ms);
            if stored.length > limits.cap {
                capped.insert(lane);
            } else if stored.length == 1 || age_ms >= limits.ttl_ms {
                expiring.insert(lane, stored.now_ms);
            }
        }
        expiring.retain(|lane, _| !capped.contains(lane));
        let mut settled: HashMap<_, _> = self.expire(expiring).await;
        settled.extend(self.evict(capped).await);

        let count = stored.iter().filter(|stored| stored.is_ok()).count();
        self.metrics().message(MessageOutcome::Stored, count as u64);
        let mut finished = Vec::with_capacity(batch.len());
        for (append, stored) in batch.iter().zip(stored) {
            let evicted = match settled.get_mut(&(&append.user, append.lane)) {
                // Told once, with the first entry of the lane.
                Some(Ok(evicted)) => Ok(std::mem::take(evicted)),
                Some(Err(error)) => Err(error.clone()),
                None => Ok(0),
            };
            finished.push(stored.and_then(|stored| {
                Ok(Appended {
                    evicted: evicted?,
                    ..stored.appended
                })
            }));
        }
        finished
    }

    /// Sets the expiry of lists and of their hashes; the values are Redis's clock.
    async fn expire<'a>(
        &self,
        lanes: HashMap<(&'a UserId, Lane), u64>,
    ) -> HashMap<(&'a UserId, Lane), Result<u64, MailboxError>> {
        if lanes.is_empty() {
            return HashMap::new();
        }
        let limits = self.limits();
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        for ((user, lane), now_ms) in &lanes {
            let hash = self.keys().mailbox(user.as_str());
            pipeline
                .pexpire(self.lane_list(user, *lane), limits.list_ttl_ms())
                .hset(&hash, format!("expiry:{}", lane_name(*lane)), *now_ms)
                .pexpire(&hash, limits.hash_ttl_ms());
        }
        let replies: RedisResult<Vec<RedisResult<Value>>> =
            pipeline.query_async(&mut self.raw()).await;
        let replies = match replies.map_err(|error| self.judge(error)) {
            Ok(replies) => replies,
            Err(error) => {
                return (lanes.into_keys())
                    .map(|lane| (lane, Err(error.clone())))
                    .collect();
            }
        };
        (lanes.into_keys())
            .zip(replies.chunks(3))
            .map(|(lane, replies)| {
                let failed = replies.iter().find_map(|reply| reply.as_ref().err());
                let result = failed.map_or(Ok(0), |error| Err(self.judge(error.clone())));
                (lane, result)
            })
            .collect()
    }

    /// Evicts what is past the cap; the results are how many messages it pushed out.
    async fn evict<'a>(
        &self,
        lanes: HashSet<(&'a UserId, Lane)>,
    ) -> HashMap<(&'a UserId, Lane), Result<u64, MailboxError>> {
        let limits = self.limits();
        let calls: FuturesUnordered<_> = (lanes.into_iter())
            .map(async |(user, lane)| {
                let mut script = self.script(&scripts::SETTLE, user);
                script
                    .arg(lane_number(lane))
                    .arg(limits.ttl_ms)
                    .arg(limits.hash_ttl_ms())
                    .arg(limits.cap);
                let evicted = async {
                    let value: RedisResult<Value> = script.invoke_async(&mut self.raw()).await;
                    let value = value.map_err(|error| self.judge(error))?;
                    let evicted = Reply::with_status(value)?.number()?;
                    self.metrics().message(MessageOutcome::Evicted, evicted);
                    Ok(evicted)
                };
                ((user, lane), evicted.await)
            })
            .collect();
        calls.collect().await
    }

    async fn repair_damaged(&self, batch: &[&Append], outcomes: &mut [Outcome]) {
        let mut seen = HashSet::new();
        for (append, outcome) in batch.iter().zip(outcomes) {
            if matches!(outcome, Err(MailboxError::Damaged))
                && seen.insert(&append.user)
                && let Err(error) = self.repair(&append.user).await
            {
                *outcome = Err(error);
            }
        }
    }

    /// Stores messages that may be there already: redelivered events, unknown outcomes. Repeatable;
    /// order within a user is kept, results in the order given.
    pub async fn append_once(&self, batch: &[Append]) -> Vec<Outcome> {
        let outcomes = self.append_searching(batch, SEARCHED_REPEAT).await;
        let stored = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok());
        let (found, new): (Vec<_>, Vec<_>) = stored.partition(|appended| appended.repeated);
        let metrics = self.metrics();
        metrics.redelivered(Redelivered::Found, found.len() as u64);
        metrics.redelivered(Redelivered::Stored, new.len() as u64);
        outcomes
    }

    /// The same for events that were never tried, on a young link: what was under way on the
    /// connection before it is the newest there is.
    pub async fn append_first(&self, batch: &[Append]) -> Vec<Outcome> {
        self.append_searching(batch, SEARCHED_FIRST).await
    }

    async fn append_searching(&self, batch: &[Append], searched: usize) -> Vec<Outcome> {
        let mut by_user: HashMap<&UserId, Vec<usize>> = HashMap::new();
        for (index, append) in batch.iter().enumerate() {
            by_user.entry(&append.user).or_default().push(index);
        }
        let mut outcomes: Vec<Outcome> = vec![Err(MailboxError::Skipped); batch.len()];
        let mut calls = futures_util::stream::iter(by_user.into_values())
            .map(async |indexes| {
                let mut done = Vec::with_capacity(indexes.len());
                for index in indexes {
                    let outcome = self.append_one(&batch[index], searched).await;
                    let failed = outcome.is_err();
                    done.push((index, outcome));
                    if failed {
                        break;
                    }
                }
                done
            })
            .buffer_unordered(SCRIPTS_MAX);
        while let Some(done) = calls.next().await {
            for (index, outcome) in done {
                outcomes[index] = outcome;
            }
        }
        outcomes
    }

    async fn append_one(&self, append: &Append, searched: usize) -> Outcome {
        let limits = self.limits();
        let mut script = self.script(&scripts::APPEND_ONCE, &append.user);
        script
            .arg(self.epoch().to_string())
            .arg(lane_number(append.lane))
            .arg(append.entry.as_str())
            .arg(limits.ttl_ms)
            .arg(limits.hash_ttl_ms())
            .arg(limits.cap)
            .arg(searched);
        let mut reply: Reply = self
            .call(MailboxOperation::AppendOnce, &append.user, &script)
            .await?;
        let appended = Appended {
            place: reply.number()?,
            life: parse_life(&reply.text()?),
            connections: parse_connections(&reply.text()?),
            repeated: reply.number()? == 1,
            evicted: reply.number()?,
        };
        let outcome = match appended.repeated {
            true => MessageOutcome::Duplicate,
            false => MessageOutcome::Stored,
        };
        self.metrics().message(outcome, 1);
        self.metrics()
            .message(MessageOutcome::Evicted, appended.evicted);
        Ok(appended)
    }

    fn list(&self, append: &Append) -> String {
        self.lane_list(&append.user, append.lane)
    }

    fn lane_list(&self, user: &UserId, lane: Lane) -> String {
        match lane {
            Lane::Normal => self.keys().normal(user.as_str()),
            Lane::High => self.keys().high(user.as_str()),
        }
    }
}

/// What a `MULTI` says of one entry.
struct Stored {
    appended: Appended,
    length: u64,
    /// When the list's expiry was last set, milliseconds since 1970; 0 for never.
    expiry_ms: u64,
    /// Redis's clock.
    now_ms: u64,
}

type StoredResult = Result<Stored, MailboxError>;

impl Stored {
    fn read(place: Value, length: Value, fields: Value, now_ms: u64) -> StoredResult {
        let mut reply = Reply::new(vec![place, length, fields]);
        let place = reply.number()?;
        let length = reply.number()?;
        let mut fields = reply.array()?;
        let appended = Appended {
            place,
            connections: parse_connections(&text_of(fields.value()?)?),
            life: parse_life(&fields.text()?),
            repeated: false,
            evicted: 0,
        };
        if length > place {
            return Err(MailboxError::Damaged);
        }
        Ok(Stored {
            appended,
            length,
            expiry_ms: fields.text()?.parse().unwrap_or(0),
            now_ms,
        })
    }
}

/// The reply to `TIME`, as milliseconds since 1970.
fn read_time(time: Value) -> Result<u64, MailboxError> {
    let mut reply = Reply::new(vec![time]).array()?;
    Ok(reply.number()? * 1000 + reply.number()? / 1000)
}

pub(super) fn parse_life(text: &str) -> Option<Life> {
    text.parse().ok().map(Life)
}

pub(super) fn lane_number(lane: Lane) -> u8 {
    match lane {
        Lane::Normal => 1,
        Lane::High => 2,
    }
}

fn lane_name(lane: Lane) -> &'static str {
    match lane {
        Lane::Normal => "normal",
        Lane::High => "high",
    }
}

fn chunk_length(batch: &[Append]) -> usize {
    let mut bytes = 0;
    let fits = batch.iter().take(BATCH_ENTRIES_MAX).take_while(|append| {
        bytes += append.entry.as_str().len();
        bytes <= BATCH_BYTES_MAX
    });
    fits.count().max(1)
}
