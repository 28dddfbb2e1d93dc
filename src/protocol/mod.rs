//! What a client sees: frames, messages, cursors and close codes (contract §4).
//!
//! Plain data without sockets, clocks or Redis, so that the session machine, the gateway, the
//! terminal client and the tests share one definition.

mod close;
mod cursor;
mod frame;
mod message;
mod position;
#[cfg(test)]
mod properties;

pub use close::CloseCode;
pub use cursor::{CURSOR_CHARACTERS_MAX, Cursor, InvalidCursor};
pub use frame::{ClientFrame, InvalidFrame, MissedReason, ServerFrame, Welcome};
pub use message::{Message, format_time};
pub use position::{
    Epoch, EventKey, Everyone, InvalidEpoch, InvalidEventKey, Lane, Life, Places, Position,
};

/// Most bytes in one frame from a client (contract §4).
pub const CLIENT_FRAME_BYTES_MAX: usize = 64 * 1024;
/// Most messages in one `messages` frame (contract §4).
pub const FRAME_MESSAGES_MAX: usize = 64;
/// Most bytes of message JSON put in one `messages` frame, unless one message alone is larger;
/// with the frame's head this stays below the contract's 512 KiB.
pub const FRAME_MESSAGE_BYTES_MAX: usize = 256 * 1024;
