//! The machine itself: its phases and what moves it between them.

mod acknowledging;
mod everyone;
mod merging;
mod sending;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::everyone::ToldMissed;
use self::sending::{Outgoing, first_time};
use super::window::Window;
use super::{Effect, Forwarded, HELD_FORWARDS_MAX, Identity, PageRead, Placed, Registration};
use crate::protocol::{
    CloseCode, Epoch, Everyone, FRAME_MESSAGES_MAX, Lane, Life, MissedReason, Position,
};

/// One connection, from its first registration to its close.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Session {
    identity: Identity,
    phase: Phase,
    window: Window,
    /// The last place in each lane that was sent or told; `None` before the first registration.
    position: Option<Position>,
    /// What the device has acknowledged, as far as this connection knows.
    acknowledged: Option<Position>,
    /// An acknowledgement that came before the first registration was answered.
    early_ack: Option<Position>,
    /// The last places when the connection began: up to here, messages are a replay.
    backlog: [u64; 2],
    everyone_backlog: Everyone,
    /// The newest place among the events for everyone that a read showed.
    everyone_newest: Everyone,
    /// What was told as missed among the events for everyone, until it is acknowledged.
    everyone_missed: ToldMissed,
    replayed: u64,
    live_was_told: bool,
    /// Forwards beyond a missing one, by place.
    held: [BTreeMap<u64, Placed>; 2],
    /// How many reads were begun; the answer to any but the last is stale.
    reads: u64,
    unread: Unread,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    /// A registration is under way. `again`: another was asked for meanwhile, so that this one may
    /// be from the time line that ended.
    Registering {
        again: bool,
    },
    /// Reading pages. `reading`: one is under way.
    Replaying {
        reading: bool,
    },
    /// Every place up to the position was sent or told; forwards continue it.
    Live,
    Closed,
}

/// What is known to be in the mailbox and may not be in the page that is under way. A read that
/// begins later sees it all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Unread {
    /// The highest place in each lane.
    places: [u64; 2],
    /// Something at an unknown place.
    anything: bool,
}

type Effects = Vec<Effect>;

impl Session {
    /// A connection that was just accepted; the first effect asks for its registration. It must
    /// be reachable for forwards before that is carried out.
    pub fn new(identity: Identity, window_messages: u32) -> (Session, Effect) {
        let session = Session {
            identity,
            phase: Phase::Registering { again: false },
            window: Window::new(window_messages),
            position: None,
            acknowledged: None,
            early_ack: None,
            backlog: [0, 0],
            everyone_backlog: Everyone::default(),
            everyone_newest: Everyone::default(),
            everyone_missed: ToldMissed::default(),
            replayed: 0,
            live_was_told: false,
            held: [BTreeMap::new(), BTreeMap::new()],
            reads: 0,
            unread: Unread::default(),
        };
        (session, Effect::Register { again: None })
    }

    /// The time line and life of this session's positions; `None` before the first registration.
    pub fn time_line(&self) -> Option<(Epoch, Life)> {
        self.position.as_ref().map(time_line_of)
    }

    /// The newest position that the device has acknowledged.
    pub fn acknowledged(&self) -> Option<Position> {
        self.acknowledged
    }

    /// The answer to [`Effect::Register`].
    pub fn registered(&mut self, registration: Registration) -> Effects {
        match self.phase {
            Phase::Registering { again: false } => {}
            Phase::Registering { again: true } => return vec![self.register()],
            Phase::Replaying { .. } | Phase::Live | Phase::Closed => return Vec::new(),
        }
        let start = registration.start;
        let mut effects = Vec::new();
        if self.position.is_none() {
            effects.push(self.welcome(start, registration.pending));
            self.everyone_backlog = registration.read.everyone.newest;
        }
        let (position, acknowledge) = self.start_from(start, registration.read.last);
        effects.extend(acknowledge);
        self.phase = Phase::Replaying { reading: false };
        if registration.store_lost {
            let position = Position {
                store_lost_told: true,
                ..position
            };
            let to_ms = first_time(registration.read.run.as_ref(), registration.read.now_ms);
            effects.extend(self.tell_missed(position, None, MissedReason::StoreLost, to_ms));
        }
        // The page follows the start, where the session may be beyond; and what was in flight
        // before may leave no room for it.
        let messages = (registration.read.run.as_ref()).map_or(0, |run| run.messages.len());
        let is_next = position.places == start.places && self.window.takes(messages);
        effects.extend(match is_next {
            true => self.take_page(registration.read),
            false => self.read_on(),
        });
        if let Some(given) = self.early_ack.take() {
            effects.extend(self.take_ack(given));
        }
        effects
    }

