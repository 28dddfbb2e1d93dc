//! What a publisher sends: the envelope and its rules (contract §3).
//!
//! An event is taken whole or refused whole. A [`Refusal`] names the field, because it is what the
//! publisher finds beside the body in `DEAD_LETTERS`. Nothing here recurses on what was sent, keeps
//! more than the limits allow, or fails on any sequence of bytes.

mod address;
mod body;
#[cfg(test)]
mod properties;
mod refusal;
mod targets;
#[cfg(test)]
mod tests;
mod text;
mod user;

use std::time::Duration;

use serde_json::value::RawValue;

pub use address::{Address, KEY_CHARACTERS_MAX, TYPE_BYTES_MAX};
pub use refusal::{REFUSAL_BYTES_MAX, Refusal};
pub use text::{TEXT_CHARACTERS_MAX, is_message_id};
pub use user::{InvalidUserId, USER_ID_BYTES_MAX, UserId};

/// Most bytes of `data`, as sent: with its white space and escapes.
pub const DATA_BYTES_MAX: usize = 64 * 1024;
/// Most arrays and objects of `data` inside each other.
pub const DATA_DEPTH_MAX: usize = 64;
/// Most distinct targets of one event.
pub const TARGETS_MAX: usize = 50_000;
/// Most bytes of `data` times distinct targets: what one event may take up in the mailboxes.
pub const FAN_OUT_BYTES_MAX: usize = 256 * 1024 * 1024;

/// How urgent a message is. High ones wait in a list of their own and are replayed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Priority {
    #[default]
    Normal,
    High,
}

/// Who gets an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// `targetUserIds` is absent or null.
    Everyone,
    /// Distinct, in the publisher's order, without the excluded user. May be empty.
    Users(Vec<UserId>),
}

/// What the configuration says about events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest, and usual, time that a message waits: `CATCHUP_MESSAGE_TTL`.
    pub ttl_max: Duration,
}

/// A valid event; `data` borrows from the body.
#[derive(Debug, Clone)]
pub struct Event<'a> {
    /// The body's `id`. Without one, the worker takes `Nats-Msg-Id` where [`is_message_id`], or
    /// makes one from the store time and sequence.
    pub id: Option<String>,
    pub audience: Audience,
    /// Gets nothing; only of use where the audience is everyone.
    pub exclude: Option<UserId>,
    /// `None` means the configured time to live.
    pub ttl: Option<Duration>,
    pub priority: Priority,
    pub collapse_key: Option<String>,
    /// For connected users only: never stored.
    pub ephemeral: bool,
    /// JSON to the letter as it was sent.
    pub data: &'a RawValue,
}

impl Event<'_> {
    /// Reads and checks a body.
    ///
    /// # Errors
    ///
    /// The first rule of contract §3 that the body breaks.
    pub fn parse<'a>(
        address: &Address,
        body: &'a [u8],
        limits: &Limits,
    ) -> Result<Event<'a>, Refusal> {
        body::parse(address, body, limits)
    }
}
