//! Faults and load, on real processes: whatever is killed, paused or taken away, every message
//! that has a PubAck arrives.
//!
//! | file | what is done to the system |
//! |---|---|
//! | `reader` | clients that stop reading |
//! | `gateway` | gateways killed, replaced under their name |
//! | `worker` | workers killed, paused, told to end |
//! | `everyone` | all of these while events for everyone are published |
//! | `slots` | a Redis Cluster: slots moved, servers killed and emptied |
//! | `store` | Redis killed, paused, restarted |
//! | `lost` | a Redis or NATS that lost what it held, or refuses |
//! | `bus` | NATS killed, paused, restarted |
//! | `went_back` | streams of NATS that lost their last messages |
//! | `ready` | starts without servers, readiness, SIGTERM |
//! | `order` | sequential events and several workers |
//! | `race` | users that connect and drop without end |
//! | `refusal` | servers and settings that cannot keep the promise |
//! | `half_open` | clients whose network vanishes |
//! | `runner` | all kinds of faults in turn, by `scripts/faults` for hours |
//! | `proxy` | none: that the proxy between processes does what it says |
//! | `commands` | `dev`, `listen` and `publish` under faults |
//!
//! Each prints its figures (`cargo test --test it fault -- --nocapture`). `TEST_LOAD=10` makes
//! the load ten times as large.

mod bus;
mod cluster;
mod commands;
mod everyone;
mod gateway;
mod half_open;
mod lost;
mod order;
mod proxy;
mod race;
mod reader;
mod ready;
mod refusal;
mod runner;
mod sentinel;
mod slots;
mod store;
mod went_back;
mod worker;

use std::sync::Arc;

use futures_util::StreamExt;
use tokio::sync::{Mutex, MutexGuard};

use crate::support::oracle::{Audience, Event, Tally};
use crate::support::reader::ComesBack;
use crate::support::role::Kind;
use crate::support::system::Builder;
use crate::support::{Oracle, Reader, Role, System, eventually};

/// Held by the tests that keep all cores busy, so that they do not slow each other down.
static BUSY: Mutex<()> = Mutex::const_new(());

/// Waits until no other of these tests runs.
pub async fn alone() -> MutexGuard<'static, ()> {
    BUSY.lock().await
}

/// A number of events or deliveries, times `TEST_LOAD`.
fn load(count: usize) -> usize {
    let factor = std::env::var("TEST_LOAD").map(|text| text.parse::<usize>());
    count * factor.map_or(1, |factor| factor.expect("TEST_LOAD is a whole number"))
}

/// A system in whose mailboxes the whole load may wait.
fn loaded() -> Builder {
    System::builder().env("CATCHUP_MAX_MESSAGES", "100000")
}

/// `user-1` up to `user-<count>`.
fn users(count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("user-{number}")).collect()
}

/// One reader a user; half of them begin at the last gateway, half give their cursor.
fn readers(oracle: &Arc<Oracle>, system: &System, users: &[String]) -> Vec<Reader> {
    let forth: Vec<&Role> = system.gateways().iter().map(|role| &**role).collect();
    let back: Vec<&Role> = forth.iter().rev().copied().collect();
    let start = |(index, user): (usize, &String)| {
        let gateways = if index % 2 == 0 { &forth } else { &back };
        let comes_back = match index % 4 < 2 {
            true => ComesBack::WithCursor,
            false => ComesBack::WithoutCursor,
        };
        Reader::start(oracle, user, gateways, comes_back)
    };
    users.iter().enumerate().map(start).collect()
}

/// Events under way to JetStream at one time: more than the workers keep up with, so that a fault
/// meets them with their hands full.
const PUBLISHES_MAX: usize = 256;

/// Publishes `count` events: each for one user, with the user as key, in turn; every tenth for
/// all users, under one key. One in seven has priority `high`.
async fn publish(oracle: &Oracle, system: &System, users: &[String], count: usize) {
    let all: Vec<&str> = users.iter().map(String::as_str).collect();
    let all = all.as_slice();
    let one = async |index: usize| {
        let user = (index - index / 10) % all.len();
        let (key, users) = match index % 10 {
            9 => ("all", all),
            _ => (all[user], &all[user..=user]),
        };
        let event = Event {
            key: Some(key),
            audience: Audience::Users(users),
            is_high: index % 7 == 6,
        };
        oracle.publish(system, event).await;
    };
    let events = futures_util::stream::iter(0..count).map(one);
    events.buffer_unordered(PUBLISHES_MAX).collect::<()>().await;
}

/// Waits until every role is not ready, and `component` is the reason.
async fn all_not_ready(system: &System, component_of: impl Fn(Kind) -> &'static str) {
    for role in system.roles() {
        let component = component_of(role.kind());
        eventually(format!("{} lacks {component}", role.name()), async || {
            let response = role.admin("/readyz").await.expect("the admin port answers");
            let reasons = &response.json()["reasons"];
            (response.status == 503 && reasons[component].is_string()).then_some(())
        })
        .await;
    }
}

/// Waits until everything arrived, closes the readers, and returns the figures.
async fn settle(name: &str, oracle: &Oracle, readers: Vec<Reader>) -> Tally {
    oracle.until_kept().await;
    for reader in readers {
        reader.stop().await;
    }
    let tally = oracle.assert_kept();
    println!("{name}: {tally}");
    tally
}
