//! What must hold, whatever happens: the invariants of the design, each judged by what really is.
//!
//! The mailbox of the model keeps what each place ever meant, and `World::ended` keeps it of the
//! time lines that are over: that is the log beside which frames, cursors and removals are read.
//!
//! - I2: what leaves a list expired, or the cap evicted it, or no device that was seen within the
//!   time to live needs it any more.
//! - I3: a place of one epoch and life has one meaning.
//! - I4: a frame holds the messages of all places up to its cursor, or tells them as missed, and
//!   what is told as missed is gone. `store_lost` is told only where the store lost something. And
//!   who keeps the rules is not closed.
//! - I5: what a device's record says is acknowledged was received by it, or it was told.
//! - I6: an event that is appended again is where it was.
//!
//! At rest, where nothing is under way and nothing can be done but by another fault: every device
//! is connected and live, it received all that it has a right to or was told that it will not, and
//! that is acknowledged in the store. The periodic `reassert` is not waited for, except after the
//! mailbox was emptied, which nothing else notices.

use catchup::protocol::{Cursor, Lane, ServerFrame};

use super::mutant::Mutant;
use super::scope::Scope;
use super::world::{
    Connection, Events, Invariant, Stage, TTL, World, bit_of_key, device_name, key_of,
};
use crate::mailbox::random::model::{LaneModel, Model as Mailbox, Slot, Time};

impl World {
    /// Sends a frame: checks it, and hands it to the client if it gets there.
    pub fn send(&mut self, index: usize, frame: &ServerFrame, scope: &Scope) {
        let (cursor, kind) = match frame {
            ServerFrame::Welcome(welcome) => (&welcome.cursor, Said::Nothing),
            ServerFrame::Live { cursor, .. } => (cursor, Said::Nothing),
            ServerFrame::Messages {
                cursor, messages, ..
            } => {
                let keys = messages.iter().map(|text| text.parse().expect("a key"));
                let events = keys.map(bit_of_key).fold(0, |all: Events, one| all | one);
                (cursor, Said::Messages(events))
            }
            ServerFrame::Missed { cursor, count, .. } => (cursor, Said::Missed(*count)),
            ServerFrame::Heartbeat | ServerFrame::Away { .. } | ServerFrame::Error { .. } => return,
        };
        let events = self.check_frame(index, cursor, &kind, scope);
        self.hear(index, frame, cursor, &kind, events, scope.mutant);
    }

    /// Invariant I4. Returns the events at the places that the frame covers.
    fn check_frame(&mut self, index: usize, cursor: &Cursor, said: &Said, scope: &Scope) -> Events {
        let position = cursor.position;
        let (before, to) = (self.connections[index].sent_to, position.places.own);
        let time_line = self.connections[index].time_line;
        self.connection_mut(index).sent_to = to;
        if time_line != Some((position.epoch, position.life)) {
            self.breaks(Invariant::I4, || "a cursor of another time line".to_owned());
        }
        if *said == Said::Missed(None) && self.has_lost_nothing(scope) {
            self.breaks(Invariant::I4, || {
                "store_lost is told for nothing".to_owned()
            });
        }
        let Some(lanes) = time_line.and_then(|time_line| self.lanes_of(time_line)) else {
            self.breaks(Invariant::I4, || "a time line that never was".to_owned());
            return 0;
        };
        let now = self.mailbox.now;
        let (mut events, mut count, mut wrong) = (0, 0, None);
        for lane in Lane::ALL.map(Lane::index) {
            if to[lane] < before[lane] || to[lane] > lanes[lane].last() {
                wrong = Some(format!(
                    "from {before:?} to {to:?} of {}",
                    lanes[lane].last()
                ));
                break;
            }
            for slot in &lanes[lane].slots[before[lane] as usize..to[lane] as usize] {
                events |= bit_of_key(slot.key);
                count += 1;
                if matches!(said, Said::Missed(_)) && !is_gone(slot, now) {
                    wrong = Some(format!("event {} is told as missed and is there", slot.key));
                }
            }
        }
        let expected = match said {
            Said::Messages(sent) => (*sent == events).then_some(count),
            Said::Missed(Some(told)) => Some(*told),
            Said::Missed(None) | Said::Nothing => Some(0),
        };
        if expected != Some(count) && wrong.is_none() {
            wrong = Some(format!(
                "{said:?} for the places from {before:?} to {to:?}, which hold {events:b}"
            ));
        }
        if let Some(text) = wrong {
            self.breaks(Invariant::I4, || text);
        }
        events
    }

