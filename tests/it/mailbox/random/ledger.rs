//! What really happened, whatever the store says of it: which events each device had a right to,
//! received, and was told it will miss. Nothing in here ever goes back.

use std::collections::{BTreeMap, BTreeSet};

use catchup::protocol::Position;

#[derive(Default)]
pub struct Ledger {
    pub clients: BTreeMap<String, Client>,
    /// Events that the store lost and JetStream will deliver again.
    pub pending: BTreeSet<u64>,
    pub appended: BTreeSet<u64>,
    /// What the real lists were last seen to hold.
    present: BTreeSet<u64>,
}

/// One connection's side of one lane.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// The place after which it began.
    pub start: u64,
    /// The sum of what it was told as missed, and what was found to be missing.
    pub told: u64,
    pub removed: u64,
    /// The places of what it was sent.
    pub sent: BTreeSet<u64>,
}

impl Tally {
    pub fn begin(places: [u64; 2]) -> [Tally; 2] {
        places.map(|start| Tally {
            start,
            ..Tally::default()
        })
    }
}

/// One device's side.
#[derive(Default)]
pub struct Client {
    due: BTreeSet<u64>,
    received: BTreeSet<u64>,
    told: BTreeSet<u64>,
    /// The cursors it received and can give, newest last.
    pub cursors: Vec<Position>,
}

impl Ledger {
    pub fn client(&mut self, device: &str) -> &mut Client {
        self.clients.entry(device.to_owned()).or_default()
    }

    /// An event was stored for the first time: every device that was ever here has a right to it,
    /// until it comes back as a new one.
    pub fn append(&mut self, key: u64) {
        self.appended.insert(key);
        for client in self.clients.values_mut() {
            client.due.insert(key);
        }
    }

    /// What the real lists hold.
    pub fn observe(&mut self, lists: &[Vec<u64>; 2]) {
        self.present = lists.iter().flatten().copied().collect();
    }

    pub fn is_present(&self, key: u64) -> bool {
        self.present.contains(&key)
    }

    /// The device begins anew: it has a right to what waits for it.
    pub fn begin(&mut self, device: &str, waiting: impl Iterator<Item = u64>) {
        self.client(device).due = waiting.collect();
    }

    pub fn receive(&mut self, device: &str, key: u64) {
        self.client(device).received.insert(key);
    }

    pub fn tell(&mut self, device: &str, key: u64) {
        self.client(device).told.insert(key);
    }

    /// `store_lost`: whatever is not on its way again may be missing.
    pub fn tell_store_lost(&mut self, device: &str) {
        let lost: Vec<u64> = (self.appended.difference(&self.pending)).copied().collect();
        self.client(device).told.extend(lost);
    }

    /// An event that the device has a right to, has not received and was not told of.
    pub fn uncovered(&self, device: &str) -> Option<u64> {
        let client = self.clients.get(device)?;
        let mut due = client.due.iter().copied();
        due.find(|key| !self.pending.contains(key) && !client.is_covered(*key))
    }

    /// Whether nobody of these devices needs the event any more.
    pub fn is_needed(&self, device: &str, key: u64) -> bool {
        let client = self.clients.get(device);
        client.is_some_and(|client| client.due.contains(&key) && !client.is_covered(key))
    }
}

impl Client {
    fn is_covered(&self, key: u64) -> bool {
        self.received.contains(&key) || self.told.contains(&key)
    }
}
