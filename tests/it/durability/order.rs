//! 3 workers and 64 keys, live: the order within each key in peace, while a worker dies, and while
//! one joins; and that only what a worker that comes or goes pulls changes hands.
//!
//! `TEST_EVENTS` is the number of events of the long form: `cargo test --test it -- --ignored \
//! --nocapture durability::order`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::speed::events;
use super::{inversions, numbered};
use crate::support::role::Kind;
use crate::support::socket::messages_of;
use crate::support::{Role, Socket, System, event, eventually, eventually_within};

const KEYS: usize = 64;
const USERS: usize = 8;
/// Events under way to JetStream at one time.
const PUBLISHED_AT_ONCE: usize = 250;
/// Longer than a worker takes to join, or to be missed.
const JOINING: Duration = Duration::from_secs(6);
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A system with connected users, and what these have received.
struct Stage {
    system: System,
    readers: Vec<JoinHandle<Vec<(String, u64)>>>,
    received: Arc<AtomicUsize>,
    repeats: Arc<AtomicUsize>,
}

impl Stage {
    /// Users that wait for `count` events between them.
    async fn set(count: usize) -> Stage {
        let builder = System::builder().workers(3);
        let builder = builder.env("CATCHUP_LOG", "info,catchup::worker=debug");
        let system = builder.env("CATCHUP_MAX_MESSAGES", "100000").start().await;
        let (received, repeats) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let mut readers = Vec::new();
        for user in 0..USERS {
            let mut socket = system.connect(&name(user)).await;
            socket.until_live().await;
            let own = (0..count)
                .filter(|index| index % KEYS % USERS == user)
                .count();
            let reading = read(socket, own, Arc::clone(&received), Arc::clone(&repeats));
            readers.push(tokio::spawn(reading));
        }
        Stage {
            system,
            readers,
            received,
            repeats,
        }
    }

    /// Publishes each key's events in order, over at least `time`.
    async fn publish(&self, count: usize, time: Duration) {
        let began = Instant::now();
        for first in (0..count).step_by(PUBLISHED_AT_ONCE) {
            let some = PUBLISHED_AT_ONCE.min(count - first);
            self.system
                .publish_all(some, |index| {
                    let index = first + index;
                    let key = index % KEYS;
                    let event = event(&[&name(key % USERS)], index / KEYS);
                    (format!("new_post.key-{key}"), event)
                })
                .await;
            let due = time.mul_f64((first + some) as f64 / count as f64);
            tokio::time::sleep_until((began + due).into()).await;
        }
    }

    async fn until_received(&self, count: usize) {
        eventually_within(SILENCE_MAX, format!("{count} received"), async || {
            (self.received.load(Ordering::Relaxed) >= count).then_some(())
        })
        .await;
    }

    /// Waits for all of it, and returns the inversions over all users.
    async fn inversions(&mut self) -> usize {
        let mut count = 0;
        for reader in std::mem::take(&mut self.readers) {
            count += inversions(reader.await.expect("a reader with everything"));
        }
        count
    }
}

fn name(user: usize) -> String {
    format!("user-{user}")
}

/// Receives and acknowledges so many different messages.
async fn read(
    mut socket: Socket,
    count: usize,
    received: Arc<AtomicUsize>,
    repeats: Arc<AtomicUsize>,
) -> Vec<(String, u64)> {
    let mut seen = HashSet::new();
    let mut messages = Vec::with_capacity(count);
    while messages.len() < count {
        let frame = socket.frame_within(SILENCE_MAX).await.expect("more of it");
        for message in messages_of(&frame) {
            let message = numbered(&message);
            if seen.insert(message.clone()) {
                messages.push(message);
                received.fetch_add(1, Ordering::Relaxed);
            } else {
                repeats.fetch_add(1, Ordering::Relaxed);
            }
        }
        socket.ack(&frame).await;
    }
    messages
}

async fn in_peace(count: usize) {
    let _alone = crate::fault::alone().await;
    let mut stage = Stage::set(count).await;
    let began = Instant::now();
    stage.publish(count, Duration::ZERO).await;
    let inversions = stage.inversions().await;
    println!(
        "{count} live over {KEYS} keys and 3 workers: {inversions} inversions, {:.0} a second",
        count as f64 / began.elapsed().as_secs_f64()
    );
    assert_eq!(inversions, 0);
    assert_eq!(stage.repeats.load(Ordering::Relaxed), 0);
}

async fn while_one_dies(count: usize) {
    let _alone = crate::fault::alone().await;
    let mut stage = Stage::set(count).await;
    let death = async {
        stage.until_received(count / 3).await;
        stage.system.worker(0).kill();
        Instant::now()
    };
    let (died, ()) = tokio::join!(death, stage.publish(count, JOINING));
    let inversions = stage.inversions().await;
    println!(
        "{count} live while a worker dies: {inversions} inversions, {} repeats, all there {:.1} s \
         after",
        stage.repeats.load(Ordering::Relaxed),
        died.elapsed().as_secs_f64()
    );
}

