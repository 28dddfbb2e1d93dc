//! What was sent and not yet acknowledged.

use std::collections::VecDeque;

use crate::protocol::{Places, Position};

/// Frames in flight on one connection. Frames that carry a cursor are kept until a cursor at or
/// beyond theirs is acknowledged.
#[derive(Debug)]
pub(super) struct Window {
    messages_max: u32,
    sent: VecDeque<Sent>,
    messages: u32,
}

#[derive(Debug)]
struct Sent {
    places: Places,
    messages: u32,
}

impl Window {
    pub fn new(messages_max: u32) -> Window {
        Window {
            messages_max,
            sent: VecDeque::new(),
            messages: 0,
        }
    }

    /// How many messages may be sent now.
    pub fn room(&self) -> u32 {
        self.messages_max.saturating_sub(self.messages)
    }

    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Notes a frame with messages.
    pub fn push(&mut self, position: &Position, messages: u32) {
        self.sent.push_back(Sent {
            places: position.places,
            messages,
        });
        self.messages += messages;
    }

    /// Notes a message without a place. It has no cursor of its own: it counts with the frame
    /// before it, and is free where nothing is in flight.
    pub fn push_ephemeral(&mut self) {
        if let Some(sent) = self.sent.back_mut() {
            sent.messages += 1;
            self.messages += 1;
        }
    }

    /// Takes out what a cursor acknowledges; returns how many messages that were.
    pub fn acknowledge(&mut self, places: &Places) -> u64 {
        let mut messages = 0;
        while let Some(sent) = self.sent.front() {
            if !sent.places.is_within(places) {
                break;
            }
            messages += sent.messages;
            self.sent.pop_front();
        }
        self.messages -= messages;
        u64::from(messages)
    }

    pub fn clear(&mut self) {
        self.sent.clear();
        self.messages = 0;
    }
}
