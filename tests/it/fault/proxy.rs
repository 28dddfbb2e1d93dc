//! That the proxy does what its modes say, in front of a real Redis.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::proxy::{Direction, Mode, Proxy};
use crate::support::{DEADLINE, RedisServer};

/// Nothing comes within this.
const SILENCE: Duration = Duration::from_millis(300);

struct Client {
    stream: TcpStream,
}

impl Client {
    async fn connect(proxy: &Proxy) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", proxy.port())).await;
        Client {
            stream: stream.expect("the proxy listens"),
        }
    }

    async fn send(&mut self, command: &str) {
        let sent = self.stream.write_all(command.as_bytes()).await;
        sent.expect("an open connection");
    }

    /// The next bytes: empty at the end, an error at a reset.
    async fn receive(&mut self) -> std::io::Result<String> {
        let mut bytes = vec![0; 1024];
        let read = timeout(DEADLINE, self.stream.read(&mut bytes)).await;
        let count = read.expect("an answer in time")?;
        Ok(String::from_utf8_lossy(&bytes[..count]).into_owned())
    }

    async fn ask(&mut self, command: &str) -> String {
        self.send(command).await;
        self.receive().await.expect("an answer")
    }

    async fn hears_nothing(&mut self) {
        let heard = timeout(SILENCE, self.receive()).await;
        assert!(heard.is_err(), "{heard:?}");
    }

    async fn is_reset(&mut self) {
        let heard = self.receive().await;
        let kind = heard.as_ref().err().map(std::io::Error::kind);
        assert_eq!(kind, Some(std::io::ErrorKind::ConnectionReset), "{heard:?}");
    }
}

fn start() -> (RedisServer, Proxy) {
    let redis = RedisServer::start();
    let proxy = Proxy::start(redis.port());
    (redis, proxy)
}

#[tokio::test]
async fn it_passes_and_hands_on_the_end_of_either_side() {
    let (redis, proxy) = start();
    let mut client = Client::connect(&proxy).await;
    assert_eq!(client.ask("PING\r\n").await, "+PONG\r\n");
    client.send("PING\r\nQUIT\r\n").await;
    let mut heard = String::new();
    while !heard.ends_with("+OK\r\n") {
        heard += &client.receive().await.unwrap();
    }
    assert_eq!(client.receive().await.unwrap(), "", "the server's end");
    let mut client = Client::connect(&proxy).await;
    assert_eq!(client.ask("PING\r\n").await, "+PONG\r\n");
    redis.kill();
    assert!(client.receive().await.unwrap_or_default().is_empty());
    redis.start_again();
    let mut client = Client::connect(&proxy).await;
    assert_eq!(client.ask("PING\r\n").await, "+PONG\r\n");
}

