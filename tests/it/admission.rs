//! What a request must look like to become a connection, and how a refusal is said.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::http::{self, Response};
use crate::support::{SocketRequest, System, event, user};

const UPGRADE: [(&str, &str); 4] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// Asserts a refusal before the upgrade, and after it where the client asks for that.
async fn assert_refused(request: SocketRequest, status: u16, code: u16) {
    let refused = request.try_connect().await.err().expect("a refusal");
    assert_eq!(
        (refused.status, &refused.body["code"]),
        (status, &json!(code)),
        "{refused:?}"
    );
    assert_clean(&refused.body);
    let mut socket = request.query("refuse", "close").connect().await;
    let closed = socket.closed().await;
    assert_eq!(closed.code, Some(code), "{closed:?}");
    assert!(!closed.reason.is_empty());
}

/// `{"code","message"}` and nothing else.
fn assert_clean(body: &Value) {
    let names: Vec<_> = body.as_object().expect("an object").keys().collect();
    assert_eq!(names, ["code", "message"], "{body}");
    assert!(
        body["message"]
            .as_str()
            .is_some_and(|text| !text.is_empty()),
        "{body}"
    );
}

/// A gateway that lets pages of two sites in.
async fn with_origins() -> System {
    let origins = "https://app.example,http://localhost:3000";
    let builder = System::builder().workers(0);
    let builder = builder.env("CATCHUP_ALLOWED_ORIGINS", origins);
    builder.start_shared("two origins").await
}

#[tokio::test]
async fn parameters_have_their_forms() {
    let system = System::shared().await;
    let gateway = system.gateway(0);
    let ann = user("ann");
    let request = || gateway.socket().user(&ann);
    let long = "d".repeat(65);
    for device in ["", " ", "a b", "ä", "a/b", "a:b", "{a}", "a\0", &long] {
        assert_refused(request().device(device), 400, 4002).await;
    }
    for (name, value) in [("ack", "server"), ("ack", ""), ("ack", "AUTO")] {
        assert_refused(request().query(name, value), 400, 4002).await;
    }
    let refused = request().query("refuse", "http").try_connect().await;
    assert_eq!(refused.err().expect("a refusal").status, 400);
    for bad in ["", " ", "a b", "{a}", "a\n", &"x".repeat(129)] {
        assert_refused(gateway.socket().user(bad), 400, 4002).await;
    }
    // Nobody at all.
    assert_refused(gateway.socket(), 401, 4001).await;

    // Names that are allowed, and parameters that nobody knows.
    for device in ["-", ".", "..", "_", "A.b-9_", &"d".repeat(64)] {
        let request = request().device(device).query("later", "x");
        let welcome = request.connect().await.expect("welcome").await;
        assert_eq!(welcome["device"], device);
    }
    let welcome = request().connect().await.expect("welcome").await;
    assert_eq!(welcome["device"], "default");
}

#[tokio::test]
async fn bytes_that_are_no_utf_8_are_no_user() {
    let system = System::shared().await;
    let port = system.gateway(0).port();
    for query in [
        "user=%ff",
        "user=a%c3",
        "user=ann&device=%ff",
        "user=%ed%a0%80",
    ] {
        let path = format!("/v1/ws?{query}");
        let response = upgrade(port, &path, &UPGRADE).await;
        assert_eq!(response.status, 400, "{query}");
    }
    // A percent sign that escapes nothing stands for itself.
    let response = upgrade(port, "/v1/ws?user=50%25-%zz", &UPGRADE).await;
    assert_eq!(response.status, 101);
}

/// The answer to a request with these headers.
async fn upgrade(port: u16, path: &str, headers: &[(&str, &str)]) -> Response {
    let (response, mut stream) = http::request(port, "GET", path, headers, b"")
        .await
        .expect("an answer");
    match response.status {
        101 => response,
        _ => http::read_body(response, &mut stream)
            .await
            .expect("a body"),
    }
}

