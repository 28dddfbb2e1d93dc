//! `BROADCASTS` as others may treat it: removed, restored, filled with what is no event.

use serde_json::{Value, json};

use super::{Hall, data_in, for_everyone, open};
use crate::support::nats::RawNats;
use crate::support::socket::{cursor, data_of, with_op};
use crate::support::{Frame, Socket, System, eventually};

fn reasons(frames: &[Frame]) -> Vec<(&str, Option<u64>)> {
    let missed = with_op(frames, "missed").into_iter();
    missed
        .map(|frame| (frame["reason"].as_str().unwrap(), frame["count"].as_u64()))
        .collect()
}

/// Reads up to a message with this data, acknowledging all; returns the frames.
async fn until_data(socket: &mut Socket, data: impl Into<Value>) -> Vec<Frame> {
    let data = data.into();
    let mut frames = Vec::new();
    while !data_in(&frames).contains(&data) {
        let frame = socket.frame().await;
        socket.ack(&frame).await;
        frames.push(frame);
    }
    frames
}

#[tokio::test]
async fn a_stream_that_was_removed_is_made_anew_and_told_as_lost_once() {
    let mut hall = Hall::open(System::builder().gateways(2)).await;
    hall.introduce("ann", "default").await;
    let (mut bob, _) = open(hall.gateway(), "bob", "default").await;
    for number in 1..=5 {
        hall.tell(number).await;
    }
    bob.messages(5).await;
    let jetstream = hall.system.jetstream().await;
    let name = hall.system.stream_name("BROADCASTS");
    jetstream.delete_stream(name).await.expect("it was there");
    hall.system
        .publish("new_post.1", for_everyone("after"))
        .await;
    // Who is connected is told that something may be lost, and has what comes next.
    let frames = until_data(&mut bob, "after").await;
    assert_eq!(reasons(&frames), [("store_lost", None)], "{frames:?}");
    for watcher in &mut hall.watchers {
        let frames = until_data(watcher, "after").await;
        assert_eq!(reasons(&frames), [("store_lost", None)], "{frames:?}");
    }
    hall.tell("more").await;
    assert_eq!(data_of(&bob.messages(1).await), ["more"]);
    bob.close().await;

    // The one that was away as well, until it is acknowledged.
    let (ann, frames) = open(hall.system.gateway(1), "ann", "default").await;
    assert_eq!(reasons(&frames), [("store_lost", None)]);
    assert_eq!(data_in(&frames), ["after", "more"]);
    ann.close().await;
    let (mut ann, frames) = open(hall.system.gateway(0), "ann", "default").await;
    assert_eq!(reasons(&frames), [("store_lost", None)]);
    ann.ack(with_op(&frames, "missed")[0]).await;
    ann.close().await;
    let (mut ann, frames) = open(hall.system.gateway(1), "ann", "default").await;
    assert_eq!(reasons(&frames), []);
    assert_eq!(data_in(&frames), ["after", "more"]);
    ann.ack(frames.last().unwrap()).await;
    ann.close().await;
    for user in ["ann", "bob"] {
        let (_, frames) = open(hall.gateway(), user, "default").await;
        assert_eq!(frames.len(), 2, "{frames:?}");
    }
}

#[tokio::test]
async fn a_cursor_that_no_stream_gave_out_is_ignored() {
    let mut hall = Hall::open(System::builder()).await;
    let (mut ann, _) = open(hall.gateway(), "ann", "default").await;
    hall.tell(1).await;
    let frame = ann.expect("messages").await;
    ann.close().await;
    // The place among the events for everyone, far ahead: bytes 54 to 61 of the cursor.
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let mut bytes = engine.decode(cursor(&frame)).expect("base64");
    bytes[59] = 1;
    let forged = engine.encode(bytes);
    let request = hall.gateway().socket().user("ann").cursor(&forged);
    let mut ann = request.connect().await;
    let frames = ann.frames_until("live").await;
    assert_eq!(reasons(&frames), [], "{frames:?}");
    assert_eq!(data_in(&frames), [1]);
    hall.tell(2).await;
    assert_eq!(data_of(&ann.messages(1).await), [2]);
}

