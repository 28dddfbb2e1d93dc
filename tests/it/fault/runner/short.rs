//! Short runs of each thing that the long ones do longer.

use std::time::Duration;

use super::kind::Kind;
use super::{Length, Parameters, run};
use crate::fault::alone;
use crate::support::chance::seed;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_killed_lose_nothing() {
    let _alone = alone().await;
    let parameters = Parameters::new(seed(), &[Kind::GatewayKilled], Length::Faults(3));
    let report = run(parameters).await;
    report.assert_kept();
    assert_eq!(report.rows[&Kind::GatewayKilled].count, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_lost_by_a_pause_loses_nothing() {
    let _alone = alone().await;
    let parameters = Parameters::new(seed(), &[Kind::GatewayPaused], Length::Faults(1));
    run(parameters).await.assert_kept();
}

/// A Redis without its last two seconds, and one that is emptied, while workers come and go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_goes_back_or_is_emptied_loses_nothing() {
    let _alone = alone().await;
    let kinds = [
        Kind::RedisWentBack,
        Kind::WorkerJoined,
        Kind::RedisFlushed,
        Kind::WorkerLeft,
    ];
    let report = run(Parameters {
        overlap_percent: 50,
        ..Parameters::new(seed(), &kinds, Length::Faults(4))
    })
    .await;
    report.assert_kept();
    assert!(report.verdict.store_lost > 0, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_who_move_on_each_reconnect_lose_nothing() {
    let _alone = alone().await;
    let length = Length::Time(Duration::from_secs(6));
    let report = run(Parameters {
        gateways: 3,
        checks_leftovers: true,
        ..Parameters::new(seed(), &[], length)
    })
    .await;
    report.assert_kept();
    assert!(report.verdict.reconnects >= 20, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_devices_the_one_that_sleeps_gets_everything() {
    let _alone = alone().await;
    let length = Length::Time(Duration::from_secs(10));
    let report = run(Parameters {
        users: 8,
        // Awake once in the middle, or not before the end.
        sleep_max: Duration::from_secs(9),
        ..Parameters::new(seed(), &[], length)
    })
    .await;
    report.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everyone_gets_what_is_for_everyone_during_joins_and_restarts() {
    let _alone = alone().await;
    let kinds = [Kind::GatewayRestarted, Kind::GatewayKilled];
    let report = run(Parameters {
        everyone_percent: 80,
        joiners: 12,
        ..Parameters::new(seed(), &kinds, Length::Faults(2))
    })
    .await;
    report.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_cap_takes_from_who_sleeps_is_announced() {
    let _alone = alone().await;
    let length = Length::Time(Duration::from_secs(6));
    let report = run(Parameters {
        users: 6,
        sleep_max: Duration::from_secs(60),
        messages_max: 20,
        ..Parameters::new(seed(), &[], length)
    })
    .await;
    let verdict = &report.verdict;
    // A device may be told of some that it received and did not acknowledge.
    assert!(
        verdict.lost.is_empty() && verdict.strange.is_empty(),
        "{report}"
    );
    assert!(verdict.announced >= 20, "{report}");
}
