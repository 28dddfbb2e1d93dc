//! Streams that lost their last messages, as after a loss of power or with an older copy of a disk,
//! while everything else kept what it had.

use std::time::Duration;

use redis::AsyncCommands;
use serde_json::json;

use crate::support::servers::Checkpoint;
use crate::support::socket::{all_messages, cursor, data_of, with_op};
use crate::support::{DEADLINE, Frame, Socket, System, eventually};

/// A copy of what NATS holds now.
async fn checkpoint(system: &System) -> Checkpoint {
    let nats = system.nats_server();
    nats.kill();
    let checkpoint = nats.checkpoint();
    nats.start_again();
    system.ready().await;
    checkpoint
}

/// One event for everyone, one for ann in each lane, and one that is refused; ann acknowledges hers.
async fn publish_each_kind(system: &System, ann: &mut Socket, name: &str) -> u64 {
    let first = system
        .publish("new_post.1", json!({ "data": [name, "everyone"] }))
        .await;
    for priority in ["normal", "high"] {
        let data = json!([name, priority]);
        let event = json!({ "data": data, "targetUserIds": ["ann"], "priority": priority });
        system.publish("new_post.2", event).await;
    }
    system.publish("new_post.3", json!({ "name": name })).await;
    let mut received = data_of(&ann.messages(3).await);
    received.sort_by_key(ToString::to_string);
    let expected = ["everyone", "high", "normal"].map(|kind| json!([name, kind]));
    assert_eq!(received, expected);
    system.processed().await;
    first
}

/// Its sequences are given to other events: none of them is taken for the one that was lost.
async fn new_events_in_the_places_of_lost_ones_arrive(part: &str) {
    let system = System::builder().own_servers().start().await;
    let mut ann = system.connect("ann").await;
    ann.until_live().await;
    publish_each_kind(&system, &mut ann, "kept").await;
    let checkpoint = checkpoint(&system).await;
    let lost = publish_each_kind(&system, &mut ann, "lost").await;
    let events = system.stream_name("EVENTS");
    (system.nats_server()).roll_back_stream(&checkpoint, &events, part);
    system.ready().await;
    let new = publish_each_kind(&system, &mut ann, "new").await;
    assert_eq!(new, lost, "it has the place of the lost one");
    let letters = system.dead_letters().await;
    let names = letters.iter().map(|(_, _, body)| {
        let body: serde_json::Value = serde_json::from_slice(body).unwrap();
        body["name"].clone()
    });
    assert_eq!(names.collect::<Vec<_>>(), ["kept", "lost", "new"]);
}

#[tokio::test]
async fn events_that_went_back_with_their_consumers() {
    new_events_in_the_places_of_lost_ones_arrive("").await;
}

#[tokio::test]
async fn events_that_went_back_without_their_consumers() {
    new_events_in_the_places_of_lost_ones_arrive("msgs").await;
}

/// Two gateways and `BROADCASTS` with the events 1 and 2; what follows will be lost.
struct Line {
    system: System,
    checkpoint: Checkpoint,
    /// Connected to the first gateway, and has the events 1 to 5.
    ann: Socket,
}

impl Line {
    /// Three events are lost. `ann` has acknowledged what she was sent.
    async fn drawn() -> Line {
        let system = System::builder().own_servers().gateways(2).start().await;
        let mut ann = system.connect("ann").await;
        ann.until_live().await;
        tell(&system, 1..=2).await;
        ann.messages(2).await;
        let checkpoint = checkpoint(&system).await;
        tell(&system, 3..=5).await;
        ann.messages(3).await;
        Line {
            system,
            checkpoint,
            ann,
        }
    }

    /// Waits until the newest message is in the store.
    async fn until_marked(&self, sequence: u64) {
        let key = self.system.key("newest_broadcast");
        let mut redis = self.system.redis().await;
        eventually("the newest message is known", async || {
            let mark: Option<String> = redis.get(&key).await.expect("a string");
            mark?.contains(&format!(" {sequence} ")).then_some(())
        })
        .await;
    }
}

