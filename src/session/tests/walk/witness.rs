//! Checks all that a session does against what the mailbox meant at each place.

use std::collections::HashSet;

use super::model::{Mailbox, time_ms};
use crate::protocol::{Cursor, Epoch, Lane, Life, MissedReason, Position, ServerFrame};
use crate::session::{Effect, PageRead, Registration};

/// The mailbox on the time line that counts, and as it was at the end of each earlier one.
pub struct Lines {
    pub current: Mailbox,
    pub ended: Vec<Mailbox>,
}

impl Lines {
    fn of(&self, time_line: (Epoch, Life)) -> &Mailbox {
        let mut all = std::iter::once(&self.current).chain(self.ended.iter().rev());
        all.find(|mailbox| mailbox.is_of(time_line))
            .expect("a time line that was")
    }
}

/// What a device knows, over all its connections.
#[derive(Default)]
pub struct Device {
    received: HashSet<u64>,
    missed: HashSet<u64>,
}

/// A frame with a cursor, as the client keeps it for its acknowledgements.
pub struct Frame {
    pub cursor: Cursor,
    messages: u32,
}

/// One connection seen from outside.
pub struct Witness {
    acknowledges_itself: bool,
    window: u32,
    pub time_line: Option<(Epoch, Life)>,
    pub sent_to: [u64; 2],
    /// What was stored as acknowledged when the last page was read.
    stored: [u64; 2],
    is_owed_store_lost: bool,
    has_told_store_lost: bool,
    backlog: [u64; 2],
    replayed: u64,
    replay_ended: Option<u64>,
    pub lives_told: u32,
    pub frames: Vec<Frame>,
    /// How many frames are acknowledged.
    covered: usize,
    /// What an acknowledgement may be stored for, one a time line: the furthest of the starts and
    /// of what the client acknowledged.
    proved: Vec<Position>,
    /// The number of the read, 0 for a registration; `None` where nothing is under way.
    pub awaited: Option<u64>,
}

impl Witness {
    pub fn new(window: u32, acknowledges_itself: bool) -> Witness {
        Witness {
            acknowledges_itself,
            window,
            time_line: None,
            sent_to: [0, 0],
            stored: [0, 0],
            is_owed_store_lost: false,
            has_told_store_lost: false,
            backlog: [0, 0],
            replayed: 0,
            replay_ended: None,
            lives_told: 0,
            frames: Vec::new(),
            covered: 0,
            proved: Vec::new(),
            awaited: Some(0),
        }
    }

    /// The session took this registration.
    pub fn registered(&mut self, registration: &Registration, lines: &Lines, device: &Device) {
        let start = registration.start;
        let time_line = (start.epoch, start.life);
        if self.time_line.replace(time_line) == Some(time_line) {
            let sent_to = self.sent_to;
            self.sent_to = Lane::ALL.map(|lane| start.places.of(lane).max(sent_to[lane.index()]));
        } else {
            self.sent_to = start.places.own;
            self.has_told_store_lost = false;
            self.backlog = registration.read.last;
        }
        self.stored = start.places.own;
        self.is_owed_store_lost = registration.store_lost;
        self.prove(&start);
        self.awaited = None;
        // What is stored as acknowledged was received or told (invariant I5).
        for lane in Lane::ALL {
            for place in 1..=start.places.of(lane) {
                let id = lines.of(time_line).lists[lane.index()].id(place);
                let is_known = device.received.contains(&id) || device.missed.contains(&id);
                assert!(
                    is_known,
                    "message {id} at {lane:?} {place} was trimmed unseen"
                );
            }
        }
    }

    /// The session took this page. What an earlier connection acknowledged late is passed.
    pub fn page_read(&mut self, page: &PageRead) {
        self.awaited = None;
        let sent_to = self.sent_to;
        self.stored = page.acknowledged;
        self.sent_to = [0, 1].map(|lane| sent_to[lane].max(page.acknowledged[lane]));
        let time_line = self.time_line;
        for proved in &mut self.proved {
            if Some((proved.epoch, proved.life)) == time_line {
                proved.places.own =
                    [0, 1].map(|lane| proved.places.own[lane].max(self.stored[lane]));
            }
        }
    }

    /// The client's acknowledgement has come to the session.
    pub fn acknowledged(&mut self, given: &Position) {
        self.prove(given);
        let covered = self
            .frames
            .iter()
            .rposition(|frame| covers(given, &frame.cursor));
        self.covered = self.covered.max(covered.map_or(0, |index| index + 1));
    }

    fn prove(&mut self, position: &Position) {
        let mut all = self.proved.iter_mut();
        match all.find(|proved| is_same_line(proved, position)) {
            Some(proved) => proved.places = proved.places.max(&position.places),
            None => self.proved.push(*position),
        }
    }

    pub fn check(&mut self, effect: &Effect, lines: &Lines, device: &mut Device) {
        match effect {
            Effect::Register { again } => {
                assert_eq!(*again, self.time_line.map(|(_, life)| life));
                assert_ne!(self.awaited, Some(0), "registers twice at once");
                self.awaited = Some(0);
            }
            Effect::ReadPage {
                number,
                after,
                messages_max,
            } => {
                assert_eq!(self.awaited, None, "reads twice at once");
                assert_eq!(after.places.own, self.sent_to);
                assert!(*messages_max > 0);
                self.awaited = Some(*number);
            }
            Effect::Send { frame, times_ms } => self.check_frame(frame, times_ms, lines, device),
            Effect::Acknowledge { position, .. } => self.check_acknowledge(position),
            Effect::Replayed { messages } => {
                assert_eq!(self.replay_ended.replace(*messages), None);
            }
            Effect::Hold | Effect::CheckEpoch => {}
            Effect::Close { code, message } => panic!("closed with {code:?}: {message}"),
        }
    }

