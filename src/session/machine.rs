//! The machine itself.

use std::collections::BTreeMap;

use super::window::Window;
use super::{Effect, Forwarded, HELD_FORWARDS_MAX, Identity, PageRead, Placed, Registration, Run};
use crate::protocol::{
    CloseCode, Cursor, Epoch, FRAME_MESSAGES_MAX, Lane, Life, MissedReason, Places, Position,
    ServerFrame, Welcome,
};

/// One connection, from its first registration to its close.
#[derive(Debug)]
pub struct Session {
    identity: Identity,
    phase: Phase,
    window: Window,
    window_messages: u32,
    /// The last place in each lane that was sent or told; `None` before the first registration.
    position: Option<Position>,
    /// What the device has acknowledged, as far as this connection knows.
    acknowledged: Option<Position>,
    /// The last places when the connection began: up to here, messages are a replay.
    backlog: [u64; 2],
    replayed: u64,
    live_was_told: bool,
    /// Forwards beyond a missing one, by place.
    held: [BTreeMap<u64, Placed>; 2],
    /// The highest place of a forward that was not sent, in each lane.
    high: [u64; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A registration is under way; its page may be older than forwards that arrive meanwhile.
    Registering {
        forwarded: bool,
    },
    /// Reading pages. `reading`: one is under way. `forwarded`: a forward arrived after the last
    /// read was begun, so that its end is not the end.
    Replaying {
        reading: bool,
        forwarded: bool,
    },
    /// Every place up to the position was sent or told; forwards continue it.
    Live,
    Closed,
}

type Effects = Vec<Effect>;

impl Session {
    /// A connection that was just accepted; the first effect asks for its registration. It must
    /// be reachable for forwards before that is carried out.
    pub fn new(identity: Identity, window_messages: u32) -> (Session, Effect) {
        let session = Session {
            identity,
            phase: Phase::Registering { forwarded: false },
            window: Window::new(window_messages),
            window_messages,
            position: None,
            acknowledged: None,
            backlog: [0, 0],
            replayed: 0,
            live_was_told: false,
            held: [BTreeMap::new(), BTreeMap::new()],
            high: [0, 0],
        };
        (session, Effect::Register { again: None })
    }

    /// The time line and life of this session's positions; `None` before the first registration.
    pub fn time_line(&self) -> Option<(Epoch, Life)> {
        self.position
            .map(|position| (position.epoch, position.life))
    }

    /// The newest position that the device has acknowledged.
    pub fn acknowledged(&self) -> Option<Position> {
        self.acknowledged
    }

    /// The answer to [`Effect::Register`].
    pub fn registered(&mut self, registration: Registration) -> Effects {
        let Phase::Registering { forwarded } = self.phase else {
            return Vec::new();
        };
        let mut effects = Vec::new();
        let start = registration.start;
        let is_first = self.position.is_none();
        self.position = Some(start);
        self.acknowledged = Some(start);
        if is_first {
            effects.push(send(ServerFrame::Welcome(Welcome {
                cursor: self.cursor(start),
                user: self.identity.user.clone(),
                device: self.identity.device.clone(),
                node: self.identity.node.clone(),
                pending: registration.pending,
                window: self.window_messages,
                heartbeat_seconds: self.identity.heartbeat_seconds,
            })));
        }
        // After a new registration what comes again is no replay, unless the replay was not over.
        self.backlog = match self.live_was_told {
            true => [0, 0],
            false => registration.read.last,
        };
        if registration.store_lost {
            let position = Position {
                store_lost_told: true,
                ..start
            };
            let to_ms = first_time(registration.read.run.as_ref(), registration.read.now_ms);
            effects.extend(self.tell_missed(position, None, MissedReason::StoreLost, to_ms));
        }
        self.phase = Phase::Replaying {
            reading: true,
            forwarded,
        };
        effects.extend(self.page_read(registration.read));
        effects
    }

    /// The answer to [`Effect::ReadPage`].
    pub fn page_read(&mut self, read: PageRead) -> Effects {
        let (
            Some(mut position),
            Phase::Replaying {
                reading: true,
                forwarded,
            },
        ) = (self.position, self.phase)
        else {
            return Vec::new();
        };
        let mut effects = Vec::new();
        if let Some(run) = read.run {
            effects.extend(self.send_run(run, read.now_ms));
            position = self.position.unwrap_or(position);
        }
        let reached =
            |places: [u64; 2]| (0..2).all(|lane| position.places.own[lane] >= places[lane]);
        if !self.live_was_told && reached(self.backlog) {
            self.live_was_told = true;
            if self.replayed > 0 {
                effects.push(Effect::Replayed {
                    messages: self.replayed,
                });
            }
            effects.push(send(ServerFrame::Live {
                cursor: self.cursor(position),
                replayed: self.replayed,
            }));
        }
        // The end of the lists, read after every forward that arrived: what comes next is
        // forwarded to this connection. A forward that arrived during the read does not matter
        // where the read reached beyond it.
        if reached(read.last) && (!forwarded || reached(self.high)) {
            self.phase = Phase::Live;
            self.high = [0, 0];
        } else {
            self.phase = Phase::Replaying {
                reading: false,
                forwarded,
            };
            effects.extend(self.read_on());
        }
        effects
    }

