//! What a mailbox means, written plainly and apart from the scripts: places with what stands at
//! them, devices with what they have acknowledged. No counters that could disagree with the list,
//! no arithmetic on lengths, no clock but the one that the test moves.

use std::collections::{BTreeMap, VecDeque};

use catchup::mailbox::ConnectionId;
use catchup::protocol::{Everyone, Places, Position};

/// Virtual time, milliseconds.
pub type Time = u64;
pub const UNIT: Time = 100_000;
/// The long and the short time to live. No multiples of [`UNIT`], so that the real milliseconds of
/// a run decide nothing; the short one is less than a connection counts without being asserted.
pub const TTLS: [Time; 2] = [1_030_000, 130_000];
pub const HOLD: Time = 350_000;
/// How long a connection counts without being asserted.
const CONNECTED: Time = 240_000;
const REMEMBERED_KEYS: usize = 32;

/// What stands, or stood, at a place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Slot {
    pub key: u64,
    pub expires: Time,
    pub is_gone: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct LaneModel {
    /// Everything that ever had a place here, the first at place 1.
    pub slots: Vec<Slot>,
    pub evicted: u64,
    pub floor: u64,
    /// Up to here a device may hold a position.
    pub shown: u64,
    /// When Redis removes the list.
    deadline: Option<Time>,
    deadline_set: Time,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Record {
    pub places: [u64; 2],
    pub everyone: Everyone,
    pub time_ms: u64,
    pub seen: Time,
    pub lost: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConnectionModel {
    pub device: String,
    pub id: ConnectionId,
    pub order: u64,
}

/// A mailbox as it is in the store; cloning it is a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Model {
    pub now: Time,
    pub cap: usize,
    pub ttl: Time,
    pub lanes: [LaneModel; 2],
    pub devices: BTreeMap<String, Record>,
    pub connections: Vec<ConnectionModel>,
    pub replaced: BTreeMap<String, ConnectionId>,
    pub life: Option<u64>,
    born: Time,
    hold: Option<(usize, Time)>,
    /// The last keys that left a list, oldest first.
    remembered: VecDeque<(u64, u64)>,
}

/// What a page should hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct PageModel {
    pub lane: Option<usize>,
    pub evicted: u64,
    pub expired: u64,
    pub before: u64,
    /// Place and key, in the order they are sent.
    pub entries: Vec<(u64, u64)>,
}

impl LaneModel {
    pub fn last(&self) -> u64 {
        self.slots.len() as u64
    }

    /// The places that stand in the list.
    pub fn present(&self) -> impl Iterator<Item = (u64, &Slot)> {
        let places = (1..).zip(&self.slots);
        places.filter(|(_, slot)| !slot.is_gone)
    }

    pub fn keys(&self) -> Vec<u64> {
        self.present().map(|(_, slot)| slot.key).collect()
    }

    fn head(&self) -> u64 {
        self.present()
            .next()
            .map_or(self.last() + 1, |(place, _)| place)
    }

    fn is_empty(&self) -> bool {
        self.present().next().is_none()
    }

    pub fn lose_list(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.is_gone = true);
        self.deadline = None;
    }

    /// The list's own expiry, as it was before.
    pub fn keep_deadline_of(&mut self, before: &LaneModel) {
        (self.deadline, self.deadline_set) = (before.deadline, before.deadline_set);
    }

    fn set_deadline(&mut self, now: Time, ttl: Time) {
        self.deadline_set = now;
        self.deadline = (!self.is_empty()).then_some(now + 2 * ttl);
    }
}

impl Model {
    pub fn new(cap: usize, ttl: Time) -> Model {
        Model {
            cap,
            ttl,
            now: 1_000 * UNIT,
            ..Model::default()
        }
    }

    /// Nothing is left of the mailbox.
    pub fn wipe(&mut self) {
        *self = Model {
            now: self.now,
            cap: self.cap,
            ttl: self.ttl,
            ..Model::default()
        };
    }

    pub fn pass(&mut self, duration: Time) {
        self.now += duration;
        for lane in &mut self.lanes {
            if lane.deadline.is_some_and(|deadline| deadline <= self.now) {
                lane.lose_list();
            }
        }
    }

    /// `append` of several messages in one batch: their places, and how many were evicted.
    pub fn append(&mut self, lane: usize, messages: &[(u64, Time)]) -> (Vec<u64>, u64) {
        let mut places = Vec::new();
        let mut must_set = false;
        for &(key, expires) in messages {
            let lane = &mut self.lanes[lane];
            lane.slots.push(Slot {
                key,
                expires,
                is_gone: false,
            });
            places.push(lane.last());
            must_set |= lane.keys().len() == 1 || self.now - lane.deadline_set >= self.ttl;
        }
        let evicted = self.evict(lane);
        if must_set || evicted.is_some() {
            self.lanes[lane].set_deadline(self.now, self.ttl);
        }
        (places, evicted.unwrap_or(0))
    }

