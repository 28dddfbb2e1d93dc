//! Catchup: realtime delivery that never misses a user who is away.
//!
//! The map, from the outside in. Each line may import only from lines below it;
//! `tests/it/tidy.rs` reads the imports and keeps it so.
//!
//! | module | what it owns | may import |
//! |---|---|---|
//! | [`command`] | one file a subcommand; wires everything together | all |
//! | [`config`] | flags, environment, file: the settings of a role | the modules whose `Config` it fills |
//! | [`gateway`] | a node: listener, sockets, registry, forwarding, drain | session, mailbox, bus, nodes, protocol, event, telemetry |
//! | [`worker`] | the fleet: fetch, route, forward, dead letters | mailbox, bus, nodes, protocol, event, telemetry |
//! | [`nodes`] | leases, heartbeats, who is alive, who owns which partition | mailbox, bus, telemetry |
//! | [`mailbox`] | the user's waiting messages in Redis | protocol, event, telemetry, tls |
//! | [`bus`] | NATS: subjects, streams, consumers, forwards | protocol, event, telemetry, tls |
//! | [`session`] | one connection as a pure state machine | protocol |
//! | [`telemetry`] | metric names, message outcomes, logging, health | nothing |
//! | [`protocol`] | what a client sees: frames, cursors, close codes | nothing |
//! | [`tls`] | certificates and keys for connections to servers | nothing |
//! | [`event`] | what a publisher sends: the envelope and its rules | nothing |
//!
//! `gateway` and `worker` never import each other: they meet in `bus`, `nodes` and `mailbox`.

pub mod bus;
pub mod command;
pub mod config;
pub mod event;
pub mod gateway;
pub mod mailbox;
pub mod nodes;
pub mod protocol;
pub mod session;
pub mod telemetry;
pub mod tls;
pub mod worker;