#[tokio::test]
async fn what_is_no_handshake_is_refused() {
    let system = System::shared().await;
    let port = system.gateway(0).port();
    let path = format!("/v1/ws?user={}", user("ann"));
    for left_out in 0..UPGRADE.len() {
        let mut headers = UPGRADE.to_vec();
        let (name, _) = headers.remove(left_out);
        let response = upgrade(port, &path, &headers).await;
        assert_eq!(response.status, 400, "without {name}");
        assert_eq!(response.header("content-type"), Some("application/json"));
        assert_clean(&response.json());
    }
    for (name, value) in [
        ("Sec-WebSocket-Version", "8"),
        ("Sec-WebSocket-Key", "short"),
        ("Upgrade", "h2c"),
        ("Connection", "close"),
    ] {
        let mut headers = UPGRADE.to_vec();
        headers.retain(|(known, _)| *known != name);
        headers.push((name, value));
        let response = upgrade(port, &path, &headers).await;
        assert_eq!(response.status, 400, "{name}: {value}");
    }
    let (response, _) = http::request(port, "POST", &path, &UPGRADE, b"")
        .await
        .unwrap();
    assert_eq!(response.status, 400);
    // Browsers name several tokens, in any case.
    let headers = [
        ("connection", "keep-alive, upgrade"),
        ("UPGRADE", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        (
            "Sec-WebSocket-Extensions",
            "permessage-deflate; client_max_window_bits",
        ),
    ];
    let response = upgrade(port, &path, &headers).await;
    assert_eq!(response.status, 101);
    assert_eq!(
        response.header("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    // No extension is offered, so none may be answered.
    assert_eq!(response.header("sec-websocket-extensions"), None);
}

#[tokio::test]
async fn other_paths_are_not_found() {
    let system = System::shared().await;
    let port = system.gateway(0).port();
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/v1/sse"),
        ("GET", "/v1/ws/"),
        ("GET", "/v1/"),
        ("GET", "/v2/ws"),
        ("GET", "/metrics"),
        ("GET", "/healthz"),
        ("POST", "/v1/ack"),
        ("POST", "/demo/publish"),
        ("DELETE", "/v1/ws/x"),
    ] {
        let response = http::send(port, method, path, &[], b"").await.unwrap();
        assert_eq!(response.status, 404, "{method} {path}");
        assert_clean(&response.json());
    }
    // Bytes that are no HTTP get an answer or an end, and harm nobody.
    let (response, _) = http::request(port, "BAD METHOD", "/ x", &[], b"\0\xff")
        .await
        .unwrap();
    assert_eq!(response.status, 400);
    let long = "x".repeat(100_000);
    let answer = http::request(port, "GET", &format!("/v1/ws?user={long}"), &UPGRADE, b"").await;
    assert!(!matches!(answer, Ok((response, _)) if response.status == 101));
    system.gateway(0).ready().await;
}

#[tokio::test]
async fn only_allowed_origins_are_let_in() {
    let system = with_origins().await;
    let gateway = system.gateway(0);
    let request = || gateway.socket().user(&user("ann"));
    for allowed in [
        "https://app.example",
        "http://localhost:3000",
        "HTTPS://APP.EXAMPLE",
    ] {
        let mut socket = request().header("Origin", allowed).connect().await;
        socket.expect("welcome").await;
    }
    // A client that is no browser sends none.
    request().connect().await.expect("welcome").await;
    let own = format!("http://127.0.0.1:{}", gateway.port());
    for other in [
        "https://app.example:8443",
        "http://app.example",
        "https://app.example.evil.example",
        "https://evil.example/https://app.example",
        "https://xapp.example",
        "https://app.example/",
        "null",
        "",
        // Where sites are listed, the gateway's own is none of them.
        &own,
    ] {
        assert_refused(request().header("Origin", other), 403, 4003).await;
    }
}

#[tokio::test]
async fn by_default_pages_of_the_same_host_are_let_in() {
    let system = System::shared().await;
    let gateway = system.gateway(0);
    let port = gateway.port();
    let request = || gateway.socket().user(&user("ann"));
    for (host, origin) in [
        (
            format!("127.0.0.1:{port}"),
            format!("http://127.0.0.1:{port}"),
        ),
        // A proxy may end TLS in front, and names the host that the browser asked for.
        ("app.example".to_owned(), "https://app.example".to_owned()),
    ] {
        let request = request().header("Host", &host).header("Origin", &origin);
        request.connect().await.expect("welcome").await;
    }
    for other in [
        "https://app.example",
        "http://127.0.0.1",
        "http://localhost",
        "null",
    ] {
        assert_refused(request().header("Origin", other), 403, 4003).await;
    }
}

#[tokio::test]
async fn every_origin_may_be_let_in() {
    let builder = System::builder()
        .workers(0)
        .env("CATCHUP_ALLOWED_ORIGINS", "*");
    let system = builder.start().await;
    for origin in ["https://anything.example", "null"] {
        let request = system
            .gateway(0)
            .socket()
            .user("ann")
            .header("Origin", origin);
        request.connect().await.expect("welcome").await;
    }
}

#[tokio::test]
async fn without_a_store_clients_are_told_to_come_back() {
    // Nobody listens where the store should be, from the start.
    let system = System::builder()
        .workers(0)
        .env("CATCHUP_REDIS_URL", "redis://127.0.0.1:1")
        .start_unready();
    let gateway = system.gateway(0);
    let reasons = gateway.not_ready().await;
    assert!(reasons["reasons"]["store"].is_string(), "{reasons}");
    assert_refused(gateway.socket().user("ann"), 503, 1013).await;
    let path = "/v1/ws?user=ann";
    let response = upgrade(gateway.port(), path, &UPGRADE).await;
    assert!(response.header("retry-after").is_some());
}

#[tokio::test]
async fn a_leaving_gateway_says_away_and_when_to_come_back() {
    let system = System::builder().gateways(1).workers(1).start().await;
    let gateway = system.gateway(0);
    let mut socket = gateway.socket().user("ann").connect().await;
    socket.until_live().await;
    let body = event(&["ann"], 1);
    system.publish("new_post.1", body).await;
    let frame = socket.expect("messages").await;
    gateway.terminate();
    let away = socket.expect("away").await;
    let delay = away["retryMilliseconds"].as_u64().expect("a delay");
    assert!(
        Duration::from_millis(delay) < Duration::from_secs(60),
        "{away}"
    );
    // What was received may still be acknowledged.
    socket.ack(&frame).await;
    let closed = socket.closed().await;
    assert_eq!(closed.code, Some(1001), "{closed:?}");
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert!(
        system.waiting("ann").await.is_empty(),
        "the acknowledgement is stored"
    );
    let fields = system.mailbox("ann").await;
    assert!(!fields.contains_key("connections"), "{:?}", fields.keys());
}

#[tokio::test]
async fn one_http_connection_may_ask_again() {
    let system = System::shared().await;
    let port = system.gateway(0).port();
    let ann = user("ann");
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .unwrap();
    for (path, status) in [
        ("/v1/ws", 401),
        ("/elsewhere", 404),
        ("/v1/ws?user=a%20b", 400),
        (&format!("/v1/ws?user={ann}"), 101),
    ] {
        let answer = http::request_over(&mut stream, port, "GET", path, &UPGRADE, b"").await;
        let answer = answer.unwrap();
        assert_eq!(answer.status, status, "{path}");
        if status != 101 {
            http::read_body(answer, &mut stream).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_client_need_not_wait_for_the_answer_to_its_handshake() {
    let system = System::shared().await;
    let ann = user("ann");
    system.publish("new_post.1", event(&[&ann], 1)).await;
    system.until_waiting(&ann, 1).await;
    let mut socket = system.connect(&ann).await;
    let frames = socket.frames_until("live").await;
    socket.close().await;
    // An acknowledgement of the last connection, in one packet with the request for this one.
    let ack = json!({ "op": "ack", "cursor": frames[1]["cursor"] }).to_string();
    let length = u8::try_from(ack.len()).unwrap();
    let frame = [&[0x81, 0xfe, 0, length, 0, 0, 0, 0], ack.as_bytes()].concat();
    let path = format!("/v1/ws?user={ann}");
    let port = system.gateway(0).port();
    let (answer, stream) = http::request(port, "GET", &path, &UPGRADE, &frame)
        .await
        .unwrap();
    assert_eq!(answer.status, 101);
    system.until_waiting(&ann, 0).await;
    drop(stream);
}
