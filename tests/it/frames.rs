//! The frames themselves: their fields, the first of them, and the heartbeat.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::socket::{data_of, messages_of};
use crate::support::{Frame, System, event, user};

fn fields(value: &Value) -> Vec<&str> {
    let fields = value.as_object().expect("an object");
    let mut names: Vec<_> = fields.keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn welcome_is_the_first_frame_and_says_where_the_device_stands() {
    let system = System::shared().await;
    let ann = user("ann");
    system.publish("new_post.1", event(&[&ann], 1)).await;
    system.until_waiting(&ann, 1).await;
    let request = system.gateway(1).socket().user(&ann).device("my.phone_1-x");
    let mut socket = request.connect().await;
    let welcome = socket.frame().await;
    let expected = [
        "cursor",
        "device",
        "heartbeatSeconds",
        "node",
        "op",
        "pending",
        "user",
        "window",
    ];
    assert_eq!(fields(&welcome), expected, "{welcome}");
    assert_eq!(welcome["op"], "welcome");
    assert_eq!(welcome["user"], json!(ann));
    assert_eq!(welcome["device"], "my.phone_1-x");
    assert_eq!(welcome["node"], "gateway-2");
    assert_eq!(welcome["pending"], 1);
    assert!(welcome["window"].as_u64() >= Some(64), "{welcome}");
    assert!(welcome["heartbeatSeconds"].as_u64() >= Some(1), "{welcome}");
    // Its cursor is where the device starts: given back, it acknowledges nothing more.
    let given = request.cursor(welcome["cursor"].as_str().unwrap());
    let mut socket = given.connect().await;
    let again = socket.frame().await;
    assert_eq!(
        (&again["pending"], &again["cursor"]),
        (&json!(1), &welcome["cursor"])
    );
}

#[tokio::test]
async fn frames_have_the_fields_of_the_contract_and_no_others() {
    let builder = System::builder().env("CATCHUP_MAX_MESSAGES", "8");
    let system = builder.start_shared("cap of 8").await;
    let ann = user("ann");
    let address = format!("new_post.{ann}");
    for number in 1..=10 {
        system.publish(&address, event(&[&ann], number)).await;
    }
    system.processed().await;
    let mut socket = system.connect(&ann).await;
    let mut frames = socket.frames_until("live").await;
    system.publish(&address, event(&[&ann], 11)).await;
    frames.push(socket.frame().await);
    socket.send("junk").await;
    frames.extend(socket.expect_close(4002).await);
    let [_, missed, replay, live, messages, error] = &frames[..] else {
        panic!("six frames: {frames:?}");
    };
    let with = |frame: &Frame, op: &str, expected: &[&str]| {
        assert_eq!(frame["op"], op);
        assert_eq!(fields(frame), expected, "{frame}");
    };
    with(
        missed,
        "missed",
        &["count", "cursor", "from", "op", "reason", "to"],
    );
    with(replay, "messages", &["cursor", "messages", "op", "replay"]);
    with(live, "live", &["cursor", "op", "replayed"]);
    with(messages, "messages", &["cursor", "messages", "op"]);
    with(error, "error", &["code", "message", "op"]);
    let message = &messages_of(messages)[0];
    assert_eq!(fields(message), ["data", "id", "key", "time", "type"]);
}

#[tokio::test]
async fn a_heartbeat_comes_when_nothing_else_does() {
    let system = System::shared().await;
    let ann = user("ann");
    let mut socket = system.connect(&ann).await;
    let welcome = socket.expect("welcome").await;
    let seconds = welcome["heartbeatSeconds"].as_u64().unwrap();
    let heartbeat = Duration::from_secs(seconds);
    socket.expect("live").await;
    let quiet_since = Instant::now();
    // Early enough that a client which waits for twice as long is never wrong.
    let frame = socket.expect_any("heartbeat", heartbeat.mul_f32(1.5)).await;
    assert_eq!(frame, json!({ "op": "heartbeat" }));
    let waited = quiet_since.elapsed();
    assert!(waited > heartbeat.mul_f32(0.9), "{waited:?}");
    // The client said nothing all this time, but answered pings: the connection stands.
    system.publish("new_post.1", event(&[&ann], 1)).await;
    let frame = socket.expect_any("messages", Duration::from_secs(5)).await;
    assert_eq!(data_of(&messages_of(&frame)), [1]);
    socket
        .send_message(Message::Ping(b"x".to_vec().into()))
        .await;
    assert_eq!(socket.pong().await, b"x");
}
