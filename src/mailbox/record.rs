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
//! In a cluster every primary has a record of its own, and is whole or not by itself. The record lies
//! in one of the primary's slots, and says which slots the primary had and who may be primary in its
//! place. Slots come with their keys from another primary; what that says of the record:
//!
//! - Redis keeps its writes in one order here too: slots that are in the record came before it was
//!   written, with all that was in them.
//! - Slots that are not in it can be trusted while the server goes on, where another whole primary
//!   had them: a record also tells for a minute which slots have left. Once the server was restarted
//!   or replaced it may have gone back to before they came, and whoever gave them has removed them:
//!   then it counts as emptied.
//! - A record goes with its slot, and is one of another primary there: it names who may have it.
//!   The primary that lost it writes it anew from what a worker knows, as long as the connection
//!   over which it was read stands.
//! - A primary that had no slots before gets its record from a worker that saw it without any, and
//!   knows it was not restarted since.
//!
//! In the hash `catchup_store`: `id`; `epoch`; `clock`, Redis's time, written every half second;
//! `floor`; `wiped`, `lost` and `back`, when it was found empty, when any events were found lost, and
//! when it was found in another epoch; the name of the last rebuild that ended in `rebuilt`;
//! `rebuild:*` while one is under way; in a cluster also `slots`, `left` and `members`, the ids of the
//! primary and its replicas.

use std::time::Duration;

use redis::{ScriptInvocation, Value};
use uuid::Uuid;

use super::condition::{Losses, View};
use super::reply::{Reply, text_of};
use super::slots::SlotSet;
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
    /// When it was last found in another epoch, milliseconds since 1970; 0 for never.
    pub back_ms: u64,
    /// The last rebuild that ended.
    pub rebuilt: String,
    pub under_way: Option<Progress>,
    /// What is read of it in a cluster: which slots the primary had.
    pub slots: Option<SlotSet>,
    /// In a cluster: which slots it had until lately, while it was whole.
    pub left: SlotSet,
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
    /// In a cluster: for whose users. What comes to the server meanwhile begins it anew.
    pub slots: Option<SlotSet>,
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
    /// The record says too little of the slots that the server has.
    pub is_doubtful: bool,
}

impl Record {
    /// True where it says nothing: the server was emptied, or is new.
    pub fn is_bare(&self) -> bool {
        self.id.is_none() && self.under_way.is_none()
    }
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
    /// Reads the record, and writes the server's clock, which shows whether it takes writes.
    pub(super) async fn look(&self) -> Result<Record, MailboxError> {
        let now_ms = self.now_ms().await?;
        let keys = self.condition().record_keys(self.keys());
        let mut pipeline = redis::pipe();
        for key in &keys {
            pipeline.hset(key, "clock", now_ms).ignore();
            pipeline.cmd("HMGET").arg(key).arg(&[
                "id",
                "epoch",
                "wiped",
                "lost",
                "back",
                "rebuilt",
                "rebuild:kind",
                "rebuild:next",
                "rebuild:last",
                "slots",
                "left",
                "members",
            ]);
        }
        let values: Vec<Vec<Value>> =
            (pipeline.query_async(&mut self.raw()).await).map_err(|error| self.refusal(error))?;
        let view = self.condition().view();
        let mut records = Vec::with_capacity(keys.len());
        for (key, values) in keys.into_iter().zip(values) {
            records.push((key, read_record(values, view.as_deref())?));
        }
        let says_something = |(_, record): &(String, Record)| !record.is_bare();
        let index = records.iter().position(says_something).unwrap_or(0);
        if self.is_broken() || records.is_empty() {
            // A newer link may have read another record.
            return Err(MailboxError::Unreachable("given up".to_owned()));
        }
        let (key, record) = records.swap_remove(index);
        self.condition().note(record.clone(), self, key);
        Ok(record)
    }

    /// Notes that all events up to `floor` were acknowledged, and in a cluster which slots the server
    /// has. Only on a link of a whole store; where it was emptied meanwhile, nothing is written.
    pub(super) async fn note(
        &self,
        id: Uuid,
        floor: u64,
        slots: Option<(&View, SlotSet)>,
    ) -> Result<(), MailboxError> {
        let mut script = scripts::NOTE.key(self.record_key());
        script
            .arg(self.epoch().to_string())
            .arg(id.simple().to_string())
            .arg("floor")
            .arg(floor);
        if let Some((view, left)) = slots {
            let losses = self.condition().losses();
            script
                .arg("slots")
                .arg(view.slots.to_string())
                .arg("left")
                .arg(left.to_string())
                .arg("members")
                .arg(view.members.join(" "))
                .arg("wiped")
                .arg(losses.wiped_ms)
                .arg("lost")
                .arg(losses.lost_ms)
                .arg("back")
                .arg(losses.back_ms);
        }
        self.answer_of(script).await.map(drop)
    }

