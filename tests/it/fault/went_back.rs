//! Streams that lost their last messages, as after a loss of power or with an older copy of a disk,
//! while everything else kept what it had.

use serde_json::json;

use crate::support::servers::Checkpoint;
use crate::support::socket::data_of;
use crate::support::{Socket, System};

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
