//! What is published while its users are connected comes at once, once, and to nobody else.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::socket::{cursor, data_of, messages_of};
use crate::support::{Socket, System, event, user};

/// The data of the next frame, which must be one of live messages; acknowledges it.
async fn next_live(socket: &mut Socket) -> Vec<serde_json::Value> {
    let frame = socket.expect("messages").await;
    assert_eq!(frame.get("replay"), None, "{frame}");
    assert!(!cursor(&frame).is_empty());
    socket.ack(&frame).await;
    data_of(&messages_of(&frame))
}

#[tokio::test]
async fn a_connected_user_has_it_in_one_frame_at_once() {
    let system = System::shared().await;
    let ann = user("ann");
    let mut socket = system.connect(&ann).await;
    let welcome = socket.expect("welcome").await;
    assert_eq!(welcome["pending"], 0);
    let live = socket.expect("live").await;
    assert_eq!(live["replayed"], 0);
    let start = Instant::now();
    system
        .publish("new_comment.1", event(&[&ann], "hello"))
        .await;
    assert_eq!(next_live(&mut socket).await, ["hello"]);
    // Far above what it takes, far below any repair of a forward that never came.
    assert!(start.elapsed() < Duration::from_secs(5));
    system.until_waiting(&ann, 0).await;
    let lines = system.gateway(0).log().lines();
    let mine = lines.iter().find(|line| line.contains(&ann));
    assert_eq!(mine, None, "no replay, no log line");
}

#[tokio::test]
async fn targets_on_two_gateways_each_have_it_once() {
    let system = System::shared().await;
    let names: Vec<String> = (0..6).map(|_| user("ann")).collect();
    let mut sockets = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let gateway = system.gateway(index % 2);
        let mut socket = gateway.socket().user(name).connect().await;
        socket.until_live().await;
        sockets.push(socket);
    }
    // A second device of the first user, at the other gateway.
    let request = system.gateway(1).socket().user(&names[0]).device("two");
    let mut second = request.connect().await;
    second.until_live().await;
    sockets.push(second);

    let address = format!("new_post.{}", names[0]);
    let mut targets: Vec<&str> = names.iter().map(String::as_str).collect();
    // A repeated target counts once.
    targets.push(&names[0]);
    system.publish(&address, event(&targets, "all")).await;
    system.publish(&address, event(&targets, "fence")).await;
    for socket in &mut sockets {
        let mut seen = Vec::new();
        while seen.last() != Some(&json!("fence")) {
            seen.extend(next_live(socket).await);
        }
        assert_eq!(seen, ["all", "fence"]);
    }
}

#[tokio::test]
async fn the_excluded_user_gets_nothing_live_or_later() {
    let system = System::shared().await;
    let (ann, bob, eve) = (user("ann"), user("bob"), user("eve"));
    let mut anns = system.connect(&ann).await;
    let mut bobs = system.connect(&bob).await;
    anns.until_live().await;
    bobs.until_live().await;
    let address = format!("post_update.{ann}");
    let mut excluding = event(&[&ann, &bob, &eve], "from ann");
    excluding["excludeUserId"] = json!(ann);
    system.publish(&address, excluding.clone()).await;
    // Only the one who caused it, or nobody at all: in order, and for nobody.
    excluding["targetUserIds"] = json!([ann]);
    let only = system.publish(&address, excluding.clone()).await;
    excluding["targetUserIds"] = json!([]);
    let nobody = system.publish(&address, excluding).await;
    let everybody = event(&[&ann, &bob, &eve], "fence");
    system.publish(&address, everybody).await;

    assert_eq!(next_live(&mut anns).await, ["fence"]);
    assert_eq!(next_live(&mut bobs).await, ["from ann"]);
    assert_eq!(next_live(&mut bobs).await, ["fence"]);
    system.until_waiting(&eve, 2).await;
    assert_eq!(system.last_place(&ann, "normal").await, 1);
    let mut letters = system.letters().await;
    assert!(!letters.has(only).await && !letters.has(nobody).await);
}

#[tokio::test]
async fn integers_are_user_ids_too() {
    let system = System::shared().await;
    // Ids that no other test has, of the widest kinds.
    let ids = [
        json!(9_007_199_254_740_993_u64),
        json!(u64::MAX),
        json!(i64::MIN),
    ];
    let mut sockets = Vec::new();
    for id in &ids {
        let mut socket = system.connect(&id.to_string()).await;
        assert_eq!(socket.expect("welcome").await["user"], id.to_string());
        socket.expect("live").await;
        sockets.push(socket);
    }
    let targets = json!([ids[0], ids[0].to_string(), ids[1], ids[2]]);
    let body = json!({ "targetUserIds": targets, "excludeUserId": ids[1], "data": 1 });
    system.publish("new_post.integers", body).await;
    let body = json!({ "targetUserIds": ids, "excludeUserId": ids[0].to_string(), "data": 2 });
    system.publish("new_post.integers", body).await;
    for (socket, expected) in sockets.iter_mut().zip([vec![1], vec![2], vec![1, 2]]) {
        for number in expected {
            assert_eq!(next_live(socket).await, [number]);
        }
    }
}

#[tokio::test]
async fn one_key_keeps_its_order_while_live() {
    let system = System::shared().await;
    let (ann, bob) = (user("ann"), user("bob"));
    let mut anns = system.connect(&ann).await;
    let mut bobs = system.gateway(1).socket().user(&bob).connect().await;
    anns.until_live().await;
    bobs.until_live().await;
    let address = format!("new_post.{ann}");
    system
        .publish_all(300, |index| (address.clone(), event(&[&ann, &bob], index)))
        .await;
    let expected: Vec<_> = (0..300).map(|index| json!(index)).collect();
    for socket in [&mut anns, &mut bobs] {
        assert_eq!(data_of(&socket.messages(300).await), expected);
    }
}

#[tokio::test]
async fn every_type_passes_and_names_itself() {
    let system = System::shared().await;
    let ann = user("ann");
    let mut socket = system.connect(&ann).await;
    socket.until_live().await;
    let longest = format!("z{}", "_9".repeat(31) + "x");
    assert_eq!(longest.len(), 64);
    for event_type in [
        "post_update",
        "new_post",
        "new_comment",
        "delete_post",
        "x",
        &longest,
    ] {
        let mut body = event(&[&ann], event_type);
        body["type"] = json!(event_type);
        system.publish(event_type, body).await;
        let frame = socket.expect("messages").await;
        assert_eq!(messages_of(&frame)[0]["type"], event_type);
    }
    // What matters to a key is only that it is one token.
    for key in ["1", "a-b_c:d@e", "消息", &"k".repeat(128)] {
        system
            .publish(&format!("new_post.{key}"), event(&[&ann], 1))
            .await;
        let frame = socket.expect("messages").await;
        assert_eq!(messages_of(&frame)[0]["key"], key);
    }
}
