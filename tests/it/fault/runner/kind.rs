//! The kinds of faults: their names, and how long each lasts.
//!
//! To add one: a variant, its place in [`Kind::ALL`], and what the matches here and in `fault` ask
//! for.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `kill -9`, and started again a moment later.
    GatewayKilled,
    /// SIGSTOP for longer than its lease.
    GatewayPaused,
    /// SIGTERM, and started again after its end.
    GatewayRestarted,
    WorkerKilled,
    /// SIGSTOP for longer than the redelivery time.
    WorkerPaused,
    WorkerRestarted,
    /// One more worker comes.
    WorkerJoined,
    /// One worker leaves, and the others have to do without it.
    WorkerLeft,
    /// `kill -9` of the server, which comes back with its data.
    RedisKilled,
    RedisPaused,
    /// SIGTERM of the server, which comes back with its data.
    RedisRestarted,
    /// The server comes back without what it was given in the last two seconds.
    RedisWentBack,
    /// All its data is removed while it runs.
    RedisFlushed,
    /// It comes back without any data.
    RedisEmptied,
    NatsKilled,
    NatsPaused,
    NatsRestarted,
    /// One role's connections to one server are reset, and new ones refused.
    LinkCut,
    /// One role's connections to one server stay open and carry nothing.
    LinkBlackHole,
    /// They carry one direction only.
    LinkHalfOpen,
    LinkDelayed,
    LinkNarrow,
}

use Kind::*;

impl Kind {
    pub const ALL: [Kind; 22] = [
        GatewayKilled,
        GatewayPaused,
        GatewayRestarted,
        WorkerKilled,
        WorkerPaused,
        WorkerRestarted,
        WorkerJoined,
        WorkerLeft,
        RedisKilled,
        RedisPaused,
        RedisRestarted,
        RedisWentBack,
        RedisFlushed,
        RedisEmptied,
        NatsKilled,
        NatsPaused,
        NatsRestarted,
        LinkCut,
        LinkBlackHole,
        LinkHalfOpen,
        LinkDelayed,
        LinkNarrow,
    ];

    pub fn name(self) -> &'static str {
        match self {
            GatewayKilled => "gateway-killed",
            GatewayPaused => "gateway-paused",
            GatewayRestarted => "gateway-restarted",
            WorkerKilled => "worker-killed",
            WorkerPaused => "worker-paused",
            WorkerRestarted => "worker-restarted",
            WorkerJoined => "worker-joined",
            WorkerLeft => "worker-left",
            RedisKilled => "redis-killed",
            RedisPaused => "redis-paused",
            RedisRestarted => "redis-restarted",
            RedisWentBack => "redis-went-back",
            RedisFlushed => "redis-flushed",
            RedisEmptied => "redis-emptied",
            NatsKilled => "nats-killed",
            NatsPaused => "nats-paused",
            NatsRestarted => "nats-restarted",
            LinkCut => "link-cut",
            LinkBlackHole => "link-black-hole",
            LinkHalfOpen => "link-half-open",
            LinkDelayed => "link-delayed",
            LinkNarrow => "link-narrow",
        }
    }

    /// Whether order holds all the same. It may bend where workers come, leave or seem to be dead
    /// (contract §3).
    pub fn keeps_order(self) -> bool {
        matches!(self, GatewayKilled | GatewayPaused | GatewayRestarted) || self.restarts_store()
    }

    /// Whether the store is on another time line, or without one, after it.
    pub fn restarts_store(self) -> bool {
        matches!(self, RedisKilled | RedisRestarted) || self.loses_store()
    }

    /// Whether devices are right to be told `store_lost` after it.
    pub fn loses_store(self) -> bool {
        matches!(self, RedisWentBack | RedisFlushed | RedisEmptied)
    }

    /// For how long it is inflicted, in milliseconds.
    pub fn lasts(self) -> Range<u64> {
        match self {
            GatewayKilled | WorkerKilled | RedisKilled | NatsKilled => 0..2_000,
            RedisWentBack | RedisEmptied => 0..2_000,
            // Longer than a lease (9.5 s), a worker's silence (4 s), a redelivery (10 s).
            GatewayPaused | WorkerPaused | RedisPaused | NatsPaused => 10_500..13_000,
            GatewayRestarted | WorkerRestarted | RedisRestarted | NatsRestarted => 0..500,
            WorkerJoined | WorkerLeft | RedisFlushed => 0..1,
            LinkCut => 100..3_000,
            LinkBlackHole | LinkHalfOpen => 1_000..12_000,
            LinkDelayed | LinkNarrow => 2_000..6_000,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Kind, String> {
        let known = Kind::ALL.into_iter().find(|kind| kind.name() == text);
        known.ok_or_else(|| {
            let names = Kind::ALL.map(Kind::name).join(", ");
            format!("no fault is called {text}; there are {names}")
        })
    }
}
