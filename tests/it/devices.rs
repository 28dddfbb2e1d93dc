//! Each device has a cursor of its own: where it goes on, what it never sees, who replaces whom.

use serde_json::json;

use crate::support::socket::{all_messages, cursor, data_of, messages_of, with_op};
use crate::support::store::clock_ms;
use crate::support::{Frame, Role, Socket, System, event, eventually, user};

/// Connects a device and reads to its `live` frame, acknowledging nothing.
async fn open(role: &Role, user: &str, device: &str) -> (Socket, Vec<Frame>) {
    let request = role.socket().user(user).device(device);
    let mut socket = request.connect().await;
    let frames = socket.frames_until("live").await;
    (socket, frames)
}

/// Publishes these numbers to one user, in order.
async fn publish(system: &System, user: &str, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        let address = format!("new_post.{user}");
        system.publish(&address, event(&[user], number)).await;
    }
}

#[tokio::test]
async fn a_device_goes_on_from_the_cursor_it_gives() {
    let system = System::shared().await;
    let ann = user("ann");
    let (mut socket, _) = open(system.gateway(0), &ann, "phone").await;
    let mut cursors = Vec::new();
    for number in 1..=5 {
        publish(&system, &ann, number..=number).await;
        cursors.push(cursor(&socket.expect("messages").await).to_owned());
    }
    // It breaks off without a word.
    drop(socket);

    // The cursor acknowledges too.
    let request = system.gateway(1).socket().user(&ann).device("phone");
    let mut socket = request.clone().cursor(&cursors[2]).connect().await;
    let welcome = socket.expect("welcome").await;
    assert_eq!(welcome["pending"], 2);
    assert_eq!(welcome["cursor"], json!(cursors[2]));
    assert_eq!(
        data_of(&all_messages(&socket.frames_until("live").await)),
        [4, 5]
    );
    system.until_waiting(&ann, 2).await;
    // An older one takes nothing back.
    let mut socket = request.cursor(&cursors[0]).connect().await;
    let frames = socket.frames_until("live").await;
    assert_eq!(data_of(&all_messages(&frames)), [4, 5]);
}

#[tokio::test]
async fn a_cursor_that_is_not_this_devices_is_ignored() {
    let system = System::shared().await;
    let (ann, bob) = (user("ann"), user("bob"));
    let gateway = system.gateway(0);
    let (phone, _) = open(gateway, &ann, "phone").await;
    let (laptop, _) = open(gateway, &ann, "laptop").await;
    for name in [&ann, &bob] {
        publish(&system, name, 1..=3).await;
        system.until_waiting(name, 3).await;
    }
    let (mut bobs, frames) = open(gateway, &bob, "phone").await;
    let bobs_cursor = cursor(frames.last().unwrap()).to_owned();
    bobs.ack_cursor(&bobs_cursor).await;
    drop((phone, laptop));
    let (_, frames) = open(gateway, &ann, "laptop").await;
    let laptops = cursor(frames.last().unwrap()).to_owned();
    let longest = "A".repeat(200);
    let too_long = "A".repeat(5_000);
    for given in [
        bobs_cursor.as_str(),
        &laptops,
        "",
        "junk",
        "%00",
        "🙈",
        &laptops[1..],
        &longest,
        &too_long,
    ] {
        let request = gateway.socket().user(&ann).device("phone").cursor(given);
        let mut socket = request.connect().await;
        let frames = socket.frames_until("live").await;
        assert_eq!(data_of(&all_messages(&frames)), [1, 2, 3], "{given}");
        assert!(with_op(&frames, "missed").is_empty(), "{given}: {frames:?}");
    }
}

#[tokio::test]
async fn a_second_device_starts_at_the_present_and_each_must_acknowledge() {
    let system = System::shared().await;
    let ann = user("ann");
    publish(&system, &ann, 1..=3).await;
    system.until_waiting(&ann, 3).await;
    let (phone, frames) = open(system.gateway(0), &ann, "phone").await;
    assert_eq!(data_of(&all_messages(&frames)), [1, 2, 3]);

    let (mut laptop, frames) = open(system.gateway(1), &ann, "laptop").await;
    assert_eq!(frames[0]["pending"], 0);
    assert_eq!(frames[0]["device"], "laptop");
    assert!(all_messages(&frames).is_empty(), "{frames:?}");
    publish(&system, &ann, 4..=4).await;
    let frame = laptop.expect("messages").await;
    assert_eq!(data_of(&messages_of(&frame)), [4]);
    laptop.ack(&frame).await;
    laptop.close().await;

    // The phone has acknowledged nothing: all four are still its own.
    assert_eq!(system.waiting(&ann).await.len(), 4);
    drop(phone);
    let (mut phone, frames) = open(system.gateway(1), &ann, "phone").await;
    assert_eq!(data_of(&all_messages(&frames)), [1, 2, 3, 4]);
    phone.ack(frames.last().unwrap()).await;
    system.until_waiting(&ann, 0).await;
}

