//! What a client must not send: each is answered with its close code, and harms nobody. Frames that
//! are against RFC 6455: `abuse/protocol`.

use catchup::protocol::{Cursor, Epoch};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

use crate::support::socket::{cursor, data_of, messages_of};
use crate::support::wire::frame as wire;
use crate::support::{Frame, Socket, System, event, user};

/// A connection with its `live` frame.
async fn open(system: &System, user: &str) -> (Socket, Frame) {
    let mut socket = system.connect(user).await;
    let mut frames = socket.frames_until("live").await;
    (socket, frames.pop().expect("a live frame"))
}

/// Asserts that the connection ends with this code, told in an `error` frame before.
async fn assert_fault(mut socket: Socket, code: u16, about: &str) {
    let closed = socket.closed().await;
    assert_eq!(closed.code, Some(code), "{about}: {closed:?}");
    let [error] = &closed.frames[..] else {
        panic!("{about}: one error frame: {closed:?}");
    };
    assert_eq!(
        (&error["op"], &error["code"]),
        (&json!("error"), &json!(code)),
        "{about}"
    );
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|text| !text.is_empty()),
        "{error}"
    );
}

#[tokio::test]
async fn text_that_is_no_frame_is_4002() {
    let system = System::shared().await;
    let (_, live) = open(&system, &user("ann")).await;
    let good = cursor(&live);
    let with_good = [
        format!(r#"{{"op":"ack","cursor":"{good}"}} x"#),
        format!(r#"["ack",{{"cursor":"{good}"}}]"#),
        format!(r#"["ack","{good}"]"#),
        format!(r#"{{"op":0,"cursor":"{good}"}}"#),
        format!(r#"{{"op":"Ack","cursor":"{good}"}}"#),
        format!(r#"{{"op":"acknowledge","cursor":"{good}"}}"#),
        format!(r#"{{"ack":"{good}"}}"#),
        format!(r#"{{"op":"ack","Cursor":"{good}"}}"#),
        format!(r#"{{"op":"ack","cursor":["{good}"]}}"#),
        format!(r#"{{"op":"ack","cursor":"{good}""#),
    ];
    let without = [
        "",
        " ",
        "x",
        "5",
        "null",
        "true",
        "\"ack\"",
        "[]",
        "{}",
        "{\"op\":null}",
        "\u{feff}{}",
        r#"{"op":"ack"}"#,
        r#"{"op":"ack","cursor":null}"#,
        r#"{"op":"ack","cursor":5}"#,
        r#"{"op":"token"}"#,
        r#"{"op":"token","token":5}"#,
        r#"{"op":"welcome"}"#,
        r#"{"op":"heartbeat"}"#,
        r#"{"op":"messages","cursor":"x","messages":[]}"#,
        // What is no cursor at all.
        r#"{"op":"ack","cursor":""}"#,
        r#"{"op":"ack","cursor":"junk"}"#,
        r#"{"op":"ack","cursor":"\u0000"}"#,
    ];
    let texts = with_good.iter().map(String::as_str).chain(without);
    for text in texts {
        // A user for each, since a cursor is bound to its user and device.
        let (mut socket, _) = open(&system, &user("ann")).await;
        socket.send(text).await;
        assert_fault(socket, 4002, text).await;
    }
    let deep = "[".repeat(60_000);
    let long_cursor = format!(r#"{{"op":"ack","cursor":"{}"}}"#, "A".repeat(201));
    let almost = format!(r#"{{"op":"ack","cursor":"{}"}}"#, &good[1..]);
    for text in [deep, long_cursor, almost] {
        let (mut socket, _) = open(&system, &user("ann")).await;
        socket.send(&text).await;
        assert_fault(socket, 4002, &text[..40]).await;
    }
}

#[tokio::test]
async fn fields_that_nobody_knows_are_ignored() {
    let system = System::shared().await;
    let ann = user("ann");
    let (mut socket, live) = open(&system, &ann).await;
    let given = cursor(&live);
    for text in [
        json!({"cursor": given, "op": "ack", "later": [1]}).to_string(),
        format!("\n {{ \"op\" : \"ack\", \"cursor\" : \"{given}\" }} \n"),
        // Without authentication a token proves nothing, good or bad.
        json!({"op": "token", "token": "whatever"}).to_string(),
    ] {
        socket.send(&text).await;
    }
    system.publish("new_post.1", event(&[&ann], 1)).await;
    let frame = socket.expect("messages").await;
    assert_eq!(data_of(&messages_of(&frame)), [1]);
}

#[tokio::test]
async fn a_client_that_goes_on_sending_still_hears_the_code() {
    let system = System::shared().await;
    let (mut socket, _) = open(&system, &user("ann")).await;
    // A large message in a frame too large, and more behind it, without reading anything.
    for _ in 0..100 {
        if socket
            .tcp()
            .write_all(&wire(0x81, &vec![b'x'; 100_000]))
            .await
            .is_err()
        {
            break;
        }
    }
    assert_fault(socket, 4002, "ten megabytes").await;
}

#[tokio::test]
async fn pings_are_answered() {
    let system = System::shared().await;
    let (mut socket, _) = open(&system, &user("ann")).await;
    for payload in [&b""[..], b"x", &[7; 125]] {
        socket
            .send_message(Message::Ping(payload.to_vec().into()))
            .await;
        assert_eq!(socket.pong().await, payload);
    }
    // A pong that nobody asked for is none of the gateway's business.
    socket
        .send_message(Message::Pong(b"x".to_vec().into()))
        .await;
    socket
        .send_message(Message::Ping(b"still there".to_vec().into()))
        .await;
    assert_eq!(socket.pong().await, b"still there");
}

#[tokio::test]
async fn every_close_of_a_client_is_answered() {
    let system = System::shared().await;
    for payload in [
        &b""[..],
        &1000_u16.to_be_bytes(),
        &1001_u16.to_be_bytes(),
        b"\x0f\xa0bye",
    ] {
        let ann = user("ann");
        let (mut socket, _) = open(&system, &ann).await;
        socket.tcp().write_all(&wire(0x88, payload)).await.unwrap();
        let closed = socket.closed().await;
        let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
        assert_eq!(closed.code, code, "{payload:?}: {closed:?}");
        assert!(!system.mailbox(&ann).await.contains_key("connections"));
    }
    // One that is against RFC 6455 ends the connection too.
    for payload in [
        &b"x"[..],
        &0_u16.to_be_bytes(),
        &1005_u16.to_be_bytes(),
        b"\x03\xe8\xff",
    ] {
        let ann = user("ann");
        let (mut socket, _) = open(&system, &ann).await;
        socket.tcp().write_all(&wire(0x88, payload)).await.unwrap();
        let closed = socket.closed().await;
        assert!(
            matches!(closed.code, Some(1002 | 1007 | 4002)),
            "{payload:?}: {closed:?}"
        );
    }
}

#[tokio::test]
async fn an_acknowledgement_of_what_was_never_sent_is_4010() {
    let system = System::shared().await;
    let ann = user("ann");
    let (mut socket, live) = open(&system, &ann).await;
    system.publish("new_post.1", event(&[&ann], 1)).await;
    let frame = socket.expect("messages").await;
    let sent = Cursor::decode(cursor(&frame)).unwrap().position;
    for lane in 0..2 {
        let mut ahead = sent;
        ahead.places.own[lane] += 1;
        let forged = Cursor::new(ahead, &ann, "default").to_string();
        let (mut socket, _) = open(&system, &ann).await;
        socket.ack_cursor(&forged).await;
        assert_fault(socket, 4010, "a place ahead").await;
    }
    // Another device's, and another user's.
    let other = system.gateway(0).socket().user(&ann).device("other");
    let (mut bob, bobs) = open(&system, &user("bob")).await;
    let mut others = other.connect().await;
    let frames = others.frames_until("live").await;
    others.ack_cursor(cursor(&live)).await;
    assert_fault(others, 4010, "another device's").await;
    bob.ack_cursor(cursor(frames.last().unwrap())).await;
    assert_fault(bob, 4010, "another user's").await;
    let (mut socket, _) = open(&system, &ann).await;
    socket.ack_cursor(cursor(&bobs)).await;
    assert_fault(socket, 4010, "another user's").await;
    // Nothing of it acknowledged anything.
    assert_eq!(system.waiting(&ann).await.len(), 1);
}

#[tokio::test]
async fn a_cursor_from_before_a_fail_over_is_ignored_and_not_punished() {
    let system = System::shared().await;
    let ann = user("ann");
    let (mut socket, _) = open(&system, &ann).await;
    system.publish("new_post.1", event(&[&ann], 1)).await;
    let frame = socket.expect("messages").await;
    let sent = Cursor::decode(cursor(&frame)).unwrap().position;
    let mut earlier = sent;
    earlier.epoch = Epoch::from_bytes([7; 20]);
    earlier.places.own = [1_000, 1_000];
    let mut other_life = sent;
    other_life.life.0 ^= 1;
    for position in [earlier, other_life] {
        let forged = Cursor::new(position, &ann, "default").to_string();
        socket.ack_cursor(&forged).await;
    }
    system.publish("new_post.1", event(&[&ann], 2)).await;
    let frame = socket.expect("messages").await;
    assert_eq!(data_of(&messages_of(&frame)), [2]);
    assert_eq!(system.waiting(&ann).await.len(), 2);
    socket.ack(&frame).await;
    system.until_waiting(&ann, 0).await;
}

#[tokio::test]
async fn a_flood_of_frames_is_4029() {
    let system = System::shared().await;
    let (mut socket, live) = open(&system, &user("ann")).await;
    let ack = json!({ "op": "ack", "cursor": cursor(&live) }).to_string();
    let frame = wire(0x81, ack.as_bytes());
    // As fast as the gateway takes them.
    for _ in 0..200 {
        if socket.tcp().write_all(&frame.repeat(100)).await.is_err() {
            break;
        }
    }
    assert_fault(socket, 4029, "20,000 acknowledgements").await;
}

#[tokio::test]
async fn a_fault_loses_nothing() {
    let system = System::shared().await;
    let ann = user("ann");
    let (mut socket, _) = open(&system, &ann).await;
    for number in 1..=2 {
        system.publish("new_post.1", event(&[&ann], number)).await;
        let frame = socket.expect("messages").await;
        if number == 1 {
            socket.ack(&frame).await;
        }
    }
    socket.send("junk").await;
    assert_fault(socket, 4002, "junk").await;
    // What was acknowledged before is, the rest comes again.
    let mut socket = system.connect(&ann).await;
    let expected: Vec<Value> = vec![json!(2)];
    assert_eq!(data_of(&socket.until_live().await), expected);
}
