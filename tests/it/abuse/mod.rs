//! Abuse and conformance: what nobody should send, by clients below any library, against real
//! processes. In the end nobody else has noticed, and nothing is left of it.
//!
//! | file | what is tried |
//! |---|---|
//! | `protocol` | what is independent of the store: the handshake, frames, closes, slowness, floods |
//!
//! Thousands of connections that are dropped: `figures/dropped.rs`, and `scripts/abuse`.

mod protocol;
