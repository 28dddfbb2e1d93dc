//! NATS: subjects, streams, consumers and the messages between workers and gateways (contract §6).
//!
//! | file | what it owns |
//! |---|---|
//! | `names` | every stream, consumer and subject, with the namespace in front |
//! | `connect` | a connection that is kept, and what is known about it |
//! | `streams` | `EVENTS`, `DEAD_LETTERS` and `BROADCASTS`: made, or compared with what the server has |
//! | `consumers` | one durable consumer a partition and two for what has no partition |
//! | `follower` | a stream read from some place on |
//! | `stored` | stored messages read and removed one by one |
//! | `pull` | pull requests and what the server answers |
//! | `unreadable` | which stored messages the client library cannot read |
//! | `forward` | the messages to a gateway, as bytes |
//! | `broadcast` | the copy of an event for everyone, as bytes |
//! | `broadcasts` | the stream of these copies, as a gateway follows it |

mod broadcast;
mod broadcasts;
mod connect;
mod consumers;
mod error;
mod follower;
mod forward;
mod names;
#[cfg(test)]
mod properties;
mod pull;
mod stored;
mod streams;
mod unreadable;

pub use broadcast::{Broadcast, InvalidBroadcast};
pub use broadcasts::{BroadcastsStream, assert_broadcasts, begin_time_line};
pub use connect::{
    Bus, BusConfig, BusCredentials, BusState, connect, connect_reporting, is_credentials,
};
pub use consumers::{ACK_WAIT, Pending, Routing, Source, assert_consumers, pending, routing};
pub use error::BusError;
pub use follower::{Begin, Follower};
pub use forward::{
    Announcement, Forward, GatewayMessage, InvalidForward, Payload, Recipient, Replace, Spot,
    encoded_bytes,
};
pub use names::{Names, PARTITIONS};
pub use pull::{Delivery, Pull, Pulled};
pub use stored::{broadcast_time_ms, next_broadcast, next_event, next_stored, remove_stored};
pub use streams::{EventsStream, assert_streams, find_events, write_store_id};
pub use unreadable::{StoredMessage, Unreadable, judge};
