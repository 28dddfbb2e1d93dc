//! The store's own record: which stream its mailboxes were filled from, whether it is whole, and
//! what it lost.
//!
//! Redis can go back (a fail-over, a truncated append-only file) and it can be emptied. Both are
//! made good from `EVENTS`, and nothing is lost by it, for these reasons:
//!
//! - The stream carries an id, given when it was made, and the record carries the same. A record
//!   without it means that Redis was emptied: only an empty Redis has no record.
//! - The record names the epoch in which the store was found whole. The epoch changes with every
//!   restart and promotion, which are the moments at which Redis can go back; so another epoch in
//!   the record than the server's means that it may have gone back.
//! - The record has a floor: all events up to this sequence were acknowledged to JetStream when it
//!   was written, and an event is acknowledged after its appends. Redis keeps its writes in one
//!   order, so a floor that survived proves that the appends of all events up to it survived.
//! - No worker appends before the store is whole, so what can be missing was delivered to a worker
//!   before: it lies between the floor and the last sequence that its consumer has delivered. All
//!   of that is brought once more, each entry where it is not there yet. After an emptying it is
//!   all that still waits, from now less the time to live.
//! - Every step of a rebuild can be repeated, and the record says how far it came. It is written
//!   after the entries that it speaks of, so it never goes back less far than they do.
//!
//! A store can also be emptied under its connections. Until that is noticed, within half a second, a
//! worker appends to it, which is harmless: what lies there is among what is brought, and is put in
//! order with it. Before the first entry is brought, all other connections are ended.
//!
//! What an emptied store cannot get back is where the devices were. They start at the head of what
//! was rebuilt, which brings again what they acknowledged, and are told `store_lost`: messages that
//! had left their mailboxes may have been owed as `missed`. A cursor from before cannot say what
//! need not come: events of one time are appended in any order, so an acknowledged time proves no
//! earlier event. As long as a message lives, whoever comes may have been known before: each device
//! gets everything, and nothing is trimmed.
//!
//! In the hash `catchup_store`: `id`; `epoch`; `clock`, Redis's time, written every half second;
//! `floor`; `wiped` and `lost`, when it was found empty, and when any events were found lost; the
//! name of the last rebuild that ended in `rebuilt`; `rebuild:*` while one is under way.

use std::time::Duration;

use redis::Value;
use uuid::Uuid;

use super::reply::{Reply, text_of};
use super::{Append, Link, MailboxError, scripts};
use crate::protocol::Epoch;

/// A worker that says nothing for this long loses the rebuild to another.
pub const REBUILD_LEASE: Duration = Duration::from_secs(10);

/// What the record says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// `None` for a store that was never filled, or was emptied.
    pub id: Option<Uuid>,
    /// In which the store was found whole.
    pub epoch: Option<Epoch>,
    /// When it was last found empty, milliseconds since 1970; 0 for never.
    pub wiped_ms: u64,
    /// When events were last found lost, milliseconds since 1970; 0 for never.
    pub lost_ms: u64,
    /// The last rebuild that ended.
    pub rebuilt: String,
    pub under_way: Option<Progress>,
}

/// How far a rebuild has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub kind: RebuildKind,
    /// The next sequence in `EVENTS`; 0 before the first.
    pub next: u64,
    pub last: u64,
}

/// Why a store is rebuilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebuildKind {
    /// It lost everything.
    Empty,
    /// It may have gone back to an earlier moment.
    Back,
}

/// The work of making a store whole, held by one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuild {
    pub name: String,
    pub progress: Progress,
    /// Since the last sign of life that the store remembers; `None` where it has none.
    pub silent: Option<Duration>,
}

/// What a worker found that wants to make the store whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// Nothing is missing.
    Whole,
    /// A store and a stream that never met: nothing can be missing.
    First,
    /// The stream was made anew, and what it held besides is lost.
    OtherStream,
    /// Another worker is at it.
    Busy(Progress),
    Yours(Rebuild),
}

/// What is asked with a claim.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// That the stream carries.
    pub id: Uuid,
    pub worker: &'a str,
    /// The last sequence that any consumer has delivered; 0 for none.
    pub delivered: u64,
    /// The stream had no id until now.
    pub is_first_id: bool,
}

impl Progress {
    fn read(reply: &mut Reply) -> Result<Option<Progress>, MailboxError> {
        let kind = match reply.text()?.as_str() {
            "empty" => RebuildKind::Empty,
            "back" => RebuildKind::Back,
            _ => {
                reply.value()?;
                reply.value()?;
                return Ok(None);
            }
        };
        Ok(Some(Progress {
            kind,
            next: reply.number()?,
            last: reply.number()?,
        }))
    }
}

impl RebuildKind {
    fn text(self) -> &'static str {
        match self {
            RebuildKind::Empty => "empty",
            RebuildKind::Back => "back",
        }
    }
}

impl Link {
    /// Reads the record, and writes the store's clock, which shows whether it takes writes.
    pub(super) async fn look(&self) -> Result<Record, MailboxError> {
        let now_ms = self.now_ms().await?;
        let key = self.keys().store();
        let mut pipeline = redis::pipe();
        pipeline.hset(&key, "clock", now_ms).ignore();
        pipeline.cmd("HMGET").arg(&key).arg(&[
            "id",
            "epoch",
            "wiped",
            "lost",
            "rebuilt",
            "rebuild:kind",
            "rebuild:next",
            "rebuild:last",
        ]);
        let (values,): (Vec<Value>,) =
            (pipeline.query_async(&mut self.raw()).await).map_err(|error| self.refusal(error))?;
        read_record(values)
    }

