//! One member of the worker fleet: from the stream into the mailboxes, and on to the gateways.
//!
//! | file | what it owns |
//! |---|---|
//! | `crew` | one pull loop a source; which of them should run |
//! | `puller` | one pull loop: what is held, signs of progress, one batch at a time |
//! | `batch` | events judged, and what is made of them once |
//! | `append` | into the mailboxes, until all of a batch is in |
//! | `hold` | acknowledgements held until what was appended is there to stay |
//! | `confirm` | asks the store how far that is |
//! | `durability` | what has to be sure, and whether the store can say so |
//! | `copy` | events for everyone, one copy each |
//! | `outbox` | who gets what of a batch, as one message a gateway |
//! | `links` | forwards with numbers, and nothing for dead gateways |
//! | `dead_letter` | refused events, kept with their reason |
//! | `examine` | before pulling: what nobody could read, what was lost on the way |
//! | `whole` | whether the store is whole, and who makes it so |
//! | `rebuild` | what the store lost, brought again from `EVENTS` |
//! | `gate` | the store, its health, and waiting for it |
//!
//! A worker has two connections to NATS. All goes over the first but the pulls, which have the
//! second for themselves: a stored message that the client library cannot read breaks the
//! connection it comes over (see [`crate::bus::judge`]). That one is thrown away with the first
//! sign of trouble, and before the next pulls begin, what is pending is examined over the first.

mod append;
mod batch;
mod confirm;
mod copy;
mod crew;
mod dead_letter;
mod durability;
mod examine;
mod gate;
mod hold;
mod links;
mod outbox;
mod puller;
mod rebuild;
mod whole;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, interval};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};
use uuid::Uuid;

use crate::bus::{Bus, BusConfig, BusError, connect_reporting};
use crate::event::Limits;
use crate::mailbox::{Demand, Store, StoreConfig};
use crate::nodes::fleet::Fleet;
use crate::telemetry::{Health, Metrics};
use append::APPENDS_MAX;
use confirm::Confirmer;
use crew::{Crew, Ended};
use gate::StoreGate;
use hold::Holds;
use links::Links;

pub use durability::Durability;

/// Longest time that a worker takes, when it ends, for what it holds: more than an acknowledgement
/// is usually held.
const DRAIN_MAX: Duration = Duration::from_secs(15);
/// How often the worker says that it makes progress.
const BEAT: Duration = Duration::from_secs(1);

/// The parts of a worker's health, by the names in `/readyz`.
const NATS: &str = "nats";
const REDIS: &str = "redis";
const PARTITIONS: &str = "partitions";
/// Whether what is stored is confirmed, so that it can be acknowledged.
const DURABILITY: &str = "durability";

/// What a worker needs to know.
pub struct WorkerConfig {
    pub bus: BusConfig,
    /// Its `ttl` is the longest time that a message waits.
    pub store: StoreConfig,
    /// What has to be sure of a stored event before it is acknowledged.
    pub durability: Durability,
    /// The node's name, `[A-Za-z0-9_-]{1,64}`: the worker's own name begins with it.
    pub node: String,
}

/// Why a worker ended by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorkerError {
    /// NATS or Redis cannot be used as it is; the text says what to change.
    #[error("{0}")]
    Unsuitable(String),
}

/// What the parts of a worker share.
struct Shared {
    /// This worker's name, different in each life.
    id: String,
    /// For everything but pulls.
    bus: Bus,
    gate: StoreGate,
    store: Store,
    holds: Arc<Holds>,
    /// Held while a batch is stored.
    appends: Semaphore,
    links: Links,
    limits: Limits,
    metrics: Arc<Metrics>,
    health: Health,
    /// Ends the tasks that belong to nobody.
    _tasks: DropGuard,
}

/// Runs a worker until `shutdown` is cancelled; then it finishes what it holds and returns.
///
/// # Errors
///
/// Where NATS or Redis is too old or set up so that messages could be lost. That they are away is
/// no error: the worker waits, and says so in `health`.
pub async fn run(
    config: WorkerConfig,
    metrics: Arc<Metrics>,
    health: Health,
    shutdown: CancellationToken,
) -> Result<(), WorkerError> {
    health.set(NATS, Err("connecting".to_owned()));
    health.set(REDIS, Err("connecting".to_owned()));
    health.set(PARTITIONS, Err("not pulled yet".to_owned()));
    health.set(DURABILITY, Err("connecting".to_owned()));
    let store = Store::open(config.store.clone(), Arc::clone(&metrics))
        .map_err(|error| WorkerError::Unsuitable(error.to_string()))?;
    store.demand(Demand::Whole(None));
    let _beats = beat(&health);
    loop {
        let life = life(&config, &store, Arc::clone(&metrics), &health, &shutdown);
        match life.await? {
            Ended::Shutdown => return Ok(()),
            Ended::Lost(reason) => warn!(reason, "starting over with NATS"),
        }
    }
}

