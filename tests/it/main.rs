//! The integration tests: one binary, one file a promise, on real servers and processes.
//! How they are written and what they stand on: `support/mod.rs`.

mod support;

mod abuse;
mod acknowledgement;
mod admission;
mod authentication;
mod commands;
mod demo_page;
mod dev;
mod devices;
mod durability;
mod ephemeral;
mod everyone;
mod expiry;
mod fault;
mod figures;
mod fleet;
mod frames;
mod harness;
mod health;
mod identity;
mod junk_frames;
mod key_set;
mod leaving;
mod limits;
mod live;
mod mailbox;
mod missed;
mod model;
mod namespaces;
mod offline;
mod order;
mod other_servers;
mod priority;
mod refusals;
mod secured;
mod sizes;
mod strange_bytes;
mod tidy;
mod versions;