fn roll_back(system: &System, checkpoint: &Checkpoint) {
    let name = system.stream_name("BROADCASTS");
    (system.nats_server()).roll_back_stream(checkpoint, &name, "");
}

/// Ann comes back to a gateway as if nothing had happened.
async fn come_back(system: &System, gateway: usize, cursor: Option<&str>) -> (Socket, Vec<Frame>) {
    let mut request = system.gateway(gateway).socket().user("ann");
    if let Some(cursor) = cursor {
        request = request.cursor(cursor);
    }
    // It may refuse for a moment, while it goes over to another time line.
    let mut ann = eventually("the gateway serves", async || {
        request.attempt().await.ok()?.ok()
    })
    .await;
    let frames = ann.frames_until("live").await;
    (ann, frames)
}

impl Socket {
    /// Reads until `store_lost` was told, acknowledging every frame.
    async fn until_told_lost(&mut self) {
        let reads = async {
            loop {
                let frame = self.frame().await;
                self.ack(&frame).await;
                if frame["op"] == "missed" {
                    return frame["reason"].clone();
                }
            }
        };
        let reason = tokio::time::timeout(DEADLINE, reads).await;
        assert_eq!(reason.expect("told in time"), "store_lost");
    }
}

async fn tell(system: &System, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        let event = json!({ "data": number });
        system.publish("new_post.1", event).await;
    }
    system.processed().await;
}

/// Reads up to a message with this data, acknowledging all; returns the reasons of what was missed.
async fn missed_until(socket: &mut Socket, data: u64) -> Vec<String> {
    let mut frames = Vec::new();
    while !data_of(&all_messages(&frames)).contains(&json!(data)) {
        let frame = socket.frame().await;
        socket.ack(&frame).await;
        frames.push(frame);
    }
    reasons(&frames)
}

