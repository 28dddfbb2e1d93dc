//! The fault runner: a whole system of processes, users that come, go and move without end,
//! services that publish without end, one fault after the other, and the
//! [`Oracle`](crate::support::Oracle) that knows what has to arrive.
//!
//! | file | what it gives |
//! |---|---|
//! | `kind` | [`Kind`]: the kinds of faults; [`Fault`]: one of a plan, and how it is done |
//! | `device` | [`Device`]: a client that drops its connection in every way there is |
//! | `producer` | [`Producer`]: keyed, keyless, high, private and everyone events |
//! | `report` | [`Report`]: the table, and what makes a run fail |
//! | `short` | the runs that are part of every `cargo test` |
//! | `long` | the run of `scripts/faults` |
//!
//! The plan (kinds, victims, lengths) is a function of the seed; what the users and producers
//! draw as well, but not at which moment.

mod device;
mod kind;
mod long;
mod producer;
mod report;
mod short;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::support::chance::Chance;
use crate::support::oracle::{Audience, Event};
use crate::support::{Oracle, POLL_INTERVAL, System, eventually};
use device::{Device, Habit, Times};
use kind::{Fault, Kind};
use producer::Producer;
use report::Report;

/// Services that publish at the same time.
const PRODUCERS: u32 = 4;
/// A probe that has not arrived after this long never will.
const RECOVERY_MAX: Duration = Duration::from_secs(60);
/// Keys of the events of a probe: enough to meet partitions of every worker.
const PROBE_KEYS: [&str; 8] = [
    "probe-1", "probe-2", "probe-3", "probe-4", "probe-5", "probe-6", "probe-7", "probe-8",
];
/// What may wait for one user: the most that can be set.
const MESSAGES_MAX: u32 = 100_000;
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
        .own_servers()
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
        ..Report::default()
    };
    let plan = run.chance.branch();
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
        run.faults(plan, &probes, &mut report).await;
        publishing_ends.cancel();
        run.times.calm.cancel();
    };
    let (_, joined, ()) = tokio::join!(producing, joining, faults);
    devices.extend(joined);
    run.settle(&mut report).await;
    for device in devices {
        device.await.expect("a device did not panic");
    }
    report.elapsed = began.elapsed();
    println!("{report}");
    report
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

    /// One fault after the other, each until the system has recovered from it.
    async fn faults(&self, mut plan: Chance, probes: &[String], report: &mut Report) {
        let began = Instant::now();
        let mut kinds: Vec<Kind> = Vec::new();
        for number in 1.. {
            let is_over = match self.parameters.length {
                Length::Faults(count) => number > count,
                Length::Time(time) => began.elapsed() >= time,
            };
            if is_over {
                return;
            }
            if kinds.is_empty() {
                kinds.clone_from(&self.parameters.kinds);
            }
            if kinds.is_empty() {
                // Its users are enough.
                sleep(POLL_INTERVAL).await;
                continue;
            }
            let kind = kinds.swap_remove(plan.below(kinds.len() as u64) as usize);
            let fault = Fault::draw(kind, &mut plan);
            let (rest, lasts) = (fault.rest, fault.lasts);
            let repeats_before = self.oracle.repeats();
            let victim = fault.inflict(&self.system).await;
            let recovery = self.recovery(probes).await;
            println!("{number}: {kind} of {victim}, {lasts:?}: recovered after {recovery:?}");
            // Between two faults all is well for a moment.
            sleep(rest).await;
            let row = report.rows.entry(kind).or_default();
            row.repeats += self.oracle.repeats() - repeats_before;
            match recovery {
                Some(recovery) => row.recoveries.push(recovery),
                None => row.unrecovered += 1,
            }
        }
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

    /// How long it takes until events that are published now, of several keys, reach the probing
    /// devices at all gateways.
    async fn recovery(&self, probes: &[String]) -> Option<Duration> {
        let began = Instant::now();
        let users: Vec<&str> = probes.iter().map(String::as_str).collect();
        let keys = PROBE_KEYS.into_iter().map(Some).chain([None]);
        let ids = join_all(keys.map(|key| {
            let event = Event {
                key,
                audience: Audience::Users(&users),
                is_high: false,
            };
            self.oracle.publish(&self.system, event)
        }))
        .await;
        let has_all = |user: &&str| {
            let has = |id| self.oracle.has_heard(user, "phone", id);
            ids.iter().all(|id| has(id))
        };
        while !users.iter().all(has_all) {
            if began.elapsed() > RECOVERY_MAX {
                return None;
            }
            // Until it is asked again.
            sleep(POLL_INTERVAL).await;
        }
        Some(began.elapsed())
    }
}
