//! What many sequences did, for the report, and so that a short run cannot pass by doing nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;

#[derive(Debug, Default)]
pub struct Figures {
    pub sequences: u64,
    /// By name.
    pub operations: BTreeMap<String, u64>,
    /// Messages that were sent to sessions.
    pub sent: u64,
    /// The sum of the `missed` that sessions were told, and what they were not sent because it had
    /// left its list or had expired. They are compared at every page.
    pub told: u64,
    pub removed: u64,
    pub evicted: u64,
    pub store_lost: u64,
    /// Times the store came back with less than it had.
    pub rolled_back: u64,
}

impl Figures {
    pub fn add(&mut self, other: &Figures) {
        self.sequences += other.sequences;
        for (name, count) in &other.operations {
            *self.operations.entry(name.clone()).or_default() += count;
        }
        self.sent += other.sent;
        self.told += other.told;
        self.removed += other.removed;
        self.evicted += other.evicted;
        self.store_lost += other.store_lost;
        self.rolled_back += other.rolled_back;
    }

    pub fn operate(&mut self, name: String) {
        *self.operations.entry(name).or_default() += 1;
    }

    pub fn report(&self) -> String {
        let mut text = String::new();
        for (name, count) in &self.operations {
            let _ = writeln!(text, "{name:<32} {count:>9}");
        }
        let Figures {
            sequences,
            sent,
            told,
            removed,
            evicted,
            store_lost,
            rolled_back,
            ..
        } = self;
        let operations: u64 = self.operations.values().sum();
        let _ = writeln!(text, "sent {sent}, evicted by the cap {evicted}");
        let _ = writeln!(
            text,
            "store rolled back {rolled_back}, store_lost told {store_lost}"
        );
        let _ = write!(
            text,
            "total: sequences {sequences} operations {operations} missed told {told} removed \
             {removed}"
        );
        text
    }

    /// Fails where the sequences hardly did anything.
    pub fn assert_telling(&self) {
        let each = [
            ("sent", self.sent),
            ("told as missed", self.told),
            ("evicted", self.evicted),
            ("store_lost", self.store_lost),
            ("rolled back", self.rolled_back),
        ];
        for (what, count) in each {
            let least = self.sequences / 4;
            assert!(
                count >= least,
                "{what}: {count} in {} sequences",
                self.sequences
            );
        }
        assert_eq!(self.told, self.removed);
    }
}
