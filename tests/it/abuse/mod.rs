//! Abuse and conformance: what nobody should send, by clients below any library, against real
//! processes. In the end nobody else has noticed, and nothing is left of it.
//!
//! | file | what is tried |
//! |---|---|
//! | `protocol` | what is independent of the store: the handshake, frames, closes, slowness, floods |
//! | `codes` | every close code and refusal of the contract is told |
//! | `users` | user ids of every shape, said and proved |
//! | `devices` | a thousand devices of one user, everything acknowledged twice |
//!
//! Connections in thousands and floods: `figures/abuse`, and `scripts/abuse`.

mod codes;
mod devices;
mod protocol;
mod users;
