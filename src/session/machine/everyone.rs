//! The events for everyone: merged by time into a replay, and followed while live.

use super::sending::{At, Outgoing};
use super::{Effects, Phase, Session};
use crate::protocol::{
    Everyone, FRAME_MESSAGE_BYTES_MAX, FRAME_MESSAGES_MAX, Lane, MissedReason, Position,
};
use crate::session::{EveryonePlaced, EveryoneRead, Run};

impl Session {
    /// Where to read the events for everyone from, while the session is live and its window has
    /// room; answer with [`Session::everyone_read`]. A replay reads them with its pages.
    pub fn follows_everyone(&self) -> Option<Everyone> {
        let position = self.position.filter(|_| self.phase == Phase::Live)?;
        (self.window.room() > 0).then_some(position.places.everyone)
    }

    /// What follows the place of [`Session::follows_everyone`].
    pub fn everyone_read(&mut self, read: EveryoneRead, now_ms: u64) -> Effects {
        if self.phase != Phase::Live {
            return Vec::new();
        }
        let mut effects = self.tell_everyone_gone(&read, now_ms);
        let room = self.window.room() as usize;
        let (now, later) = split(read.messages, room);
        effects.extend(self.send_in_frames(now));
        self.pass_to(read.end, later.is_empty());
        effects
    }

    /// Sends one page of the mailbox together with the events for everyone of the same time. High
    /// priority goes first, alone.
    ///
    /// A page of the mailbox is one frame: its messages are sorted, so that a cursor in the middle
    /// of it would name no prefix. Events for everyone lie in order and may be cut anywhere.
    pub(super) fn send_page(
        &mut self,
        run: Option<Run>,
        everyone: EveryoneRead,
        last: [u64; 2],
        now_ms: u64,
    ) -> Effects {
        let mut effects = Vec::new();
        let lane = run.as_ref().map(|run| run.lane);
        if lane != Some(Lane::High) {
            effects.extend(self.tell_everyone_gone(&everyone, now_ms));
        }
        let own = match run {
            Some(run) => {
                effects.extend(self.tell_gone(&run, now_ms));
                let lane = run.lane;
                (run.messages.into_iter())
                    .map(|message| Outgoing::own(lane, message))
                    .collect()
            }
            None => Vec::new(),
        };
        if lane == Some(Lane::High) {
            effects.extend(self.send_partly_replay(own));
            return effects;
        }
        let is_last_page = self.would_reach(&own, last);
        let (from_ms, to_ms) = match (own.first(), own.last()) {
            (Some(first), Some(last)) => (first.time_ms, last.time_ms),
            _ => (u64::MAX, u64::MAX),
        };
        // What is younger than this page waits for the pages before it. Always a prefix: a place
        // that is passed over would be lost.
        let due = match (is_last_page, own.is_empty()) {
            (true, _) => everyone.messages.len(),
            (false, true) => 0,
            (false, false) => (everyone.messages.iter())
                .take_while(|message| message.time_ms <= to_ms)
                .count(),
        };
        let room = (self.window.room() as usize).saturating_sub(own.len());
        let (now, later) = split(everyone.messages, due.min(room));
        let is_all = later.is_empty() && (is_last_page || due > 0);

        let end = now.partition_point(|message| message.time_ms < from_ms);
        let (before, rest) = split(now, end);
        effects.extend(self.send_in_frames(before));
        let own_bytes: usize = own.iter().map(|message| message.json.len()).sum();
        let fits = fitting(&rest, FRAME_MESSAGE_BYTES_MAX.saturating_sub(own_bytes))
            .min(FRAME_MESSAGES_MAX.saturating_sub(own.len()))
            .min(rest.partition_point(|message| message.time_ms <= to_ms));
        let (among, after) = split(rest, fits);
        effects.extend(self.send_partly_replay(merged(own, among)));
        effects.extend(self.send_in_frames(after));
        self.pass_to(everyone.end, is_all);
        effects
    }