    /// The answer to the [`Effect::ReadPage`] of this number.
    pub fn page_read(&mut self, number: u64, read: PageRead) -> Effects {
        let is_awaited = self.phase == Phase::Replaying { reading: true } && number == self.reads;
        match is_awaited {
            true => self.take_page(read),
            false => Vec::new(),
        }
    }

    /// A forward for this user.
    pub fn forwarded(&mut self, forward: Forwarded) -> Effects {
        let position = match (self.phase, self.position) {
            (Phase::Closed, _) => return Vec::new(),
            // Which time line it is from cannot be judged yet: the page that comes may be older.
            (Phase::Registering { .. }, _) | (_, None) => {
                self.unread.anything = true;
                return Vec::new();
            }
            (_, Some(position)) => position,
        };
        if forward.epoch != position.epoch {
            return vec![Effect::CheckEpoch];
        }
        if forward.life != Some(position.life) {
            return self.register_again();
        }
        let (lane, message) = (forward.lane, forward.message);
        if self.phase != Phase::Live {
            self.unread.raise(lane, message.place);
            return Vec::new();
        }
        let next = position.places.of(lane) + 1;
        if message.place < next {
            return Vec::new();
        }
        if message.place > next {
            return self.hold(lane, message);
        }
        let mut effects = self.send_forward(lane, message);
        while let Some(message) = self.next_held(lane) {
            effects.extend(self.send_forward(lane, message));
        }
        effects
    }

    /// A message without a place: sent if that is possible at once, else dropped.
    pub fn ephemeral(&mut self, time_ms: u64, json: Arc<str>) -> Effects {
        let (Some(position), Phase::Live) = (self.position, self.phase) else {
            return Vec::new();
        };
        if self.window.room() == 0 {
            return Vec::new();
        }
        let is_acknowledged = (self.acknowledged)
            .is_some_and(|acknowledged| position.places.is_within(&acknowledged.places));
        self.window.push_ephemeral(position.places, is_acknowledged);
        vec![self.messages_frame(position, false, vec![json], vec![time_ms])]
    }

    /// [`super::HOLD_MILLISECONDS`] passed since [`Effect::Hold`].
    pub fn hold_expired(&mut self) -> Effects {
        match self.held.iter().all(BTreeMap::is_empty) {
            true => Vec::new(),
            false => self.reconcile(),
        }
    }

    /// A forward may have been lost: read the mailbox.
    pub fn reconcile(&mut self) -> Effects {
        match self.phase {
            Phase::Live => {
                self.phase = Phase::Replaying { reading: false };
                self.drop_held();
                self.read_on()
            }
            Phase::Registering { .. } | Phase::Replaying { .. } => {
                self.unread.anything = true;
                Vec::new()
            }
            Phase::Closed => Vec::new(),
        }
    }

    /// The counters of the mailbox, read by a `reassert`.
    pub fn counted(&mut self, last: [u64; 2]) -> Effects {
        match self.phase {
            Phase::Live if !self.has_reached(last) => self.reconcile(),
            Phase::Registering { .. } | Phase::Replaying { .. } => {
                for lane in Lane::ALL {
                    self.unread.raise(lane, last[lane.index()]);
                }
                Vec::new()
            }
            Phase::Live | Phase::Closed => Vec::new(),
        }
    }

    /// The store is on another time line, or the mailbox has another life: start from what it has
    /// stored. The client drops what it has seen.
    pub fn register_again(&mut self) -> Effects {
        match self.phase {
            Phase::Replaying { .. } | Phase::Live => vec![self.register()],
            Phase::Registering { .. } => {
                self.phase = Phase::Registering { again: true };
                Vec::new()
            }
            Phase::Closed => Vec::new(),
        }
    }

    /// Ends the session; nothing more is sent.
    pub fn close(&mut self, code: CloseCode, message: &str) -> Effects {
        if self.phase == Phase::Closed {
            return Vec::new();
        }
        self.phase = Phase::Closed;
        self.drop_held();
        vec![Effect::Close {
            code,
            message: message.to_owned(),
        }]
    }

    fn register(&mut self) -> Effect {
        self.phase = Phase::Registering { again: false };
        self.unread = Unread::default();
        self.drop_held();
        Effect::Register {
            again: self.position.map(|position| position.life),
        }
    }

    /// Takes the position that a registration gave; returns where the session goes on.
    fn start_from(&mut self, start: Position, last: [u64; 2]) -> (Position, Effects) {
        let before = (self.position.zip(self.acknowledged))
            .filter(|(position, _)| time_line_of(position) == time_line_of(&start));
        let (position, acknowledged) = match before {
            // The same mailbox: what was sent and acknowledged holds, though it is not all stored;
            // and what the device acknowledged elsewhere need not come.
            Some((position, acknowledged)) => (joined(&position, &start), acknowledged),
            None => {
                if let Some(position) = &self.position {
                    self.window.leave(position);
                }
                self.backlog = last;
                (start, start)
            }
        };
        self.position = Some(position);
        self.acknowledged = Some(start);
        (position, self.acknowledge(acknowledged, 0))
    }

