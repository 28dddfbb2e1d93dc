//! The long form, by hand: `scripts/faults`, which says what it can be told.

use std::str::FromStr;
use std::time::Duration;

use super::kind::Kind;
use super::{Length, Parameters, run};
use crate::support::chance::seed;

/// Faults where neither a number nor a time is given.
const COUNT: usize = 20;
/// Of a hundred faults, so many are joined by another one, where all kinds are drawn.
const OVERLAP_PERCENT: u64 = 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes as long as it is told to: scripts/faults"]
async fn the_long_form() {
    let report = run(parameters()).await;
    if let Some(path) = given::<String>("REPORT") {
        std::fs::write(path, format!("{report}\n")).expect("the report can be written");
    }
    report.assert_kept();
}

fn parameters() -> Parameters {
    let kinds: Vec<Kind> = match given::<String>("KINDS") {
        Some(names) => {
            let kinds = names.split(',').filter(|name| !name.is_empty());
            kinds.map(|name| parsed("KINDS", name)).collect()
        }
        None => Kind::ALL.to_vec(),
    };
    let length = match (given("COUNT"), given::<f64>("MINUTES")) {
        (Some(count), _) => Length::Faults(count),
        (None, Some(minutes)) => Length::Time(Duration::from_secs_f64(minutes * 60.0)),
        (None, None) => Length::Faults(COUNT),
    };
    let defaults = Parameters::new(seed(), &kinds, length);
    let overlap_percent = match given::<String>("KINDS") {
        Some(_) => 0,
        None => OVERLAP_PERCENT,
    };
    Parameters {
        gateways: given("GATEWAYS").unwrap_or(defaults.gateways),
        workers: given("WORKERS").unwrap_or(defaults.workers),
        users: given("USERS").unwrap_or(20),
        joiners: given("JOINERS").unwrap_or(20),
        sleep_max: Duration::from_secs(given("SLEEP").unwrap_or(60)),
        events_per_second: given("RATE").unwrap_or(100),
        everyone_percent: given("EVERYONE").unwrap_or(defaults.everyone_percent),
        checks_leftovers: true,
        overlap_percent: given("OVERLAP").unwrap_or(overlap_percent),
        ..defaults
    }
}

/// `TEST_FAULT_<name>`.
fn given<T: FromStr<Err: std::fmt::Display>>(name: &str) -> Option<T> {
    let text = std::env::var(format!("TEST_FAULT_{name}")).ok()?;
    Some(parsed(name, &text))
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(name: &str, text: &str) -> T {
    let value = text.parse();
    value.unwrap_or_else(|error| panic!("TEST_FAULT_{name}: {text:?}: {error}"))
}
