//! An event for everyone costs no write a user.

use std::collections::BTreeMap;

use super::{Hall, data_in, for_everyone, open};
use crate::support::System;
use crate::support::socket::data_of;

const USERS: usize = 100;
const EVENTS: usize = 50;

/// How often each command was called, in scripts as well; the test's own left out.
async fn calls(system: &System) -> BTreeMap<String, u64> {
    let mut redis = system.redis().await;
    let text: String = redis::cmd("INFO")
        .arg("commandstats")
        .query_async(&mut redis)
        .await
        .expect("the statistics");
    let calls = text.lines().filter_map(|line| {
        let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(':')?;
        let count = figures.strip_prefix("calls=")?.split(',').next()?;
        Some((name.to_owned(), count.parse().expect("a count")))
    });
    calls.collect()
}

#[tokio::test]
async fn fifty_events_to_a_hundred_connected_users_are_no_writes() {
    let mut hall = Hall::open(System::builder().own_servers()).await;
    let mut sockets = Vec::new();
    for number in 0..USERS {
        let user = format!("user-{number}");
        sockets.push(open(hall.gateway(), &user, "default").await.0);
    }
    let before = calls(&hall.system).await;
    let started = std::time::Instant::now();
    for number in 0..EVENTS {
        hall.tell_event("new_post.1", for_everyone(number)).await;
    }
    for socket in &mut sockets {
        let mut received = Vec::new();
        while received.len() < EVENTS {
            received.extend(data_of(&socket.messages_to(1).await));
        }
        assert_eq!(received.len(), EVENTS);
    }
    // Every message is acknowledged, and more than the second has passed in which one of the
    // user's own would be stored.
    tokio::time::sleep(std::time::Duration::from_millis(1_200)).await;
    let seconds = started.elapsed().as_secs() + 1;
    let after = calls(&hall.system).await;
    let mut more: Vec<(String, u64)> = after
        .iter()
        .map(|(name, count)| (name.clone(), count - before.get(name).unwrap_or(&0)))
        .filter(|(_, count)| *count > 0)
        .collect();
    more.sort();
    let sum: u64 = more.iter().map(|(_, count)| *count).sum();
    println!("{EVENTS} events to {USERS} users in {seconds} s: {more:?}");
    // Leases, heartbeats and the like go on, as many as seconds pass.
    assert!(sum < 60 + 20 * seconds, "{sum} commands: {more:?}");
    let writes = ["hset", "hincrby", "rpush", "ltrim", "del"];
    // Each process writes the store's clock twice a second, and how far it is.
    let clocks = 8 * seconds;
    for (name, count) in &more {
        let is_clock = name == "hset" && *count <= clocks;
        assert!(
            is_clock || !writes.contains(&name.as_str()),
            "{count} of {name}"
        );
    }

    // What was acknowledged is stored as the connections end, before the close is answered.
    for socket in sockets {
        socket.close().await;
    }
    for number in 0..USERS {
        let (_, frames) = open(hall.gateway(), &format!("user-{number}"), "default").await;
        assert!(data_in(&frames).is_empty(), "{frames:?}");
    }
}