#[tokio::test]
async fn a_delay_is_paid_once_each_way_and_keeps_order() {
    const DELAY: Duration = Duration::from_millis(100);
    let (_redis, proxy) = start();
    let mut client = Client::connect(&proxy).await;
    proxy.set(Mode::Delay(DELAY));
    let began = Instant::now();
    assert_eq!(client.ask("PING\r\n").await, "+PONG\r\n");
    assert!(began.elapsed() >= 2 * DELAY, "{:?}", began.elapsed());
    // What follows closely is as late, not later and later.
    let began = Instant::now();
    let mut due = String::new();
    for number in 0..20 {
        let text = format!("PING {number:02}\r\n");
        client.send(&text).await;
        due += &format!("$2\r\n{number:02}\r\n");
    }
    let mut heard = String::new();
    while heard.len() < due.len() {
        heard += &client.receive().await.unwrap();
    }
    assert_eq!(heard, due);
    assert!(began.elapsed() < 10 * DELAY, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_cut_resets_what_is_open_and_refuses_what_comes() {
    let (_redis, proxy) = start();
    let mut client = Client::connect(&proxy).await;
    assert_eq!(client.ask("PING\r\n").await, "+PONG\r\n");
    proxy.set(Mode::Cut);
    client.is_reset().await;
    Client::connect(&proxy).await.is_reset().await;
    proxy.set(Mode::Pass);
    let mut client = Client::connect(&proxy).await;
    assert_eq!(client.ask("PING\r\n").await, "+PONG\r\n");
    // However short a cut is, what was open is reset.
    proxy.set(Mode::Cut);
    proxy.set(Mode::Pass);
    client.is_reset().await;
}

#[tokio::test]
async fn a_black_hole_takes_everything_and_gives_it_back() {
    let (_redis, proxy) = start();
    let mut client = Client::connect(&proxy).await;
    assert_eq!(client.ask("SET key 1\r\n").await, "+OK\r\n");
    proxy.set(Mode::BlackHole);
    client.send("INCR key\r\n").await;
    client.hears_nothing().await;
    let mut other = Client::connect(&proxy).await;
    other.send("PING\r\n").await;
    other.hears_nothing().await;
    proxy.set(Mode::Pass);
    assert_eq!(client.receive().await.unwrap(), ":2\r\n");
    assert_eq!(other.receive().await.unwrap(), "+PONG\r\n");
}

#[tokio::test]
async fn half_open_carries_one_direction_only() {
    let (redis, proxy) = start();
    let mut direct = Client {
        stream: TcpStream::connect(redis.address()).await.unwrap(),
    };
    let mut client = Client::connect(&proxy).await;
    assert_eq!(client.ask("SET key 1\r\n").await, "+OK\r\n");
    // The command gets there, its answer does not come back.
    proxy.set(Mode::HalfOpen {
        passes: Direction::ToServer,
    });
    client.send("INCR key\r\n").await;
    client.hears_nothing().await;
    assert_eq!(direct.ask("GET key\r\n").await, "$1\r\n2\r\n");
    proxy.set(Mode::HalfOpen {
        passes: Direction::ToClient,
    });
    assert_eq!(client.receive().await.unwrap(), ":2\r\n");
    client.send("INCR key\r\n").await;
    client.hears_nothing().await;
    assert_eq!(direct.ask("GET key\r\n").await, "$1\r\n2\r\n");
    proxy.set(Mode::Pass);
    assert_eq!(client.receive().await.unwrap(), ":3\r\n");
}

#[tokio::test]
async fn a_bandwidth_is_kept() {
    const BYTES: usize = 40_000;
    let (_redis, proxy) = start();
    let mut client = Client::connect(&proxy).await;
    let long = "x".repeat(BYTES);
    let command = format!("SET key {long}\r\n");
    assert_eq!(client.ask(&command).await, "+OK\r\n");
    proxy.set(Mode::Bandwidth {
        bytes_per_second: 2 * BYTES as u32,
    });
    let began = Instant::now();
    client.send("GET key\r\n").await;
    let mut count = 0;
    while count < BYTES {
        count += client.receive().await.unwrap().len();
    }
    let took = began.elapsed();
    // Half a second; more on a busy machine.
    assert!(took >= Duration::from_millis(450), "{took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test]
async fn a_vanished_network_takes_only_what_is_open() {
    let (redis, proxy) = start();
    let mut watcher = Client {
        stream: TcpStream::connect(redis.address()).await.unwrap(),
    };
    let mut client = Client::connect(&proxy).await;
    assert_eq!(client.ask("CLIENT SETNAME gone\r\n").await, "+OK\r\n");
    proxy.vanish();
    let mut other = Client::connect(&proxy).await;
    assert_eq!(other.ask("PING\r\n").await, "+PONG\r\n");
    client.send("SET key 1\r\n").await;
    client.hears_nothing().await;
    // The server does not hear that the client left.
    drop(client);
    assert_eq!(other.ask("GET key\r\n").await, "$-1\r\n");
    let connections = watcher.ask("CLIENT LIST\r\n").await;
    assert!(connections.contains("name=gone"), "{connections}");
    drop(proxy);
    other.is_reset().await;
}
