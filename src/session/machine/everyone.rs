//! The events for everyone: merged by time into a replay, and followed while live.

use super::merging::{Ends, Group, Merge, groups};
use super::sending::{At, Outgoing};
use super::{Effects, Phase, Session};
use crate::protocol::{Everyone, FRAME_MESSAGE_BYTES_MAX, FRAME_MESSAGES_MAX, Lane, MissedReason};
use crate::session::{EveryoneRead, Run};

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
        self.everyone_newest = read.newest;
        let mut effects = self.tell_everyone_gone(&read, now_ms);
        let merge = Merge::new(Vec::new(), read.messages, Ends::BOTH);
        effects.extend(self.send_merged(merge, read.end));
        effects
    }

    /// Sends a page of the mailbox together with the events for everyone of the same time. High
    /// priority goes first, alone.
    ///
    /// Not all of it may be sent: what is younger than the end of the other half waits for the
    /// pages that fill the time between, and is read again with them.
    pub(super) fn send_page(
        &mut self,
        run: Option<Run>,
        everyone: EveryoneRead,
        last: [u64; 2],
        now_ms: u64,
    ) -> Effects {
        let mut effects = Vec::new();
        let is_high = run.as_ref().is_some_and(|run| run.lane == Lane::High);
        if !is_high {
            effects.extend(self.tell_everyone_gone(&everyone, now_ms));
        }
        let mut own = Vec::new();
        if let Some(run) = run {
            effects.extend(self.tell_gone(&run, now_ms));
            let place = (self.position).map_or(0, |position| position.places.of(run.lane));
            own = groups(run, place);
        }
        if is_high {
            let merge = Merge::new(own, Vec::new(), Ends::BOTH);
            let place = self.position.map(|position| position.places.everyone);
            effects.extend(self.send_merged(merge, place.unwrap_or_default()));
            return effects;
        }
        let ends = Ends {
            own: self.would_reach(&own, last),
            everyone: !everyone.has_more,
        };
        let merge = Merge::new(own, everyone.messages, ends);
        effects.extend(self.send_merged(merge, everyone.end));
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
        let gone = [
            (read.evicted, MissedReason::Evicted),
            (read.expired, MissedReason::Expired),
        ]
        .into_iter()
        .filter(|(gone, _)| gone.count > 0);
        // Before anything is told: a terminal's session acknowledges as it tells.
        let told = gone.clone().next_back().map(|(gone, _)| gone.end);
        if read.store_lost || told.is_some() {
            let to = Everyone {
                sequence: told.unwrap_or(read.start.sequence),
                ..read.start
            };
            (self.everyone_missed).note(position.places.everyone, to);
        }
        position.places.everyone = read.start;
        if read.store_lost {
            effects.extend(self.tell_missed(position, None, MissedReason::StoreLost, to_ms));
        }
        for (gone, reason) in gone {
            position.places.everyone.sequence = gone.end;
            effects.extend(self.tell_missed(position, Some(gone.count), reason, to_ms));
        }
        self.position = Some(position);
        effects
    }

    /// Sends what is due, in frames, as much as the window takes; moves to `end`, and past what the
    /// user does not get, where all of the events for everyone were sent.
    fn send_merged(&mut self, mut merge: Merge, end: Everyone) -> Effects {
        let mut effects = Vec::new();
        let mut frame: Vec<Outgoing> = Vec::new();
        let mut frame_bytes = 0;
        let mut room = self.window.room() as usize;
        let mut must_fit = !self.window.is_empty();
        while let Some(count) = merge.next_count() {
            // A group larger than the whole window would never be sent otherwise.
            if count > room && (must_fit || !frame.is_empty()) {
                break;
            }
            let unit = merge.take();
            room = room.saturating_sub(count);
            must_fit = true;
            let bytes: usize = unit.iter().map(|message| message.json.len()).sum();
            let is_full = frame.len() + count > FRAME_MESSAGES_MAX
                || frame_bytes + bytes > FRAME_MESSAGE_BYTES_MAX;
            if is_full && !frame.is_empty() {
                effects.extend(self.send_partly_replay(std::mem::take(&mut frame)));
                frame_bytes = 0;
            }
            frame.extend(unit);
            frame_bytes += bytes;
        }
        effects.extend(self.send_partly_replay(frame));
        if let (true, Some(position)) = (merge.has_no_everyone(), &mut self.position) {
            position.places.everyone = end.max(position.places.everyone);
        }
        effects
    }

    fn would_reach(&self, own: &[Group], last: [u64; 2]) -> bool {
        let mut places = self.position.map_or([0, 0], |position| position.places.own);
        for group in own {
            for message in &group.messages {
                if let At::Own(lane, place) = message.at {
                    places[lane.index()] = place.max(places[lane.index()]);
                }
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
}

/// The events for everyone that were told as missed and are not acknowledged: after the first of
/// these places, up to the last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct ToldMissed(Option<(Everyone, Everyone)>);

impl ToldMissed {
    fn note(&mut self, after: Everyone, to: Everyone) {
        let after = self.0.map_or(after, |(before, _)| before);
        self.0 = Some((after, to));
    }

    /// True where the acknowledgement of this place is one of a `missed`, which has to be stored
    /// soon: it is told again until it is.
    pub fn acknowledged(&mut self, place: Everyone) -> bool {
        let Some((after, to)) = self.0.filter(|(after, _)| place > *after) else {
            return false;
        };
        self.0 = (place < to).then_some((place.max(after), to));
        true
    }
}
