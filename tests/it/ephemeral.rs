//! Ephemeral events reach who is connected, and leave no trace.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::socket::{cursor, data_of, messages_of};
use crate::support::{System, event, user};

fn ephemeral(users: &[&str], data: impl Into<Value>) -> Value {
    let mut body = event(users, data);
    body["ephemeral"] = json!(true);
    body
}

#[tokio::test]
async fn only_connected_users_have_it_and_nothing_is_stored() {
    let system = System::shared().await;
    let (ann, bob) = (user("ann"), user("bob"));
    let mut phone = system.connect(&ann).await;
    phone.until_live().await;
    let request = system.gateway(1).socket().user(&ann).device("two");
    let mut second = request.connect().await;
    second.until_live().await;

    let address = format!("typing.{ann}");
    let sequence = system.publish(&address, ephemeral(&[&ann, &bob], "typing…"));
    let sequence = sequence.await;
    for socket in [&mut phone, &mut second] {
        let frame = socket.expect("messages").await;
        assert_eq!(frame.get("replay"), None);
        let [message] = &messages_of(&frame)[..] else {
            panic!("one message: {frame}");
        };
        assert_eq!(
            (&message["data"], &message["type"]),
            (&json!("typing…"), &json!("typing"))
        );
        assert_eq!(message["key"], json!(ann));
        assert!(message["id"].is_string() && message["time"].is_string());
        // Its cursor is one that may be acknowledged.
        socket.ack_cursor(cursor(&frame)).await;
    }
    // It never was in a mailbox: the next one has the first place.
    system
        .publish(&address, event(&[&ann, &bob], "stored"))
        .await;
    for socket in [&mut phone, &mut second] {
        assert_eq!(data_of(&socket.messages(1).await), ["stored"]);
    }
    for name in [&ann, &bob] {
        system.until_stored(name, 1).await;
    }
    // The first one on connecting is what was stored, nothing ephemeral.
    let mut bobs = system.connect(&bob).await;
    assert_eq!(data_of(&bobs.until_live().await), ["stored"]);
    phone.close().await;
    assert!(system.connect(&ann).await.until_live().await.is_empty());
    assert!(!system.letters().await.has(sequence).await);
}

#[tokio::test]
async fn it_keeps_its_place_among_the_events_of_its_key() {
    let system = System::shared().await;
    let ann = user("ann");
    let mut socket = system.connect(&ann).await;
    socket.until_live().await;
    let address = format!("typing.{ann}");
    system
        .publish_all(41, |index| {
            let body = match index % 2 {
                0 => event(&[&ann], index),
                _ => ephemeral(&[&ann], index),
            };
            (address.clone(), body)
        })
        .await;
    let mut numbers = Vec::new();
    while numbers.last() != Some(&40) {
        let messages = socket.messages(1).await;
        numbers.push(messages[0]["data"].as_u64().unwrap());
    }
    assert!(numbers.is_sorted(), "{numbers:?}");
    // Those that are stored may not be missing; the others only where the connection lagged.
    let stored: Vec<_> = numbers.iter().copied().filter(|it| it % 2 == 0).collect();
    assert_eq!(stored, (0..=40).step_by(2).collect::<Vec<_>>());
    assert!(numbers.len() > stored.len(), "no ephemeral message came");
    system.until_waiting(&ann, 0).await;
}

#[tokio::test]
async fn priority_and_exclusion_hold_for_it() {
    let system = System::shared().await;
    let (ann, bob) = (user("ann"), user("bob"));
    let mut anns = system.connect(&ann).await;
    let mut bobs = system.connect(&bob).await;
    anns.until_live().await;
    bobs.until_live().await;
    let address = format!("typing.{ann}");
    let mut body = ephemeral(&[&ann, &bob], 1);
    body["excludeUserId"] = json!(ann);
    body["priority"] = json!("high");
    body["id"] = json!("its own id");
    system.publish(&address, body).await;
    system.publish(&address, ephemeral(&[&ann, &bob], 2)).await;
    assert_eq!(data_of(&anns.messages(1).await), [2]);
    let messages = bobs.messages(2).await;
    assert_eq!(data_of(&messages), [1, 2]);
    assert_eq!(messages[0]["priority"], "high");
    assert_eq!(messages[0]["id"], "its own id");
    assert_eq!(system.mailbox(&ann).await.get("last:normal"), None);
}

#[tokio::test]
async fn an_old_one_is_dropped() {
    const AGE_MAX: Duration = Duration::from_secs(10);
    // The gateway and the streams stand; nobody takes events until the age is over.
    let mut system = System::start().await;
    let ann = user("ann");
    let mut socket = system.connect(&ann).await;
    socket.until_live().await;
    system.worker(0).stop().await;
    let address = format!("typing.{ann}");
    system.publish(&address, ephemeral(&[&ann], "old")).await;
    // What is dropped for its age has to grow old.
    tokio::time::sleep(AGE_MAX + Duration::from_millis(200)).await;
    system.publish(&address, ephemeral(&[&ann], "young")).await;
    system.publish(&address, event(&[&ann], "stored")).await;
    system.add_worker().await;
    assert_eq!(data_of(&socket.messages(2).await), ["young", "stored"]);
}
