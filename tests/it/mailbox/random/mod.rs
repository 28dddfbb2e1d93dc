//! Random sequences of operations on the real scripts beside a plain model: calls repeated after
//! lost replies, acknowledgements held up, the store rolled back, wiped and promoted.
//!
//! `TEST_MAILBOX_SEED=7` runs only that sequence; `TEST_MAILBOX_SEQUENCES=5000` runs more of them.
//! A failing sequence is shortened before it is shown.

mod gateway;
mod ledger;
pub mod model;
mod operation;
pub mod registering;
mod time_line;
mod worker;
mod world;

use gateway::{DEVICES, Visit};
use operation::{CursorChoice, Operation, Random, sequence};
use world::{Checked, World};

use crate::support::RedisServer;

const SEQUENCES: u64 = 200;
const OPERATIONS: usize = 90;
/// How many runs a failing sequence may be shortened by.
const SHORTENING_RUNS_MAX: usize = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_random_sequences() {
    let number = |name: &str| -> Option<u64> {
        let text = std::env::var(name).ok()?;
        Some(
            text.parse()
                .unwrap_or_else(|_| panic!("{name} is no number: {text}")),
        )
    };
    let (first, count) = match number("TEST_MAILBOX_SEED") {
        Some(seed) => (seed, 1),
        None => (1, number("TEST_MAILBOX_SEQUENCES").unwrap_or(SEQUENCES)),
    };
    // Two servers, since a change of epoch concerns everybody on one.
    let halves = [0, 1].map(|half| {
        tokio::spawn(async move {
            let server = RedisServer::start();
            for seed in (first..first + count).filter(|seed| seed % 2 == half) {
                run_seed(&server, seed).await;
            }
        })
    });
    for half in halves {
        half.await.unwrap();
    }
}

async fn run_seed(server: &RedisServer, seed: u64) {
    let operations = sequence(seed, OPERATIONS);
    let Err((step, text)) = run(server, seed, &operations).await else {
        return;
    };
    let (operations, text) = shorten(server, seed, operations[..=step].to_vec(), text).await;
    let shown: Vec<String> = (operations.iter())
        .map(|operation| format!("  {operation:?}"))
        .collect();
    panic!(
        "{text}\nafter these {} operations:\n{}\nTEST_MAILBOX_SEED={seed} repeats it",
        operations.len(),
        shown.join("\n")
    );
}

/// Leaves out what the failure does not need.
async fn shorten(
    server: &RedisServer,
    seed: u64,
    mut operations: Vec<Operation>,
    mut text: String,
) -> (Vec<Operation>, String) {
    let mut runs = 0;
    let mut length = operations.len() / 2;
    while length > 0 {
        let mut start = 0;
        while start < operations.len() && runs < SHORTENING_RUNS_MAX {
            let mut shorter = operations.clone();
            shorter.drain(start..(start + length).min(operations.len()));
            runs += 1;
            match run(server, seed, &shorter).await {
                Err((step, shorter_text)) => {
                    shorter.truncate(step + 1);
                    (operations, text) = (shorter, shorter_text);
                }
                Ok(()) => start += length,
            }
        }
        length /= 2;
    }
    (operations, text)
}

/// Runs a sequence on a mailbox of its own; the error has the index of the failing operation.
async fn run(
    server: &RedisServer,
    seed: u64,
    operations: &[Operation],
) -> Result<(), (usize, String)> {
    let name = format!("random-{}", uuid::Uuid::now_v7().simple());
    let cap = 4 + Random::new(seed).below(8);
    let ttl = model::TTLS[usize::from(seed.is_multiple_of(5))];
    let mut world = World::new(&server.url(), &name, cap, ttl).await;
    for (index, operation) in operations.iter().enumerate() {
        let outcome = world.step(operation).await;
        outcome.map_err(|text| (index, format!("{operation:?}: {text}")))?;
    }
    let end = operations.len().saturating_sub(1);
    finish(&mut world)
        .await
        .map_err(|text| (end, format!("at the end: {text}")))
}

/// Everything lost is delivered again, and every device comes back: nothing may be missing.
async fn finish(world: &mut World) -> Checked {
    while !world.ledger.pending.is_empty() {
        world.step(&Operation::Redeliver { which: 0 }).await?;
    }
    for (device, name) in DEVICES.iter().enumerate() {
        if !world.ledger.clients.contains_key(*name) {
            continue;
        }
        world
            .connect(Visit {
                device,
                node: 0,
                cursor: CursorChoice::Newest,
                is_deaf: false,
                is_repeated: false,
                most: 3,
            })
            .await?;
        let session = world.sessions.len() - 1;
        // An empty page checks that the device has all it has a right to.
        for _ in 0..=world.events.len() {
            world.page(session, 3).await?;
        }
        world.acknowledge(session, 0, false, false).await?;
    }
    Ok(())
}

impl World {
    /// Returns how many entries were evicted.
    async fn carry_out(&mut self, operation: &Operation) -> Checked<u64> {
        match *operation {
            Operation::Append { .. } => return self.append(operation).await,
            Operation::Redeliver { which } => return self.redeliver(which).await,
            Operation::Connect {
                device,
                node,
                cursor,
                is_deaf,
                is_repeated,
                most,
            } => {
                let visit = Visit {
                    device,
                    node,
                    cursor,
                    is_deaf,
                    is_repeated,
                    most,
                };
                self.connect(visit).await?;
            }
            Operation::RegisterAgain {
                session,
                is_repeated,
            } => self.register_again(session, is_repeated).await?,
            Operation::Page { session, most } => self.page(session, most).await?,
            Operation::Acknowledge {
                session,
                which,
                is_repeated,
                is_late,
            } => {
                self.acknowledge(session, which, is_repeated, is_late)
                    .await?
            }
            Operation::Arrive { which } => self.arrive(which).await?,
            Operation::Reassert {
                session,
                is_repeated,
            } => self.reassert(session, is_repeated).await?,
            Operation::Unregister {
                session,
                is_repeated,
            } => self.unregister(session, is_repeated).await?,
            Operation::Vanish { session } => {
                if let Some(index) = self.pick(session) {
                    self.sessions.remove(index);
                }
            }
            Operation::DropNode { node, is_repeated } => self.drop_node(node, is_repeated).await?,
            Operation::Deafen { session } => {
                if let Some(index) = self.pick(session) {
                    self.sessions[index].is_deaf = true;
                }
            }
            Operation::Pass { units } => self.pass(units).await,
            Operation::LoseList { lane } => self.lose_list(lane).await,
            Operation::ChangeEpoch => self.change_epoch().await?,
            Operation::Checkpoint => self.take_checkpoint().await,
            Operation::RollBack => self.roll_back().await?,
            Operation::Wipe => self.wipe().await,
        }
        Ok(0)
    }
}
