//! Whom events for everyone reach.

use serde_json::json;

use super::{Hall, data_in, for_everyone, open};
use crate::support::socket::{cursor, data_of, messages_of, with_op};
use crate::support::{Catchup, System, eventually};

#[tokio::test]
async fn everybody_has_it_now_or_on_coming_back() {
    let mut hall = Hall::open(System::builder().gateways(2)).await;
    let system = &hall.system;
    let (mut ann, _) = open(system.gateway(0), "ann", "default").await;
    let (mut bob, _) = open(system.gateway(1), "bob", "default").await;
    hall.introduce("carl", "default").await;

    let mut absent = for_everyone(1);
    absent["id"] = json!("first");
    hall.tell_event("deploy_done", absent).await;
    let mut null = for_everyone(2);
    null["targetUserIds"] = json!(null);
    null["priority"] = json!("high");
    hall.tell_event("new_post.7", null).await;
    let mut both = Vec::new();
    for socket in [&mut ann, &mut bob] {
        let frame = socket.expect("messages").await;
        assert_eq!(frame.get("replay"), None);
        socket.ack(&frame).await;
        let mut messages = messages_of(&frame);
        if messages.len() < 2 {
            messages.extend(socket.messages(1).await);
        }
        both.push(messages);
    }
    let [first, second] = &both[0][..] else {
        panic!("two messages: {both:?}");
    };
    assert_eq!(both[0], both[1], "each has the same");
    assert_eq!((&first["id"], &first["data"]), (&json!("first"), &json!(1)));
    assert_eq!(
        (&first["type"], first.get("key")),
        (&json!("deploy_done"), None)
    );
    assert_eq!(
        (&second["type"], &second["key"]),
        (&json!("new_post"), &json!("7"))
    );
    // The priority is only passed on.
    assert_eq!(first.get("priority"), None);
    assert_eq!(second["priority"], "high");

    // Carl was seen before; dora was not.
    let system = &hall.system;
    let (mut carl, frames) = open(system.gateway(1), "carl", "default").await;
    assert_eq!(frames[0]["pending"], 2);
    assert_eq!(frames[1]["replay"], true);
    assert_eq!(messages_of(&frames[1]), both[0]);
    assert_eq!(with_op(&frames, "live")[0]["replayed"], 2);
    let line = "Delivered 2 offline messages to user carl";
    system.gateway(1).log().line_with(line).await;
    carl.ack(frames.last().unwrap()).await;
    let (_, frames) = open(system.gateway(0), "dora", "default").await;
    assert_eq!(frames[0]["pending"], 0);
    assert!(data_in(&frames).is_empty(), "{frames:?}");

    // Nothing of it is in anybody's mailbox.
    for user in ["ann", "bob", "carl", "dora"] {
        assert!(system.waiting(user).await.is_empty());
        assert!(system.waiting_high(user).await.is_empty());
    }
    let labels = [("type", "new_post"), ("outcome", "broadcast")];
    let counted = system.metric("catchup_events_total", &labels).await;
    assert_eq!(counted, 1.0);
    assert!(system.dead_letters().await.is_empty());
    // What carl acknowledged is stored when his connection ends.
    carl.close().await;
    let (_, frames) = open(system.gateway(0), "carl", "default").await;
    assert!(data_in(&frames).is_empty(), "{frames:?}");
}

#[tokio::test]
async fn of_two_devices_the_one_that_slept_has_it_on_coming_back() {
    let mut hall = Hall::open(System::builder()).await;
    let (mut laptop, _) = open(hall.gateway(), "ann", "laptop").await;
    hall.introduce("ann", "phone").await;
    for number in 1..=3 {
        hall.tell(number).await;
        assert_eq!(data_of(&laptop.messages(1).await), [number]);
    }
    laptop.close().await;
    // A device that is seen for the first time begins at the present.
    let (tablet, frames) = open(hall.gateway(), "ann", "tablet").await;
    assert!(data_in(&frames).is_empty(), "{frames:?}");
    let (phone, frames) = open(hall.gateway(), "ann", "phone").await;
    assert_eq!(data_in(&frames), [1, 2, 3]);
    // Not acknowledged: it comes again.
    phone.close().await;
    tablet.close().await;
    hall.tell(4).await;
    let (_, frames) = open(hall.gateway(), "ann", "phone").await;
    assert_eq!(data_in(&frames), [1, 2, 3, 4]);
    let (_, frames) = open(hall.gateway(), "ann", "laptop").await;
    assert_eq!(data_in(&frames), [4]);
    let (_, frames) = open(hall.gateway(), "ann", "tablet").await;
    assert_eq!(data_in(&frames), [4]);
}

