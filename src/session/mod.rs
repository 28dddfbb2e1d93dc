//! One connection as a pure state machine: an event in, effects out.
//!
//! No sockets, no Redis, no clock: the gateway feeds it and carries out what it says, the model
//! checker and the unit tests drive it directly. It holds one cursor a lane, the last place that
//! was sent or told, and two states. While `Replaying` it reads pages and ignores forwards; while
//! `Live` it sends forwards that continue the cursor, and falls back to reading for everything
//! else. So nothing is sent with a hole before it that was not announced (invariant I4), whatever
//! happens to forwards.

mod machine;
mod window;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use machine::Session;

use crate::protocol::{CloseCode, Epoch, EventKey, Everyone, Lane, Life, Position, ServerFrame};

/// Most forwards kept while an earlier one is missing; one more falls back to the mailbox.
pub const HELD_FORWARDS_MAX: usize = 16;
/// How long to wait for a missing forward before reading the mailbox.
pub const HOLD_MILLISECONDS: u64 = 75;
/// Most messages sent without an acknowledgement (contract §4: at least 64).
pub const WINDOW_MESSAGES: u32 = 256;

/// Who a connection is for, and how it acknowledges.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    pub user: Arc<str>,
    pub device: Arc<str>,
    pub node: Arc<str>,
    pub heartbeat_seconds: u64,
    /// `ack=auto`: a sent message counts as received.
    pub acknowledges_itself: bool,
}

/// The answer to [`Effect::Register`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Registration {
    /// What the device has acknowledged.
    pub start: Position,
    pub pending: u64,
    pub store_lost: bool,
    pub read: PageRead,
}

/// What was read at one moment: the answer to [`Effect::ReadPage`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct PageRead {
    /// The store's clock, milliseconds since 1970.
    pub now_ms: u64,
    /// The last place given out in each lane.
    pub last: [u64; 2],
    /// What the device has acknowledged in each lane. It may be beyond the position: an earlier
    /// connection of the device can store its last acknowledgement late.
    pub acknowledged: [u64; 2],
    /// When the last acknowledged message was published, milliseconds since 1970.
    pub acknowledged_ms: u64,
    /// `None` where nothing follows the position in any lane.
    pub run: Option<Run>,
    /// What follows the position among the events for everyone.
    pub everyone: EveryoneRead,
}

/// What follows the position in one lane: places that are gone, then messages without a hole.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Run {
    pub lane: Lane,
    pub evicted: u64,
    pub expired: u64,
    /// By their keys, which is the order they are sent in; their places are those that follow the
    /// gone ones, in any order.
    pub messages: Vec<Waiting>,
}

/// What follows a place among the events for everyone, for one user: what is gone, then messages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct EveryoneRead {
    /// The place belongs to another stream, or one that lost what the device has seen.
    pub store_lost: bool,
    /// Where the rest starts: the place itself, unless `store_lost`.
    pub start: Everyone,
    /// What the cap evicted; the expired ones follow.
    pub evicted: Gone,
    pub expired: Gone,
    /// In the order of their sequences; those that the user does not get are left out.
    pub messages: Vec<EveryonePlaced>,
    /// The place that the messages lead to, and what was left out with them.
    pub end: Everyone,
    /// The newest place at that moment.
    pub newest: Everyone,
    /// True where more follows the messages.
    pub has_more: bool,
}

/// Events for everyone that will not come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Gone {
    pub count: u64,
    /// The last sequence of them.
    pub end: u64,
}

/// A message for everyone at its place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EveryonePlaced {
    pub sequence: u64,
    /// Of the original, which orders it among the user's own messages.
    pub key: EventKey,
    pub time_ms: u64,
    pub json: Arc<str>,
}

/// A message of a page.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Waiting {
    pub key: EventKey,
    pub message: Placed,
}

/// A message at its place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Placed {
    pub place: u64,
    pub time_ms: u64,
    pub json: Arc<str>,
}

/// A forward from a worker for this user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Forwarded {
    pub epoch: Epoch,
    pub life: Option<Life>,
    pub lane: Lane,
    pub message: Placed,
}

/// What the gateway has to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Register the connection, and answer with [`Session::registered`]. `again` is the life of
    /// the session when it registers anew; then the cursor to register with is
    /// [`Session::acknowledged`], else the one that the client gave.
    Register { again: Option<Life> },
    /// Read a page after the position, and answer with [`Session::page_read`] and this number, or
    /// with [`Session::register_again`] where the mailbox has another life or epoch. Only when
    /// what was to be sent before is written: a slow socket must not fill the memory.
    ReadPage {
        number: u64,
        after: Position,
        messages_max: usize,
    },
    /// Write a frame; for `messages`, with the times the events were stored at.
    Send {
        frame: ServerFrame,
        times_ms: Vec<u64>,
    },
    /// Store the newest acknowledgement; it stands for this many messages more (those without a
    /// place are not counted). Within a second where it is `urgent`; else it only moves the place
    /// among the events for everyone, and goes with the next one, at the end of the connection, or
    /// within minutes: an event for everyone must not cost a write a user. May follow
    /// [`Effect::Close`].
    Acknowledge {
        position: Position,
        messages: u64,
        urgent: bool,
    },
    /// Call [`Session::hold_expired`] after [`HOLD_MILLISECONDS`].
    Hold,
    /// A forward came from another time line: compare Redis's epoch with the session's, then call
    /// [`Session::register_again`] or [`Session::reconcile`].
    CheckEpoch,
    /// The backlog of this many messages is through.
    Replayed { messages: u64 },
    /// End the connection.
    Close { code: CloseCode, message: String },
}
