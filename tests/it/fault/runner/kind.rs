//! The kinds of faults: their names, how long each lasts, and what is done.
//!
//! To add one: a variant, its place in [`Kind::ALL`], and what the matches below ask for.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use crate::support::chance::Chance;
use crate::support::proxy::{Direction, Mode, Proxy};
use crate::support::{Role, System};

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
    /// `kill -9` of the server, which comes back with its data.
    RedisKilled,
    RedisPaused,
    NatsKilled,
    NatsPaused,
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

/// One fault of a plan.
#[derive(Debug, Clone)]
pub struct Fault {
    pub kind: Kind,
    pub lasts: Duration,
    /// How long all is well after the recovery.
    pub rest: Duration,
    /// Decides who is hit, and the details.
    chance: Chance,
}

impl Kind {
    pub const ALL: [Kind; 15] = [
        GatewayKilled,
        GatewayPaused,
        GatewayRestarted,
        WorkerKilled,
        WorkerPaused,
        WorkerRestarted,
        RedisKilled,
        RedisPaused,
        NatsKilled,
        NatsPaused,
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
            RedisKilled => "redis-killed",
            RedisPaused => "redis-paused",
            NatsKilled => "nats-killed",
            NatsPaused => "nats-paused",
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
        matches!(
            self,
            GatewayKilled | GatewayPaused | GatewayRestarted | RedisKilled
        )
    }

    /// For how long it is inflicted, in milliseconds.
    fn lasts(self) -> Range<u64> {
        match self {
            GatewayKilled | WorkerKilled | RedisKilled | NatsKilled => 0..2_000,
            // Longer than a lease (9.5 s), a worker's silence (4 s), a redelivery (10 s).
            GatewayPaused | WorkerPaused | RedisPaused | NatsPaused => 10_500..13_000,
            GatewayRestarted | WorkerRestarted => 0..500,
            LinkCut => 100..3_000,
            LinkBlackHole | LinkHalfOpen => 1_000..12_000,
            LinkDelayed | LinkNarrow => 2_000..6_000,
        }
    }
}

impl Fault {
    pub fn draw(kind: Kind, chance: &mut Chance) -> Fault {
        let milliseconds = |range: Range<u64>| {
            Duration::from_millis(range.start)..Duration::from_millis(range.end)
        };
        Fault {
            kind,
            lasts: chance.duration(milliseconds(kind.lasts())),
            rest: chance.duration(milliseconds(300..1_500)),
            chance: chance.branch(),
        }
    }

    /// Does it, and undoes it; returns who was hit. The fault ends when this returns, which is
    /// not yet when everything is as before.
    pub async fn inflict(mut self, system: &System) -> String {
        let chance = &mut self.chance;
        let gateway = chance.one_of(system.gateways()).clone();
        let worker = chance.one_of(system.workers()).clone();
        let (redis, nats) = (system.redis_server(), system.nats_server());
        let lasts = self.lasts;
        match self.kind {
            GatewayKilled => killed(&gateway, lasts).await,
            WorkerKilled => killed(&worker, lasts).await,
            GatewayPaused => paused(&gateway, lasts).await,
            WorkerPaused => paused(&worker, lasts).await,
            GatewayRestarted => restarted(&gateway, lasts).await,
            WorkerRestarted => restarted(&worker, lasts).await,
            RedisKilled => {
                tokio::task::block_in_place(|| redis.kill());
                last(lasts).await;
                tokio::task::block_in_place(|| redis.start_again());
                "redis".to_owned()
            }
            NatsKilled => {
                tokio::task::block_in_place(|| nats.kill());
                last(lasts).await;
                tokio::task::block_in_place(|| nats.start_again());
                "nats".to_owned()
            }
            RedisPaused => {
                redis.pause();
                last(lasts).await;
                redis.resume();
                "redis".to_owned()
            }
            NatsPaused => {
                nats.pause();
                last(lasts).await;
                nats.resume();
                "nats".to_owned()
            }
            LinkCut | LinkBlackHole | LinkHalfOpen | LinkDelayed | LinkNarrow => {
                self.inflict_on_link(system).await
            }
        }
    }

    async fn inflict_on_link(mut self, system: &System) -> String {
        let roles: Vec<&Role> = system.roles().collect();
        let role = *self.chance.one_of(&roles);
        let links = system.links(role);
        let links: [(&str, &Proxy); 2] = [("redis", &links.redis), ("nats", &links.nats)];
        let (server, link) = *self.chance.one_of(&links);
        let passes = *self
            .chance
            .one_of(&[Direction::ToServer, Direction::ToClient]);
        let mode = match self.kind {
            LinkCut => Mode::Cut,
            LinkHalfOpen => Mode::HalfOpen { passes },
            LinkDelayed => Mode::Delay(Duration::from_millis(50 + self.chance.below(250))),
            LinkNarrow => Mode::Bandwidth {
                bytes_per_second: 20_000 + self.chance.below(80_000) as u32,
            },
            _ => Mode::BlackHole,
        };
        link.set(mode);
        last(self.lasts).await;
        link.set(Mode::Pass);
        format!("{} to {server}, {mode:?}", role.name())
    }
}

async fn killed(role: &Role, lasts: Duration) -> String {
    tokio::task::block_in_place(|| role.kill());
    last(lasts).await;
    role.start_again();
    role.name().to_owned()
}

async fn paused(role: &Role, lasts: Duration) -> String {
    role.pause();
    last(lasts).await;
    role.resume();
    role.name().to_owned()
}

async fn restarted(role: &Role, lasts: Duration) -> String {
    role.stop().await;
    last(lasts).await;
    role.start_again();
    role.name().to_owned()
}

async fn last(duration: Duration) {
    // This is how long the fault lasts.
    tokio::time::sleep(duration).await;
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