#[tokio::test]
async fn who_is_excluded_gets_nothing_and_nobody_is_not_everybody() {
    let mut hall = Hall::open(System::builder()).await;
    let (mut ann, _) = open(hall.gateway(), "ann", "default").await;
    let (mut seven, _) = open(hall.gateway(), "7", "default").await;
    hall.introduce("ann", "phone").await;
    let excluding = |user: serde_json::Value, data: u64| {
        let mut event = for_everyone(data);
        event["excludeUserId"] = user;
        event
    };
    hall.tell_event("new_post.1", excluding(json!("ann"), 1))
        .await;
    hall.tell_event("new_post.1", excluding(json!(7), 2)).await;
    let nobody = json!({ "targetUserIds": [], "data": 3 });
    hall.system.publish("new_post.1", nobody).await;
    hall.tell_event("new_post.1", excluding(json!("nobody"), 4))
        .await;
    assert_eq!(data_of(&ann.messages(2).await), [2, 4]);
    assert_eq!(data_of(&seven.messages(2).await), [1, 4]);
    let (_, frames) = open(hall.gateway(), "ann", "phone").await;
    assert_eq!(frames[0]["pending"], 2);
    assert_eq!(data_in(&frames), [2, 4]);
    assert_eq!(with_op(&frames, "missed").len(), 0);
    assert_eq!(with_op(&frames, "live")[0]["replayed"], 2);
}

#[tokio::test]
async fn the_publish_command_reaches_everyone_without_targets() {
    let mut hall = Hall::open(System::builder()).await;
    let arguments = "publish --type new_post --key 1 --exclude ann --data 5";
    let mut command = Catchup::new(arguments.split(' '));
    for (name, value) in hall.system.env() {
        command = command.env(name, value);
    }
    let ended = command.run().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(data_of(&hall.watchers[0].messages(1).await), [5]);
}

#[tokio::test]
async fn an_event_published_twice_is_one() {
    let mut hall = Hall::open(System::builder()).await;
    for _ in 0..2 {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", "once");
        let body = for_everyone(1).to_string();
        let ack = hall.system.publish_with("new_post.1", headers, body);
        ack.await.expect("a PubAck");
    }
    hall.tell_user(json!({ "targetUserIds": ["watcher"], "data": "end" }))
        .await;
    let messages = hall.watchers[0].messages(2).await;
    assert_eq!(messages[0]["id"], "once");
    assert_eq!(data_of(&messages), [json!(1), json!("end")]);
}

#[tokio::test]
async fn an_ephemeral_one_reaches_who_is_connected() {
    let mut hall = Hall::open(System::builder().gateways(2)).await;
    let (mut ann, _) = open(hall.system.gateway(0), "ann", "default").await;
    let (mut bob, _) = open(hall.system.gateway(1), "bob", "default").await;
    hall.introduce("carl", "default").await;
    let mut event = for_everyone("typing…");
    event["ephemeral"] = json!(true);
    event["excludeUserId"] = json!("ann");
    hall.tell_event("typing.1", event).await;
    let frame = bob.expect("messages").await;
    assert_eq!(data_in(std::slice::from_ref(&frame)), ["typing…"]);
    // Its cursor is one that may be acknowledged.
    bob.ack_cursor(cursor(&frame)).await;
    hall.tell("stored").await;
    assert_eq!(data_of(&ann.messages(1).await), ["stored"]);
    assert_eq!(data_of(&bob.messages(1).await), ["stored"]);
    let (_, frames) = open(hall.gateway(), "carl", "default").await;
    assert_eq!(data_in(&frames), ["stored"]);
    // It is in neither stream for longer than it takes.
    let stream = hall.system.stream_name("BROADCASTS");
    let jetstream = hall.system.jetstream().await;
    let mut stream = jetstream.get_stream(stream).await.expect("BROADCASTS");
    assert_eq!(stream.info().await.expect("its state").state.messages, 1);
}

#[tokio::test]
async fn a_gateway_that_starts_has_what_waits_before_it_lets_anybody_in() {
    let mut hall = Hall::open(System::builder()).await;
    hall.introduce("ann", "default").await;
    for number in 1..=5 {
        hall.tell(number).await;
    }
    hall.system.add_gateway().await;
    let (_, frames) = open(hall.system.gateway(1), "ann", "default").await;
    assert_eq!(data_in(&frames), [1, 2, 3, 4, 5]);
    // The same after its name's process was killed.
    hall.system.gateway(1).kill();
    hall.system.gateway(1).start_again();
    let request = hall.system.gateway(1).socket().user("ann");
    let mut socket = eventually("it serves", async || request.attempt().await.ok()?.ok()).await;
    assert_eq!(socket.until_live().await.len(), 5);
}
