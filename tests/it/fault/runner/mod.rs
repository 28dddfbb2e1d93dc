//! The fault runner: a whole system of processes, users that come, go and move without end,
//! services that publish without end, one fault after the other or two at a time, and the
//! [`Oracle`](crate::support::Oracle) that knows what has to arrive.
//!
//! | file | what it gives |
//! |---|---|
//! | `kind` | [`Kind`]: the kinds of faults |
//! | `fault` | `Fault`: one of a plan: whom it hits, how it is done and undone |
//! | `plan` | `Plan`: what comes after what, and what at the same time |
//! | `recovery` | inflicting a plan, and how long it takes to recover from each step |
//! | `device` | [`Device`]: a client that drops its connection in every way there is |
//! | `producer` | [`Producer`]: keyed, keyless, high, private and everyone events |
//! | `leftovers` | what must not be left in Redis and NATS at the end |
//! | `memory` | that what the processes hold does not grow |
//! | `report` | [`Report`]: the table, and what makes a run fail |
//! | `short` | the runs that are part of every `cargo test` |
//! | `long` | the run of `scripts/faults` |
//!
//! The plan (kinds, victims, lengths) is a function of the seed; what the users and producers
//! draw as well, but not at which moment. Two faults of one step go on at the same time and hit
//! different processes, servers or links. Whatever they are, the same has to come of it: once both
//! are over the system recovers by itself, and nothing that has a PubAck is lost.

mod device;
mod fault;
mod kind;
mod leftovers;
mod long;
mod memory;
mod plan;
mod producer;
mod recovery;
mod report;
mod short;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::support::chance::Chance;
use crate::support::servers::Servers;
use crate::support::{NatsServer, Oracle, RedisServer, System, eventually};
use device::{Device, Habit, Times};
use fault::Fleet;
use kind::Kind;
use memory::MemoryWatch;
use plan::Plan;
use producer::Producer;
use report::Report;

/// Services that publish at the same time.
const PRODUCERS: u32 = 4;
/// What may wait for one user: more than is published while anybody sleeps. It is also what a
/// gateway keeps in memory of what is for everyone.
const MESSAGES_MAX: u32 = 20_000;
/// After the last fault, when all is well and everybody there, all has arrived in less, on however
/// slow a machine; and this is less than the gateways' longest net (60 s) takes.
const LATE: Duration = Duration::from_secs(20);
/// Between two users who come for the first time.
const JOIN_PAUSE: Duration = Duration::from_millis(700);

/// What a run is to do.
#[derive(Debug, Clone)]
pub struct Parameters {
    pub seed: u64,
    pub length: Length,
    /// Drawn in turn, each as often as the others.
    pub kinds: Vec<Kind>,
    pub gateways: usize,
    pub workers: usize,
    /// Of whom every second has a second device, which sleeps most of the time.
    pub users: usize,
    /// Further users, who come for the first time while the run goes on.
    pub joiners: usize,
    /// Longest sleep of a second device.
    pub sleep_max: Duration,
    pub events_per_second: u32,
    /// Most messages that wait for one user: with few, some are evicted, and told.
    pub messages_max: u32,
    /// Of a hundred events, so many are for everyone.
    pub everyone_percent: u64,
    /// Of a hundred faults, so many are joined by another one.
    pub overlap_percent: u64,
    /// Whether it is looked what is left at the end: up to 40 s where processes were killed.
    pub checks_leftovers: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// So many faults.
    Faults(usize),
    /// No fault begins later than this.
    Time(Duration),
}

impl Parameters {
    pub fn new(seed: u64, kinds: &[Kind], length: Length) -> Parameters {
        Parameters {
            seed,
            length,
            kinds: kinds.to_vec(),
            gateways: 2,
            workers: 2,
            users: 12,
            joiners: 0,
            sleep_max: Duration::from_secs(6),
            events_per_second: 60,
            messages_max: MESSAGES_MAX,
            everyone_percent: 20,
            overlap_percent: 0,
            checks_leftovers: false,
        }
    }
}

/// A run under way.
struct Run {
    parameters: Parameters,
    system: System,
    oracle: Arc<Oracle>,
    chance: Chance,
    times: Times,
}

