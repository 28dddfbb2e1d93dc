//! Workers share the partitions: order within a key, whoever comes, goes or dies.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::store::message;
use crate::support::{System, eventually, eventually_within};

const USERS: usize = 8;

fn user(index: usize) -> String {
    format!("user-{index}")
}

/// One key a user, numbered in publish order.
async fn publish(system: &System, numbers: std::ops::Range<usize>) {
    let first = numbers.start;
    let count = numbers.len() * USERS;
    system
        .publish_all(count, |index| {
            let user = user(index % USERS);
            let event = json!({"targetUserIds": [user], "data": first + index / USERS});
            (format!("step.{user}"), event)
        })
        .await;
}

/// What a user has, in order; an event that came twice counts where it came first.
async fn received(system: &System, user: &str) -> Vec<usize> {
    let mut numbers = Vec::new();
    let mut ids: Vec<Value> = Vec::new();
    for entry in system.waiting(user).await {
        let message = message(&entry);
        if !ids.contains(&message["id"]) {
            ids.push(message["id"].clone());
            numbers.push(message["data"].as_u64().expect("a number") as usize);
        }
    }
    numbers
}

#[tokio::test]
async fn three_workers_keep_the_order_of_every_key() {
    let system = System::builder().gateways(0).workers(3).start().await;
    publish(&system, 0..500).await;
    system.processed().await;
    for index in 0..USERS {
        let numbers = received(&system, &user(index)).await;
        assert_eq!(numbers, (0..500).collect::<Vec<_>>(), "{}", user(index));
        assert_eq!(system.waiting(&user(index)).await.len(), 500);
    }
}

#[tokio::test]
async fn workers_that_come_and_go_in_order_lose_and_swap_nothing() {
    let mut system = System::builder().gateways(0).workers(2).start().await;
    publish(&system, 0..100).await;
    system.add_worker().await;
    publish(&system, 100..200).await;
    system.worker(0).stop().await;
    publish(&system, 200..300).await;
    system.processed().await;
    for index in 0..USERS {
        let numbers = received(&system, &user(index)).await;
        assert_eq!(numbers, (0..300).collect::<Vec<_>>(), "{}", user(index));
    }
}

#[tokio::test]
async fn what_a_killed_worker_held_comes_to_another() {
    let system = System::builder().gateways(0).workers(2).start().await;
    publish(&system, 0..200).await;
    system.worker(0).kill();
    publish(&system, 200..300).await;
    eventually("all that was published", async || {
        for index in 0..USERS {
            let mut numbers = received(&system, &user(index)).await;
            numbers.sort_unstable();
            if numbers != (0..300).collect::<Vec<_>>() {
                return None;
            }
        }
        Some(())
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_stood_still_stores_nothing_twice() {
    let system = System::builder().gateways(0).workers(2).start().await;
    publish(&system, 0..20).await;
    system.processed().await;
    // Paused while it has a request open: what it is sent goes to the other after ten seconds.
    system.worker(0).pause();
    publish(&system, 20..60).await;
    let has_all = async || {
        let mut count = 0;
        for index in 0..USERS {
            count += received(&system, &user(index)).await.len();
        }
        (count == 60 * USERS).then_some(())
    };
    eventually_within(Duration::from_secs(40), "all that was published", has_all).await;
    system.worker(0).resume();
    publish(&system, 60..80).await;
    system.ready().await;
    system.processed().await;
    for index in 0..USERS {
        let count = system.waiting(&user(index)).await.len();
        assert_eq!(count, 80, "{} has one twice", user(index));
    }
}