    /// A forward for this user.
    pub fn forwarded(&mut self, forward: Forwarded) -> Effects {
        let position = match (self.phase, self.position) {
            (Phase::Closed, _) => return Vec::new(),
            // Whatever time line it is from: the page that comes may be older than it.
            (Phase::Registering { .. }, _) | (_, None) => return self.note_forward(&forward),
            (_, Some(position)) => position,
        };
        if forward.epoch != position.epoch {
            return vec![Effect::CheckEpoch];
        }
        if forward.life != Some(position.life) {
            return self.register_again();
        }
        if self.phase != Phase::Live {
            return self.note_forward(&forward);
        }
        let lane = forward.lane;
        let next = position.places.of(lane) + 1;
        if forward.message.place < next {
            return Vec::new();
        }
        if forward.message.place > next {
            return self.hold(lane, forward.message);
        }
        let mut effects = self.send_forward(lane, forward.message);
        while self.phase == Phase::Live {
            let next = self
                .position
                .map_or(0, |position| position.places.of(lane) + 1);
            let Some(message) = self.held[lane.index()].remove(&next) else {
                break;
            };
            effects.extend(self.send_forward(lane, message));
        }
        effects
    }

    /// A message without a place: sent if that is possible at once, else dropped.
    pub fn ephemeral(&mut self, time_ms: u64, json: std::sync::Arc<str>) -> Effects {
        let (Some(position), Phase::Live) = (self.position, self.phase) else {
            return Vec::new();
        };
        if self.window.room() == 0 {
            return Vec::new();
        }
        self.window.push_ephemeral();
        let frame = ServerFrame::Messages {
            cursor: self.cursor(position),
            replay: false,
            messages: vec![json],
        };
        vec![Effect::Send {
            frame,
            times_ms: vec![time_ms],
        }]
    }

    /// The client's `ack`.
    pub fn ack(&mut self, text: &str) -> Effects {
        let Some(position) = self.position else {
            return self.close(CloseCode::NeverSent, "nothing was sent yet");
        };
        let cursor = match Cursor::decode(text) {
            Ok(cursor) => cursor,
            Err(error) => return self.close(CloseCode::BadRequest, &error.to_string()),
        };
        if !cursor.belongs_to(&self.identity.user, &self.identity.device) {
            return self.close(CloseCode::NeverSent, "the cursor is another device's");
        }
        let given = cursor.position;
        if given.epoch != position.epoch || given.life != position.life {
            return Vec::new();
        }
        if !given.places.is_within(&position.places)
            || (given.store_lost_told && !position.store_lost_told)
        {
            return self.close(CloseCode::NeverSent, "the cursor was not sent yet");
        }
        let messages = self.window.acknowledge(&given.places);
        let mut effects = self.acknowledge(given, messages);
        effects.extend(self.read_on());
        effects
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
        if self.phase == Phase::Live {
            self.phase = Phase::Replaying {
                reading: false,
                forwarded: false,
            };
            self.held.iter_mut().for_each(BTreeMap::clear);
        } else {
            self.mark_forwarded();
        }
        self.read_on()
    }

    /// The counters of the mailbox, read by a `reassert`.
    pub fn counted(&mut self, last: [u64; 2]) -> Effects {
        let is_behind = self
            .position
            .is_some_and(|position| (0..2).any(|lane| position.places.own[lane] < last[lane]));
        match is_behind && self.phase == Phase::Live {
            true => self.reconcile(),
            false => Vec::new(),
        }
    }

    /// The store is on another time line, or the mailbox has another life: start from what it has
    /// stored. The client drops what it has seen.
    pub fn register_again(&mut self) -> Effects {
        let (Some(position), false) = (
            self.position,
            matches!(self.phase, Phase::Registering { .. } | Phase::Closed),
        ) else {
            return Vec::new();
        };
        self.phase = Phase::Registering { forwarded: false };
        self.window.clear();
        self.high = [0, 0];
        self.held.iter_mut().for_each(BTreeMap::clear);
        vec![Effect::Register {
            again: Some(position.life),
        }]
    }

    /// Ends the session; nothing more comes out of it.
    pub fn close(&mut self, code: CloseCode, message: &str) -> Effects {
        self.phase = Phase::Closed;
        vec![Effect::Close {
            code,
            message: message.to_owned(),
        }]
    }

    fn cursor(&self, position: Position) -> Cursor {
        Cursor::new(position, &self.identity.user, &self.identity.device)
    }

