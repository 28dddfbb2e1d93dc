//! What a running process tells its operators: metrics, logs and health (contract §7).
//!
//! One [`Metrics`] and one [`Health`] are made by the command and handed to everybody; there are
//! no globals but the log subscriber. No user id is ever a label.

pub mod admin;
mod health;
mod label;
pub mod logging;
mod metrics;

pub use health::{Health, NotReady};
pub use label::{
    Acknowledgement, EventOutcome, KeyFetch, Limit, MailboxOperation, MessageOutcome, Path,
    ReconcileReason, Redelivered,
};
pub use metrics::{EVENT_TYPES_MAX, Metrics};