fn reasons(frames: &[Frame]) -> Vec<String> {
    let missed = with_op(frames, "missed").into_iter();
    missed
        .map(|frame| frame["reason"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn broadcasts_that_grew_again_before_a_gateway_came_back_are_told_as_lost() {
    let mut line = Line::drawn().await;
    for gateway in line.system.gateways() {
        gateway.pause();
    }
    roll_back(&line.system, &line.checkpoint);
    line.system.worker(0).ready().await;
    // In the places of the lost ones, and beyond.
    tell(&line.system, 6..=10).await;
    for gateway in line.system.gateways() {
        gateway.resume();
    }
    assert_eq!(missed_until(&mut line.ann, 10).await, ["store_lost"]);
    line.ann.close().await;
    line.system.ready().await;
    for gateway in 0..2 {
        let (ann, frames) = come_back(&line.system, gateway, None).await;
        assert_eq!(reasons(&frames), [""; 0]);
        assert_eq!(all_messages(&frames), [""; 0]);
        ann.close().await;
    }
}

/// Nobody who saw the lost ones lives: what they knew is in the store.
#[tokio::test]
async fn gateways_that_restart_with_broadcasts_that_went_back_tell_it() {
    for grown in [5, 10] {
        let mut line = Line::drawn().await;
        line.until_marked(5).await;
        tell_ann(&line.system).await;
        let frame = line.ann.expect("messages").await;
        let cursor = cursor(&frame).to_owned();
        for gateway in line.system.gateways() {
            gateway.kill();
        }
        roll_back(&line.system, &line.checkpoint);
        line.system.worker(0).ready().await;
        tell(&line.system, 6..=grown).await;
        for gateway in line.system.gateways() {
            gateway.start_again();
        }
        line.system.ready().await;
        tell(&line.system, 11..=11).await;
        let (mut ann, mut frames) = come_back(&line.system, 0, Some(&cursor)).await;
        while !data_of(&all_messages(&frames)).contains(&json!(11)) {
            frames.push(ann.frame().await);
        }
        assert_eq!(reasons(&frames), ["store_lost"], "{frames:?}");
        let data = data_of(&all_messages(&frames));
        let expected = [1, 2].into_iter().chain(6..=grown).chain([11]);
        assert_eq!(data, expected.map(|data| json!(data)).collect::<Vec<_>>());
    }
}

/// An event of her own, with which the place among the events for everyone is stored.
async fn tell_ann(system: &System) {
    let event = json!({ "data": "own", "targetUserIds": ["ann"] });
    system.publish("new_post.1", event).await;
    system.processed().await;
}

/// The store has a place that the stream has not: it must have had it.
#[tokio::test]
async fn a_stored_place_beyond_broadcasts_shows_that_they_went_back() {
    let mut line = Line::drawn().await;
    line.until_marked(5).await;
    tell_ann(&line.system).await;
    line.ann.messages(1).await;
    line.ann.close().await;
    let bob = line.system.gateway(1).socket().user("bob");
    bob.connect().await.close().await;
    for gateway in line.system.gateways() {
        gateway.kill();
    }
    forget_mark(&line.system).await;
    roll_back(&line.system, &line.checkpoint);
    for gateway in line.system.gateways() {
        gateway.start_again();
    }
    line.system.ready().await;
    let (mut ann, mut frames) = come_back(&line.system, 0, None).await;
    // A gateway that just began the time line may still read what is in it.
    while all_messages(&frames).len() < 2 {
        frames.push(ann.frame().await);
    }
    assert_eq!(reasons(&frames), ["store_lost"], "{frames:?}");
    assert_eq!(data_of(&all_messages(&frames)), [1, 2]);
    // Bob's place is soon among new events, and nothing about it tells that it is another one's.
    tell(&line.system, 6..=10).await;
    assert_eq!(
        data_of(&ann.messages_to(5).await),
        (6..=10).collect::<Vec<_>>()
    );
    // His gateway may not know it yet.
    let mut bob = bob.connect().await;
    bob.until_told_lost().await;
    assert_eq!(data_of(&bob.messages_to(7).await), [1, 2, 6, 7, 8, 9, 10]);
}

async fn forget_mark(system: &System) {
    let key = system.key("newest_broadcast");
    let removed: u64 = system.redis().await.del(key).await.expect("removed");
    assert_eq!(removed, 1);
}

/// A cursor that a client in a hurry repeats is no fault of the client where the stream lost it.
#[tokio::test]
async fn a_place_beyond_broadcasts_that_is_acknowledged_is_ignored() {
    let mut line = Line::drawn().await;
    tell(&line.system, 12..=12).await;
    let frame = line.ann.expect("messages").await;
    let lost = cursor(&frame).to_owned();
    line.until_marked(6).await;
    for gateway in line.system.gateways() {
        gateway.kill();
    }
    forget_mark(&line.system).await;
    roll_back(&line.system, &line.checkpoint);
    for gateway in line.system.gateways() {
        gateway.start_again();
    }
    line.system.ready().await;
    let mut ann = line.system.gateway(1).socket().user("ann").connect().await;
    ann.ack_cursor(&lost).await;
    ann.frames_until("live").await;
    ann.ack_cursor(&lost).await;
    tell(&line.system, 13..=13).await;
    assert_eq!(data_of(&ann.messages(1).await), [13]);
}

/// Another gateway has begun a time line: one that is busy with messages goes over to it.
#[tokio::test]
async fn a_busy_gateway_goes_over_to_another_time_line() {
    let line = Line::drawn().await;
    let mut ann = line.ann;
    let jetstream = line.system.jetstream().await;
    let name = line.system.stream_name("BROADCASTS");
    let mut stream = jetstream.get_stream(name).await.expect("the stream");
    let info = stream.info().await.expect("its state");
    let mut config = info.config.clone();
    let later = info.created.unix_timestamp_nanos() / 1_000_000 + 1_000;
    (config.metadata).insert("catchup_time_line".to_owned(), later.to_string());
    jetstream.update_stream(config).await.expect("changed");
    let busy = async {
        for number in 100.. {
            let event = json!({ "data": number });
            line.system.publish("new_post.1", event).await;
            // Often enough that no request of the gateway for more ends empty.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = ann.until_told_lost() => {}
        () = busy => {}
    }
}
