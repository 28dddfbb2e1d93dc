//! The client against gateways that say exactly what a test wants, over real sockets.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::end::End;
use super::target::Target;

/// Where the client prints.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An output whose reader has left.
struct ClosedOutput;

impl io::Write for ClosedOutput {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A listener and a client for it.
async fn client(output: impl io::Write + Send + 'static) -> (TcpListener, Client) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let target = Target::new(&url, "ann", "phone", None).unwrap();
    (listener, Client::new(target, Box::new(output)))
}

/// A gateway's side of one connection.
struct Gateway {
    socket: WebSocketStream<TcpStream>,
    /// Path and query that the client asked for.
    asked: String,
}

impl Gateway {
    async fn accept(listener: &TcpListener) -> Gateway {
        let (stream, _) = listener.accept().await.unwrap();
        let mut asked = String::new();
        #[expect(
            clippy::result_large_err,
            reason = "the library's own type of callback"
        )]
        let callback = |request: &Request, response: Response| {
            asked = request.uri().to_string();
            Ok(response)
        };
        let socket = tokio_tungstenite::accept_hdr_async(stream, callback)
            .await
            .unwrap();
        Gateway { socket, asked }
    }

    async fn welcome(&mut self, cursor: &str) {
        self.send(&format!(
            r#"{{"op":"welcome","cursor":"{cursor}","user":"ann","device":"phone","node":"n",
            "pending":0,"window":64,"heartbeatSeconds":1}}"#
        ))
        .await;
    }

    async fn send(&mut self, frame: &str) {
        self.socket.send(Message::text(frame)).await.unwrap();
    }

    /// The next frame from the client: its text, or `close`.
    async fn receive(&mut self) -> String {
        match self.socket.next().await {
            Some(Ok(Message::Text(text))) => text.to_string(),
            Some(Ok(Message::Close(_))) => "close".to_owned(),
            other => panic!("{other:?}"),
        }
    }

    async fn close(mut self, code: u16, reason: &str) {
        let frame = CloseFrame {
            code: code.into(),
            reason: reason.into(),
        };
        self.socket.close(Some(frame)).await.unwrap();
        while self
            .socket
            .next()
            .await
            .is_some_and(|message| message.is_ok())
        {}
    }
}

