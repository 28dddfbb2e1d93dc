//! One fault: whom it hits, and how it is done and undone.

use std::fmt;
use std::time::Duration;

use super::kind::Kind::{self, *};
use crate::support::chance::Chance;
use crate::support::proxy::{Direction, Mode};
use crate::support::role::Kind as RoleKind;
use crate::support::{NatsServer, RedisServer, Role, System};

/// What a Redis that goes back loses.
const LOST: Duration = Duration::from_secs(2);

/// One fault of a plan: a function of the seed.
#[derive(Debug, Clone)]
pub struct Fault {
    pub kind: Kind,
    pub lasts: Duration,
    target: Target,
    link_mode: Mode,
}

/// Who is hit. Two faults that go on at the same time have different ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// The index of a gateway.
    Gateway(usize),
    Worker(usize),
    /// A worker that is there for this one fault.
    FurtherWorker,
    Redis,
    Nats,
    /// The connections of one role, by its place among all of them, to one server.
    Link(usize, Server),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    Redis,
    Nats,
}

/// How many roles a plan is for.
#[derive(Debug, Clone, Copy)]
pub struct Fleet {
    pub gateways: usize,
    pub workers: usize,
}

/// What has to be put right once it is known how long the recovery took.
pub enum Remainder {
    Nothing,
    /// This worker is away.
    Away(usize),
    /// This one is one too many.
    Surplus(Role),
}

impl Fault {
    pub fn draw(kind: Kind, fleet: Fleet, chance: &mut Chance) -> Fault {
        let lasts = kind.lasts();
        let lasts = Duration::from_millis(lasts.start)..Duration::from_millis(lasts.end);
        Fault {
            kind,
            lasts: chance.duration(lasts),
            target: Target::draw(kind, fleet, chance),
            link_mode: link_mode(kind, chance),
        }
    }

    /// Whether both can go on at the same time, and it can be said what has to come of it.
    pub fn goes_with(&self, other: &Fault) -> bool {
        self.target != other.target
    }

    /// Does it, and undoes it. The fault ends when this returns, which is not yet when everything
    /// is as before.
    pub async fn inflict(&self, system: &System) -> Remainder {
        match self.target {
            Target::Gateway(index) => self.inflict_on_role(system.gateway(index)).await,
            Target::Worker(index) if self.kind == WorkerLeft => {
                system.worker(index).stop().await;
                return Remainder::Away(index);
            }
            Target::Worker(index) => self.inflict_on_role(system.worker(index)).await,
            Target::FurtherWorker => {
                let env = system.env().to_vec();
                let role = Role::start(RoleKind::Worker, "worker-further", Vec::new(), env);
                role.ready().await;
                return Remainder::Surplus(role);
            }
            Target::Redis => self.inflict_on_redis(system).await,
            Target::Nats => self.inflict_on_nats(system.nats_server()).await,
            Target::Link(role, server) => {
                let role = system.roles().nth(role).expect("a role of the plan");
                let links = system.links(role);
                let link = match server {
                    Server::Redis => &links.redis,
                    Server::Nats => &links.nats,
                };
                link.set(self.link_mode);
                last(self.lasts).await;
                link.set(Mode::Pass);
            }
        }
        Remainder::Nothing
    }

    async fn inflict_on_role(&self, role: &Role) {
        match self.kind {
            GatewayPaused | WorkerPaused => {
                role.pause();
                last(self.lasts).await;
                role.resume();
                return;
            }
            GatewayRestarted | WorkerRestarted => role.stop().await,
            _ => tokio::task::block_in_place(|| role.kill()),
        }
        last(self.lasts).await;
        role.start_again();
    }

    async fn inflict_on_redis(&self, system: &System) {
        let redis = system.redis_server();
        match self.kind {
            RedisPaused => {
                redis.pause();
                last(self.lasts).await;
                return redis.resume();
            }
            RedisFlushed => {
                let mut redis = system.redis().await;
                let flushed = redis::cmd("FLUSHALL").query_async(&mut redis).await;
                return flushed.expect("it is emptied");
            }
            RedisWentBack if !RedisServer::has_checker() => {
                let checkpoint = tokio::task::block_in_place(|| redis.checkpoint());
                last(LOST).await;
                return tokio::task::block_in_place(|| redis.roll_back(&checkpoint));
            }
            RedisWentBack => tokio::task::block_in_place(|| redis.kill_and_cut(LOST)),
            RedisRestarted => tokio::task::block_in_place(|| redis.stop()),
            RedisEmptied => tokio::task::block_in_place(|| redis.kill_and_empty()),
            _ => tokio::task::block_in_place(|| redis.kill()),
        }
        last(self.lasts).await;
        tokio::task::block_in_place(|| redis.start_again());
    }

    async fn inflict_on_nats(&self, nats: &NatsServer) {
        match self.kind {
            NatsPaused => {
                nats.pause();
                last(self.lasts).await;
                return nats.resume();
            }
            NatsRestarted => tokio::task::block_in_place(|| nats.stop()),
            _ => tokio::task::block_in_place(|| nats.kill()),
        }
        last(self.lasts).await;
        tokio::task::block_in_place(|| nats.start_again());
    }
}

impl Remainder {
    pub async fn put_right(self, system: &System) {
        match self {
            Remainder::Nothing => {}
            Remainder::Away(index) => {
                system.worker(index).start_again();
                system.worker(index).ready().await;
            }
            Remainder::Surplus(role) => {
                role.stop().await;
                assert_eq!(role.fault(), None);
            }
        }
    }
}

impl Target {
    fn draw(kind: Kind, fleet: Fleet, chance: &mut Chance) -> Target {
        let mut one_of = |count: usize| chance.below(count as u64) as usize;
        match kind {
            GatewayKilled | GatewayPaused | GatewayRestarted => {
                Target::Gateway(one_of(fleet.gateways))
            }
            WorkerKilled | WorkerPaused | WorkerRestarted | WorkerLeft => {
                Target::Worker(one_of(fleet.workers))
            }
            WorkerJoined => Target::FurtherWorker,
            RedisKilled | RedisPaused | RedisRestarted | RedisWentBack | RedisFlushed
            | RedisEmptied => Target::Redis,
            NatsKilled | NatsPaused | NatsRestarted => Target::Nats,
            LinkCut | LinkBlackHole | LinkHalfOpen | LinkDelayed | LinkNarrow => {
                let role = one_of(fleet.gateways + fleet.workers);
                Target::Link(role, *chance.one_of(&[Server::Redis, Server::Nats]))
            }
        }
    }
}

fn link_mode(kind: Kind, chance: &mut Chance) -> Mode {
    let passes = *chance.one_of(&[Direction::ToServer, Direction::ToClient]);
    let size = chance.below(1_000);
    match kind {
        LinkCut => Mode::Cut,
        LinkHalfOpen => Mode::HalfOpen { passes },
        LinkDelayed => Mode::Delay(Duration::from_millis(50 + size / 4)),
        LinkNarrow => Mode::Bandwidth {
            bytes_per_second: 20_000 + size as u32 * 80,
        },
        LinkBlackHole => Mode::BlackHole,
        _ => Mode::Pass,
    }
}

async fn last(duration: Duration) {
    // This is how long the fault lasts.
    tokio::time::sleep(duration).await;
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, lasts) = (self.kind, self.lasts);
        write!(formatter, "{kind} of {:?}, {lasts:?}", self.target)?;
        match self.target {
            Target::Link(..) => write!(formatter, ", {:?}", self.link_mode),
            _ => Ok(()),
        }
    }
}
