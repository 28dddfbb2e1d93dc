//! The integration tests: one binary, one file a promise, on real servers and processes.
//! How they are written and what they stand on: `support/mod.rs`.

mod support;

mod demo_page;
mod dev;
mod harness;
mod leaving;
mod storm;
mod tidy;
