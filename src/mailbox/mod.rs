//! The user's waiting messages in Redis (contract §5): keys, entry codec, scripts, typed calls.
//!
//! A mailbox is two lists with counters and one hash; the scripts' shared head,
//! `scripts/prelude.lua`, says what the fields mean. A device is a cursor into it. Everything that
//! reads and then writes is one `MULTI` or one script (invariant I6), and may be repeated.
//!
//! [`Record`] says whether the store is whole, and how one that went back or was emptied becomes so.
//!
//! [`Store`] owns the connection. A [`Link`] is one TCP connection together with the epoch that
//! was read on it before anything else, so that every result belongs to a known time line.

mod address;
mod append;
mod cluster;
mod condition;
mod device;
mod entry;
mod error;
mod info;
mod keys;
mod link;
#[cfg(test)]
mod properties;
mod record;
mod reply;
mod restore;
mod scripts;
mod server;
mod shard;
mod slots;
mod standing;
mod store;

pub use crate::protocol::EventKey;
pub use append::{Append, Appended};
pub use condition::Demand;
pub use device::{Counters, Page, PageEntry, PageRequest, Register, Registered};
pub use entry::{Entry, ReadEntry};
pub use error::{ConfigError, MailboxError};
pub use info::{info_epoch, info_field};
pub use keys::Keys;
pub use link::{Connection, ConnectionId, Link};
pub use record::{Claim, Claimed, Progress, Rebuild, RebuildKind, Record};
pub use reply::parse_connections;
pub use shard::Shard;
pub use slots::SlotSet;
pub use store::{REPLY_SECONDS_MAX, Route, Store, StoreConfig};

/// Checks a `CATCHUP_REDIS_URL`.
///
/// # Errors
///
/// What to write instead; the URL is not repeated.
pub fn check_url(url: &str) -> Result<(), ConfigError> {
    address::Address::parse(url).map(drop)
}

/// The slot of a cluster that a user's keys lie in: they all have the id as their hash tag.
pub fn slot_of_user(user: &crate::event::UserId) -> u16 {
    slots::slot_of(user.as_str())
}

/// Most devices of one user (contract §4).
pub const DEVICES_MAX: usize = 16;
/// The greatest number that Lua keeps exactly; no place, sequence or time comes near it.
const NUMBER_MAX: u64 = 1 << 53;
/// Nothing is trimmed for this long after a change of epoch: two of the longest periods in which
/// a gateway asserts its connections again, since the devices come back one by one.
pub const TRIM_HOLD_SECONDS: u64 = 240;