#[tokio::test]
async fn what_is_no_event_in_the_stream_stops_nobody() {
    let mut hall = Hall::open(System::builder().gateways(2)).await;
    hall.introduce("ann", "default").await;
    hall.tell("before").await;
    let port = hall.system.nats_server().port();
    let mut raw = RawNats::connect(port).await;
    let subject = |end: &[u8]| {
        let mut subject = hall.system.subject("broadcasts.").into_bytes();
        subject.extend_from_slice(end);
        subject
    };
    let bodies: [&[u8]; 4] = [b"", b"{}", b"\xff\xfe", b"{\"version\":0}"];
    for body in bodies {
        raw.publish(&subject(b"junk"), body)
            .await
            .expect("a PubAck");
    }
    // These break the client library's connection; one of them ends its reader for good.
    for headers in [
        &b"junk\r\n\r\n"[..],
        b"NATS/1.0\r\na: x\ry\r\n\r\n",
        b"NATS/1.0\r\n\xff: x\r\n\r\n",
    ] {
        let subject = subject(b"bad");
        let ack = raw.publish_with_headers(&subject, headers, b"{}").await;
        ack.expect("a PubAck");
    }
    raw.publish(&subject(b"\xff"), b"{}")
        .await
        .expect("a PubAck");
    hall.tell("after").await;

    // What waits is the same for a gateway that reads it all from the beginning.
    hall.system.add_gateway().await;
    for gateway in [0, 2, 1] {
        let (socket, frames) = open(hall.system.gateway(gateway), "ann", "default").await;
        assert_eq!(data_in(&frames), ["before", "after"], "{gateway}");
        assert_eq!(reasons(&frames), []);
        socket.close().await;
    }
}

#[tokio::test]
async fn a_copy_that_is_stored_twice_is_one_message() {
    let mut hall = Hall::open(System::builder()).await;
    hall.introduce("ann", "default").await;
    hall.tell(1).await;
    // As a worker does that comes back to an event after the time in which JetStream knows it.
    let jetstream = hall.system.jetstream().await;
    let name = hall.system.stream_name("BROADCASTS");
    let stream = jetstream.get_stream(name).await.expect("the stream");
    let copy = stream.get_raw_message(1).await.expect("the copy");
    let again = jetstream.publish(copy.subject, copy.payload).await;
    assert_eq!(again.expect("sent").await.expect("a PubAck").sequence, 2);
    hall.tell(2).await;
    let (_, frames) = open(hall.gateway(), "ann", "default").await;
    assert_eq!(frames[0]["pending"], 2);
    assert_eq!(data_in(&frames), [1, 2]);
}

#[tokio::test]
async fn a_gateway_starts_where_the_newest_were_removed_by_hand() {
    let mut hall = Hall::open(System::builder()).await;
    hall.introduce("ann", "default").await;
    for number in 1..=3 {
        hall.tell(number).await;
    }
    let jetstream = hall.system.jetstream().await;
    let name = hall.system.stream_name("BROADCASTS");
    let stream = jetstream.get_stream(name).await.expect("the stream");
    stream.delete_message(3).await.expect("deleted");
    hall.system.add_gateway().await;
    let (mut ann, frames) = open(hall.system.gateway(1), "ann", "default").await;
    assert_eq!(data_in(&frames), [1, 2]);
    hall.system.publish("new_post.1", for_everyone(4)).await;
    let frames = until_data(&mut ann, 4).await;
    assert_eq!(reasons(&frames), [("evicted", Some(1))]);
}