#[tokio::test]
async fn the_newest_connection_of_a_device_replaces_the_older() {
    let system = System::shared().await;
    let ann = user("ann");
    for (older, newer) in [(0, 0), (0, 1), (1, 0)] {
        let (mut first, _) = open(system.gateway(older), &ann, "phone").await;
        let (mut other, _) = open(system.gateway(older), &ann, "tablet").await;
        let (mut second, _) = open(system.gateway(newer), &ann, "phone").await;
        let frames = first.expect_close(4009).await;
        assert!(frames.is_empty(), "{frames:?}");
        publish(&system, &ann, 7..=7).await;
        // Another device stays, and the newer connection serves.
        for socket in [&mut second, &mut other] {
            let frame = socket.expect("messages").await;
            assert_eq!(data_of(&messages_of(&frame)), [7]);
            socket.ack(&frame).await;
        }
        system.until_waiting(&ann, 0).await;
        second.close().await;
        other.close().await;
    }
}

#[tokio::test]
async fn sixteen_devices_are_kept_and_the_longest_unseen_is_forgotten() {
    let system = System::shared().await;
    let ann = user("ann");
    let gateway = system.gateway(0);
    let mut sockets = Vec::new();
    for index in 0..16 {
        let name = format!("device-{index}");
        sockets.push(open(system.gateway(index % 2), &ann, &name).await.0);
    }
    // All are connected: nobody can be forgotten.
    let request = gateway.socket().user(&ann).device("seventeenth");
    let refused = request.try_connect().await.err().expect("no seventeenth");
    assert_eq!((refused.status, &refused.body["code"]), (429, &json!(4029)));
    let mut closing = request.clone().query("refuse", "close").connect().await;
    closing.expect_close(4029).await;

    publish(&system, &ann, 1..=1).await;
    let mut cursors = Vec::new();
    for socket in &mut sockets {
        cursors.push(cursor(&socket.expect("messages").await).to_owned());
    }
    // 5 leaves before 3, so 5 is the longest unseen, though 3 has the smaller name.
    let mut redis = system.redis().await;
    for left in [5, 3] {
        let clock = clock_ms(&mut redis).await;
        sockets.remove(left).close().await;
        eventually("the next millisecond", async || {
            (clock_ms(&mut redis).await > clock + 1).then_some(())
        })
        .await;
    }
    let mut seventeenth = request.connect().await;
    seventeenth.until_live().await;
    let devices = |fields: Vec<String>| {
        let devices = fields
            .into_iter()
            .filter(|field| field.starts_with("device:"));
        devices.collect::<Vec<_>>()
    };
    let known = devices(system.mailbox(&ann).await.into_keys().collect());
    assert_eq!(known.len(), 16);
    assert!(known.contains(&"device:device-3".to_owned()), "{known:?}");
    assert!(!known.contains(&"device:device-5".to_owned()), "{known:?}");

    // The forgotten one comes back with its cursor and goes on from there; 3 goes for it.
    publish(&system, &ann, 2..=3).await;
    system.until_stored(&ann, 3).await;
    let request = gateway.socket().user(&ann).device("device-5");
    let mut back = request.cursor(&cursors[5]).connect().await;
    let frames = back.frames_until("live").await;
    assert_eq!(data_of(&all_messages(&frames)), [2, 3]);
    // One that was forgotten and has no cursor is a new one.
    back.close().await;
    let (_, frames) = open(gateway, &ann, "device-3").await;
    assert!(all_messages(&frames).is_empty(), "{frames:?}");
}

#[tokio::test]
async fn a_forgotten_device_is_told_what_the_others_acknowledged_meanwhile() {
    let system = System::shared().await;
    let ann = user("ann");
    let gateway = system.gateway(0);
    let (mut phone, _) = open(gateway, &ann, "phone").await;
    publish(&system, &ann, 1..=1).await;
    let first = phone.expect("messages").await;
    phone.close().await;
    // Sixteen others push the phone out of the list, and acknowledge what comes.
    let mut others = Vec::new();
    for index in 0..16 {
        others.push(open(gateway, &ann, &format!("other-{index}")).await.0);
    }
    publish(&system, &ann, 2..=4).await;
    for other in &mut others {
        other.messages(3).await;
    }
    system.until_waiting(&ann, 0).await;
    others.pop().unwrap().close().await;

    publish(&system, &ann, 5..=5).await;
    system.until_stored(&ann, 5).await;
    let request = gateway.socket().user(&ann).device("phone");
    let mut phone = request.cursor(cursor(&first)).connect().await;
    let frames = phone.frames_until("live").await;
    let [missed] = with_op(&frames, "missed")[..] else {
        panic!("one missed frame: {frames:?}");
    };
    let messages = all_messages(&frames);
    assert_eq!(
        (&missed["count"], &missed["reason"]),
        (&json!(3), &json!("expired"))
    );
    assert_eq!(missed["from"], messages_of(&first)[0]["time"]);
    assert_eq!(missed["to"], messages[0]["time"]);
    assert_eq!(data_of(&messages), [5]);
}