async fn while_one_joins(count: usize) {
    let _alone = crate::fault::alone().await;
    let mut stage = Stage::set(count).await;
    let newcomer = async {
        stage.until_received(count / 4).await;
        let env = stage.system.env().to_vec();
        let worker = Role::start(Kind::Worker, "worker-4", Vec::new(), env);
        worker.ready().await;
        worker
    };
    let (newcomer, ()) = tokio::join!(newcomer, stage.publish(count, JOINING));
    let inversions = stage.inversions().await;
    let stored = newcomer.metrics().await;
    let stored = stored.value("catchup_messages_total", &[("outcome", "stored")]);
    println!(
        "{count} live while a worker joins: {inversions} inversions, {} repeats, {stored} by the \
         new one",
        stage.repeats.load(Ordering::Relaxed)
    );
    assert_eq!(inversions, 0, "the others let go before it claims");
}

#[tokio::test]
async fn keys_keep_their_order_in_peace() {
    in_peace(6_000).await;
}

#[tokio::test]
#[ignore = "the long form"]
async fn keys_keep_their_order_in_peace_for_long() {
    in_peace(events(30_000)).await;
}

#[tokio::test]
async fn keys_arrive_whole_while_a_worker_dies() {
    while_one_dies(4_000).await;
}

#[tokio::test]
#[ignore = "the long form"]
async fn keys_arrive_whole_while_a_worker_dies_for_long() {
    while_one_dies(events(30_000)).await;
}

#[tokio::test]
async fn keys_keep_their_order_while_a_worker_joins() {
    while_one_joins(4_000).await;
}

#[tokio::test]
#[ignore = "the long form"]
async fn keys_keep_their_order_while_a_worker_joins_for_long() {
    while_one_joins(events(30_000)).await;
}

/// The partitions that a worker pulls, by its log.
fn pulled(worker: &Role) -> BTreeSet<u16> {
    let mut pulled = BTreeMap::new();
    for line in worker.log().lines() {
        let pulls = line.contains("pulls source=Partition(");
        if pulls || line.contains("lets go source=Partition(") {
            let (_, rest) = line.split_once("Partition(").expect("a partition");
            let (number, _) = rest.split_once(')').expect("a number");
            pulled.insert(number.parse().expect("a number"), pulls);
        }
    }
    let pulled = pulled.into_iter().filter(|(_, pulls)| *pulls);
    pulled.map(|(partition, _)| partition).collect()
}

/// Waits until these workers pull every partition once.
async fn until_settled(workers: &[&Role]) -> Vec<BTreeSet<u16>> {
    eventually("every partition is pulled once", async || {
        let sets: Vec<BTreeSet<u16>> = workers.iter().map(|worker| pulled(worker)).collect();
        let all: BTreeSet<u16> = sets.iter().flatten().copied().collect();
        let count: usize = sets.iter().map(BTreeSet::len).sum();
        (all.len() == 32 && count == 32).then_some(sets)
    })
    .await
}

#[tokio::test]
async fn only_the_partitions_concerned_change_hands() {
    let builder = System::builder().gateways(0).workers(3);
    let builder = builder.env("CATCHUP_LOG", "info,catchup::worker=debug");
    let mut system = builder.start().await;
    let workers = |system: &System, indexes: &[usize]| {
        let workers = indexes
            .iter()
            .map(|&index| Arc::clone(&system.workers()[index]));
        workers.collect::<Vec<Arc<Role>>>()
    };
    let settled = async |system: &System, indexes: &[usize]| {
        let workers = workers(system, indexes);
        let workers: Vec<&Role> = workers.iter().map(|worker| &**worker).collect();
        until_settled(&workers).await
    };
    let before = settled(&system, &[0, 1, 2]).await;

    let fourth = system.add_worker().await;
    let joined = settled(&system, &[0, 1, 2, fourth]).await;
    for (before, after) in before.iter().zip(&joined) {
        assert!(after.is_subset(before), "{after:?} of {before:?}");
    }
    assert!(!joined[3].is_empty());

    system.worker(1).stop().await;
    let left = settled(&system, &[0, 2, fourth]).await;
    for (index, after) in [0, 2, 3].into_iter().zip(&left) {
        assert!(
            joined[index].is_subset(after),
            "{after:?} of {:?}",
            joined[index]
        );
    }
    let moved = |one: &[BTreeSet<u16>]| one.iter().map(BTreeSet::len).collect::<Vec<_>>();
    println!(
        "partitions: {:?}, then {:?}, then {:?}",
        moved(&before),
        moved(&joined),
        moved(&left)
    );
}