/// Some are gone from the middle of what came while a gateway was away.
#[tokio::test]
async fn what_the_stream_dropped_before_a_gateway_had_it_is_told() {
    let mut hall = Hall::open(System::builder().own_servers()).await;
    hall.tell(1).await;
    let (mut ben, _) = open(hall.gateway(), "ben", "default").await;
    // Without its connection nothing is on its way to it.
    hall.gateway().pause();
    hall.system.nats_server().kill();
    hall.system.nats_server().start_again();
    hall.system.worker(0).ready().await;
    for number in 2..=9 {
        let event = for_everyone(number);
        hall.system.publish("new_post.1", event).await;
    }
    hall.system.processed().await;
    let jetstream = hall.system.jetstream().await;
    let name = hall.system.stream_name("BROADCASTS");
    let stream = jetstream.get_stream(name).await.expect("the stream");
    for sequence in 4..=5 {
        stream.delete_message(sequence).await.expect("deleted");
    }
    hall.gateway().resume();
    let frames = until_data(&mut ben, 9).await;
    assert_eq!(reasons(&frames), [("evicted", Some(2))], "{frames:?}");
    assert_eq!(data_in(&frames), [2, 3, 6, 7, 8, 9]);
}

#[tokio::test]
async fn what_a_later_version_wrote_is_told_as_missed() {
    let mut hall = Hall::open(System::builder()).await;
    hall.introduce("ann", "default").await;
    hall.tell("before").await;
    let jetstream = hall.system.jetstream().await;
    let subject = hall.system.subject("broadcasts.new_post");
    for body in [r#"{"version":2}"#, r#"{"version":3,"message":"new"}"#] {
        let sent = jetstream.publish(subject.clone(), body.into()).await;
        sent.expect("sent").await.expect("a PubAck");
    }
    hall.system
        .publish("new_post.1", for_everyone("after"))
        .await;
    let frames = until_data(&mut hall.watchers[0], "after").await;
    let missed: u64 = with_op(&frames, "missed")
        .iter()
        .map(|frame| frame["count"].as_u64().unwrap())
        .sum();
    assert_eq!(missed, 2, "{frames:?}");
    let (_, frames) = open(hall.gateway(), "ann", "default").await;
    assert_eq!(frames[0]["pending"], 2);
    assert_eq!(reasons(&frames), [("expired", Some(2))]);
    assert_eq!(data_in(&frames), ["before", "after"]);
}

#[tokio::test]
async fn a_stream_that_was_restored_is_told_as_lost() {
    let mut hall = Hall::open(System::builder().own_servers()).await;
    hall.introduce("ann", "default").await;
    hall.tell(1).await;
    hall.tell(2).await;
    let nats = hall.system.nats_server();
    nats.kill();
    let checkpoint = nats.checkpoint();
    nats.start_again();
    hall.system.ready().await;
    hall.tell(3).await;
    hall.tell(4).await;
    let (mut ben, _) = open(hall.gateway(), "ben", "default").await;
    hall.tell(5).await;
    ben.messages(1).await;

    hall.system.nats_server().roll_back(&checkpoint);
    let gateway = hall.gateway();
    eventually("the gateway noticed", async || {
        let lines = gateway.log().lines();
        let noticed = |line: &String| line.contains("lost messages");
        lines.iter().any(noticed).then_some(())
    })
    .await;
    hall.system.ready().await;
    hall.system
        .publish("new_post.1", for_everyone("after"))
        .await;
    let frames = until_data(&mut ben, "after").await;
    assert_eq!(reasons(&frames), [("store_lost", None)], "{frames:?}");
    let frames = until_data(&mut hall.watchers[0], "after").await;
    assert_eq!(reasons(&frames), [("store_lost", None)], "{frames:?}");
    hall.tell("more").await;
    let (_, frames) = open(hall.gateway(), "ann", "default").await;
    assert_eq!(reasons(&frames), [("store_lost", None)], "{frames:?}");
    assert_eq!(
        data_in(&frames),
        [json!(1), json!(2), json!("after"), json!("more")]
    );
    // A gateway that starts afterwards is on the same time line.
    ben.messages(1).await;
    ben.close().await;
    hall.system.add_gateway().await;
    let (_, frames) = open(hall.system.gateway(1), "ben", "default").await;
    assert_eq!(frames.len(), 2, "{frames:?}");
}
