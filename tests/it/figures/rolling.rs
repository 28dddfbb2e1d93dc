//! All gateways are restarted one after the other, under traffic: nothing is lost, nobody is kept
//! waiting, and the reconnects come at no more than the limit.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use super::{Lateness, allow_sockets, milliseconds, parameter, peak_per_second, quantile};
use crate::fault::alone;
use crate::support::crowd::{Crowd, Journal, Return};
use crate::support::oracle::{Audience, Event};
use crate::support::{Oracle, System, eventually_within};

const GATEWAYS: usize = 3;
/// How long all may take to get in.
const JOIN_WAIT: Duration = Duration::from_secs(300);
/// Beyond its drain time a gateway waits for the last answers and acknowledgements.
const END_WAIT: Duration = Duration::from_secs(20);
/// Events under way to JetStream at one time.
const PUBLISHES_MAX: usize = 256;
/// The time outside that nobody asked a client to stay.
const UNASKED_MAX: Duration = Duration::from_secs(1);
/// Of reconnects in one second at one gateway, as a multiple of the limit.
const PEAK_MAX: f64 = 1.25;

#[derive(Clone, Copy)]
struct Scale {
    sockets: usize,
    /// `CATCHUP_CONNECTS_PER_SECOND`.
    limit: usize,
    /// `CATCHUP_DRAIN`: so short that the reconnects would come faster than the limit.
    drain: Duration,
    /// Events for one user each, scattered over all.
    events_per_second: f64,
    everyone_per_second: f64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_nothing_and_keeps_nobody_waiting() {
    rolling(Scale {
        sockets: 450,
        limit: 100,
        drain: Duration::from_secs(1),
        events_per_second: 100.0,
        everyone_per_second: 1.0,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "large: scripts/bench rolling"]
async fn bench_rolling() {
    rolling(Scale {
        sockets: parameter("TEST_SOCKETS", 3_000),
        limit: parameter("TEST_LIMIT", 200),
        drain: Duration::from_secs(parameter("TEST_SECONDS", 3)),
        events_per_second: parameter("TEST_EVENTS_PER_SECOND", 200.0),
        everyone_per_second: parameter("TEST_EVERYONE_PER_SECOND", 1.0),
    })
    .await;
}

async fn rolling(scale: Scale) {
    let _alone = alone().await;
    allow_sockets(scale.sockets);
    let system = System::builder()
        .gateways(GATEWAYS)
        .workers(2)
        .env("CATCHUP_CONNECTS_PER_SECOND", &scale.limit.to_string())
        .env("CATCHUP_DRAIN", &format!("{}s", scale.drain.as_secs()))
        .start()
        .await;
    let users: Vec<String> = (0..scale.sockets)
        .map(|index| format!("user-{index}"))
        .collect();
    let oracle = Arc::new(Oracle::default());
    let crowd = Crowd::start(&oracle, system.gateways(), &users);
    all_inside(&crowd, scale).await;
    crowd.take_journal();

    let ends = CancellationToken::new();
    let lateness = Lateness::watch();
    let start = Instant::now();
    let restarting = async {
        let mut restarts = Vec::new();
        for index in 0..GATEWAYS {
            restarts.push(restart(&system, index, scale).await);
        }
        all_inside(&crowd, scale).await;
        ends.cancel();
        (restarts, start.elapsed())
    };
    let traffic = traffic(scale, &system, &oracle, &users, ends.clone());
    let ((restarts, took), ()) = tokio::join!(restarting, traffic);
    let lateness = lateness.most();
    oracle.until_kept().await;
    let journal = crowd.take_journal();
    crowd.end().await;

    println!(
        "rolling: {} sockets on {GATEWAYS} gateways, limit {}/s, drain {} s, all again in after \
         {:.1} s",
        scale.sockets,
        scale.limit,
        scale.drain.as_secs(),
        took.as_secs_f64(),
    );
    for restart in &restarts {
        println!("rolling: {}", restart.describe(&journal));
    }
    assert_paced(journal, scale, lateness);
    let tally = oracle.assert_kept();
    println!("rolling: 0 lost: {tally}");
    oracle.assert_order();
}

async fn all_inside(crowd: &Crowd, scale: Scale) {
    eventually_within(JOIN_WAIT, "all are in", async || {
        (crowd.inside() == scale.sockets).then_some(())
    })
    .await;
}

/// Publishes until it is told to end; returns when every event has its PubAck.
async fn traffic(
    scale: Scale,
    system: &System,
    oracle: &Oracle,
    users: &[String],
    ends: CancellationToken,
) {
    let all: Vec<&str> = users.iter().map(String::as_str).collect();
    let all = all.as_slice();
    let rate = scale.events_per_second + scale.everyone_per_second;
    let for_everyone = |number: usize| {
        let due = |number: usize| (number as f64 * scale.everyone_per_second / rate) as usize;
        due(number + 1) > due(number)
    };
    let one = |number: usize| async move {
        // A prime, so that who follows is far away.
        let user = &all[number * 7_919 % all.len()];
        let mut event = Event {
            key: Some(user),
            audience: Audience::Users(std::slice::from_ref(user)),
            is_high: number.is_multiple_of(10),
        };
        if for_everyone(number) {
            (event.key, event.audience) = (Some("everyone"), Audience::Everyone);
        }
        oracle.publish(system, event).await;
    };
    let ticks = interval(Duration::from_secs(1).div_f64(rate));
    let ticks = stream::unfold(ticks, |mut ticks| async {
        ticks.tick().await;
        Some(((), ticks))
    });
    let numbers = ticks.take_until(ends.cancelled()).enumerate();
    let events = numbers.map(|(number, ())| one(number));
    events.buffer_unordered(PUBLISHES_MAX).collect::<()>().await;
}

/// One gateway's turn.
struct Restart {
    gateway: usize,
    sockets: usize,
    /// Reconnects a second, as the gateway plans them.
    planned: f64,
    ended: Duration,
    ready_again: Duration,
}

async fn restart(system: &System, index: usize, scale: Scale) -> Restart {
    let gateway = system.gateway(index);
    let sockets = gateway.metrics().await.value("catchup_connections", &[]);
    let start = Instant::now();
    gateway.terminate();
    let status = gateway.ended_within(scale.drain + END_WAIT).await;
    assert!(status.success(), "{} ended with {status}", gateway.name());
    let ended = start.elapsed();
    gateway.start_again();
    gateway.ready().await;
    Restart {
        gateway: index,
        sockets: sockets as usize,
        planned: (sockets / scale.drain.as_secs_f64()).min(scale.limit as f64),
        ended,
        ready_again: start.elapsed(),
    }
}

impl Restart {
    /// With what its clients wrote down.
    fn describe(&self, journal: &Journal) -> String {
        let returns = journal.returns.iter();
        let returns = returns.filter(|one| one.from == self.gateway);
        let mut told: Vec<Instant> = returns.map(|one| one.told).collect();
        told.sort_unstable();
        let over = match (told.first(), told.last()) {
            (Some(first), Some(last)) => *last - *first,
            _ => Duration::ZERO,
        };
        format!(
            "gateway {}: {} sockets, {} sent away; reconnects planned at {:.0}/s, told to come at \
             {:.0}/s, at most {} in a second; ended after {:.1} s, ready again after {:.1} s",
            self.gateway + 1,
            self.sockets,
            told.len(),
            self.planned,
            told.len() as f64 / over.as_secs_f64().max(1.0),
            peak_per_second(told),
            self.ended.as_secs_f64(),
            self.ready_again.as_secs_f64(),
        )
    }
}

/// Prints and checks how the clients came back.
fn assert_paced(mut journal: Journal, scale: Scale, lateness: Duration) {
    journal.attempts.sort_unstable();
    let attempts = |of: Option<usize>| {
        let attempts = journal.attempts.iter();
        let attempts = attempts.filter(move |(_, gateway)| of.is_none_or(|of| of == *gateway));
        peak_per_second(attempts.map(|(at, _)| *at))
    };
    let peaks: Vec<usize> = (0..GATEWAYS).map(|index| attempts(Some(index))).collect();
    let peak = peaks.iter().copied().max().unwrap_or(0);
    println!(
        "rolling: this process was late by {:.0} ms at most",
        milliseconds(lateness)
    );
    println!(
        "rolling: most reconnects in a second: {peaks:?} at the gateways, {} at all together; the \
         limit of each is {}",
        attempts(None),
        scale.limit,
    );
    let sorted = |wait: fn(&Return) -> Duration| {
        let mut waits: Vec<Duration> = journal.returns.iter().map(wait).collect();
        waits.sort_unstable();
        waits
    };
    let unasked = sorted(|one| one.unasked);
    let beyond_first = sorted(|one| one.inside.saturating_duration_since(one.told));
    let most = quantile(&unasked, 1.0);
    let sum = |count: fn(&Return) -> usize| -> usize { journal.returns.iter().map(count).sum() };
    println!(
        "rolling: {} returns; outside beyond the delays they were told: median {:.0} ms, 99 % \
         {:.0} ms, at most {:.0} ms; beyond the first delay at most {:.0} ms; {} refusals, {} \
         attempts unanswered, {} connections lost",
        unasked.len(),
        milliseconds(quantile(&unasked, 0.5)),
        milliseconds(quantile(&unasked, 0.99)),
        milliseconds(most),
        milliseconds(quantile(&beyond_first, 1.0)),
        sum(|one| one.refusals),
        sum(|one| one.unanswered),
        journal.lost,
    );
    assert!(unasked.len() >= scale.sockets, "all were sent away once");
    assert_eq!(journal.lost, 0, "a connection ended without a word");
    // Asked to come, they wait for this process as well, before and after.
    assert!(most <= UNASKED_MAX + 2 * lateness, "{most:?}");
    // Those of a longer time come within one second then.
    let seconds = 1.0 + lateness.as_secs_f64();
    assert!(
        peak as f64 <= scale.limit as f64 * PEAK_MAX * seconds,
        "{peaks:?}"
    );
}