    /// Begins a read where one is due and the window has room for it: for a whole page, or for
    /// anything once nothing is in flight, since small acknowledgements would otherwise be
    /// followed by small pages for ever.
    fn read_on(&mut self) -> Effects {
        let (Some(after), Phase::Replaying { reading: false, .. }) = (self.position, self.phase)
        else {
            return Vec::new();
        };
        let room = self.window.room() as usize;
        if room < FRAME_MESSAGES_MAX && !self.window.is_empty() {
            return Vec::new();
        }
        self.phase = Phase::Replaying {
            reading: true,
            forwarded: false,
        };
        vec![Effect::ReadPage {
            after,
            messages_max: room.min(FRAME_MESSAGES_MAX),
        }]
    }

    fn note_forward(&mut self, forward: &Forwarded) -> Effects {
        let high = &mut self.high[forward.lane.index()];
        *high = forward.message.place.max(*high);
        self.mark_forwarded();
        Vec::new()
    }

    fn mark_forwarded(&mut self) {
        match &mut self.phase {
            Phase::Registering { forwarded } | Phase::Replaying { forwarded, .. } => {
                *forwarded = true;
            }
            Phase::Live | Phase::Closed => {}
        }
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

    /// Sends the next message of a lane, or falls back to reading where the window is full.
    fn send_forward(&mut self, lane: Lane, message: Placed) -> Effects {
        if self.window.room() == 0 {
            return self.reconcile();
        }
        self.send_messages(lane, vec![message], false)
    }

    fn send_run(&mut self, run: Run, now_ms: u64) -> Effects {
        let mut effects = Vec::new();
        let lane = run.lane;
        let to_ms = first_time(Some(&run), now_ms);
        for (count, reason) in [
            (run.evicted, MissedReason::Evicted),
            (run.expired, MissedReason::Expired),
        ] {
            if let (true, Some(mut position)) = (count > 0, self.position) {
                position.places.set(lane, position.places.of(lane) + count);
                effects.extend(self.tell_missed(position, Some(count), reason, to_ms));
            }
        }
        let backlog = self.backlog[lane.index()];
        let (replay, rest): (Vec<Placed>, Vec<Placed>) =
            (run.messages.into_iter()).partition(|message| message.place <= backlog);
        self.replayed += replay.len() as u64;
        for (messages, is_replay) in [(replay, true), (rest, false)] {
            if !messages.is_empty() {
                effects.extend(self.send_messages(lane, messages, is_replay));
            }
        }
        effects
    }

    fn send_messages(&mut self, lane: Lane, messages: Vec<Placed>, replay: bool) -> Effects {
        let Some(mut position) = self.position else {
            return Vec::new();
        };
        let mut times_ms = Vec::with_capacity(messages.len());
        let mut texts = Vec::with_capacity(messages.len());
        for message in messages {
            let last = position.places.of(lane).max(message.place);
            position.places.set(lane, last);
            position.time_ms = position.time_ms.max(message.time_ms);
            times_ms.push(message.time_ms);
            texts.push(message.json);
        }
        let count = texts.len() as u32;
        let frame = ServerFrame::Messages {
            cursor: self.cursor(position),
            replay,
            messages: texts,
        };
        let mut effects = vec![Effect::Send { frame, times_ms }];
        effects.extend(self.moved_to(position, count));
        effects
    }

    fn tell_missed(
        &mut self,
        position: Position,
        count: Option<u64>,
        reason: MissedReason,
        to_ms: u64,
    ) -> Effects {
        let from_ms = (self.acknowledged)
            .map(|acknowledged| acknowledged.time_ms)
            .filter(|time_ms| *time_ms > 0);
        let mut effects = vec![send(ServerFrame::Missed {
            cursor: self.cursor(position),
            count,
            reason,
            from_ms,
            to_ms,
        })];
        effects.extend(self.moved_to(position, 0));
        effects
    }

    fn moved_to(&mut self, position: Position, messages: u32) -> Effects {
        self.position = Some(position);
        if self.identity.acknowledges_itself {
            return self.acknowledge(position, u64::from(messages));
        }
        self.window.push(&position, messages);
        Vec::new()
    }

    /// Moves the acknowledged position forward.
    fn acknowledge(&mut self, given: Position, messages: u64) -> Effects {
        let Some(before) = self.acknowledged else {
            return Vec::new();
        };
        let places: Places = before.places.max(&given.places);
        let after = Position {
            places,
            time_ms: before.time_ms.max(given.time_ms),
            store_lost_told: before.store_lost_told || given.store_lost_told,
            ..before
        };
        if after == before {
            return Vec::new();
        }
        self.acknowledged = Some(after);
        vec![Effect::Acknowledge {
            position: after,
            messages,
        }]
    }
}

fn send(frame: ServerFrame) -> Effect {
    Effect::Send {
        frame,
        times_ms: Vec::new(),
    }
}

/// When the first message after a gap was published, or now.
fn first_time(run: Option<&Run>, now_ms: u64) -> u64 {
    run.and_then(|run| run.messages.first())
        .map_or(now_ms, |message| message.time_ms)
}