    /// Writes the record of a server that is whole where it belongs, in a cluster. Returns its key.
    pub(super) async fn carry(
        &self,
        id: Uuid,
        view: &View,
        left: &SlotSet,
    ) -> Result<String, MailboxError> {
        let Losses {
            wiped_ms,
            lost_ms,
            back_ms,
        } = self.condition().losses();
        let key = view.record_key(self.keys()).unwrap_or_default();
        let mut script = scripts::CARRY.key(&key);
        script
            .arg(self.epoch().to_string())
            .arg(id.simple().to_string())
            .arg(&view.node)
            .arg(view.members.join(" "))
            .arg(view.slots.to_string())
            .arg(left.to_string())
            .arg(wiped_ms)
            .arg(lost_ms)
            .arg(back_ms);
        self.answer_of(script).await?;
        Ok(key)
    }

    fn record_key(&self) -> String {
        self.condition().record_key(self.keys())
    }

    /// The answer of a script on the record.
    async fn answer_of(&self, script: ScriptInvocation<'_>) -> Result<Reply, MailboxError> {
        let value: Value =
            (script.invoke_async(&mut self.raw()).await).map_err(|error| self.refusal(error))?;
        Reply::with_status(value).map_err(|error| self.judge(error))
    }

    /// Asks for the work of making the store whole.
    pub async fn claim(&self, claim: &Claim<'_>) -> Result<Claimed, MailboxError> {
        let view = self.condition().view();
        let doubtful = self.condition().known().filter(|_| claim.is_doubtful);
        let doubtful = doubtful.and_then(|known| known.record.slots);
        let mut script = scripts::CLAIM.key(self.record_key());
        script
            .arg(self.epoch().to_string())
            .arg(claim.id.simple().to_string())
            .arg(claim.worker)
            .arg(REBUILD_LEASE.as_millis() as u64)
            .arg(Uuid::now_v7().simple().to_string())
            .arg(claim.delivered)
            .arg(u8::from(claim.is_first_id));
        if let Some(view) = &view {
            script
                .arg(&view.node)
                .arg(view.members.join(" "))
                .arg(view.slots.to_string())
                .arg(doubtful.map_or(String::new(), |slots| slots.to_string()));
        }
        let mut reply = self.answer_of(script).await?;
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
                    slots: view.map(|view| view.slots.clone()),
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
        let mut script = scripts::ADVANCE.key(self.record_key());
        script
            .arg(self.epoch().to_string())
            .arg(worker)
            .arg(&rebuild.name)
            .arg(REBUILD_LEASE.as_millis() as u64)
            .arg(next)
            .arg(done.map_or(String::new(), |id| id.simple().to_string()));
        let mut reply = self.answer_of(script).await?;
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

/// In a cluster, a record that another server left in a slot counts as none.
fn read_record(values: Vec<Value>, view: Option<&View>) -> Result<Record, MailboxError> {
    let mut reply = Reply::new(values);
    let id = Uuid::parse_str(&reply.text()?).ok();
    let epoch = Epoch::from_hex(&reply.text()?).ok();
    let mut time = || Ok::<u64, MailboxError>(text_of(reply.value()?)?.parse().unwrap_or(0));
    let (wiped_ms, lost_ms, back_ms) = (time()?, time()?, time()?);
    let mut record = Record {
        id,
        epoch,
        wiped_ms,
        lost_ms,
        back_ms,
        rebuilt: reply.text()?,
        under_way: Progress::read(&mut reply)?,
        slots: None,
        left: SlotSet::default(),
    };
    if let Some(view) = view {
        record.slots = SlotSet::parse(&reply.text()?);
        record.left = SlotSet::parse(&reply.text()?).unwrap_or_default();
        let members = reply.text()?;
        if members.split(' ').all(|member| member != view.node) {
            return Ok(Record::default());
        }
    }
    Ok(record)
}
