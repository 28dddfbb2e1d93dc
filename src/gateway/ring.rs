//! The events for everyone that still wait, in the memory of this node.
//!
//! The ring follows the stream `BROADCASTS`: it holds at most the cap, and nothing that expired.
//! It is a log that every connection reads by its own cursor, live and on coming back alike, so
//! there is no moment between a snapshot and what follows it, and no queue a connection.

use std::collections::{HashSet, VecDeque};
use std::sync::{PoisonError, RwLock};

use tokio::sync::watch;

use crate::bus::Broadcast;
use crate::protocol::{EventKey, Everyone};
use crate::session::{EveryonePlaced, EveryoneRead};

/// What the ring knows of the stream.
pub struct Ring {
    /// Most messages kept.
    cap: usize,
    state: RwLock<State>,
    /// The newest place; connections wait for it to change.
    newest: watch::Sender<Everyone>,
}

#[derive(Default)]
struct State {
    /// When the stream was created, milliseconds since 1970; 0 before it is known.
    creation: u64,
    entries: VecDeque<Entry>,
    /// The keys of the entries: a worker that repeats itself after two minutes is found out.
    keys: HashSet<EventKey>,
    /// The last sequence that the cap pushed out, or that was older than the cap at the start.
    evicted: u64,
    /// The last message before the entries: all up to here is evicted or expired.
    gone: u64,
    /// The last sequence that was read from the stream.
    newest: u64,
}

struct Entry {
    sequence: u64,
    broadcast: Broadcast,
}

impl Ring {
    pub fn new(cap: u64) -> Ring {
        Ring {
            cap: usize::try_from(cap).unwrap_or(usize::MAX),
            state: RwLock::default(),
            newest: watch::Sender::default(),
        }
    }

    /// The newest place, where a device that is new starts.
    pub fn newest(&self) -> Everyone {
        *self.newest.borrow()
    }

    /// Changes with every message, also with those that some users do not get.
    pub fn changes(&self) -> watch::Receiver<Everyone> {
        self.newest.subscribe()
    }

    /// Begins with a stream, or goes on with it: `first` is the next sequence that will be
    /// pushed. Returns that sequence, which is later where this ring has come further.
    pub fn begin(&self, creation: u64, first: u64, oldest: u64) -> u64 {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.creation != creation {
            *state = State {
                creation,
                ..State::default()
            };
        }
        let next = first.max(state.newest + 1);
        if next > state.newest + 1 {
            // Never read here: pushed out by the cap, or expired before the oldest.
            state.entries.clear();
            state.keys.clear();
            state.gone = next - 1;
            state.newest = next - 1;
            if next > oldest {
                state.evicted = next - 1;
            }
        }
        let newest = state.newest;
        drop(state);
        self.newest.send_replace(Everyone {
            creation,
            sequence: newest,
        });
        next
    }

    /// Adds the next message. `None` stands for one that cannot be read or is none.
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
        while state.entries.len() > self.cap {
            state.drop_first();
            state.evicted = state.gone;
        }
        let newest = Everyone {
            creation: state.creation,
            sequence,
        };
        drop(state);
        self.newest.send_replace(newest);
    }

    /// How many messages wait for a user after a cursor.
    pub fn pending(&self, after: Everyone, user: &str, now_ms: u64) -> u64 {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let start = match after.creation == state.creation {
            true => after.sequence,
            false => 0,
        };
        let waits = |entry: &&Entry| {
            entry.sequence > start
                && entry.broadcast.expires_ms > now_ms
                && entry.broadcast.exclude.as_deref() != Some(user)
        };
        state
            .entries
            .iter()
            .rev()
            .take_while(|entry| entry.sequence > start)
            .filter(waits)
            .count() as u64
    }

    /// What follows a cursor for a user: what is gone, then at most `messages_max` messages and
    /// `bytes_max` bytes (but at least one), up to the first that expired behind younger ones.
    pub fn read(
        &self,
        after: Everyone,
        user: &str,
        now_ms: u64,
        messages_max: usize,
        bytes_max: usize,
    ) -> EveryoneRead {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let newest = Everyone {
            creation: state.creation,
            sequence: state.newest,
        };
        let mut read = EveryoneRead {
            newest,
            end: after,
            ..EveryoneRead::default()
        };
        // Another stream, or one that lost what this device has seen: all that is here, after
        // saying so. A cursor ahead of this node is no such thing; the caller asks the stream.
        if after.creation != state.creation {
            read.store_lost = after.creation != 0;
            read.start = Everyone {
                creation: state.creation,
                sequence: state.gone,
            };
        } else {
            read.start = after;
        }
        state.read_run(&mut read, user, now_ms, messages_max, bytes_max);
        read
    }
}

impl State {
    fn drop_expired(&mut self, now_ms: u64) {
        let has_expired = |entry: &Entry| entry.broadcast.expires_ms <= now_ms;
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

    fn read_run(
        &self,
        read: &mut EveryoneRead,
        user: &str,
        now_ms: u64,
        messages_max: usize,
        bytes_max: usize,
    ) {
        let start = read.start.sequence;
        let mut gap_end = start.max(self.gone);
        let mut end = gap_end;
        let mut bytes = 0;
        let first = self
            .entries
            .partition_point(|entry| entry.sequence <= gap_end);
        for entry in self.entries.range(first..) {
            let broadcast = &entry.broadcast;
            if broadcast.expires_ms <= now_ms {
                if !read.messages.is_empty() {
                    break;
                }
                gap_end = entry.sequence;
            } else if broadcast.exclude.as_deref() != Some(user) {
                bytes += broadcast.json.len();
                let is_full = read.messages.len() == messages_max || bytes > bytes_max;
                if is_full && !read.messages.is_empty() {
                    break;
                }
                read.messages.push(EveryonePlaced {
                    sequence: entry.sequence,
                    time_ms: broadcast.time_ms,
                    json: broadcast.json.clone(),
                });
            }
            end = entry.sequence;
        }
        let is_whole = self.entries.back().is_none_or(|last| last.sequence <= end);
        if is_whole {
            end = self.newest.max(end);
        }
        let gone = gap_end - start;
        read.evicted = gap_end.min(self.evicted).saturating_sub(start);
        read.expired = gone - read.evicted;
        read.gap_end = gap_end;
        read.end = Everyone {
            creation: self.creation,
            sequence: end,
        };
    }
}
