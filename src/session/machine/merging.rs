//! A page of the mailbox and the events for everyone, put in one order by their keys.

use std::collections::VecDeque;

use super::sending::{At, Outgoing};
use crate::protocol::EventKey;
use crate::session::{EveryonePlaced, Run};

/// Messages of a page that have to stay in one frame, because their places are in another order
/// than their keys: a cursor between them would name no prefix. Nearly always there is one.
pub(super) struct Group {
    key: EventKey,
    pub messages: Vec<Outgoing>,
}

/// Cuts a run that follows `place` into the smallest groups.
pub(super) fn groups(run: Run, place: u64) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::with_capacity(run.messages.len());
    let mut highest = place;
    let mut is_open = false;
    for (waiting, count) in run.messages.into_iter().zip(1..) {
        highest = highest.max(waiting.message.place);
        let message = Outgoing::own(run.lane, waiting.message);
        match groups.last_mut().filter(|_| is_open) {
            Some(group) => group.messages.push(message),
            None => groups.push(Group {
                key: waiting.key,
                messages: vec![message],
            }),
        }
        is_open = highest > place + count;
    }
    groups
}

/// Whether a half goes on behind what was read of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub own: bool,
    pub everyone: bool,
}

impl Ends {
    pub const BOTH: Ends = Ends {
        own: true,
        everyone: true,
    };
}

/// Both halves in one order by key; each keeps its own. It ends where one of them does, unless
/// nothing follows there.
pub(super) struct Merge {
    own: VecDeque<Group>,
    everyone: VecDeque<EveryonePlaced>,
    ends: Ends,
}

impl Merge {
    pub fn new(own: Vec<Group>, everyone: Vec<EveryonePlaced>, ends: Ends) -> Merge {
        Merge {
            own: own.into(),
            everyone: everyone.into(),
            ends,
        }
    }

    /// How many messages have to be taken next, together; `None` at the end.
    pub fn next_count(&self) -> Option<usize> {
        Some(match self.is_own_next()? {
            true => self.own.front()?.messages.len(),
            false => 1,
        })
    }

    /// Takes them; nothing at the end.
    pub fn take(&mut self) -> Vec<Outgoing> {
        match self.is_own_next() {
            Some(true) => (self.own.pop_front()).map_or(Vec::new(), |group| group.messages),
            Some(false) => self
                .everyone
                .pop_front()
                .map(of_everyone)
                .into_iter()
                .collect(),
            None => Vec::new(),
        }
    }

    /// True once all events for everyone were taken.
    pub fn has_no_everyone(&self) -> bool {
        self.everyone.is_empty()
    }

    fn is_own_next(&self) -> Option<bool> {
        match (self.own.front(), self.everyone.front()) {
            (Some(own), Some(everyone)) => Some(own.key < everyone.key),
            (Some(_), None) if self.ends.everyone => Some(true),
            (None, Some(_)) if self.ends.own => Some(false),
            _ => None,
        }
    }
}

fn of_everyone(message: EveryonePlaced) -> Outgoing {
    Outgoing {
        at: At::Everyone(message.sequence),
        time_ms: message.time_ms,
        json: message.json,
    }
}
