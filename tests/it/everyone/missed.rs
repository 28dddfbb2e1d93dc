//! What of the events for everyone will not come is told exactly, until it is acknowledged.

use serde_json::{Value, json};

use super::{Hall, data_in, for_everyone, open};
use crate::support::socket::{all_messages, cursor, data_of, messages_of, with_op};
use crate::support::store::clock_ms;
use crate::support::{Frame, System, event, eventually};

/// Each `missed` frame as (reason, count).
fn told(frames: &[Frame]) -> Vec<(&str, Option<u64>)> {
    let missed = with_op(frames, "missed").into_iter();
    missed
        .map(|frame| (frame["reason"].as_str().unwrap(), frame["count"].as_u64()))
        .collect()
}

fn ops(frames: &[Frame]) -> Vec<&str> {
    let ops = frames.iter().map(|frame| frame["op"].as_str().unwrap());
    ops.collect()
}

#[tokio::test]
async fn what_the_cap_pushed_out_is_told_apart_from_the_users_own() {
    let builder = System::builder().env("CATCHUP_MAX_MESSAGES", "8");
    let mut hall = Hall::open(builder).await;
    let (mut ann, _) = open(hall.gateway(), "ann", "default").await;
    hall.tell(0).await;
    let received = ann.messages(1).await;
    ann.close().await;
    for number in 1..=20 {
        hall.tell(number).await;
    }
    for number in 21..=28 {
        hall.tell_user(event(&["ann"], number)).await;
    }
    let (mut ann, frames) = open(hall.gateway(), "ann", "default").await;
    // Eight of each wait: their caps are apart.
    assert_eq!(frames[0]["pending"], 16);
    assert_eq!(told(&frames), [("evicted", Some(12))]);
    assert_eq!(ops(&frames)[..2], ["welcome", "missed"]);
    let expected: Vec<Value> = (13..=28).map(|number| json!(number)).collect();
    assert_eq!(data_in(&frames), expected);
    assert_eq!(frames[1]["from"], received[0]["time"]);
    assert_eq!(frames[1]["to"], all_messages(&frames)[0]["time"]);
    // It is told again, and more where more went, until it is acknowledged.
    hall.tell(29).await;
    assert_eq!(data_of(&messages_of(&ann.expect("messages").await)), [29]);
    ann.close().await;
    let (mut ann, frames) = open(hall.gateway(), "ann", "default").await;
    assert_eq!(told(&frames), [("evicted", Some(13))]);
    ann.ack(&frames[1]).await;
    // This acknowledgement is stored soon: it need not wait for one of the user's own.
    let field = "device:default";
    let stored = hall.system.mailbox("ann").await[field].clone();
    eventually("the acknowledgement is stored", async || {
        (hall.system.mailbox("ann").await[field] != stored).then_some(())
    })
    .await;
    drop(ann);
    let (_, frames) = open(hall.gateway(), "ann", "default").await;
    assert_eq!(told(&frames), []);
    assert_eq!(frames[0]["pending"], 16);
}

