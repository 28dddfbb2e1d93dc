//! The handshake as bytes (RFC 6455 §4, RFC 9112, RFC 3986): what becomes a socket, what is answered
//! otherwise, and that nothing is read twice or as something else.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::wire::{FIN, Heard, TEXT, frame};
use crate::support::{DEADLINE, System, Wire, user};

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
const LINES: [&str; 5] = [
    "Host: a",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    KEY,
];

/// What answers a request.
enum Answer {
    /// The connection is a socket.
    Socket,
    /// A refusal with this status, the contract's body, and the version that is served.
    Refusal(u16),
    /// The HTTP library's own answer with this status.
    Status(u16),
    /// Anything but a socket.
    NoSocket,
}
use Answer::{NoSocket, Refusal, Socket, Status};

/// A request for a socket with a line in the place of the one that begins like it, or after all
/// where there is none, and a line left out.
fn with(line: &str) -> String {
    let name = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
    let mut lines = LINES.map(str::to_owned).to_vec();
    lines.retain(|known| name(known) != name(line.split("\r\n").next().unwrap_or_default()));
    lines.push(line.to_owned());
    request("GET /v1/ws?user=USER HTTP/1.1", &lines)
}

fn and(line: &str) -> String {
    let mut lines = LINES.map(str::to_owned).to_vec();
    lines.push(line.to_owned());
    request("GET /v1/ws?user=USER HTTP/1.1", &lines)
}

fn asking(first: &str) -> String {
    request(first, &LINES.map(str::to_owned))
}

fn request(first: &str, lines: &[String]) -> String {
    format!("{first}\r\n{}\r\n\r\n", lines.join("\r\n"))
}

struct Response {
    status: u16,
    head: String,
    rest: Vec<u8>,
    stream: TcpStream,
}

/// Sends bytes and reads the head of the answer; `None` where the connection ends without one.
async fn exchange(port: u16, bytes: &[u8]) -> Option<Response> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("a listener");
    // The gateway may answer, and stop reading, before it has all.
    let _ = stream.write_all(bytes).await;
    let mut received = Vec::new();
    let end = timeout(DEADLINE, async {
        loop {
            let end = received.windows(4).position(|window| window == b"\r\n\r\n");
            if end.is_some() || stream.read_buf(&mut received).await.unwrap_or(0) == 0 {
                return end;
            }
        }
    });
    let end = end.await.expect("an answer or an end")?;
    let head = String::from_utf8_lossy(&received[..end]).to_ascii_lowercase();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Some(Response {
        status: status.expect("a status"),
        head,
        rest: received[end + 4..].to_vec(),
        stream,
    })
}

/// The JSON body of a refusal; its length is known.
async fn body(response: &mut Response) -> Value {
    let length = response
        .head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.expect("a length").parse().expect("a number");
    while response.rest.len() < length {
        let read = timeout(DEADLINE, response.stream.read_buf(&mut response.rest)).await;
        assert_ne!(
            read.expect("in time").expect("readable"),
            0,
            "the body ends"
        );
    }
    serde_json::from_slice(&response.rest[..length]).expect("JSON")
}

async fn assert_table(cases: Vec<(&str, &str, Answer, String)>) {
    let system = System::shared().await;
    let port = system.gateway(0).port();
    for (section, about, answer, request) in cases {
        let about = format!("{section}: {about}");
        let request = request.replace("USER", &user("hands"));
        let response = exchange(port, request.as_bytes()).await;
        let Some(mut response) = response else {
            assert!(matches!(answer, NoSocket), "{about}: no answer");
            continue;
        };
        let status = response.status;
        match answer {
            Socket => {
                assert_eq!(status, 101, "{about}: {}", response.head);
                let mut wire = Wire::from_parts(response.stream, response.rest);
                wire.until("live").await;
            }
            Refusal(expected) => {
                assert_eq!(status, expected, "{about}: {}", response.head);
                let body = body(&mut response).await;
                let names: Vec<_> = body.as_object().expect("an object").keys().collect();
                assert_eq!(names, ["code", "message"], "{about}: {body}");
            }
            Status(expected) => assert_eq!(status, expected, "{about}: {}", response.head),
            NoSocket => assert_ne!(status, 101, "{about}: {}", response.head),
        }
    }
    system.gateway(0).ready().await;
}

