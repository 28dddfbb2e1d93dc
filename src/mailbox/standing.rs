//! In a cluster: what the record of a primary is worth for the slots that it has now (see
//! [`super::Record`]).

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::condition::{Known, View};
use super::info::info_field;
use super::slots::{SLOTS, SlotSet};
use super::{Link, MailboxError, Shard, Store};

/// How long a server says which slots left it. In this time every worker has looked at all servers
/// many times over, and one of them has noted who has the slots now.
pub(super) const LEFT_KEPT: Duration = Duration::from_secs(60);

/// What is to be done about a server's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// It says what it should, or the server got slots from whole ones since.
    Good,
    /// It is in a slot that is not its place any more.
    Displaced,
    /// It went with its slot, and the server is whole.
    Lost,
    /// There is none, and the server had no slots before.
    New,
    /// It says nothing of some slots, and where they came from was not seen yet.
    Unknown,
    /// It says nothing of some slots, and whether they lost anything is not known.
    Doubtful,
}

impl Store {
    /// Keeps the record of a server: that it is there, and says which slots the server has. True
    /// where the record says too little, so that the server must be made whole. Only one server
    /// needs nothing of it.
    ///
    /// # Errors
    ///
    /// Where the server does not answer.
    pub async fn is_doubtful(&self, shard: &Shard, id: Option<Uuid>) -> Result<bool, MailboxError> {
        let (Some(view), Some(id)) = (shard.condition().view(), id) else {
            return Ok(false);
        };
        let link = shard.connect_to_any().await?;
        match self.standing(shard, &link, &view) {
            Standing::Good | Standing::Unknown => return Ok(false),
            Standing::Doubtful => {
                tracing::warn!(
                    server = &**shard.name(),
                    "a server has slots of which no record says that they are whole"
                );
                return Ok(true);
            }
            Standing::New if !has_run_since_absent(shard, &link).await? => return Ok(false),
            Standing::New | Standing::Lost | Standing::Displaced => {}
        }
        tracing::info!(
            server = &**shard.name(),
            "the record of a server is written anew"
        );
        let left = shard.condition().record_key(self.keys());
        let home = link.carry(id, &view, &self.left(shard, &view)).await?;
        if left != home {
            let removed: Result<(), _> = redis::cmd("DEL")
                .arg(left)
                .query_async(&mut link.raw())
                .await;
            removed.map_err(|error| link.judge(error))?;
        }
        shard.look().await?;
        Ok(false)
    }

    /// Notes that all events up to `floor` were acknowledged, and which slots the server has.
    ///
    /// # Errors
    ///
    /// Where the server does not answer.
    pub async fn note(
        &self,
        shard: &Shard,
        link: &Link,
        id: Uuid,
        floor: u64,
    ) -> Result<(), MailboxError> {
        let Some(view) = shard.condition().view() else {
            return link.note(id, floor, None).await;
        };
        // Exactly what is judged is noted: slots may come at any time.
        match self.standing(shard, link, &view) {
            Standing::Good => {
                let left = self.left(shard, &view);
                link.note(id, floor, Some((&view, left))).await
            }
            _ => Ok(()),
        }
    }

    fn standing(&self, shard: &Shard, link: &Link, view: &Arc<View>) -> Standing {
        let Some(known) = shard.condition().known().filter(|known| known.is_of(link)) else {
            return Standing::Good;
        };
        if known.record.under_way.is_some() {
            return Standing::Good;
        }
        let nothing = SlotSet::default();
        let recorded = known.record.slots.as_ref().unwrap_or(&nothing);
        if known.record.id.is_none() {
            let has_gone = shard.condition().record_has_left(link);
            let came = self.vouched(shard, false);
            let is_new = shard.condition().absent().is_some()
                && came.is_some_and(|came| view.slots.is_subset(&came));
            return match (has_gone, is_new) {
                (true, _) => Standing::Lost,
                (_, true) => Standing::New,
                _ => Standing::Good,
            };
        }
        if view.slots.is_subset(recorded) {
            let is_home = view
                .record_key(self.keys())
                .is_none_or(|home| home == known.key);
            return match is_home || !known.is_whole() {
                true => Standing::Good,
                false => Standing::Displaced,
            };
        }
        // Since it went back, what came lately may not be there.
        if !known.is_whole() || self.has_other_lost(shard, recorded, view) {
            return Standing::Doubtful;
        }
        match self.vouched(shard, true) {
            None => Standing::Unknown,
            Some(mut others) => {
                // What it gave away lately may have come back.
                others.add_all(&known.record.left);
                match view.slots.is_within(recorded, &others) {
                    true => Standing::Good,
                    false => Standing::Doubtful,
                }
            }
        }
    }

    /// Whether another server may have lost something, and is not whole again: what came from there
    /// may lack it.
    fn has_other_lost(&self, shard: &Shard, recorded: &SlotSet, view: &View) -> bool {
        let topology = self.topology();
        let mut others = topology
            .shards
            .iter()
            .filter(|other| other.name() != shard.name());
        others.any(|other| {
            let known = other.condition().known();
            known.is_some_and(|known| {
                let is_behind = known.record.id.is_some() && !known.is_whole();
                let may_be_from = |slot: u16| {
                    let had = known.record.slots.as_ref();
                    let is_new = view.slots.contains(slot) && !recorded.contains(slot);
                    is_new && had.is_none_or(|had| had.contains(slot))
                };
                (is_behind || known.record.under_way.is_some()) && (0..SLOTS).any(may_be_from)
            })
        })
    }

    /// The slots of all other servers that were whole when they were last seen. `None` where one of
    /// them was never seen, and must have been if all are `needed`.
    fn vouched(&self, shard: &Shard, is_needed: bool) -> Option<SlotSet> {
        let mut all = self.slots_of_retired();
        for other in &self.topology().shards {
            if other.name() == shard.name() {
                continue;
            }
            match other.condition().known() {
                Some(known) if known.is_whole() => {
                    all.add_all(known.record.slots.as_ref()?);
                    all.add_all(&known.record.left);
                }
                Some(_) => {}
                None if is_needed => return None,
                None => {}
            }
        }
        Some(all)
    }

    /// What a server had, and has not any more since less than [`LEFT_KEPT`]: for so long it vouches for
    /// them, until whoever has them does.
    fn left(&self, shard: &Shard, view: &View) -> SlotSet {
        let condition = shard.condition();
        let Some(Known { record, .. }) = condition.known_whole() else {
            return SlotSet::default();
        };
        let mut left = record.left;
        if let Some(slots) = &record.slots {
            left.add_all(slots);
        }
        condition.left_lately(left, &view.slots, LEFT_KEPT)
    }
}

/// Whether a server that was seen without slots has run without a break since then: all that came
/// is there.
async fn has_run_since_absent(shard: &Shard, link: &Link) -> Result<bool, MailboxError> {
    let Some(absent) = shard.condition().absent() else {
        return Ok(false);
    };
    let info: String = redis::cmd("INFO")
        .arg("server")
        .query_async(&mut link.raw())
        .await
        .map_err(|error| link.judge(error))?;
    let uptime = info_field(&info, "uptime_in_seconds").and_then(|text| text.parse().ok());
    Ok(uptime.is_some_and(|uptime: u64| uptime > absent.elapsed().as_secs()))
}