    /// `append_once`: the place, whether it had one, and how many were evicted.
    pub fn append_once(&mut self, lane: usize, key: u64, expires: Time) -> (u64, bool, u64) {
        let found = (self.remembered.iter())
            .find(|(remembered, _)| *remembered == key)
            .map(|(_, place)| *place)
            .or_else(|| {
                let present = self.lanes[lane].present();
                let found = present.filter(|(_, slot)| slot.key == key);
                found.last().map(|one| one.0)
            });
        let place = found.unwrap_or_else(|| {
            let lane = &mut self.lanes[lane];
            lane.slots.push(Slot {
                key,
                expires,
                is_gone: false,
            });
            lane.last()
        });
        let evicted = self.evict(lane);
        let is_alone = self.lanes[lane].keys().len() == 1;
        let is_old = self.now - self.lanes[lane].deadline_set >= self.ttl;
        if found.is_some() || is_alone || is_old || evicted.is_some() {
            self.lanes[lane].set_deadline(self.now, self.ttl);
        }
        (place, found.is_some(), evicted.unwrap_or(0))
    }

    /// Removes what is past the cap; `None` where nothing is.
    fn evict(&mut self, lane: usize) -> Option<u64> {
        let length = self.lanes[lane].keys().len();
        let excess = length.checked_sub(self.cap + 1)? + 1;
        let stale = self.expired_heads(lane);
        let head = self.lanes[lane].head();
        self.remove_heads(lane, excess.max(stale));
        if excess > stale {
            self.lanes[lane].evicted = head + excess as u64 - 1;
        }
        Some(excess.saturating_sub(stale) as u64)
    }

    fn expired_heads(&self, lane: usize) -> usize {
        let present = self.lanes[lane].present();
        present
            .take_while(|(_, slot)| slot.expires <= self.now)
            .count()
    }

    fn remove_heads(&mut self, lane: usize, count: usize) {
        let mut left: Vec<(u64, u64)> = Vec::new();
        let present = (1..).zip(&mut self.lanes[lane].slots);
        for (place, slot) in present.filter(|(_, slot)| !slot.is_gone).take(count) {
            slot.is_gone = true;
            left.push((slot.key, place));
        }
        self.remembered.extend(left);
        while self.remembered.len() > REMEMBERED_KEYS {
            self.remembered.pop_front();
        }
        if self.lanes[lane].is_empty() {
            self.lanes[lane].deadline = None;
        }
    }

    pub fn is_known(&self, device: &str) -> bool {
        let Some(record) = self.devices.get(device) else {
            return false;
        };
        let is_connected = (self.connections.iter()).any(|one| one.device == device);
        let age = self.now - record.seen;
        age <= self.ttl || (is_connected && age <= CONNECTED)
    }

    /// Whether the hold of this epoch is over; begins it where the epoch is another.
    fn may_trim(&mut self, epoch: usize) -> bool {
        let until = match self.hold {
            Some((held, until)) if held == epoch => until,
            Some((_, until)) => until.max(self.now + HOLD),
            None => 0,
        };
        self.hold = Some((epoch, until));
        self.now >= until
    }

    /// Removes what every known device has acknowledged, and expired heads.
    pub fn trim(&mut self, epoch: usize) {
        let may_trim = self.may_trim(epoch);
        let known: Vec<[u64; 2]> = (self.devices.iter())
            .filter(|(device, _)| self.is_known(device))
            .map(|(_, record)| record.places)
            .collect();
        for lane in 0..2 {
            if may_trim && !known.is_empty() {
                let passed_by_all = known.iter().map(|places| places[lane]).min();
                let floor = &mut self.lanes[lane].floor;
                *floor = (*floor).max(passed_by_all.unwrap_or(0));
            }
        }
        self.drop_heads();
    }

    pub fn drop_heads(&mut self) {
        for lane in 0..2 {
            let floor = self.lanes[lane].floor;
            let present = self.lanes[lane].present();
            let gone =
                present.take_while(|(place, slot)| *place <= floor || slot.expires <= self.now);
            let count = gone.count();
            self.remove_heads(lane, count);
        }
    }

    pub fn acknowledge(&mut self, device: &str, position: &Position, epoch: usize) {
        let now = self.now;
        if let Some(record) = self.devices.get_mut(device) {
            record.reach(position);
            record.seen = now;
        }
        self.trim(epoch);
    }

