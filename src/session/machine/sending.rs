//! What is sent, and how it moves the position.

use std::sync::Arc;

use super::{Effects, Phase, Session};
use crate::protocol::{Cursor, Lane, MissedReason, Position, ServerFrame, Welcome};
use crate::session::{Effect, Placed, Run};

impl Session {
    pub(super) fn cursor(&self, position: Position) -> Cursor {
        Cursor::new(position, &self.identity.user, &self.identity.device)
    }

    pub(super) fn welcome(&self, start: Position, pending: u64) -> Effect {
        send(ServerFrame::Welcome(Welcome {
            cursor: self.cursor(start),
            user: self.identity.user.clone(),
            device: self.identity.device.clone(),
            node: self.identity.node.clone(),
            pending,
            window: self.window.messages_max(),
            heartbeat_seconds: self.identity.heartbeat_seconds,
        }))
    }

    /// Tells what is gone before a run of one lane.
    pub(super) fn tell_gone(&mut self, run: &Run, now_ms: u64) -> Effects {
        let mut effects = Vec::new();
        let to_ms = first_time(Some(run), now_ms);
        for (count, reason) in [
            (run.evicted, MissedReason::Evicted),
            (run.expired, MissedReason::Expired),
        ] {
            if let (true, Some(mut position)) = (count > 0, self.position) {
                let place = position.places.of(run.lane) + count;
                position.places.set(run.lane, place);
                effects.extend(self.tell_missed(position, Some(count), reason, to_ms));
            }
        }
        effects
    }

    /// Sends messages in one frame, a replay or not.
    pub(super) fn send_messages(&mut self, messages: Vec<Outgoing>, replay: bool) -> Effects {
        let Some(mut position) = self.position else {
            return Vec::new();
        };
        if messages.is_empty() {
            return Vec::new();
        }
        let mut times_ms = Vec::with_capacity(messages.len());
        let mut texts = Vec::with_capacity(messages.len());
        for message in messages {
            match message.at {
                At::Own(lane, place) => {
                    let last = position.places.of(lane).max(place);
                    position.places.set(lane, last);
                }
                At::Everyone(sequence) => {
                    let last = position.places.everyone.sequence.max(sequence);
                    position.places.everyone.sequence = last;
                }
            }
            // High priority is sent ahead of older messages: its time must not become the `from` of
            // a gap among those.
            let is_ahead =
                matches!(message.at, At::Own(Lane::High, _)) && self.phase != Phase::Live;
            if !is_ahead {
                position.time_ms = position.time_ms.max(message.time_ms);
            }
            times_ms.push(message.time_ms);
            texts.push(message.json);
        }
        let count = texts.len() as u32;
        if replay {
            self.replayed += u64::from(count);
        }
        let mut effects = vec![self.messages_frame(position, replay, texts, times_ms)];
        effects.extend(self.moved_to(position, count));
        effects
    }

    pub(super) fn messages_frame(
        &self,
        position: Position,
        replay: bool,
        messages: Vec<Arc<str>>,
        times_ms: Vec<u64>,
    ) -> Effect {
        let frame = ServerFrame::Messages {
            cursor: self.cursor(position),
            replay,
            messages,
        };
        Effect::Send { frame, times_ms }
    }

    pub(super) fn tell_missed(
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

    /// Tells that the backlog is through, once it is; nothing the second time.
    pub(super) fn tell_live(&mut self) -> Effects {
        let Some(position) = self.position else {
            return Vec::new();
        };
        let is_behind = position.places.everyone < self.everyone_backlog;
        if self.live_was_told || is_behind || !self.has_reached(self.backlog) {
            return Vec::new();
        }
        self.live_was_told = true;
        let replayed = self.replayed;
        let live = send(ServerFrame::Live {
            cursor: self.cursor(position),
            replayed,
        });
        match replayed {
            0 => vec![live],
            messages => vec![Effect::Replayed { messages }, live],
        }
    }

    pub(super) fn moved_to(&mut self, position: Position, messages: u32) -> Effects {
        self.position = Some(position);
        if self.identity.acknowledges_itself {
            return self.acknowledge(position, u64::from(messages));
        }
        self.window.push(position.places, messages);
        Vec::new()
    }
}

/// A message on its way into a frame.
pub(super) struct Outgoing {
    pub at: At,
    pub time_ms: u64,
    pub json: Arc<str>,
}

/// Where a message lies.
pub(super) enum At {
    Own(Lane, u64),
    /// A sequence of the stream that the position names.
    Everyone(u64),
}

impl Outgoing {
    pub fn own(lane: Lane, message: Placed) -> Outgoing {
        Outgoing {
            at: At::Own(lane, message.place),
            time_ms: message.time_ms,
            json: message.json,
        }
    }
}

fn send(frame: ServerFrame) -> Effect {
    Effect::Send {
        frame,
        times_ms: Vec::new(),
    }
}

/// When the first message after a gap was published, or now.
pub(super) fn first_time(run: Option<&Run>, now_ms: u64) -> u64 {
    run.and_then(|run| run.messages.first())
        .map_or(now_ms, |waiting| waiting.message.time_ms)
}