#[tokio::test]
async fn a_handshake_asks_for_a_websocket_over_http_1_1() {
    let two = |line: &str| with(&format!("{line}\r\n{line}"));
    assert_table(vec![
        (
            "4.2.1",
            "all of it",
            Socket,
            asking("GET /v1/ws?user=USER HTTP/1.1"),
        ),
        (
            "4.2.1",
            "HTTP/1.0",
            Refusal(400),
            asking("GET /v1/ws?user=USER HTTP/1.0"),
        ),
        (
            "4.2.1",
            "POST",
            Refusal(400),
            asking("POST /v1/ws?user=USER HTTP/1.1"),
        ),
        (
            "4.2.1",
            "get",
            Refusal(400),
            asking("get /v1/ws?user=USER HTTP/1.1"),
        ),
        (
            "4.2.1",
            "an absolute address",
            Socket,
            asking("GET http://a/v1/ws?user=USER HTTP/1.1"),
        ),
        (
            "4.2.1",
            "two Upgrade lines",
            Socket,
            two("Upgrade: websocket"),
        ),
        (
            "4.2.1",
            "one of several",
            Socket,
            with("Upgrade: h2c, WebSocket"),
        ),
        (
            "4.2.1",
            "another protocol",
            Refusal(400),
            with("Upgrade: h2c"),
        ),
        ("4.2.1", "an empty Upgrade", Refusal(400), with("Upgrade:")),
        ("4.2.1", "almost", Refusal(400), with("Upgrade: websockets")),
        (
            "4.2.1",
            "two Connection lines",
            Socket,
            with("Connection: a\r\nConnection: upgrade"),
        ),
        (
            "4.2.1",
            "keep-alive alone",
            Refusal(400),
            with("Connection: keep-alive"),
        ),
    ])
    .await;
}

#[tokio::test]
async fn version_key_and_host_stand_once_and_are_what_they_should_be() {
    let two = |line: &str| with(&format!("{line}\r\n{line}"));
    assert_table(vec![
        (
            "4.4",
            "version 8",
            Refusal(400),
            with("Sec-WebSocket-Version: 8"),
        ),
        (
            "4.4",
            "version 14",
            Refusal(400),
            with("Sec-WebSocket-Version: 14"),
        ),
        (
            "4.4",
            "013",
            Refusal(400),
            with("Sec-WebSocket-Version: 013"),
        ),
        (
            "4.4",
            "a choice",
            Refusal(400),
            with("Sec-WebSocket-Version: 13, 8"),
        ),
        (
            "11.3.5",
            "the version twice",
            Refusal(400),
            two("Sec-WebSocket-Version: 13"),
        ),
        ("11.3.1", "the key twice", Refusal(400), two(KEY)),
        (
            "4.2.1",
            "a key of 15 bytes",
            Refusal(400),
            with("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA"),
        ),
        (
            "4.2.1",
            "a key of 17 bytes",
            Refusal(400),
            with("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAA="),
        ),
        (
            "4.2.1",
            "24 characters of no base64",
            Refusal(400),
            with("Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!=="),
        ),
        (
            "RFC 9112 3.2",
            "no host",
            Refusal(400),
            with("Host: a").replace("Host: a\r\n", ""),
        ),
        ("RFC 9112 3.2", "two hosts", Refusal(400), and("Host: b")),
    ])
    .await;
}

#[tokio::test]
async fn every_other_version_is_told_the_one_that_is_served() {
    let system = System::shared().await;
    for line in ["Sec-WebSocket-Version: 8", "Sec-WebSocket-Version: 13, 8"] {
        let request = with(line).replace("USER", &user("hands"));
        let response = exchange(system.gateway(0).port(), request.as_bytes()).await;
        let head = response.expect("an answer").head;
        assert!(head.contains("\r\nsec-websocket-version: 13"), "{head}");
    }
}