    fn check_acknowledge(&self, position: &Position) {
        let time_line = (position.epoch, position.life);
        assert_eq!(Some(time_line), self.time_line);
        for lane in Lane::ALL {
            let proved = self
                .proved
                .iter()
                .find(|proved| is_same_line(proved, position));
            let proved = proved.map_or(0, |proved| proved.places.of(lane));
            let proved = match self.acknowledges_itself {
                true => proved.max(self.sent_to[lane.index()]),
                false => proved,
            };
            assert!(position.places.of(lane) <= proved, "not acknowledged");
        }
    }

    fn check_frame(
        &mut self,
        frame: &ServerFrame,
        times_ms: &[u64],
        lines: &Lines,
        device: &mut Device,
    ) {
        match frame {
            ServerFrame::Welcome(welcome) => {
                assert!(self.frames.is_empty(), "welcome comes first and once");
                self.keep(&welcome.cursor, 0);
            }
            ServerFrame::Messages {
                cursor,
                replay,
                messages,
            } => {
                let ids: Vec<&str> = messages.iter().map(|text| &**text).collect();
                let is_ephemeral = ids == ["ephemeral"];
                let places = self.places_of(cursor, (!is_ephemeral).then_some(ids.len() as u64));
                for (lane, place) in places.iter().copied() {
                    let is_backlog =
                        self.lives_told == 0 && place <= self.backlog[usize::from(lane)];
                    assert_eq!(*replay, is_backlog, "replay of {place}");
                }
                if !is_ephemeral {
                    self.check_messages(&ids, times_ms, &places, lines, device);
                    self.replayed += u64::from(*replay) * ids.len() as u64;
                }
                self.keep(cursor, messages.len() as u32);
            }
            ServerFrame::Missed {
                cursor,
                count,
                reason,
                ..
            } => {
                let is_store_lost = *reason == MissedReason::StoreLost;
                assert_eq!(is_store_lost, count.is_none());
                self.is_owed_store_lost &= !is_store_lost;
                self.has_told_store_lost |= is_store_lost;
                for (lane, place) in self.places_of(cursor, *count) {
                    assert!(
                        place > self.stored[usize::from(lane)],
                        "it was acknowledged"
                    );
                    let list = &lines.of(self.time_line.expect("registered")).lists[lane as usize];
                    assert!(
                        list.is_gone(place),
                        "told {reason:?}, and it is there: {place}"
                    );
                    device.missed.insert(list.id(place));
                }
                self.keep(cursor, 0);
            }
            ServerFrame::Live { cursor, replayed } => {
                assert_eq!(*replayed, self.replayed);
                assert_eq!(self.replay_ended.unwrap_or(0), *replayed);
                let is_through = (0..2).all(|lane| self.sent_to[lane] >= self.backlog[lane]);
                assert!(is_through, "live before the backlog is through");
                self.lives_told += 1;
                assert_eq!(self.lives_told, 1, "live is told once");
                self.places_of(cursor, None);
                self.keep(cursor, 0);
            }
            other => panic!("not a session's frame: {other:?}"),
        }
    }

    /// The places that a frame covers: the next of one lane, as many as it says.
    fn places_of(&mut self, cursor: &Cursor, count: Option<u64>) -> Vec<(u8, u64)> {
        assert!(!self.is_owed_store_lost, "store_lost comes first");
        let position = cursor.position;
        assert_eq!(Some((position.epoch, position.life)), self.time_line);
        assert_eq!(position.store_lost_told, self.has_told_store_lost);
        let mut places = Vec::new();
        for lane in 0..2_u8 {
            let (from, to) = (
                self.sent_to[usize::from(lane)],
                position.places.own[usize::from(lane)],
            );
            assert!(to >= from, "the cursor goes back");
            assert!(to == from || places.is_empty(), "two lanes in one frame");
            places.extend((from + 1..=to).map(|place| (lane, place)));
        }
        assert_eq!(places.len() as u64, count.unwrap_or(0), "places of a frame");
        self.sent_to = position.places.own;
        places
    }

    fn check_messages(
        &self,
        ids: &[&str],
        times_ms: &[u64],
        places: &[(u8, u64)],
        lines: &Lines,
        device: &mut Device,
    ) {
        let mailbox = lines.of(self.time_line.expect("registered"));
        let mut expected: Vec<u64> = (places.iter())
            .map(|(lane, place)| mailbox.lists[usize::from(*lane)].id(*place))
            .collect();
        let mut given: Vec<u64> = ids.iter().map(|id| id.parse().expect("an id")).collect();
        let times: Vec<u64> = given.iter().map(|id| time_ms(*id)).collect();
        assert_eq!(times_ms, times);
        expected.sort_unstable();
        given.sort_unstable();
        assert_eq!(given, expected, "the messages of these places");
        device.received.extend(given);
    }

    fn keep(&mut self, cursor: &Cursor, messages: u32) {
        let mut proved = self.proved.iter();
        if self.covered == self.frames.len() && proved.any(|given| covers(given, cursor)) {
            self.covered += 1;
        }
        self.frames.push(Frame {
            cursor: *cursor,
            messages,
        });
        let open = self.frames.iter().skip(self.covered);
        let in_flight: u32 = open.map(|frame| frame.messages).sum();
        let is_within = self.acknowledges_itself || in_flight <= self.window;
        assert!(is_within, "{in_flight} messages in flight");
    }
}

fn is_same_line(one: &Position, other: &Position) -> bool {
    (one.epoch, one.life) == (other.epoch, other.life)
}

fn covers(given: &Position, frame: &Cursor) -> bool {
    is_same_line(given, &frame.position) && frame.position.places.is_within(&given.places)
}