#[tokio::test]
async fn what_expired_is_told_where_it_lay() {
    let mut hall = Hall::open(System::builder()).await;
    hall.introduce("ann", "default").await;
    let brief = |number: u64| {
        let mut event = for_everyone(number);
        event["ttlSeconds"] = json!(1);
        event
    };
    let mut redis = hall.system.redis().await;
    for number in 1..=8 {
        // 3, 4 and 7 in the middle, 8 at the end; 4 not for ann.
        let mut event = match number {
            3 | 4 | 7 | 8 => brief(number),
            _ => for_everyone(number),
        };
        if number == 4 {
            event["excludeUserId"] = json!("ann");
        }
        hall.tell_event("new_post.1", event).await;
    }
    let published = clock_ms(&mut redis).await;
    let (socket, frames) = open(hall.gateway(), "ann", "default").await;
    // Nothing may have expired yet, or something may.
    let received = data_in(&frames).len() as u64;
    let missed: u64 = told(&frames).iter().filter_map(|(_, count)| *count).sum();
    assert_eq!(received + missed, 7, "{frames:?}");
    socket.close().await;
    eventually("a second passes", async || {
        (clock_ms(&mut redis).await > published + 1_000).then_some(())
    })
    .await;
    let (mut ann, frames) = open(hall.gateway(), "ann", "default").await;
    assert_eq!(frames[0]["pending"], 4);
    let expected = [
        "welcome", "messages", "missed", "messages", "missed", "live",
    ];
    assert_eq!(ops(&frames), expected, "{frames:?}");
    assert_eq!(told(&frames), [("expired", Some(1)), ("expired", Some(2))]);
    assert_eq!(data_in(&frames), [1, 2, 5, 6]);
    assert_eq!(frames[2]["to"], messages_of(&frames[3])[0]["time"]);
    assert_eq!(frames[5]["replayed"], 4);
    ann.ack(&frames[5]).await;
    ann.close().await;
    let (_, frames) = open(hall.gateway(), "ann", "default").await;
    assert_eq!(ops(&frames), ["welcome", "live"]);
    // A gateway that starts later counts the same.
    hall.introduce("ben", "default").await;
    hall.tell_event("new_post.1", brief(9)).await;
    hall.tell(10).await;
    let published = clock_ms(&mut redis).await;
    eventually("a second passes", async || {
        (clock_ms(&mut redis).await > published + 1_000).then_some(())
    })
    .await;
    hall.system.add_gateway().await;
    let (_, frames) = open(hall.system.gateway(1), "ben", "default").await;
    assert_eq!(told(&frames), [("expired", Some(1))]);
    assert_eq!(data_in(&frames), [10]);
}

#[tokio::test]
async fn the_count_is_exact_from_the_cursor_that_the_client_gives() {
    let builder = System::builder().gateways(2);
    let mut hall = Hall::open(builder.env("CATCHUP_MAX_MESSAGES", "4")).await;
    let (mut ann, _) = open(hall.system.gateway(0), "ann", "default").await;
    let mut cursors = Vec::new();
    for number in 1..=3 {
        hall.tell(number).await;
        cursors.push(cursor(&ann.expect("messages").await).to_owned());
    }
    ann.ack_cursor(&cursors[0]).await;
    // Neither acknowledged nor stored: a killed gateway stores nothing.
    hall.system.gateway(0).kill();
    ann.closed().await;
    hall.system.gateway(0).start_again();
    hall.system.gateway(0).ready().await;
    hall.watch().await;
    for number in 4..=8 {
        hall.tell(number).await;
    }
    // From the last stored acknowledgement, which is where the device began.
    let (socket, frames) = open(hall.system.gateway(1), "ann", "default").await;
    assert_eq!(told(&frames), [("evicted", Some(4))]);
    assert_eq!(data_in(&frames), [5, 6, 7, 8]);
    drop(socket);
    for (received, count) in [(2, 2), (3, 1)] {
        let cursor = &cursors[received - 1];
        let request = hall.system.gateway(received % 2).socket().user("ann");
        let mut socket = request.cursor(cursor).connect().await;
        let frames = socket.frames_until("live").await;
        assert_eq!(told(&frames), [("evicted", Some(count))]);
        assert_eq!(data_in(&frames), [5, 6, 7, 8]);
    }
}

#[tokio::test]
async fn an_acknowledgement_is_stored_with_the_next_of_the_users_own() {
    let mut hall = Hall::open(System::builder()).await;
    let (mut ann, _) = open(hall.gateway(), "ann", "default").await;
    for number in 1..=3 {
        hall.tell(number).await;
    }
    let frames = ann.messages(3).await;
    assert_eq!(data_of(&frames), [1, 2, 3]);
    hall.tell_user(event(&["ann"], 4)).await;
    assert_eq!(data_of(&ann.messages(1).await), [4]);
    hall.system.until_waiting("ann", 0).await;
    // The gateway dies and stores nothing more.
    hall.gateway().kill();
    ann.closed().await;
    hall.gateway().start_again();
    hall.gateway().ready().await;
    let (_, frames) = open(hall.gateway(), "ann", "default").await;
    assert_eq!(ops(&frames), ["welcome", "live"], "{frames:?}");
}
