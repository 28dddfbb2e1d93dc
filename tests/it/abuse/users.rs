//! User ids of every shape, from the publisher to the client, by `?user=` and by a token: each user
//! gets its own and nobody else's, and what is no id is refused.

use serde_json::json;

use crate::support::socket::data_of;
use crate::support::token::{claims, hs256};
use crate::support::{Socket, SocketRequest, System, event};

const SECRET: &str = "a secret that only these tests know";

/// Ids that no other test has. Two that look alike are two.
fn ids() -> Vec<String> {
    // Each mark alone; braces are refused.
    let marks = r##"!"#$%&'()*+,-./:;<=>?@[\]^_`|~"##.chars();
    let mut ids: Vec<String> = marks.map(String::from).collect();
    let all: String = ids.concat();
    let shapes = [
        "..",
        "-0",
        "007",
        "1e3",
        "null",
        "true",
        "__proto__",
        "default",
        "high",
        ":high",
        "normal",
        "connections",
        "offline_messages:",
        "%41",
        "%00",
        "%%",
        "\\n",
        "\\u0041",
        "\"quoted\\\"",
        "'; DROP",
        "$(id)",
        "a:b/c*>?&=#%",
        "events.*.>",
        "ann@example.org",
        "消息",
        "é-one",
        "e\u{301}-two",
        "אבג",
        "مرحبا",
        "😀",
        "🇦🇹",
        "👍🏽",
        "ﷺ",
        "\u{3a9}",
        "\u{2126}",
        "ǅ",
        "ß",
        "İ",
        "a\u{300}\u{301}\u{302}",
        "\u{1f1e6}",
        "𐍈",
        "\u{e9}\u{f1}",
    ];
    ids.extend(
        shapes
            .iter()
            .filter(|id| !id.contains(' '))
            .map(|id| id.to_string()),
    );
    ids.extend([all, "x".repeat(128), "ü".repeat(64), "😀".repeat(32)]);
    // In both systems the same, and apart from those that other tests use.
    ids
}

/// Through everything, with connections made by `request`.
async fn assert_served(system: &System, request: impl Fn(&str) -> SocketRequest) {
    const WITNESS: &str = "the-witness";
    let ids = ids();
    let mut witness = request(WITNESS).connect().await;
    witness.until_live().await;
    // What waits; and what its own user is excluded from, which the witness gets.
    for id in &ids {
        let both = json!({ "targetUserIds": [id, WITNESS], "excludeUserId": id, "data": id });
        system.publish("new_post.shapes", both).await;
        system
            .publish("new_post.shapes", event(&[id.as_str()], id.as_str()))
            .await;
    }
    assert_eq!(data_of(&witness.messages(ids.len()).await), ids.clone());
    let mut sockets: Vec<Socket> = Vec::new();
    for id in &ids {
        system.until_waiting(id, 1).await;
        let mut socket = request(id).connect().await;
        assert_eq!(socket.expect("welcome").await["user"], json!(id));
        assert_eq!(data_of(&socket.until_live().await), [id.as_str()], "{id:?}");
        system.until_waiting(id, 0).await;
        sockets.push(socket);
    }
    // What comes live, for all of them at once.
    let targets: Vec<&str> = ids.iter().map(String::as_str).collect();
    system
        .publish("new_post.shapes", event(&targets, "live"))
        .await;
    for (socket, id) in sockets.iter_mut().zip(&ids) {
        assert_eq!(data_of(&socket.messages(1).await), ["live"], "{id:?}");
    }
}

#[tokio::test]
async fn who_says_its_name_is_served() {
    let system = System::builder().start().await;
    let gateway = system.gateway(0);
    assert_served(&system, |id| gateway.socket().user(id)).await;
}

#[tokio::test]
async fn who_proves_its_name_is_served() {
    let builder = System::builder().env("CATCHUP_AUTH", "");
    let system = builder.env("CATCHUP_JWT_SECRET", SECRET).start().await;
    let gateway = system.gateway(0);
    let request = |id: &str| gateway.socket().bearer(&hs256(SECRET, &claims(id, 600)));
    assert_served(&system, request).await;
    // Publishers may name users by integers, and so may tokens.
    for number in [json!(u64::MAX), json!(i64::MIN), json!(0)] {
        let mut claims = claims("", 600);
        claims["sub"] = number.clone();
        let mut socket = gateway
            .socket()
            .bearer(&hs256(SECRET, &claims))
            .connect()
            .await;
        assert_eq!(socket.expect("welcome").await["user"], number.to_string());
        socket.expect("live").await;
        let body = json!({ "targetUserIds": [number], "data": 1 });
        system.publish("new_post.shapes", body).await;
        assert_eq!(data_of(&socket.messages(1).await), [1]);
    }
    for id in [
        "",
        " ",
        "a b",
        "a\u{a0}b",
        "a\u{3000}b",
        "{",
        "}",
        "{a}",
        "a\n",
        "a\0",
        "a\u{1b}[1m",
        "a\u{7f}",
        "a\u{85}",
        "a\u{200b}",
        "👨\u{200d}👩",
        "\u{202e}a",
        "\u{feff}a",
        "\u{e000}",
        "\u{fffe}",
        &"x".repeat(129),
        &"ü".repeat(65),
    ] {
        let refused = request(id).try_connect().await.err();
        let refused = refused.unwrap_or_else(|| panic!("{id:?} is let in"));
        assert_eq!(
            (refused.status, &refused.body["code"]),
            (401, &json!(4001)),
            "{id:?}"
        );
    }
}
