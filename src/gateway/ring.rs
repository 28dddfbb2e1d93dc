//! The events for everyone that still wait, in the memory of this node.
//!
//! The ring follows the stream `BROADCASTS`: it holds at most the cap, and nothing that expired.
//! It is a log that every connection reads by its own cursor, live and on coming back alike, so
//! there is no moment between a snapshot and what follows it, and no queue a connection.
//!
//! What cannot be sent is never passed in silence: what the stream dropped before it was read, and
//! what a later version of this program wrote, keep their places and are told as missed.

#[cfg(test)]
mod tests;

use std::collections::{HashSet, VecDeque};
use std::sync::{PoisonError, RwLock};

use tokio::sync::watch;

use crate::bus::{Broadcast, BroadcastsStream};
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
    /// The identities of the messages: a worker that repeats itself after two minutes is found out.
    identities: HashSet<Identity>,
    /// The last sequence that the cap pushed out, or that was older than the cap at the start.
    evicted: u64,
    /// The last sequence before the entries: all up to here is evicted or expired.
    gone: u64,
    /// The last sequence that was read from the stream.
    newest: u64,
    /// When the stream stored that one, in milliseconds since 1970; 0 where it was not read.
    newest_ms: u64,
}

/// An event's key and time. Not the key alone: a stream `EVENTS` that lost its last events gives
/// their sequences to others.
type Identity = (EventKey, u64);

struct Entry {
    /// The first sequence, which is also the last one of a message.
    first: u64,
    sequence: u64,
    what: What,
}

enum What {
    Message(Broadcast),
    /// So many that nobody gets; where the stream had dropped them, they count as evicted.
    Gone {
        count: u64,
        is_evicted: bool,
    },
}

/// What a message of the stream is.
pub enum Content {
    Event(Broadcast),
    /// An event in the format of a later version: it counts as expired, since it cannot be sent.
    Later,
    /// No event at all: it is passed.
    Junk,
}

/// A message that the stream has, or had before it lost messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub place: Everyone,
    /// When the stream stored it, in milliseconds since 1970; 0 where that is not known.
    pub stored_ms: u64,
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

    /// The place before all that is here.
    pub fn oldest(&self) -> Everyone {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        Everyone {
            creation: state.time_line,
            sequence: state.gone,
        }
    }

    /// The newest place, and what lies there.
    pub fn mark(&self) -> Mark {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        Mark {
            place: state.newest(),
            stored_ms: state.newest_ms,
        }
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
            state.identities.clear();
            state.gone = next - 1;
            state.newest = next - 1;
            state.newest_ms = 0;
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

    /// Adds the next message, which the stream stored at `stored_ms`. Sequences that are left out
    /// are none that the stream has any more.
    pub fn push(&self, sequence: u64, stored_ms: u64, content: Content, now_ms: u64) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if sequence <= state.newest {
            return;
        }
        let next = state.newest + 1;
        if sequence > next {
            state.push_gone(next, sequence - 1, true);
        }
        state.newest = sequence;
        state.newest_ms = stored_ms;
        match content {
            Content::Event(broadcast) => {
                if (state.identities).insert((broadcast.key, broadcast.time_ms)) {
                    state.entries.push_back(Entry {
                        first: sequence,
                        sequence,
                        what: What::Message(broadcast),
                    });
                }
            }
            Content::Later => state.push_gone(sequence, sequence, false),
            Content::Junk => {}
        }
        state.drop_ended(now_ms);
        while state.identities.len() as u64 > self.cap {
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
            .filter(|entry| !entry.has_ended(now_ms) && entry.is_for(user))
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

    /// Those that follow each other are one entry, so that there are never more of them than
    /// messages.
    fn push_gone(&mut self, first: u64, last: u64, is_evicted: bool) {
        let more = last - first + 1;
        if let Some(entry) = self.entries.back_mut()
            && let What::Gone { count, .. } = &mut entry.what
        {
            *count += more;
            entry.sequence = last;
            return;
        }
        self.entries.push_back(Entry {
            first,
            sequence: last,
            what: What::Gone {
                count: more,
                is_evicted,
            },
        });
    }

    fn drop_ended(&mut self, now_ms: u64) {
        let has_ended = |entry: &Entry| entry.has_ended(now_ms);
        while self.entries.front().is_some_and(has_ended) {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        let Some(entry) = self.entries.pop_front() else {
            return;
        };
        self.gone = entry.sequence;
        match entry.what {
            What::Message(broadcast) => {
                (self.identities).remove(&(broadcast.key, broadcast.time_ms));
            }
            What::Gone { is_evicted, .. } if is_evicted => self.evicted = self.gone,
            What::Gone { .. } => {}
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
            if !entry.is_for(user) {
                continue;
            }
            let is_first = read.messages.is_empty();
            let message = entry.message(now_ms);
            if message.is_none() && is_first {
                entry.count_gone(read, expired_end);
                continue;
            }
            bytes += message.map_or(0, |broadcast| broadcast.json.len());
            let is_full = read.messages.len() == limits.messages_max || bytes > limits.bytes_max;
            let Some(broadcast) = message.filter(|_| is_first || !is_full) else {
                end = entry.first - 1;
                read.has_more = true;
                break;
            };
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
    /// The message, unless it is gone or has expired.
    fn message(&self, now_ms: u64) -> Option<&Broadcast> {
        match &self.what {
            What::Message(broadcast) if broadcast.expires_ms > now_ms => Some(broadcast),
            What::Message(_) | What::Gone { .. } => None,
        }
    }

    fn has_ended(&self, now_ms: u64) -> bool {
        self.message(now_ms).is_none()
    }

    /// Adds what will not come to a read that has come to `after`. What was evicted behind something
    /// that expired counts as expired too: a read tells the evicted ones first.
    fn count_gone(&self, read: &mut EveryoneRead, after: u64) {
        let (count, is_evicted) = match &self.what {
            What::Message(_) => (1, false),
            What::Gone { count, is_evicted } => (*count, *is_evicted),
        };
        // Of several the device may have been told some.
        let count = count.min(self.sequence - after);
        let gone = match is_evicted && read.expired.count == 0 {
            true => &mut read.evicted,
            false => &mut read.expired,
        };
        gone.count += count;
        gone.end = self.sequence;
    }

    fn is_for(&self, user: &str) -> bool {
        match &self.what {
            What::Message(broadcast) => broadcast.exclude.as_deref() != Some(user),
            What::Gone { .. } => true,
        }
    }
}
