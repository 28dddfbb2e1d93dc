//! The events for everyone as the ring of a node has them, for one user.

use super::model::time_ms;
use super::random::Random;
use crate::protocol::Everyone;
use crate::session::tests::key;
use crate::session::{EveryonePlaced, EveryoneRead, Gone};

/// One time line of `BROADCASTS`, and how far this node has read it.
#[derive(Debug, Clone)]
pub struct Stream {
    time_line: u64,
    /// By sequence, the first is 1.
    fates: Vec<Fate>,
    /// How far the node's ring has come.
    seen: u64,
    /// How many at the head left the ring.
    removed: u64,
    /// The last sequence that the cap evicted.
    evicted: u64,
}

#[derive(Debug, Clone)]
struct Fate {
    id: u64,
    /// The user caused it and gets nothing.
    is_excluded: bool,
    is_expired: bool,
}

impl Stream {
    pub fn new(time_line: u64) -> Stream {
        Stream {
            time_line,
            fates: Vec::new(),
            seen: 0,
            removed: 0,
            evicted: 0,
        }
    }

    pub fn time_line(&self) -> u64 {
        self.time_line
    }

    pub fn last(&self) -> u64 {
        self.fates.len() as u64
    }

    pub fn newest(&self) -> Everyone {
        Everyone {
            creation: self.time_line,
            sequence: self.seen,
        }
    }

    pub fn id(&self, sequence: u64) -> u64 {
        self.fates[sequence as usize - 1].id
    }

    pub fn is_excluded(&self, sequence: u64) -> bool {
        self.fates[sequence as usize - 1].is_excluded
    }

    pub fn is_gone(&self, sequence: u64) -> bool {
        sequence <= self.removed || self.fates[sequence as usize - 1].is_expired
    }

    pub fn append(&mut self, id: u64, is_excluded: bool) {
        self.fates.push(Fate {
            id,
            is_excluded,
            is_expired: false,
        });
    }

    /// The ring comes on, at most to the end.
    pub fn see(&mut self, count: u64) {
        self.seen = (self.seen + count).min(self.last());
    }

    /// Another node serves, whose ring is behind.
    pub fn fall_behind(&mut self, count: u64) {
        self.seen = self.seen.saturating_sub(count).max(self.removed);
    }

    pub fn evict(&mut self, count: u64) {
        self.removed = (self.removed + count).min(self.seen);
        self.evicted = self.removed;
    }

    /// Lets `count` expire, beginning `offset` after the head.
    pub fn expire(&mut self, offset: u64, count: u64) {
        let from = (self.removed + offset) as usize;
        for fate in self.fates.iter_mut().skip(from).take(count as usize) {
            fate.is_expired = true;
        }
    }

    /// As the gateway's ring reads; cut short anywhere.
    pub fn read(&self, after: Everyone, random: &mut Random) -> EveryoneRead {
        let mut read = EveryoneRead {
            start: after,
            end: after,
            newest: self.newest(),
            ..EveryoneRead::default()
        };
        if after >= read.newest {
            return read;
        }
        if after.creation != self.time_line {
            read.store_lost = true;
            read.start = Everyone {
                creation: self.time_line,
                sequence: self.removed,
            };
        }
        let most = 1 + random.below(20);
        let start = read.start.sequence;
        let evicted = self.evicted.max(start);
        let removed = self.removed.max(start);
        let gone = |from: u64, end: u64| Gone {
            count: end - from,
            end,
        };
        (read.evicted, read.expired) = (gone(start, evicted), gone(evicted, removed));
        read.end = self.newest();
        for sequence in removed + 1..=self.seen {
            if self.is_excluded(sequence) {
                continue;
            }
            if self.is_gone(sequence) && read.messages.is_empty() {
                read.expired.count += 1;
                read.expired.end = sequence;
                continue;
            }
            if self.is_gone(sequence) || read.messages.len() == most {
                (read.end.sequence, read.has_more) = (sequence - 1, true);
                break;
            }
            let id = self.id(sequence);
            read.messages.push(EveryonePlaced {
                sequence,
                key: key(id),
                time_ms: time_ms(id),
                json: id.to_string().into(),
            });
        }
        read
    }
}
