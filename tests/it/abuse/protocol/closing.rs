//! The end of a connection: close frames of every kind, and TCP connections that end without one
//! (RFC 6455 §5.5.1 and §7).

use std::time::{Duration, Instant};

use super::Back::{Answer, Fault};
use super::{GOOD, assert_fault, assert_table, case};
use crate::support::http;
use crate::support::wire::{self, CLOSE, FIN, Heard, PING, TEXT, UPGRADE, close, frame};
use crate::support::{System, Wire, event, eventually, user};

/// How long the gateway waits for the answer to its close, and what a slow machine adds.
const CLOSE_ANSWER_WAIT: Duration = Duration::from_secs(2);
const SLACK: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_close_is_answered_with_its_code() {
    let cases = vec![
        case(
            "5.5.1",
            "an empty close",
            Answer(None),
            [frame(FIN | CLOSE, b"")],
        ),
        case(
            "5.5.1",
            "a reason of 123 bytes",
            Answer(Some(1000)),
            [close(1000, &"r".repeat(123))],
        ),
        case(
            "5.5.1",
            "a reason in another script",
            Answer(Some(1000)),
            [close(1000, "再见")],
        ),
        case(
            "5.5.1",
            "a close of one byte",
            Fault(4002),
            [frame(FIN | CLOSE, b"\x03")],
        ),
        case("8.1", "a reason that is no UTF-8", Fault(4002), {
            [frame(FIN | CLOSE, b"\x03\xe8\xff")]
        }),
        case("5.5.1", "a message after the close", Answer(Some(1000)), {
            [close(1000, ""), frame(FIN | TEXT, b"junk")]
        }),
        case("5.5.1", "both in one packet", Answer(Some(1000)), {
            [[
                close(1000, ""),
                frame(FIN | TEXT, b"junk"),
                frame(FIN | PING, b"x"),
            ]
            .concat()]
        }),
        case(
            "5.5.1",
            "two closes",
            Answer(Some(1000)),
            [close(1000, ""), close(1001, "")],
        ),
        case("7.1.1", "a message right before it", Answer(Some(1000)), {
            [[frame(FIN | TEXT, GOOD), close(1000, "")].concat()]
        }),
    ];
    assert_table(cases).await;
}

#[tokio::test]
async fn codes_that_may_be_sent_are_answered_with_themselves() {
    let mut cases = Vec::new();
    for code in [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999,
    ] {
        cases.push(case(
            "7.4",
            "a code of its own",
            Answer(Some(code)),
            [close(code, "")],
        ));
    }
    // Not to be sent, or of nobody: the answer says that this is no close of the protocol.
    for code in [
        0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65_535,
    ] {
        cases.push(case(
            "7.4",
            "a code that nobody may send",
            Answer(Some(1002)),
            [close(code, "")],
        ));
    }
    assert_table(cases).await;
}

#[tokio::test]
async fn who_does_not_answer_a_close_is_left() {
    let system = System::shared().await;
    let port = system.gateway(0).port();
    // One stays silent, one goes on sending what is no answer.
    let end = async |talks: bool| {
        let mut wire = Wire::open(port, &user("deaf")).await;
        wire.until("live").await;
        wire.send(&frame(FIN | TEXT, b"junk")).await;
        let start = Instant::now();
        assert_fault(&mut wire, 4002, "junk").await;
        let heard = loop {
            if talks {
                wire.send(&frame(FIN | TEXT, GOOD)).await;
            }
            if let Some(heard) = wire.next_within(Duration::from_millis(20)).await {
                break heard;
            }
            assert!(
                start.elapsed() < CLOSE_ANSWER_WAIT + SLACK,
                "talks: {talks}"
            );
        };
        assert!(matches!(heard, Heard::End | Heard::Reset), "{heard:?}");
        assert!(start.elapsed() >= CLOSE_ANSWER_WAIT / 2, "talks: {talks}");
    };
    tokio::join!(end(false), end(true));
}

#[tokio::test]
async fn a_connection_may_end_without_a_close() {
    let system = System::shared().await;
    let port = system.gateway(0).port();
    // §7.1.4: what was sent before counts, and nothing of the connection stays.
    for half_a_frame in [
        &b""[..],
        b"\x81",
        b"\x81\xfe\x01",
        b"\x81\x8a\x37\xfa\x21\x3dxx",
    ] {
        for is_reset in [false, true] {
            let ann = user("half");
            system.publish("new_post.1", event(&[&ann], 1)).await;
            system.until_waiting(&ann, 1).await;
            let mut wire = Wire::open(port, &ann).await;
            let live = wire.until("live").await;
            let ack = serde_json::json!({ "op": "ack", "cursor": live["cursor"] }).to_string();
            let bytes = [frame(FIN | TEXT, ack.as_bytes()), half_a_frame.to_vec()].concat();
            wire.send(&bytes).await;
            // A reset may overtake what was sent before it: the gateway has to have read it.
            system.until_waiting(&ann, 0).await;
            if is_reset {
                wire.abort();
            } else {
                wire.end_sending().await;
                assert_eq!(wire.next().await, Heard::End, "{half_a_frame:?}");
            }
            eventually("no presence", async || {
                let mailbox = system.mailbox(&ann).await;
                (!mailbox.contains_key("connections")).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_client_may_end_its_side_right_after_its_close() {
    let system = System::shared().await;
    let mut wire = Wire::open(system.gateway(0).port(), &user("half")).await;
    wire.until("live").await;
    wire.send(&wire::close(1000, "")).await;
    wire.end_sending().await;
    assert_eq!(wire.next().await, Heard::Close(Some((1000, String::new()))));
    assert_eq!(wire.next().await, Heard::End);
}

#[tokio::test]
async fn a_close_is_answered_whatever_is_under_way() {
    let system = System::shared().await;
    let port = system.gateway(0).port();
    let ann = user("hasty");
    system.publish("new_post.1", event(&[&ann], 1)).await;
    system.until_waiting(&ann, 1).await;
    let path = format!("/v1/ws?user={ann}");
    for attempt in 0..20 {
        // In one packet with the handshake: frames are to be written when the close is read.
        let answer = http::request(port, "GET", &path, &UPGRADE, &wire::close(1000, "")).await;
        let (response, stream) = answer.expect("an answer");
        assert_eq!(response.status, 101);
        let mut wire = Wire::from_parts(stream, response.body);
        let mut heard = wire.next().await;
        while matches!(heard, Heard::Text(_)) {
            heard = wire.next().await;
        }
        let answer = Heard::Close(Some((1000, String::new())));
        assert_eq!(heard, answer, "attempt {attempt}");
        assert_eq!(wire.next().await, Heard::End, "attempt {attempt}");
    }
    // Nothing of it was acknowledged.
    assert_eq!(system.waiting(&ann).await.len(), 1);
}
