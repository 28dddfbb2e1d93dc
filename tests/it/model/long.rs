//! The long form, by hand: `scripts/model`, which says what it can be told.

use std::fmt::Write as _;
use std::str::FromStr;
use std::time::{Duration, Instant};

use super::mutant::Mutant;
use super::scope::{Budget, Scope};
use super::scopes::{self, scope_of};
use super::search::{Outcome, search};
use super::walk::walk;

const WALKS: u64 = 20_000;

#[test]
#[ignore = "takes as long as it is told to: scripts/model"]
fn the_long_form() {
    let limit = Duration::from_secs_f64(given("MINUTES").unwrap_or(10.0) * 60.0);
    let end = Instant::now() + limit;
    let threads = given("THREADS").unwrap_or(2);
    let mut report = String::new();
    let mut failures = 0;
    for scope in searched() {
        let left = end.saturating_duration_since(Instant::now());
        let outcome = search(scope, threads, left);
        failures += u32::from(outcome.broken.is_some());
        tell(&mut report, &shown(&outcome));
    }
    for mutant in mutants() {
        let outcome = search(scope_of(mutant).with(mutant), 1, limit);
        failures += u32::from(outcome.broken.is_none());
        tell(&mut report, &outcome.to_string());
    }
    failures += walks(&mut report, end);
    if let Some(path) = given::<String>("REPORT") {
        std::fs::write(path, report).expect("the report can be written");
    }
    assert_eq!(failures, 0, "see the report");
}

fn walks(report: &mut String, end: Instant) -> u32 {
    let (first, count) = (given("SEED").unwrap_or(1), given("WALKS").unwrap_or(WALKS));
    let (mut steps, mut done, mut failures) = (0, 0, 0);
    let start = Instant::now();
    for seed in first..first + count {
        if Instant::now() >= end {
            break;
        }
        done += 1;
        match walk(seed) {
            Ok(taken) => steps += taken,
            Err(fall) => {
                failures += 1;
                tell(
                    report,
                    &format!("walk {seed} ({}): {}", fall.scope, fall.text),
                );
                for action in &fall.actions {
                    tell(report, &format!("    {action:?}"));
                }
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    tell(
        report,
        &format!(
            "{done} random walks from seed {first}: {steps} steps, {failures} went wrong, \
             {seconds:.1} s"
        ),
    );
    failures
}

fn tell(report: &mut String, line: &str) {
    println!("{line}");
    writeln!(report, "{line}").expect("a string takes all");
}

/// The outcome, with every step to what is broken.
fn shown(outcome: &Outcome) -> String {
    let mut text = outcome.to_string();
    for action in outcome.broken.iter().flat_map(|broken| &broken.actions) {
        write!(text, "\n    {action:?}").expect("a string takes all");
    }
    text
}

/// The one that is described, else those of the short form.
fn searched() -> Vec<Scope> {
    let budget = Budget {
        losses: given("LOSSES").unwrap_or(0),
        gateway_crashes: given("GATEWAY_CRASHES").unwrap_or(0),
        worker_crashes: given("WORKER_CRASHES").unwrap_or(0),
        lapses: given("LAPSES").unwrap_or(0),
        breaks: given("BREAKS").unwrap_or(0),
        late: given("LATE").unwrap_or(0),
        roll_backs: given("ROLL_BACKS").unwrap_or(0),
        wipes: given("WIPES").unwrap_or(0),
        passes: given("PASSES").unwrap_or(0),
    };
    let usual = Scope::new("given", budget);
    let scope = Scope {
        devices: given("DEVICES").unwrap_or(usual.devices),
        events: given("EVENTS").unwrap_or(usual.events),
        high: given("HIGH").unwrap_or(usual.high),
        cap: given("CAP").unwrap_or(usual.cap),
        window: given("WINDOW").unwrap_or(usual.window),
        last_frames: given("LAST_FRAMES").unwrap_or(usual.last_frames),
        acknowledges_at_once: given("ACKNOWLEDGES_AT_ONCE").unwrap_or(true),
        mutant: given::<String>("MUTANT").map(|name| mutant_named(&name)),
        ..usual
    };
    let is_described = scope != Scope::new("given", Budget::default());
    match given::<String>("SCOPES") {
        _ if is_described => vec![scope],
        None => known().collect(),
        Some(names) => {
            let names: Vec<&str> = names.split(',').collect();
            known()
                .filter(|scope| names.contains(&scope.name))
                .collect()
        }
    }
}

fn known() -> impl Iterator<Item = Scope> {
    scopes::SHORT.into_iter().chain(scopes::LONG)
}

fn mutants() -> Vec<Mutant> {
    match given::<String>("MUTANTS").as_deref() {
        None => Mutant::ALL.to_vec(),
        Some(names) => {
            let names = names.split(',').filter(|name| !name.is_empty());
            names.map(mutant_named).collect()
        }
    }
}

fn mutant_named(name: &str) -> Mutant {
    let mut all = Mutant::ALL.into_iter();
    all.find(|mutant| format!("{mutant:?}") == name)
        .unwrap_or_else(|| panic!("no mutant {name}: {:?}", Mutant::ALL))
}

/// `TEST_MODEL_<name>`.
fn given<T: FromStr<Err: std::fmt::Display>>(name: &str) -> Option<T> {
    let text = std::env::var(format!("TEST_MODEL_{name}")).ok()?;
    let value = text.parse();
    Some(value.unwrap_or_else(|error| panic!("TEST_MODEL_{name}: {text:?}: {error}")))
}