/// From a connection to NATS to its end.
async fn life(
    config: &WorkerConfig,
    store: &Store,
    metrics: Arc<Metrics>,
    health: &Health,
    shutdown: &CancellationToken,
) -> Result<Ended, WorkerError> {
    let report = |reason: &str| health.set(NATS, Err(reason.to_owned()));
    let bus = match connect_reporting(&config.bus, shutdown, report).await {
        Ok(bus) => bus,
        Err(error) => return ended(error),
    };
    let tasks = CancellationToken::new();
    let id = name(&config.node);
    info!(worker = id, "the worker starts");
    let holds = Holds::new(config.durability, Arc::clone(&metrics));
    let confirmer = Confirmer {
        store: store.clone(),
        holds: Arc::clone(&holds),
        health: health.clone(),
        metrics: Arc::clone(&metrics),
        worker: id.clone(),
        failing: Mutex::default(),
    };
    let shared = Arc::new(Shared {
        links: Links::new(bus.clone(), store.clone(), &id, tasks.clone()),
        id,
        gate: StoreGate::new(store.clone(), health.clone()),
        store: store.clone(),
        holds,
        appends: Semaphore::new(APPENDS_MAX),
        limits: Limits {
            ttl_max: config.store.ttl,
        },
        metrics,
        health: health.clone(),
        bus: bus.clone(),
        _tasks: tasks.clone().drop_guard(),
    });
    tokio::spawn(report_bus(bus.clone(), health.clone(), tasks.clone()));
    let gone = tasks.child_token();
    let fleet = match Fleet::join(&bus, &shared.id, &gone).await {
        Ok(fleet) => fleet,
        Err(error) => return ended(error),
    };
    let mut confirming = tokio::spawn(confirmer.run(tasks.clone()));
    let mut crew = Crew::new(Arc::clone(&shared), config.bus.clone(), fleet.owned());
    let result = tokio::select! {
        result = crew.run(fleet.settled(), shutdown) => result,
        result = shared.gate.keep(&tasks) => result.map(|()| Ended::Shutdown),
        result = whole::keep(&shared, &config.bus) => ended(result),
        confirmed = &mut confirming => match confirmed {
            Ok(result) => result.map(|()| Ended::Shutdown),
            Err(panic) => Ok(Ended::Lost(format!("the confirmer ended by itself: {panic}"))),
        },
        () = bus.closed().cancelled() => Ok(Ended::Lost("the connection was given up".to_owned())),
    };
    if shutdown.is_cancelled() {
        health.drain();
    }
    let deadline = Instant::now() + DRAIN_MAX;
    // What comes from here on need not wait for the acknowledgements of what came before.
    crew.let_go(deadline).await;
    fleet.leave().await;
    crew.drain(deadline, &shared.gate).await;
    result
}

/// The node's name and chance: another one in each life, so that links are numbered from 0.
fn name(node: &str) -> String {
    let unique = Uuid::now_v7().simple().to_string();
    // The front of it is the time; the end is chance.
    format!("{node}-{}", &unique[20..])
}

/// What an error of the bus means for the worker.
fn ended(error: BusError) -> Result<Ended, WorkerError> {
    match error {
        BusError::ShuttingDown => Ok(Ended::Shutdown),
        BusError::Unsuitable(reason) => Err(WorkerError::Unsuitable(reason)),
        BusError::Unreachable(reason) | BusError::NotFound(reason) => Ok(Ended::Lost(reason)),
    }
}

/// Says each second that the runtime comes round, as long as the guard lives.
fn beat(health: &Health) -> DropGuard {
    let ends = CancellationToken::new();
    let guard = ends.clone().drop_guard();
    let health = health.clone();
    tokio::spawn(ends.run_until_cancelled_owned(async move {
        let mut tick = interval(BEAT);
        loop {
            tick.tick().await;
            health.beat();
        }
    }));
    guard
}

/// Shows the state of the first connection as the health of NATS.
async fn report_bus(bus: Bus, health: Health, ends: CancellationToken) {
    let mut state = bus.state();
    loop {
        let shown = match state.borrow_and_update().connected {
            true => Ok(()),
            false => Err("no connection".to_owned()),
        };
        health.set(NATS, shown);
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            () = ends.cancelled() => return,
        }
    }
}