    /// Notes that all events up to `floor` were acknowledged. Only on a link of a whole store.
    pub async fn note_floor(&self, floor: u64) -> Result<(), MailboxError> {
        let mut command = redis::cmd("HSET");
        command.arg(self.keys().store()).arg("floor").arg(floor);
        let written: Result<Value, _> = command.query_async(&mut self.raw()).await;
        written.map_err(|error| self.refusal(error))?;
        Ok(())
    }

    /// Asks for the work of making the store whole.
    pub async fn claim(&self, claim: &Claim<'_>) -> Result<Claimed, MailboxError> {
        let mut script = scripts::CLAIM.key(self.keys().store());
        script
            .arg(self.epoch().to_string())
            .arg(claim.id.simple().to_string())
            .arg(claim.worker)
            .arg(REBUILD_LEASE.as_millis() as u64)
            .arg(Uuid::now_v7().simple().to_string())
            .arg(claim.delivered)
            .arg(u8::from(claim.is_first_id));
        let value: Value =
            (script.invoke_async(&mut self.raw()).await).map_err(|error| self.refusal(error))?;
        let mut reply = Reply::with_status(value).map_err(|error| self.judge(error))?;
        let unexpected = || MailboxError::Unexpected("an answer to a claim".to_owned());
        match reply.text()?.as_str() {
            "whole" => Ok(Claimed::Whole),
            "first" => Ok(Claimed::First),
            "other" => Ok(Claimed::OtherStream),
            "busy" => Ok(Claimed::Busy(
                Progress::read(&mut reply)?.ok_or_else(unexpected)?,
            )),
            "yours" => {
                let kind = reply.text()?;
                let name = reply.text()?;
                let progress = Progress {
                    kind: match kind.as_str() {
                        "empty" => RebuildKind::Empty,
                        _ => RebuildKind::Back,
                    },
                    next: reply.number()?,
                    last: reply.number()?,
                };
                let silent: i64 = reply.text()?.parse().map_err(|_| unexpected())?;
                Ok(Claimed::Yours(Rebuild {
                    name,
                    progress,
                    silent: u64::try_from(silent).ok().map(Duration::from_millis),
                }))
            }
            _ => Err(unexpected()),
        }
    }

    /// Notes that a rebuild has come to `next`, and with `done` that the store of this id is whole.
    /// False where another worker has taken it over.
    pub async fn advance(
        &self,
        worker: &str,
        rebuild: &Rebuild,
        next: u64,
        done: Option<Uuid>,
    ) -> Result<bool, MailboxError> {
        let mut script = scripts::ADVANCE.key(self.keys().store());
        script
            .arg(self.epoch().to_string())
            .arg(worker)
            .arg(&rebuild.name)
            .arg(REBUILD_LEASE.as_millis() as u64)
            .arg(next)
            .arg(done.map_or(String::new(), |id| id.simple().to_string()));
        let value: Value =
            (script.invoke_async(&mut self.raw()).await).map_err(|error| self.refusal(error))?;
        let mut reply = Reply::with_status(value).map_err(|error| self.judge(error))?;
        Ok(reply.text()? == "noted")
    }

    /// Ends all other connections of this system, also those of processes that are paused: from
    /// here on, whoever comes reads the record before anything else. Where the server forbids it,
    /// an append that was under way may put a message into a list twice.
    pub async fn cut_others_off(&self) -> Result<(), MailboxError> {
        let mut connection = self.raw();
        let listed = async {
            let own: u64 = redis::cmd("CLIENT")
                .arg("ID")
                .query_async(&mut connection)
                .await?;
            let list: String = redis::cmd("CLIENT")
                .arg("LIST")
                .query_async(&mut connection)
                .await?;
            Ok::<_, redis::RedisError>((own, list))
        };
        let (own, list) = match listed.await.map_err(|error| self.refusal(error)) {
            Ok(listed) => listed,
            Err(error @ MailboxError::Unreachable(_)) => return Err(error),
            Err(error) => {
                tracing::warn!("other connections stay while the store is rebuilt: {error}");
                return Ok(());
            }
        };
        let name = format!("name={}", self.keys().client_name());
        for line in list.lines() {
            let mut words = line.split(' ');
            let id = words.next().and_then(|word| word.strip_prefix("id="));
            let Some(id) = id.filter(|id| words.any(|word| word == name) && *id != own.to_string())
            else {
                continue;
            };
            let mut command = redis::cmd("CLIENT");
            command.arg("KILL").arg("ID").arg(id);
            let killed: Result<Value, _> = command.query_async(&mut connection).await;
            killed.map_err(|error| self.refusal(error))?;
        }
        Ok(())
    }

    /// Puts messages back, where they are not there; those of one user and lane in the order of
    /// their keys. Returns how many were missing. Repeatable.
    pub async fn restore(&self, rebuild: &Rebuild, batch: &[Append]) -> Result<u64, MailboxError> {
        super::restore::restore(self, &rebuild.name, rebuild.progress.kind.text(), batch).await
    }

    /// No mailbox is involved, so a plain error is a refusal.
    fn refusal(&self, error: redis::RedisError) -> MailboxError {
        self.judge(super::address::refused(error))
    }
}

fn read_record(values: Vec<Value>) -> Result<Record, MailboxError> {
    let mut reply = Reply::new(values);
    let id = Uuid::parse_str(&reply.text()?).ok();
    let epoch = Epoch::from_hex(&reply.text()?).ok();
    let mut time = || Ok::<u64, MailboxError>(text_of(reply.value()?)?.parse().unwrap_or(0));
    let (wiped_ms, lost_ms) = (time()?, time()?);
    Ok(Record {
        id,
        epoch,
        wiped_ms,
        lost_ms,
        rebuilt: reply.text()?,
        under_way: Progress::read(&mut reply)?,
    })
}