/// Runs it all, and reports; nothing is judged yet ([`Report::assert_kept`]). Needs a runtime of
/// several threads.
pub async fn run(parameters: Parameters) -> Report {
    let began = Instant::now();
    let builder = System::builder()
        .gateways(parameters.gateways)
        .workers(parameters.workers)
        .servers(Servers {
            nats: NatsServer::start(),
            redis: RedisServer::with_timestamps(),
        })
        .proxied()
        .env("CATCHUP_MAX_MESSAGES", &parameters.messages_max.to_string())
        // A node that leaves is not to take the whole run for it.
        .env("CATCHUP_DRAIN", "2s");
    let mut run = Run {
        system: builder.start().await,
        oracle: Arc::default(),
        chance: Chance::new(parameters.seed),
        times: Times::default(),
        parameters,
    };
    // The producers' connection: made before a fault of NATS, after which it comes back by itself.
    run.system.nats().await;
    let mut report = Report {
        seed: run.parameters.seed,
        // With so many allowed to wait, and the stream there, everything can be brought again.
        is_announced_wrong: run.parameters.messages_max == MESSAGES_MAX,
        ..Report::default()
    };
    let plan = Plan::new(&run.parameters, run.chance.branch());
    let mut memory = MemoryWatch::start();
    let (probes, mut devices) = run.populate().await;
    let (publishing_ends, chances) = (CancellationToken::new(), run.chances(PRODUCERS));
    let users: Vec<String> = run.users().chain(run.joiners()).collect();
    let producing = join_all(chances.into_iter().map(|chance| {
        let producer = Producer {
            oracle: &run.oracle,
            system: &run.system,
            users: &users,
            everyone_percent: run.parameters.everyone_percent,
            pause: Duration::from_secs(1) * PRODUCERS / run.parameters.events_per_second,
            chance,
        };
        producer.run(&publishing_ends)
    }));
    let joiner_chance = run.chance.branch();
    let joining = run.join(joiner_chance);
    let faults = async {
        run.faults(plan, &probes, &mut memory, &mut report).await;
        publishing_ends.cancel();
        run.times.calm.cancel();
    };
    let (_, joined, ()) = tokio::join!(producing, joining, faults);
    devices.extend(joined);
    run.settle(&mut report).await;
    for device in devices {
        device.await.expect("a device did not panic");
    }
    report.memory = memory.figures();
    if run.parameters.checks_leftovers {
        report.left = run.leftovers(&report).await;
    }
    report.elapsed = began.elapsed();
    println!("{report}");
    report
}

impl Parameters {
    fn fleet(&self) -> Fleet {
        Fleet {
            gateways: self.gateways,
            workers: self.workers,
        }
    }
}

impl Run {
    fn users(&self) -> impl Iterator<Item = String> + use<> {
        (1..=self.parameters.users).map(|number| format!("user-{number}"))
    }

    fn joiners(&self) -> impl Iterator<Item = String> + use<> {
        (1..=self.parameters.joiners).map(|number| format!("joiner-{number}"))
    }

    fn chances(&mut self, count: u32) -> Vec<Chance> {
        (0..count).map(|_| self.chance.branch()).collect()
    }

    /// Starts all devices but the joiners', and waits until they are known; returns the probing
    /// users, one at each gateway, and the devices.
    async fn populate(&mut self) -> (Vec<String>, Vec<JoinHandle<()>>) {
        let mut owners = Vec::new();
        for gateway in 0..self.parameters.gateways {
            let user = format!("probe-{}", gateway + 1);
            owners.push((user, Habit::Faithful { gateway }));
        }
        let probes = owners.iter().map(|(user, _)| user.clone()).collect();
        owners.extend(self.users().map(|user| (user, Habit::Restless)));
        let mut devices = Vec::new();
        for (user, habit) in owners {
            let chance = self.chance.branch();
            devices.push(self.start(&user, "phone", habit, chance));
            self.until_known(&user, "phone").await;
        }
        let habit = Habit::Sleepy {
            away_max: self.parameters.sleep_max,
        };
        for user in self.users().step_by(2) {
            let chance = self.chance.branch();
            devices.push(self.start(&user, "tablet", habit, chance));
            self.until_known(&user, "tablet").await;
        }
        (probes, devices)
    }

    fn start(&self, user: &str, name: &str, habit: Habit, chance: Chance) -> JoinHandle<()> {
        let gateways = self.system.gateways();
        Device::new(&self.oracle, (user, name), habit, gateways, chance).spawn(&self.times)
    }

    async fn until_known(&self, user: &str, device: &str) {
        eventually(format!("{user}/{device} is in"), async || {
            self.oracle.knows(user, device).then_some(())
        })
        .await;
    }

    /// Lets the joiners come, one after the other, until it is calm.
    async fn join(&self, mut chance: Chance) -> Vec<JoinHandle<()>> {
        let mut devices = Vec::new();
        for user in self.joiners() {
            devices.push(self.start(&user, "phone", Habit::Restless, chance.branch()));
            if timeout(JOIN_PAUSE, self.times.calm.cancelled())
                .await
                .is_ok()
            {
                break;
            }
        }
        devices
    }

    /// After the last fault, with everybody there and nothing published any more: waits until all
    /// has arrived, and sends everybody home.
    async fn settle(&self, report: &mut Report) {
        self.system.ready().await;
        let calm = Instant::now();
        let late = async {
            // All is well and everybody there: what has not arrived by then waits for something.
            sleep(LATE).await;
            report.late = self.oracle.verdict().lost;
            std::future::pending().await
        };
        report.verdict = tokio::select! {
            verdict = self.oracle.until_quiet() => verdict,
            verdict = late => verdict,
        };
        report.quiet_after = calm.elapsed();
        self.times.ends.cancel();
    }
}
