//! Random sequences of operations on the real scripts beside a plain model: calls repeated after
//! lost replies, acknowledgements held up, the store rolled back, restarted, wiped and promoted.
//! A failing sequence is shrunk before it is shown.
//!
//! A short form runs with the other tests. The long form is `scripts/properties`, which says how
//! many sequences and from which seed on: sequence `n` of a run with seed `s` is the first of a run
//! with seed `s + n`.

mod figures;
mod gateway;
mod ledger;
pub mod model;
mod operation;
pub mod registering;
mod time_line;
mod worker;
mod world;

use std::ops::Range;
use std::sync::Arc;

use figures::Figures;
use gateway::{DEVICES, Visit};
use operation::{CursorChoice, Operation, Sequence, sequences};
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};
use world::{Checked, World};

use crate::support::RedisServer;

const SEQUENCES: u64 = 200;
/// A server's append-only file grows; another one begins anew.
const SEQUENCES_A_SERVER: u64 = 100;
/// How many runs, and how long, a failing sequence may be shrunk.
const SHRINK_RUNS_MAX: u32 = 4_000;
const SHRINK_MS_MAX: u32 = 300_000;
/// Sequences that run side by side. Each has a server: a change of epoch concerns everybody on one.
const LINES: u64 = 2;

#[test]
fn random_sequences() {
    let figures = run_all(1..SEQUENCES + 1);
    figures.assert_telling();
}

/// The long form; `scripts/properties` runs it.
#[test]
#[ignore = "takes as long as it is told to"]
fn random_sequences_of_any_number() {
    let number = |name: &str, default: u64| match std::env::var(name) {
        Ok(text) => (text.parse()).unwrap_or_else(|_| panic!("{name} is no number: {text}")),
        Err(_) => default,
    };
    let first = number("TEST_SEED", 1);
    let count = number("TEST_SEQUENCES", SEQUENCES);
    let figures = run_all(first..first + count);
    println!("{}", figures.report());
}

fn run_all(seeds: Range<u64>) -> Figures {
    std::thread::scope(|scope| {
        let lines: Vec<_> = (0..LINES)
            .map(|line| {
                let seeds: Vec<u64> = seeds.clone().filter(|seed| seed % LINES == line).collect();
                scope.spawn(move || run_line(&seeds))
            })
            .collect();
        let mut all = Figures::default();
        for line in lines {
            match line.join() {
                Ok(figures) => all.add(&figures),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    })
}

fn run_line(seeds: &[u64]) -> Figures {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut all = Figures::default();
    for seeds in seeds.chunks(SEQUENCES_A_SERVER as usize) {
        let server = Arc::new(start_server());
        for &seed in seeds {
            all.add(&run_seed(&runtime, &server, seed));
        }
    }
    all
}

/// As Catchup wants it, and with what a sequence does to it. The log is written before each reply,
/// always: with `everysec` a write waits as long as a disk is busy, and a checkpoint would name a
/// place in the log that its last operations lie behind.
fn start_server() -> RedisServer {
    let arguments = "--appendonly yes --appendfsync no --maxmemory-policy noeviction \
                     --enable-debug-command local --auto-aof-rewrite-percentage 0";
    RedisServer::start_with(&arguments.split_whitespace().collect::<Vec<_>>())
}

fn run_seed(runtime: &tokio::runtime::Runtime, server: &Arc<RedisServer>, seed: u64) -> Figures {
    let figures = std::cell::RefCell::default();
    let mut runner = TestRunner::new(Config {
        cases: 1,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: SHRINK_RUNS_MAX,
        max_shrink_time: SHRINK_MS_MAX,
        ..Config::default()
    });
    let outcome = runner.run(&sequences(), |sequence| {
        let run = runtime.block_on(run(server, &sequence));
        *figures.borrow_mut() = run.map_err(TestCaseError::fail)?;
        Ok(())
    });
    match outcome {
        Ok(()) => figures.into_inner(),
        Err(TestError::Fail(reason, sequence)) => panic!(
            "{reason}\nafter these {} operations: {sequence:?}\n\
             scripts/properties --seed {seed} --sequences 1 repeats it",
            sequence.operations.len()
        ),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

/// Runs a sequence on a mailbox of its own.
async fn run(server: &Arc<RedisServer>, sequence: &Sequence) -> Result<Figures, String> {
    let name = format!("random-{}", uuid::Uuid::now_v7().simple());
    let ttl = model::TTLS[usize::from(sequence.is_short_lived)];
    let mut world = World::new(server, &name, sequence.cap, ttl).await;
    for operation in &sequence.operations {
        let outcome = world.step(operation).await;
        outcome.map_err(|text| format!("{operation:?}: {text}"))?;
    }
    finish(&mut world)
        .await
        .map_err(|text| format!("at the end: {text}"))?;
    world.figures.sequences = 1;
    Ok(world.figures)
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
        let lists = world.real_lists().await;
        world.ledger.observe(&lists);
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
            Operation::Reload => self.reload().await,
            Operation::ChangeEpoch(how) => self.change_epoch(how).await?,
            Operation::Checkpoint => self.take_checkpoint().await,
            Operation::RollBack(how) => self.roll_back(how).await?,
            Operation::Wipe => self.wipe().await,
        }
        Ok(0)
    }
}