    /// `reassert` of a connection that no newer one replaced.
    pub fn assert(&mut self, device: &str, id: &ConnectionId, order: u64, epoch: usize) {
        self.connections.retain(|one| one.device != device);
        self.connections.push(ConnectionModel {
            device: device.to_owned(),
            id: id.clone(),
            order,
        });
        let now = self.now;
        if let Some(record) = self.devices.get_mut(device) {
            record.seen = now;
        }
        self.trim(epoch);
    }

    /// Removes connections that match; afterwards places may be sorted only beyond what was
    /// appended while somebody was connected.
    pub fn disconnect(&mut self, is_meant: impl Fn(&ConnectionModel) -> bool, sees: bool) {
        let (gone, kept): (Vec<_>, Vec<_>) = (self.connections.drain(..)).partition(is_meant);
        self.connections = kept;
        for connection in &gone {
            if let Some(record) = self.devices.get_mut(&connection.device)
                && sees
            {
                record.seen = self.now;
            }
        }
        if !gone.is_empty() && self.connections.is_empty() {
            for lane in &mut self.lanes {
                lane.shown = lane.last();
            }
        }
    }

    pub fn page(&self, after: &Places, most: usize) -> PageModel {
        for lane in [1, 0] {
            let after = after.own[lane];
            let model = &self.lanes[lane];
            if after >= model.last() {
                continue;
            }
            // Live messages up to the next one that is missing.
            let mut run = Vec::new();
            let mut before = after;
            for (place, slot) in (1..).zip(&model.slots).skip(after as usize) {
                let is_missing = slot.is_gone || slot.expires <= self.now;
                match (is_missing, run.is_empty()) {
                    (true, true) => before = place,
                    (true, false) => break,
                    (false, _) => run.push((place, slot.key)),
                }
            }
            run.truncate(cut(&run, most));
            run.sort_by_key(|entry| entry.1);
            let missing = after + 1..=before;
            let evicted = missing.filter(|place| *place <= model.evicted).count() as u64;
            return PageModel {
                lane: Some(lane),
                evicted,
                expired: before - after - evicted,
                before,
                entries: run,
            };
        }
        PageModel::default()
    }

    /// A page was read: what a session that nobody knows of was shown keeps its place.
    pub fn show(&mut self, page: &PageModel) {
        if let (Some(lane), true) = (page.lane, self.connections.is_empty()) {
            let shown = &mut self.lanes[lane].shown;
            *shown = (*shown).max(page.before + page.entries.len() as u64);
        }
    }

    pub fn forget_trimmed(&mut self) {
        self.remembered.clear();
    }

    pub fn pending(&self, from: &[u64; 2]) -> u64 {
        let waiting = |lane: usize| {
            let present = self.lanes[lane].present();
            let live = present.filter(|(_, slot)| slot.expires > self.now);
            live.filter(|one| one.0 > from[lane]).count() as u64
        };
        waiting(0) + waiting(1)
    }

    /// Puts in order what nobody can have a position in, while nobody is connected.
    pub fn sort(&mut self) {
        for lane in 0..2 {
            let reached = self.devices.values().map(|record| record.places[lane]);
            let first = reached.max().unwrap_or(0).max(self.lanes[lane].shown);
            let first = first.max(self.lanes[lane].head() - 1) as usize;
            self.lanes[lane].slots[first..].sort_by_key(|slot| slot.key);
        }
    }

    pub fn born(&mut self, life: u64) {
        if self.life.is_none() {
            self.life = Some(life);
            self.born = self.now;
        }
    }

    /// A lost mailbox: its devices have the time to live to come back.
    pub fn hold_for_the_lost(&mut self, epoch: usize) {
        self.may_trim(epoch);
        if let Some((_, until)) = &mut self.hold {
            *until = (*until).max(self.born + self.ttl);
        }
    }
}

impl Record {
    pub fn reach(&mut self, position: &Position) {
        for lane in 0..2 {
            self.places[lane] = self.places[lane].max(position.places.own[lane]);
        }
        self.everyone = self.everyone.max(position.places.everyone);
        self.time_ms = self.time_ms.max(position.time_ms);
        self.lost &= !position.store_lost_told;
    }
}

/// The longest beginning of at most `most` whose keys all lie below all that follow.
fn cut(run: &[(u64, u64)], most: usize) -> usize {
    if run.len() <= most {
        return run.len();
    }
    let is_cut = |at: &usize| {
        let (left, right) = run.split_at(*at);
        let greatest = left.iter().map(|entry| entry.1).max();
        greatest < right.iter().map(|entry| entry.1).min()
    };
    (1..=most).rev().find(is_cut).unwrap_or(most)
}
