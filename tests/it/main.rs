//! The integration tests: one binary, one file a promise, on real servers and processes.
//! How they are written and what they stand on: `support/mod.rs`.

mod support;

mod acknowledgement;
mod demo_page;
mod dev;
mod devices;
mod expiry;
mod fault;
mod harness;
mod live;
mod mailbox;
mod missed;
mod offline;
mod refusals;
mod sizes;
mod strange_bytes;
mod tidy;
