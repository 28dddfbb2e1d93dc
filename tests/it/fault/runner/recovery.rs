//! Inflicting a plan step by step, each until the system has recovered from the one before.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::sleep;

use super::memory::MemoryWatch;
use super::plan::{Plan, Step};
use super::report::{Report, Row};
use super::{Run, kind::Kind};
use crate::support::POLL_INTERVAL;
use crate::support::oracle::{Audience, Event};

/// A probe that has not arrived after this long never will.
const RECOVERY_MAX: Duration = Duration::from_secs(60);
/// Keys of the events of a probe: enough to meet partitions of every worker.
const PROBE_KEYS: [&str; 8] = [
    "probe-1", "probe-2", "probe-3", "probe-4", "probe-5", "probe-6", "probe-7", "probe-8",
];

impl Run {
    /// All of the plan.
    pub async fn faults(
        &self,
        mut plan: Plan,
        probes: &[String],
        memory: &mut MemoryWatch,
        report: &mut Report,
    ) {
        let began = Instant::now();
        if self.parameters.kinds.is_empty() {
            // Its users are enough.
            while !plan.is_over(began.elapsed()) {
                // Until it is asked again.
                sleep(POLL_INTERVAL).await;
            }
            return;
        }
        let mut number = 0;
        while let Some(step) = plan.next(began.elapsed()) {
            number += 1;
            let repeats_before = self.oracle.repeats();
            let recovery = self.step(number, &step, probes).await;
            memory.look(&self.system);
            // Between two faults all is well for a moment.
            sleep(step.rest).await;
            let repeats = self.oracle.repeats() - repeats_before;
            note(report, &step, recovery, repeats);
        }
    }

    /// One step, and how long it took to recover from it.
    async fn step(&self, number: usize, step: &Step, probes: &[String]) -> Option<Duration> {
        let second = step.second.iter().map(|(_, fault)| fault);
        let faults: Vec<_> = [&step.first].into_iter().chain(second).collect();
        if faults.iter().any(|fault| fault.kind.loses_store()) {
            self.oracle.store_loses();
        }
        let first = step.first.inflict(&self.system);
        let second = async {
            let (begins, fault) = step.second.as_ref()?;
            // The first goes on so long by itself.
            sleep(*begins).await;
            Some(fault.inflict(&self.system).await)
        };
        let (first, second) = tokio::join!(first, second);
        let recovery = self.recovery(&faults, probes).await;
        let what = faults.iter().map(ToString::to_string).collect::<Vec<_>>();
        let what = what.join(", and ");
        println!("{number}: {what}: recovered after {recovery:?}");
        for remainder in [Some(first), second].into_iter().flatten() {
            remainder.put_right(&self.system).await;
        }
        recovery
    }

    /// How long it takes until the store is whole, every process says that it is ready, and events
    /// that are published now, of several keys, reach the probing devices at all gateways.
    async fn recovery(
        &self,
        faults: &[&super::fault::Fault],
        probes: &[String],
    ) -> Option<Duration> {
        let began = Instant::now();
        let is_store_hit = faults.iter().any(|fault| fault.kind.restarts_store());
        let recovered = async {
            let whole = async {
                while is_store_hit && !self.system.is_store_whole().await.unwrap_or(false) {
                    // Until it is asked again.
                    sleep(POLL_INTERVAL).await;
                }
                for role in self.system.roles().filter(|role| role.is_running()) {
                    while !role.is_ready().await {
                        // Until it is asked again.
                        sleep(POLL_INTERVAL).await;
                    }
                }
            };
            tokio::join!(whole, self.probed(probes));
        };
        let recovered = tokio::time::timeout(RECOVERY_MAX, recovered).await;
        recovered.ok().map(|()| began.elapsed())
    }

    async fn probed(&self, probes: &[String]) {
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
            // Until it is asked again.
            sleep(POLL_INTERVAL).await;
        }
    }
}

fn note(report: &mut Report, step: &Step, recovery: Option<Duration>, repeats: u64) {
    let row = |report: &mut Report, kind: Kind| {
        let rows = &mut report.rows;
        rows.entry(kind).or_default().count += 1;
    };
    row(report, step.first.kind);
    let figures: &mut Row = match &step.second {
        Some((_, second)) => {
            row(report, second.kind);
            report.together.count += 1;
            &mut report.together
        }
        None => report.rows.entry(step.first.kind).or_default(),
    };
    figures.repeats += repeats;
    match recovery {
        Some(recovery) => figures.recoveries.push(recovery),
        None => figures.unrecovered += 1,
    }
}