    fn take_page(&mut self, read: PageRead) -> Effects {
        self.phase = Phase::Replaying { reading: false };
        if self.skip_acknowledged(&read) {
            // The run follows the older position: what lies between would count as missed.
            return self.read_on();
        }
        let everyone_newest = read.everyone.newest;
        self.everyone_newest = everyone_newest;
        let mut effects = self.send_page(read.run, read.everyone, read.last, read.now_ms);
        effects.extend(self.tell_live());
        // The end of the lists, and all that was heard of meanwhile lies before it: what comes
        // next is forwarded to this connection.
        let is_end = self.has_reached(read.last)
            && self.has_reached(self.unread.places)
            && !self.unread.anything
            && (self.position).is_some_and(|at| at.places.everyone >= everyone_newest);
        match is_end {
            true => self.phase = Phase::Live,
            false => effects.extend(self.read_on()),
        }
        effects
    }

    /// Moves on to what the device has acknowledged on another connection; true where that is
    /// beyond the position.
    fn skip_acknowledged(&mut self, read: &PageRead) -> bool {
        if self.has_reached(read.acknowledged) {
            return false;
        }
        for position in [&mut self.position, &mut self.acknowledged] {
            let Some(position) = position else { continue };
            for lane in Lane::ALL {
                let place = position
                    .places
                    .of(lane)
                    .max(read.acknowledged[lane.index()]);
                position.places.set(lane, place);
            }
            position.time_ms = position.time_ms.max(read.acknowledged_ms);
        }
        true
    }

    /// Begins a read where one is due and the window has any room: a client may wait for a whole
    /// window of messages before it acknowledges the first.
    fn read_on(&mut self) -> Effects {
        let (Some(after), Phase::Replaying { reading: false }) = (self.position, self.phase) else {
            return Vec::new();
        };
        let room = self.window.room() as usize;
        if room == 0 {
            return Vec::new();
        }
        self.phase = Phase::Replaying { reading: true };
        self.unread = Unread::default();
        self.reads += 1;
        vec![Effect::ReadPage {
            number: self.reads,
            after,
            messages_max: room.min(FRAME_MESSAGES_MAX),
        }]
    }

    /// The same after an acknowledgement: where the window has room for a whole page, or nothing
    /// is in flight, since small acknowledgements would otherwise be followed by small pages for
    /// ever.
    fn read_on_with_room(&mut self) -> Effects {
        let has_room = self.window.room() as usize >= FRAME_MESSAGES_MAX || self.window.is_empty();
        match has_room {
            true => self.read_on(),
            false => Vec::new(),
        }
    }

    fn has_reached(&self, last: [u64; 2]) -> bool {
        self.position.is_some_and(|position| {
            (Lane::ALL.iter()).all(|lane| position.places.of(*lane) >= last[lane.index()])
        })
    }

    fn hold(&mut self, lane: Lane, message: Placed) -> Effects {
        let count: usize = self.held.iter().map(BTreeMap::len).sum();
        if count >= HELD_FORWARDS_MAX {
            return self.reconcile();
        }
        self.held[lane.index()].insert(message.place, message);
        match count {
            0 => vec![Effect::Hold],
            _ => Vec::new(),
        }
    }

    fn next_held(&mut self, lane: Lane) -> Option<Placed> {
        let next = self.position?.places.of(lane) + 1;
        self.held[lane.index()].remove(&next)
    }

    fn drop_held(&mut self) {
        self.held.iter_mut().for_each(BTreeMap::clear);
    }

    /// Sends the next message of a lane, or falls back to reading where the window is full.
    fn send_forward(&mut self, lane: Lane, message: Placed) -> Effects {
        if self.window.room() == 0 {
            return self.reconcile();
        }
        self.send_messages(vec![Outgoing::own(lane, message)], false)
    }
}

impl Unread {
    fn raise(&mut self, lane: Lane, place: u64) {
        let highest = &mut self.places[lane.index()];
        *highest = place.max(*highest);
    }
}

fn time_line_of(position: &Position) -> (Epoch, Life) {
    (position.epoch, position.life)
}

/// The further of two positions of one time line.
fn joined(one: &Position, other: &Position) -> Position {
    Position {
        places: one.places.max(&other.places),
        time_ms: one.time_ms.max(other.time_ms),
        store_lost_told: one.store_lost_told || other.store_lost_told,
        ..*one
    }
}