    fn has_lost_nothing(&self, scope: &Scope) -> bool {
        let (left, given) = (&self.left, &scope.budget);
        (left.roll_backs, left.wipes) == (given.roll_backs, given.wipes)
    }

    fn hear(
        &mut self,
        index: usize,
        frame: &ServerFrame,
        cursor: &Cursor,
        said: &Said,
        events: Events,
        mutant: Option<Mutant>,
    ) {
        let connection = self.connection_mut(index);
        match &mut connection.frames_left {
            Some(0) => return,
            Some(left) => *left -= 1,
            None => {}
        }
        let position = cursor.position;
        let has_cursor = !matches!(
            (frame, mutant),
            (ServerFrame::Welcome(_), Some(Mutant::WelcomeWithoutCursor))
                | (
                    ServerFrame::Missed { .. },
                    Some(Mutant::MissedWithoutCursor)
                )
        );
        if has_cursor {
            let before = connection.heard.replace(position);
            let is_other = |before: &catchup::protocol::Position| {
                (before.epoch, before.life) != (position.epoch, position.life)
            };
            connection.former = before.filter(is_other).or(connection.former);
        }
        let lost = connection.lost;
        let device = &mut self.devices[usize::from(self.connections[index].device)];
        if has_cursor {
            device.cursor = Some(position);
        }
        device.was_welcomed = true;
        match said {
            Said::Messages(events) => device.received |= events,
            Said::Missed(Some(_)) => device.told |= events,
            Said::Missed(None) => device.told |= lost,
            Said::Nothing => {}
        }
    }

    /// Checks what a step did to the mailbox. `is_lost`: the store itself lost what it held.
    pub fn check_step(&mut self, before: &Mailbox, is_lost: bool) {
        self.check_meanings();
        self.check_records();
        if !is_lost {
            self.check_removals(before);
        }
    }

    /// Invariant I3.
    fn check_meanings(&mut self) {
        let life = self.mailbox.life;
        let same = |ended: &&super::shared::Shared<super::world::Ended>| {
            ended.epoch == self.epoch && ended.life == life && life.is_some()
        };
        let Some(ended) = self.ended.iter().rev().find(same).cloned() else {
            return;
        };
        for (lane, now) in ended.lanes.iter().zip(&self.mailbox.lanes) {
            let mut both = lane.slots.iter().zip(&now.slots);
            if let Some((one, other)) = both.find(|(one, other)| one.key != other.key) {
                let text = format!("a place meant event {} and means {}", one.key, other.key);
                return self.breaks(Invariant::I3, || text);
            }
        }
    }

    /// Invariant I5.
    fn check_records(&mut self) {
        for (number, device) in (0..).zip(&self.devices) {
            let Some(record) = self.mailbox.devices.get(device_name(number)) else {
                continue;
            };
            if record.lost {
                // What it passed is owed to it as lost.
                continue;
            }
            let known = device.received | device.told | !device.due;
            for (lane, place) in self.mailbox.lanes.iter().zip(record.places) {
                let passed = lane.slots.iter().take(place as usize);
                let unseen = passed
                    .map(|slot| slot.key)
                    .find(|key| known & bit_of_key(*key) == 0);
                if let Some(key) = unseen {
                    return self.breaks(Invariant::I5, || {
                        let name = device_name(number);
                        format!("event {key} counts as acknowledged by {name}, which never saw it")
                    });
                }
            }
        }
    }

