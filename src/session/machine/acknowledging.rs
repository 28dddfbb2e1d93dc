//! What the client says it has received.

use super::{Effects, Session, joined, time_line_of};
use crate::protocol::{CloseCode, Cursor, Everyone, Position};
use crate::session::Effect;

impl Session {
    /// The client's `ack`. Also after the end of the session, where it can only move the cursor:
    /// what a leaving node has sent need not come again.
    pub fn ack(&mut self, text: &str) -> Effects {
        let cursor = match Cursor::decode(text) {
            Ok(cursor) => cursor,
            Err(error) => return self.close(CloseCode::BadRequest, &error.to_string()),
        };
        if !cursor.belongs_to(&self.identity.user, &self.identity.device) {
            return self.close(CloseCode::NeverSent, "the cursor is another device's");
        }
        if self.position.is_none() {
            // A client in a hurry repeats a cursor of its last connection; only the registration
            // tells whether that is one of this time line.
            self.early_ack = Some(cursor.position);
            return Vec::new();
        }
        self.take_ack(cursor.position)
    }

    pub(super) fn take_ack(&mut self, given: Position) -> Effects {
        let Some(position) = self.position else {
            return Vec::new();
        };
        if time_line_of(&given) != time_line_of(&position) {
            self.window.acknowledge_earlier(&given);
            return self.read_on_with_room();
        }
        let given = self.without_unknown_stream(given, &position);
        // A cursor of an earlier connection may say that `store_lost` was told where this one had
        // nothing to tell: it proves itself.
        if !given.places.is_within(&position.places) {
            return self.close(CloseCode::NeverSent, "the cursor was not sent yet");
        }
        let messages = self.window.acknowledge(&given.places);
        let mut effects = self.acknowledge(given, messages);
        effects.extend(self.read_on_with_room());
        effects
    }

    /// Leaves out a place among the events for everyone that no read showed: the stream may have had
    /// it, and lost it. The user's own places count.
    fn without_unknown_stream(&self, mut given: Position, position: &Position) -> Position {
        let everyone = &mut given.places.everyone;
        let is_known =
            everyone.creation == self.everyone_newest.creation && *everyone <= self.everyone_newest;
        if *everyone > position.places.everyone && !is_known {
            *everyone = Everyone::default();
        }
        given
    }

    /// Moves the acknowledged position forward.
    pub(super) fn acknowledge(&mut self, given: Position, messages: u64) -> Effects {
        let Some(before) = self.acknowledged else {
            return Vec::new();
        };
        let position = joined(&before, &given);
        if position == before {
            return Vec::new();
        }
        self.acknowledged = Some(position);
        let urgent = self.everyone_missed.acknowledged(position.places.everyone)
            || position.places.own != before.places.own
            || position.store_lost_told != before.store_lost_told;
        vec![Effect::Acknowledge {
            position,
            messages,
            urgent,
        }]
    }
}
