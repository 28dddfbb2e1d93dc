//! What was sent and not yet acknowledged.

use std::collections::VecDeque;

use crate::protocol::{Epoch, Life, Places, Position};

/// An emptied queue keeps room for this many frames: a socket that rests after a burst is small.
const RESTING_FRAMES: usize = 8;

/// Frames in flight on one connection. A frame is in flight until a cursor at or beyond its own
/// is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Window {
    messages_max: u32,
    sent: VecDeque<Sent>,
    /// What was in flight when the session left its time line, as one frame.
    earlier: Option<Earlier>,
    /// All messages in flight, those of `earlier` and those without a place included.
    messages: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Sent {
    places: Places,
    messages: u32,
    /// Messages without a place that were sent with the same cursor.
    ephemeral: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Earlier {
    time_line: (Epoch, Life),
    places: Places,
    messages: u32,
}

impl Window {
    /// At most `messages_max` messages in flight, at least one.
    pub fn new(messages_max: u32) -> Window {
        Window {
            messages_max: messages_max.max(1),
            sent: VecDeque::new(),
            earlier: None,
            messages: 0,
        }
    }

    pub fn messages_max(&self) -> u32 {
        self.messages_max
    }

    /// How many messages may be sent now.
    pub fn room(&self) -> u32 {
        self.messages_max.saturating_sub(self.messages)
    }

    /// True where a frame with this many messages may be sent: it fits, or nothing is in flight (a
    /// page larger than the window would never be sent otherwise).
    pub fn takes(&self, messages: usize) -> bool {
        self.is_empty() || messages <= self.room() as usize
    }

    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Notes a frame that ends at these places. One without messages takes no room.
    pub fn push(&mut self, places: Places, messages: u32) {
        if messages == 0 {
            return;
        }
        self.sent.push_back(Sent {
            places,
            messages,
            ephemeral: 0,
        });
        self.messages += messages;
    }

    /// Notes a message without a place, sent with the cursor of these places. Where that cursor is
    /// acknowledged already, a client may leave out to do it once more: so it is free then.
    pub fn push_ephemeral(&mut self, places: Places, is_acknowledged: bool) {
        match (self.sent.back_mut(), &mut self.earlier) {
            (Some(sent), _) if sent.places == places => sent.ephemeral += 1,
            (None, Some(earlier)) if is_acknowledged => earlier.messages += 1,
            _ if is_acknowledged => return,
            _ => self.sent.push_back(Sent {
                places,
                messages: 0,
                ephemeral: 1,
            }),
        }
        self.messages += 1;
    }

    /// Takes out what a cursor of the session's time line acknowledges; returns how many messages
    /// with a place that were.
    pub fn acknowledge(&mut self, places: &Places) -> u64 {
        let mut messages = 0;
        while let Some(sent) = self.sent.front() {
            if !sent.places.is_within(places) {
                break;
            }
            messages += sent.messages;
            self.messages -= sent.messages + sent.ephemeral;
            self.sent.pop_front();
        }
        // Acknowledgements are cumulative, and all of this was sent before.
        if let Some(earlier) = self.earlier.take() {
            self.messages -= earlier.messages;
        }
        if self.sent.is_empty() {
            self.sent.shrink_to(RESTING_FRAMES);
        }
        u64::from(messages)
    }

    /// The session leaves its time line for another. What is in flight stays so, until its last
    /// cursor or one of the other time line is acknowledged.
    pub fn leave(&mut self, position: &Position) {
        let Some(last) = self.sent.back() else {
            return;
        };
        self.earlier = Some(Earlier {
            time_line: (position.epoch, position.life),
            places: last.places,
            messages: self.messages,
        });
        self.sent.clear();
    }

    /// Takes out what an acknowledged position of a time line before the session's covers.
    pub fn acknowledge_earlier(&mut self, given: &Position) {
        let covered = self.earlier.take_if(|earlier| {
            earlier.time_line == (given.epoch, given.life)
                && earlier.places.is_within(&given.places)
        });
        self.messages -= covered.map_or(0, |earlier| earlier.messages);
    }
}
