//! The events for everyone that still wait, in the memory of this node.
//!
//! The ring follows the stream `BROADCASTS`: it holds at most the cap, and nothing that expired.
//! It is a log that every connection reads by its own cursor, live and on coming back alike, so
//! there is no moment between a snapshot and what follows it, and no queue a connection.

#[cfg(test)]
mod tests;

use std::collections::{HashSet, VecDeque};
use std::sync::{PoisonError, RwLock};

use tokio::sync::watch;

use crate::bus::{Broadcast, BroadcastsStream};
use crate::mailbox::Seen;
use crate::protocol::{EventKey, Everyone};
use crate::session::{EveryonePlaced, EveryoneRead, Gone};

/// The events for everyone, and how far they were read.
pub struct Ring {
    /// Most messages kept.
    cap: u64,
    state: RwLock<State>,
    /// The newest place; connections wait for it to change.
    newest: watch::Sender<Everyone>,
}

#[derive(Default)]
struct State {
    /// 0 before it is known.
    time_line: u64,
    entries: VecDeque<Entry>,
    /// The keys of the entries: a worker that repeats itself after two minutes is found out.
    keys: HashSet<EventKey>,
    /// The last sequence that the cap pushed out, or that was older than the cap at the start.
    evicted: u64,
    /// The last sequence before the entries: all up to here is evicted or expired.
    gone: u64,
    /// The last sequence that was read from the stream.
    newest: u64,
}

struct Entry {
    sequence: u64,
    broadcast: Broadcast,
}

/// How much may be read at once.
#[derive(Debug, Clone, Copy)]
pub struct ReadLimits {
    pub messages_max: usize,
    /// One message may be larger.
    pub bytes_max: usize,
}

impl Ring {
    /// `cap` is the most messages that wait.
    pub fn new(cap: u64) -> Ring {
        Ring {
            cap,
            state: RwLock::default(),
            newest: watch::Sender::default(),
        }
    }

    /// The newest place, where a device that is new starts.
    pub fn newest(&self) -> Everyone {
        *self.newest.borrow()
    }

    /// The newest event that still waits.
    pub fn newest_seen(&self) -> Option<Seen> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let entry = state.entries.back()?;
        Some(Seen {
            place: Everyone {
                creation: state.time_line,
                sequence: entry.sequence,
            },
            time_ms: entry.broadcast.time_ms,
        })
    }

    /// Changes with every message, also with those that some users do not get.
    pub fn changes(&self) -> watch::Receiver<Everyone> {
        self.newest.subscribe()
    }

    /// Begins with a stream, or goes on with it where it is the same time line. Returns the
    /// sequence to read from; what lies before it is here or gone.
    pub fn begin(&self, stream: BroadcastsStream) -> u64 {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.time_line != stream.time_line {
            *state = State {
                time_line: stream.time_line,
                ..State::default()
            };
        }
        let youngest = (stream.last_sequence + 1).saturating_sub(self.cap);
        let next = youngest.max(stream.first_sequence).max(1);
        if next > state.newest + 1 {
            // Never read here, and so old that no entry before it can wait either.
            state.entries.clear();
            state.keys.clear();
            state.gone = next - 1;
            state.newest = next - 1;
            if youngest > stream.first_sequence {
                state.evicted = next - 1;
            }
        }
        let next = state.newest + 1;
        let newest = state.newest();
        drop(state);
        self.newest.send_replace(newest);
        next
    }

    /// Adds the next message. `None` stands for one that cannot be read.
    pub fn push(&self, sequence: u64, broadcast: Option<Broadcast>, now_ms: u64) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if sequence <= state.newest {
            return;
        }
        state.newest = sequence;
        if let Some(broadcast) = broadcast
            && state.keys.insert(broadcast.key)
        {
            state.entries.push_back(Entry {
                sequence,
                broadcast,
            });
        }
        state.drop_expired(now_ms);
        while state.entries.len() as u64 > self.cap {
            state.drop_first();
            state.evicted = state.gone;
        }
        let newest = state.newest();
        drop(state);
        self.newest.send_replace(newest);
    }

    /// How many messages wait for a user after a place.
    pub fn pending(&self, after: Everyone, user: &str, now_ms: u64) -> u64 {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let after = match after.creation == state.time_line {
            true => after.sequence,
            false => 0,
        };
        let entries = state.entries.iter().rev();
        entries
            .take_while(|entry| entry.sequence > after)
            .filter(|entry| !entry.has_expired(now_ms) && entry.is_for(user))
            .count() as u64
    }

    /// What follows a place for a user: what is gone, then messages, up to the first that expired
    /// behind younger ones.
    ///
    /// Of another time line it is all that is here, after saying so; but what lies ahead of this
    /// ring is neither: nothing follows it.
    pub fn read(
        &self,
        after: Everyone,
        user: &str,
        now_ms: u64,
        limits: ReadLimits,
    ) -> EveryoneRead {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let newest = state.newest();
        let mut read = EveryoneRead {
            start: after,
            end: after,
            newest,
            ..EveryoneRead::default()
        };
        if after >= newest {
            return read;
        }
        if after.creation != newest.creation {
            read.store_lost = after.creation != 0;
            read.start = Everyone {
                creation: newest.creation,
                sequence: state.gone,
            };
        }
        state.read_on(&mut read, user, now_ms, limits);
        read
    }
}

impl State {
    fn newest(&self) -> Everyone {
        Everyone {
            creation: self.time_line,
            sequence: self.newest,
        }
    }

    fn drop_expired(&mut self, now_ms: u64) {
        let has_expired = |entry: &Entry| entry.has_expired(now_ms);
        while self.entries.front().is_some_and(has_expired) {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.keys.remove(&entry.broadcast.key);
            self.gone = entry.sequence;
        }
    }

    fn read_on(&self, read: &mut EveryoneRead, user: &str, now_ms: u64, limits: ReadLimits) {
        let start = read.start.sequence;
        // Whom these excluded is not known any more.
        let evicted_end = self.evicted.min(self.gone).max(start);
        let expired_end = self.gone.max(start);
        read.evicted = Gone {
            count: evicted_end - start,
            end: evicted_end,
        };
        read.expired = Gone {
            count: expired_end - evicted_end,
            end: expired_end,
        };
        let mut end = self.newest;
        let mut bytes = 0;
        let first = (self.entries).partition_point(|entry| entry.sequence <= expired_end);
        for entry in self.entries.range(first..) {
            let broadcast = &entry.broadcast;
            if !entry.is_for(user) {
                continue;
            }
            let is_first = read.messages.is_empty();
            let has_expired = entry.has_expired(now_ms);
            if has_expired && is_first {
                read.expired.count += 1;
                read.expired.end = entry.sequence;
                continue;
            }
            bytes += broadcast.json.len();
            let is_full = read.messages.len() == limits.messages_max || bytes > limits.bytes_max;
            if has_expired || (is_full && !is_first) {
                end = entry.sequence - 1;
                read.has_more = true;
                break;
            }
            read.messages.push(EveryonePlaced {
                sequence: entry.sequence,
                key: broadcast.key,
                time_ms: broadcast.time_ms,
                json: broadcast.json.clone(),
            });
        }
        read.end = Everyone {
            creation: self.time_line,
            sequence: end,
        };
    }
}

impl Entry {
    fn has_expired(&self, now_ms: u64) -> bool {
        self.broadcast.expires_ms <= now_ms
    }

    fn is_for(&self, user: &str) -> bool {
        self.broadcast.exclude.as_deref() != Some(user)
    }
}
