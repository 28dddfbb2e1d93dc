//! The protocol as a model: workers, the bus, gateways, the store and clients, and every order in
//! which what they do can happen, within a budget of faults.
//!
//! It drives the project's own session machine (`catchup::session`), and its mailbox is the plain
//! model that `crate::mailbox::random` holds against the real scripts in thousands of random
//! sequences. What is between the two is written here as `src/gateway/connection` and `src/worker`
//! do it (`gateway`, `step`).
//!
//! - `search` looks at all states of a scope (`scopes`) with stateright; `check` says what must
//!   hold in each of them, and at rest. `short` is part of every test run.
//! - `mutant` leaves out one thing at a time; each must be noticed.
//! - `walk` takes random steps where there is too much to search.
//! - `long` is the same by hand, with other sizes: `scripts/model`.
//!
//! What is simpler than the real thing: one user; no events for everyone (the random walks of the
//! session machine have them); a client does not give up before its connection is answered; an
//! acknowledgement is stored at once unless the budget allows that it is held up; the mailbox is
//! emptied by itself, not with the whole store; time passes only while nothing is under way.
//! Devices and gateways that nobody used yet are alike, so only the first of them is tried.

mod action;
mod check;
mod gateway;
mod long;
mod mutant;
mod scope;
mod scopes;
mod search;
mod shared;
mod short;
mod step;
mod store;
mod walk;
mod world;