    /// Invariant I2.
    fn check_removals(&mut self, before: &Mailbox) {
        let now = self.mailbox.now;
        for (lane, was) in self.mailbox.lanes.iter().zip(&before.lanes) {
            for (place, (slot, earlier)) in (1..).zip(lane.slots.iter().zip(&was.slots)) {
                let has_left = slot.is_gone && !earlier.is_gone;
                if !has_left || slot.expires <= now || place <= lane.evicted {
                    continue;
                }
                if let Some(device) = self.needs(slot.key) {
                    let key = slot.key;
                    return self.breaks(Invariant::I2, || {
                        let name = device_name(device);
                        format!("event {key} left the list, and {name} needs it")
                    });
                }
            }
        }
    }

    /// Invariant I2, where time removed entries: whoever may need them, they must have expired.
    pub fn check_expiry(&mut self, before: &[LaneModel; 2]) {
        let now = self.mailbox.now;
        for (lane, was) in self.mailbox.lanes.iter().zip(before) {
            let mut both = lane.slots.iter().zip(&was.slots);
            let young =
                both.find(|(slot, earlier)| slot.is_gone && !earlier.is_gone && slot.expires > now);
            if let Some((slot, _)) = young {
                let text = format!("event {} was removed by time and has not expired", slot.key);
                return self.breaks(Invariant::I2, || text);
            }
        }
    }

    /// A device that was seen within the time to live, and has neither received this event nor is
    /// owed that it was lost.
    fn needs(&self, key: u64) -> Option<u8> {
        let devices = (0..).zip(&self.devices);
        let mut needing = devices.filter(|(number, device)| {
            let known = device.received | device.told | !device.due;
            let record = self.mailbox.devices.get(device_name(*number));
            // A device whose record went with what the store lost proves that it was here, by its
            // cursor or its session, and is told `store_lost` then.
            let is_owed = match record {
                Some(record) => record.lost,
                None => !self.ended.is_empty(),
            };
            let seen: Time = device.seen;
            known & bit_of_key(key) == 0 && !is_owed && self.mailbox.now - seen <= TTL
        });
        needing.next().map(|(number, _)| number)
    }

    /// Invariant I6.
    pub fn check_once(&mut self, event: u8) {
        let lane = usize::from(self.events[usize::from(event)].lane);
        let slots = self.mailbox.lanes[lane].slots.iter();
        let count = slots.filter(|slot| slot.key == key_of(event)).count();
        if count > 1 {
            self.breaks(Invariant::I6, || {
                format!("event {} was stored twice", key_of(event))
            });
        }
    }

    /// What is not as it should be once nothing is under way.
    pub fn complaint_at_rest(&self) -> Option<String> {
        for (number, device) in (0..).zip(&self.devices) {
            let name = device_name(number);
            let missing = device.due & !device.received & !device.told;
            if missing != 0 {
                return Some(format!("{name} neither got {missing:b} nor was told"));
            }
            let record = self.mailbox.devices.get(name);
            let connection = self.connection_of(number);
            // An older connection, dead but not yet closed, may have registered again while the
            // presence of this one was removed: then the device is owed `store_lost` once more. It
            // was told, so nothing is missing.
            let was_told = connection.is_some_and(Connection::has_acknowledged_loss);
            let is_settled = record
                .is_some_and(|record| record.places == self.last() && (!record.lost || was_told));
            if !is_settled {
                return Some(format!("of {name} is stored {record:?}"));
            }
            if !connection.is_some_and(Connection::is_live) {
                return Some(format!("{name} is not live"));
            }
        }
        let mut events = self.events.iter();
        let is_stuck = |stage: &Stage| !matches!(stage, Stage::Appended | Stage::Confirmed);
        (events.any(|event| is_stuck(&event.stage))).then(|| "an event is not stored".to_owned())
    }
}

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Messages(Events),
    /// `None`: `store_lost`.
    Missed(Option<u64>),
    Nothing,
}

fn is_gone(slot: &Slot, now: Time) -> bool {
    slot.is_gone || slot.expires <= now
}