fn ack(cursor: &str) -> String {
    format!(r#"{{"cursor":"{cursor}","op":"ack"}}"#)
}

#[tokio::test]
async fn what_comes_is_printed_then_acknowledged_and_repeats_are_dropped() {
    let output = Output::default();
    let (listener, mut client) = client(output.clone()).await;
    let seen = output.clone();
    let server = async move {
        let mut gateway = Gateway::accept(&listener).await;
        assert_eq!(gateway.asked, "/v1/ws?user=ann&device=phone");
        gateway.welcome("c0").await;
        gateway
            .send(
                r#"{"op":"messages","cursor":"c1","replay":true,"messages":[{"id":"1",
                "data":"\ud800"},{"id":"2","data":1e999}],"later":null}"#,
            )
            .await;
        assert_eq!(gateway.receive().await, ack("c1"));
        let lines =
            "{\"id\":\"1\",                 \"data\":\"\\ud800\"}\n{\"id\":\"2\",\"data\":1e999}\n";
        assert_eq!(seen.text(), lines);
        gateway
            .send(r#"{"op":"missed","cursor":"c2","count":3,"reason":"evicted"}"#)
            .await;
        assert_eq!(gateway.receive().await, ack("c2"));
        gateway
            .send(r#"{"op":"live","cursor":"c3","replayed":2}"#)
            .await;
        assert_eq!(gateway.receive().await, ack("c3"));
        gateway.send(r#"{"op":"later","cursor":"c9"}"#).await;
        gateway
            .send(r#"{"op":"away","retryMilliseconds":1234}"#)
            .await;
        gateway.close(1012, "").await;

        let mut gateway = Gateway::accept(&listener).await;
        assert_eq!(gateway.asked, "/v1/ws?user=ann&device=phone&cursor=c3");
        gateway.welcome("c3").await;
        let frame = r#"{"op":"messages","cursor":"c4","messages":[{"id":"2"},{"id":"3"}]}"#;
        gateway.send(frame).await;
        assert_eq!(gateway.receive().await, ack("c4"));
        assert_eq!(seen.text(), format!("{lines}{{\"id\":\"3\"}}\n"));
        gateway.close(1001, "bye").await;
    };
    let server = tokio::spawn(server);
    let shutdown = CancellationToken::new();
    let End::Lost { reason, delay } = client.connect_and_follow(&shutdown).await else {
        panic!("1012 means to come back");
    };
    assert_eq!(reason, "closed by the gateway (1012)");
    assert_eq!(delay, Some(Duration::from_millis(1_234)));
    assert!(client.take_was_welcome() && !client.take_was_welcome());
    let End::Lost { reason, delay } = client.connect_and_follow(&shutdown).await else {
        panic!("1001 means to come back");
    };
    assert_eq!(
        (reason.as_str(), delay),
        ("closed by the gateway (1001): bye", None)
    );
    server.await.unwrap();
}

#[tokio::test]
async fn it_ends_politely_when_told_to() {
    let output = Output::default();
    let (listener, mut client) = client(output.clone()).await;
    let shutdown = CancellationToken::new();
    let signal = shutdown.clone();
    let server = tokio::spawn(async move {
        let mut gateway = Gateway::accept(&listener).await;
        gateway.welcome("c0").await;
        gateway
            .send(r#"{"op":"messages","cursor":"c1","messages":[{"id":"1"}]}"#)
            .await;
        assert_eq!(gateway.receive().await, ack("c1"));
        signal.cancel();
        assert_eq!(gateway.receive().await, "close");
    });
    assert_eq!(client.connect_and_follow(&shutdown).await, End::Finished);
    server.await.unwrap();
    assert_eq!(output.text(), "{\"id\":\"1\"}\n");
}

#[tokio::test]
async fn a_closed_output_ends_it_without_an_acknowledgement() {
    let (listener, mut client) = client(ClosedOutput).await;
    let server = tokio::spawn(async move {
        let mut gateway = Gateway::accept(&listener).await;
        gateway.welcome("c0").await;
        gateway
            .send(r#"{"op":"messages","cursor":"c1","messages":[{"id":"1"}]}"#)
            .await;
        assert_eq!(gateway.receive().await, "close");
    });
    assert_eq!(
        client.connect_and_follow(&CancellationToken::new()).await,
        End::Finished
    );
    server.await.unwrap();
}

#[tokio::test]
async fn codes_that_forbid_coming_back_end_it() {
    for (code, text) in [
        (
            4001,
            "unauthorised: give a valid --token (4001): the token has expired",
        ),
        (
            4002,
            "the gateway did not understand this client (4002): the token has expired",
        ),
        (
            4003,
            "this origin is not allowed (4003): the token has expired",
        ),
        (
            4009,
            "another client took over as this device: use another --device to have both (4009)",
        ),
    ] {
        let (listener, mut client) = client(Output::default()).await;
        let server = tokio::spawn(async move {
            let mut gateway = Gateway::accept(&listener).await;
            if code != 4009 {
                let frame = r#"{"op":"error","code":4001,"message":"the token has expired"}"#;
                gateway.send(frame).await;
            }
            gateway.close(code, "").await;
        });
        let end = client.connect_and_follow(&CancellationToken::new()).await;
        assert_eq!(end, End::Refused(text.to_owned()));
        server.await.unwrap();
    }
}

#[tokio::test]
async fn silence_and_junk_mean_to_come_back() {
    let (listener, mut client) = client(Output::default()).await;
    let server = tokio::spawn(async move {
        let mut gateway = Gateway::accept(&listener).await;
        gateway.welcome("c0").await;
        let mut junk = Gateway::accept(&listener).await;
        junk.send("junk").await;
        (gateway, junk)
    });
    let shutdown = CancellationToken::new();
    for expected in [
        "no sign of life from the gateway",
        "the gateway sent something unreadable",
    ] {
        match client.connect_and_follow(&shutdown).await {
            End::Lost { reason, .. } => assert!(reason.starts_with(expected), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
    server.await.unwrap();
}

#[tokio::test]
async fn another_user_than_asked_for_is_told() {
    let (listener, mut client) = client(Output::default()).await;
    let server = tokio::spawn(async move {
        let mut gateway = Gateway::accept(&listener).await;
        let welcome = r#"{"op":"welcome","cursor":"c","user":"bob","device":"phone","node":"n",
            "pending":0,"window":64,"heartbeatSeconds":20}"#;
        gateway.send(welcome).await;
        assert_eq!(gateway.receive().await, "close");
    });
    match client.connect_and_follow(&CancellationToken::new()).await {
        End::Refused(reason) => assert!(reason.contains("the user bob, not ann"), "{reason}"),
        other => panic!("{other:?}"),
    }
    server.await.unwrap();
}

#[tokio::test]
async fn refusals_before_the_upgrade_are_understood() {
    for (status, expected) in [
        ("400 Bad Request", "refused (400): why"),
        (
            "401 Unauthorized",
            "unauthorised: give a valid --token (401): why",
        ),
        ("403 Forbidden", "not allowed (403): why"),
        (
            "404 Not Found",
            "there is no gateway at this --url (404): why",
        ),
        ("429 Too Many Requests", "refused for a while (429): why"),
        ("503 Service Unavailable", "refused for a while (503): why"),
    ] {
        let (listener, mut client) = client(Output::default()).await;
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let body = r#"{"code":4001,"message":"why"}"#;
            let length = body.len();
            let retry = match status.starts_with("503") {
                true => "retry-after: 7\r\n",
                false => "",
            };
            let head = format!("HTTP/1.1 {status}\r\n{retry}content-length: {length}\r\n");
            let answer = format!("{head}\r\n{body}");
            let mut request = vec![0; 4_096];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let text = match client.connect_and_follow(&CancellationToken::new()).await {
            End::Lost {
                reason,
                delay: None,
            } if status.starts_with('4') => reason,
            End::Lost { reason, delay } if delay == Some(Duration::from_secs(7)) => reason,
            End::Refused(reason) if status.starts_with("40") => reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(text, expected);
        server.await.unwrap();
    }
}

#[tokio::test]
async fn nobody_there_means_to_try_again() {
    let (listener, mut client) = client(Output::default()).await;
    drop(listener);
    match client.connect_and_follow(&CancellationToken::new()).await {
        End::Lost { reason, .. } => assert!(
            reason.starts_with("cannot connect to ws://127."),
            "{reason}"
        ),
        other => panic!("{other:?}"),
    }
}