#[tokio::test]
async fn a_request_that_is_two_is_none() {
    let hidden = "GET /v1/ws?user=hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    let length = format!("Content-Length: {}", hidden.len());
    let body = |line: &str, body: &str| format!("{}{body}", and(line));
    assert_table(vec![
        ("RFC 9112 6", "a body", Refusal(400), body(&length, hidden)),
        (
            "RFC 9112 6",
            "a body to come",
            Refusal(400),
            and("Content-Length: 5"),
        ),
        (
            "RFC 9112 6",
            "an empty body",
            Socket,
            and("Content-Length: 0"),
        ),
        (
            "RFC 9112 6",
            "chunks",
            Refusal(400),
            body("Transfer-Encoding: chunked", "0\r\n\r\n"),
        ),
        (
            "RFC 9112 6.3",
            "both lengths",
            NoSocket,
            body(
                &format!("{length}\r\nTransfer-Encoding: chunked"),
                "0\r\n\r\n",
            ),
        ),
        (
            "RFC 9112 6.3",
            "two lengths",
            NoSocket,
            body("Content-Length: 5\r\nContent-Length: 6", "hello"),
        ),
        (
            "RFC 9112 6.3",
            "a signed length",
            NoSocket,
            body("Content-Length: +5", "hello"),
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_head_with_faults_is_no_request() {
    assert_table(vec![
        (
            "RFC 9112 5.1",
            "a space before the colon",
            Status(400),
            and("Upgrade : websocket"),
        ),
        (
            "RFC 9112 5.2",
            "a folded line",
            Status(400),
            and("X: a\r\n b"),
        ),
        ("RFC 9112 5", "no colon", Status(400), and("junk")),
        ("RFC 9112 5", "a zero byte", Status(400), and("X: a\0b")),
        (
            "RFC 9112 2.2",
            "a carriage return alone",
            Status(400),
            and("X: a\rUpgrade: b"),
        ),
        (
            "RFC 9113 3.4",
            "HTTP/2",
            NoSocket,
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
        ),
        (
            "TLS",
            "a hello",
            NoSocket,
            "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03\r\n\r\n".into(),
        ),
        (
            "RFC 9112 3",
            "CONNECT",
            NoSocket,
            asking("CONNECT a:1 HTTP/1.1"),
        ),
        (
            "RFC 9112 3",
            "OPTIONS *",
            NoSocket,
            asking("OPTIONS * HTTP/1.1"),
        ),
        (
            "RFC 9112 3",
            "no target",
            Status(400),
            asking("GET  HTTP/1.1"),
        ),
        (
            "RFC 9112 3",
            "a space in the target",
            Status(400),
            asking("GET /v1/ws?user=a b HTTP/1.1"),
        ),
        (
            "RFC 9112 3",
            "too many lines",
            Status(431),
            and(&["X: y"; 200].join("\r\n")),
        ),
        ("RFC 6585 5", "a head that is too large", Status(431), {
            and(&format!("X: {}", "y".repeat(70_000)))
        }),
    ])
    .await;
}

#[tokio::test]
async fn what_follows_a_handshake_is_frames() {
    let system = System::shared().await;
    let port = system.gateway(0).port();
    let first = asking("GET /v1/ws?user=USER HTTP/1.1").replace("USER", &user("hands"));
    // Another request behind it, as a proxy might pass on for somebody else.
    let second = asking("GET /v1/ws?user=hidden HTTP/1.1");
    let response = exchange(port, format!("{first}{second}").as_bytes()).await;
    let response = response.expect("an answer");
    assert_eq!(response.status, 101);
    let mut wire = Wire::from_parts(response.stream, response.rest);
    super::assert_welcome_and_fault(&mut wire, 4002).await;
    assert!(system.mailbox("hidden").await.is_empty());
    // Two requests of which the first is refused are answered in their order.
    let elsewhere = "GET /elsewhere HTTP/1.1\r\nHost: a\r\n\r\n";
    let both = [
        elsewhere.as_bytes(),
        first.as_bytes(),
        &frame(FIN | TEXT, b"junk"),
    ]
    .concat();
    let mut response = exchange(port, &both).await.expect("an answer");
    assert_eq!(response.status, 404);
    let refused = body(&mut response).await;
    assert_eq!(refused["code"], 404);
    let rest = response.rest.split_off(refused.to_string().len());
    let mut wire = after_upgrade(response.stream, rest).await;
    super::assert_welcome_and_fault(&mut wire, 4002).await;
    assert!(matches!(wire.next().await, Heard::End | Heard::Reset));
}

/// Reads the head of an upgrade on a connection where something came before it.
async fn after_upgrade(mut stream: TcpStream, mut received: Vec<u8>) -> Wire {
    let end = timeout(DEADLINE, async {
        loop {
            if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
                return end;
            }
            assert_ne!(stream.read_buf(&mut received).await.expect("readable"), 0);
        }
    });
    let end = end.await.expect("an answer");
    assert!(received.starts_with(b"HTTP/1.1 101 "));
    Wire::from_parts(stream, received.split_off(end + 4))
}

#[tokio::test]
async fn addresses_and_queries_are_read_one_way_only() {
    let ask = |target: &str| asking(&format!("GET {target} HTTP/1.1"));
    assert_table(vec![
        (
            "RFC 3986 3.3",
            "a double slash",
            Refusal(404),
            ask("//v1/ws?user=USER"),
        ),
        (
            "RFC 3986 3.3",
            "an escaped path",
            Refusal(404),
            ask("/v1/%77s?user=USER"),
        ),
        (
            "RFC 3986 5.2",
            "dots",
            Refusal(404),
            ask("/v1/../v1/ws?user=USER"),
        ),
        (
            "RFC 3986 3.3",
            "a path parameter",
            Refusal(404),
            ask("/v1/ws;a=b?user=USER"),
        ),
        (
            "RFC 3986 3.4",
            "an escaped name",
            Socket,
            ask("/v1/ws?%75ser=USER"),
        ),
        (
            "RFC 3986 3.4",
            "all of it escaped",
            Socket,
            ask("/v1/ws?%75%73%65%72=%61%62%63-USER"),
        ),
        (
            "RFC 3986 3.4",
            "empty pairs",
            Socket,
            ask("/v1/ws?&&=&=x&user=USER&&"),
        ),
        (
            "RFC 3986 3.4",
            "a second question mark",
            Socket,
            ask("/v1/ws?user=USER?&x=?"),
        ),
    ])
    .await;
}

#[tokio::test]
async fn what_is_no_user_is_refused_however_it_is_escaped() {
    let ask = |target: &str| asking(&format!("GET {target} HTTP/1.1"));
    let long = "x".repeat(16 * 1024);
    assert_table(vec![
        ("RFC 3986 3.4", "no value", Refusal(400), ask("/v1/ws?user")),
        (
            "RFC 3986 3.4",
            "another case",
            Refusal(401),
            ask("/v1/ws?User=USER"),
        ),
        (
            "RFC 3986 3.4",
            "an escaped ampersand is none",
            Refusal(401),
            ask("/v1/ws?x%26user=USER"),
        ),
        (
            "forms",
            "a plus is a space",
            Refusal(400),
            ask("/v1/ws?user=USER+x"),
        ),
        (
            "RFC 3986 2.1",
            "an escaped plus is one",
            Socket,
            ask("/v1/ws?user=USER%2Bx"),
        ),
        (
            "RFC 3986 2.1",
            "a zero",
            Refusal(400),
            ask("/v1/ws?user=USER%00"),
        ),
        (
            "RFC 3986 2.1",
            "a line break",
            Refusal(400),
            ask("/v1/ws?user=USER%0D%0AX:%20y"),
        ),
        (
            "RFC 3986 2.1",
            "escaped twice",
            Socket,
            ask("/v1/ws?user=USER%2520"),
        ),
        (
            "limit",
            "a query that is too long",
            Refusal(400),
            ask(&format!("/v1/ws?user=USER&x={long}")),
        ),
        (
            "limit",
            "an address that is too long",
            NoSocket,
            ask(&format!("/v1/ws?{long}{long}{long}")),
        ),
    ])
    .await;
}

#[tokio::test]
async fn the_first_of_a_repeated_parameter_counts() {
    let system = System::shared().await;
    let port = system.gateway(0).port();
    let (ann, bob) = (user("ann"), user("bob"));
    for query in [
        format!("user={ann}&user={bob}&device=a&device=b"),
        format!("user={ann}&%75ser={bob}&device=a&device="),
        // What would be refused alone does not matter behind a good one.
        format!("user={ann}&user=%FF&device=a&device=%20"),
    ] {
        let mut wire = Wire::open_path(port, &format!("/v1/ws?{query}")).await;
        let welcome = wire.until("welcome").await;
        assert_eq!(
            (&welcome["user"], &welcome["device"]),
            (&ann.clone().into(), &"a".into())
        );
    }
    // And an empty first one is the first one.
    let request = asking(&format!("GET /v1/ws?user=&user={bob} HTTP/1.1"));
    let response = exchange(port, request.as_bytes()).await.expect("an answer");
    assert_eq!(response.status, 400);
}