    /// Tells that the stream lost what the device has seen, and what is gone before the messages.
    fn tell_everyone_gone(&mut self, read: &EveryoneRead, now_ms: u64) -> Effects {
        let Some(mut position) = self.position else {
            return Vec::new();
        };
        let mut effects = Vec::new();
        let to_ms = read
            .messages
            .first()
            .map_or(now_ms, |message| message.time_ms);
        position.places.everyone = read.start;
        if read.store_lost {
            effects.extend(self.tell_missed(position, None, MissedReason::StoreLost, to_ms));
        }
        let evicted_end = read.start.sequence + read.evicted;
        for (count, end, reason) in [
            (read.evicted, evicted_end, MissedReason::Evicted),
            (read.expired, read.gap_end, MissedReason::Expired),
        ] {
            if count > 0 {
                position.places.everyone.sequence = end;
                effects.extend(self.tell_missed(position, Some(count), reason, to_ms));
            }
        }
        if !effects.is_empty() {
            self.everyone_missed = Some(position.places.everyone);
        }
        self.position = self.position.map(|at| Position {
            places: position.places,
            ..at
        });
        effects
    }

    /// Moves past what the user does not get.
    fn pass_to(&mut self, end: Everyone, is_all: bool) {
        if let (true, Some(position)) = (is_all, &mut self.position) {
            position.places.everyone = end.max(position.places.everyone);
        }
    }

    fn would_reach(&self, own: &[Outgoing], last: [u64; 2]) -> bool {
        let mut places = self.position.map_or([0, 0], |position| position.places.own);
        for message in own {
            if let At::Own(lane, place) = message.at {
                places[lane.index()] = place.max(places[lane.index()]);
            }
        }
        places[0] >= last[0] && places[1] >= last[1]
    }

    fn is_replay(&self, message: &Outgoing) -> bool {
        !self.live_was_told
            && match message.at {
                At::Own(lane, place) => place <= self.backlog[lane.index()],
                At::Everyone(sequence) => {
                    self.everyone_backlog.sequence >= sequence
                        && self.position.is_some_and(|position| {
                            position.places.everyone.creation == self.everyone_backlog.creation
                        })
                }
            }
    }

    /// One frame of what waited when the connection began, one of what came since.
    fn send_partly_replay(&mut self, messages: Vec<Outgoing>) -> Effects {
        let (replay, rest): (Vec<Outgoing>, Vec<Outgoing>) =
            (messages.into_iter()).partition(|message| self.is_replay(message));
        let mut effects = self.send_messages(replay, true);
        // What came after the connection began follows the end of its backlog.
        effects.extend(self.tell_live());
        effects.extend(self.send_messages(rest, false));
        effects
    }

    /// Sends events for everyone, as many frames as they need.
    fn send_in_frames(&mut self, messages: Vec<EveryonePlaced>) -> Effects {
        let mut effects = Vec::new();
        let mut rest = messages;
        while !rest.is_empty() {
            let fits = fitting(&rest, FRAME_MESSAGE_BYTES_MAX).clamp(1, FRAME_MESSAGES_MAX);
            let (frame, after) = split(rest, fits);
            rest = after;
            effects.extend(self.send_partly_replay(frame.into_iter().map(of_everyone).collect()));
        }
        effects
    }
}

/// Both in one order by time; each keeps its own.
fn merged(own: Vec<Outgoing>, everyone: Vec<EveryonePlaced>) -> Vec<Outgoing> {
    let mut merged = Vec::with_capacity(own.len() + everyone.len());
    let mut everyone = everyone.into_iter().peekable();
    for message in own {
        while let Some(earlier) = everyone.next_if(|other| other.time_ms < message.time_ms) {
            merged.push(of_everyone(earlier));
        }
        merged.push(message);
    }
    merged.extend(everyone.map(of_everyone));
    merged
}

fn of_everyone(message: EveryonePlaced) -> Outgoing {
    Outgoing {
        at: At::Everyone(message.sequence),
        time_ms: message.time_ms,
        json: message.json,
    }
}

/// The first `count` messages, and the rest.
fn split<T>(mut messages: Vec<T>, count: usize) -> (Vec<T>, Vec<T>) {
    let rest = messages.split_off(count.min(messages.len()));
    (messages, rest)
}

/// How many of the messages have no more than these bytes together.
fn fitting(messages: &[EveryonePlaced], bytes_max: usize) -> usize {
    let mut bytes = 0;
    let fits = messages.iter().take_while(|message| {
        bytes += message.json.len();
        bytes <= bytes_max
    });
    fits.count()
}
