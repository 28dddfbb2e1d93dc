//! What no client library sends and nats-server takes all the same: no bytes of any publisher
//! stop a worker, and what is acknowledged is either delivered or kept as a dead letter.

use async_nats::HeaderMap;
use serde_json::{Value, json};

use crate::support::letters::Letters;
use crate::support::socket::data_of;
use crate::support::{RawNats, System, event, user};

/// A system of its own: such messages break the connections they are delivered over.
struct Bench {
    system: System,
    raw: RawNats,
    letters: Letters,
    ann: String,
    /// How many good events were published.
    good: u64,
}

impl Bench {
    async fn start() -> Bench {
        let system = System::builder().workers(2).start().await;
        let raw = RawNats::connect(system.nats_server().port()).await;
        let letters = system.letters().await;
        let ann = user("ann");
        Bench {
            system,
            raw,
            letters,
            ann,
            good: 0,
        }
    }

    /// A good body.
    fn body(&self) -> Vec<u8> {
        event(&[&self.ann], 1).to_string().into_bytes()
    }

    /// Publishes bytes on a subject after the namespace; returns the sequence.
    async fn publish(&mut self, subject: &[u8], headers: &[u8], body: &[u8]) -> u64 {
        let subject = [self.system.namespace().as_bytes(), b".", subject].concat();
        let answer = match headers.is_empty() {
            true => self.raw.publish(&subject, body).await,
            false => {
                (self.raw)
                    .publish_with_headers(&subject, headers, body)
                    .await
            }
        };
        let shown = String::from_utf8_lossy(&subject).into_owned();
        let answer = answer.unwrap_or_else(|| panic!("no PubAck for {shown:?}"));
        let answer: Value = serde_json::from_str(&answer).expect("the PubAck's JSON");
        answer["seq"].as_u64().unwrap_or_else(|| panic!("{answer}"))
    }

    /// Publishes a good event in the partition of this key, and one without a key.
    async fn fence(&mut self, key: &str) {
        for address in [format!("fence.{key}"), "fence".to_owned()] {
            self.good += 1;
            let body = event(&[&self.ann], "fence");
            self.system.publish(&address, body).await;
        }
    }

    /// Asserts that the good events, and only they, have arrived.
    async fn assert_good_ones_arrived(&mut self) {
        self.system.until_stored(&self.ann, self.good).await;
        let mut socket = self.system.connect(&self.ann).await;
        assert_eq!(socket.until_live().await.len() as u64, self.good);
    }
}

#[tokio::test]
async fn invalid_utf_8_in_a_body_is_refused_with_the_body_as_it_was() {
    let mut bench = Bench::start().await;
    let bodies: [&[u8]; 8] = [
        b"\xff",
        b"{\"\xff\":1}",
        b"{\"targetUserIds\":[\"ann\"],\"data\":\"\xff\"}",
        b"{\"targetUserIds\":[\"ann\"],\"data\":{\"\xc3\x28\":1}}",
        b"{\"targetUserIds\":[\"\xed\xa0\x80\"],\"data\":1}",
        b"{\"targetUserIds\":[\"ann\"],\"id\":\"\xf0\x9f\",\"data\":1}",
        b"\x00",
        b"{\"targetUserIds\":[\"ann\"],\"data\":1}\x00",
    ];
    let mut sequences = Vec::new();
    for body in bodies {
        sequences.push(bench.publish(b"events.new_post.1", b"", body).await);
        bench.fence("1").await;
    }
    for (sequence, body) in sequences.into_iter().zip(bodies) {
        let letter = bench.letters.of(sequence).await;
        assert!(!letter.reason().is_empty());
        assert_eq!(letter.body, body);
    }
    bench.assert_good_ones_arrived().await;
}

#[tokio::test]
async fn strange_subjects_are_refused_and_hold_nothing_up() {
    let mut bench = Bench::start().await;
    let body = bench.body();
    let subjects: [(&[u8], &str); 11] = [
        (b"events.\xff", "subject"),
        (b"events.new_post.\xff", "subject"),
        (b"events.new_post.a\xc3", "subject"),
        (b"events.\xff\xfe.1", "subject"),
        (b"events.\x01", "type"),
        (b"events.\x00.\x00", "type"),
        (b"events.new_post.\x01", "key"),
        (b"events.new_post.a\x0bb", "key"),
        ("events.new_post.\u{85}".as_bytes(), "key"),
        ("events.new_post.\u{a0}".as_bytes(), "key"),
        ("events.\u{2028}".as_bytes(), "type"),
    ];
    let mut sent = Vec::new();
    for (subject, names) in subjects {
        let sequence = bench.publish(subject, b"", &body).await;
        sent.push((sequence, subject, names));
        // The same with headers: where those stand, other things are split at spaces.
        let headers = b"NATS/1.0\r\nX: y\r\n\r\n";
        let sequence = bench.publish(subject, headers, &body).await;
        sent.push((sequence, subject, ""));
        bench.fence("1").await;
    }
    for (sequence, subject, names) in sent {
        let letter = bench.letters.of(sequence).await;
        let shown = String::from_utf8_lossy(subject).into_owned();
        let reason = letter.reason();
        assert!(reason.contains(names), "{shown:?}: {reason}");
        assert_eq!(letter.body, body, "{shown:?}");
        let start = "dead_letters.events.";
        assert!(letter.subject.starts_with(start), "{}", letter.subject);
        let is_plain = shown.bytes().all(|byte| byte.is_ascii_graphic());
        if is_plain {
            assert_eq!(letter.subject, format!("dead_letters.{shown}"));
        }
    }
    bench.assert_good_ones_arrived().await;
}

#[tokio::test]
async fn headers_that_no_library_reads_are_refused_and_hold_nothing_up() {
    let mut bench = Bench::start().await;
    let body = bench.body();
    let blocks: [&[u8]; 7] = [
        b"NATS/1.0\r\nX: a\rb\r\n\r\n",
        b"NATS/1.0\r\nNats-Msg-Id: a\rb\r\n\r\n",
        b"NATS/1.0\r\nX: \xff\r\n\r\n",
        b"NATS/1.0\r\n\xff: x\r\n\r\n",
        b"NATS/1.0\r\nno colon\r\n\r\n",
        b"NATS/1.0\r\na b: x\r\n\r\n",
        b"junk\r\n\r\n",
    ];
    let mut sent = Vec::new();
    for (index, block) in blocks.into_iter().enumerate() {
        // Some in one partition, one behind the other, and some without a key.
        let subject: &[u8] = match index % 3 {
            0 => b"events.new_post.1",
            1 => b"events.new_post.2",
            _ => b"events.new_post",
        };
        sent.push((bench.publish(subject, block, &body).await, block));
        bench.fence(if index % 3 == 0 { "1" } else { "2" }).await;
    }
    for (sequence, block) in sent {
        let letter = bench.letters.of(sequence).await;
        let shown = String::from_utf8_lossy(block).into_owned();
        let reason = letter.reason();
        assert!(reason.contains("header"), "{shown:?}: {reason}");
        assert_eq!(letter.body, body, "{shown:?}");
    }
    bench.assert_good_ones_arrived().await;
    // Nothing of it is left to break anybody's connection.
    for worker in bench.system.workers() {
        worker.ready().await;
    }
}

#[tokio::test]
async fn unusual_headers_change_nothing() {
    let mut bench = Bench::start().await;
    let blocks: [&[u8]; 8] = [
        b"NATS/1.0\r\n\r\n",
        b"NATS/1.0 503\r\n\r\n",
        b"NATS/1.0 100 Idle Heartbeat\r\n\r\n",
        b"NATS/1.0 409 Consumer Deleted\r\n\r\n",
        b"NATS/1.0\r\nStatus: 503\r\nDescription: no\r\n\r\n",
        b"NATS/1.0\r\nX: a\r\n b\r\n\tc\r\n\r\n",
        b"NATS/1.0\r\nX:\r\nX: \r\nX: y\r\n\r\n",
        "NATS/1.0\r\nX: é\u{0}\r\n\r\n".as_bytes(),
    ];
    let mut socket = bench.system.connect(&bench.ann.clone()).await;
    socket.until_live().await;
    let body = bench.body();
    for block in blocks {
        bench.publish(b"events.new_post.1", block, &body).await;
        assert_eq!(data_of(&socket.messages(1).await), [1]);
        bench.publish(b"events.new_post", block, &body).await;
        assert_eq!(data_of(&socket.messages(1).await), [1]);
    }
}

#[tokio::test]
async fn a_header_that_is_no_id_is_not_used_as_one() {
    let mut bench = Bench::start().await;
    let body = bench.body();
    let mut socket = bench.system.connect(&bench.ann.clone()).await;
    socket.until_live().await;
    let long = "x".repeat(129);
    let longest = "x".repeat(128);
    for (value, is_used) in [
        ("good-1", true),
        ("with space", true),
        ("é消😀", true),
        (&longest, true),
        (&long, false),
        ("tab\tinside", false),
        ("null\0", false),
        ("\u{7f}del", false),
        ("zero\u{200b}width", false),
    ] {
        let block = format!("NATS/1.0\r\nNats-Msg-Id: {value}\r\n\r\n");
        let sequence = bench.publish(b"events.new_post.1", block.as_bytes(), &body);
        let sequence = sequence.await;
        let message = &socket.messages(1).await[0];
        let id = message["id"].as_str().unwrap();
        assert_eq!(id == value, is_used, "{value:?}: {id:?}");
        let stored = bench.system.stored(sequence).await;
        let made = stored.time.unix_timestamp_nanos() / 1_000_000;
        // Else it is made from the store time and the sequence.
        let is_made = id.contains(&sequence.to_string()) && id.contains(&made.to_string());
        assert_eq!(is_made, !is_used, "{value:?}: {id:?}");
    }
    // The body's wins over a good one.
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", "from-the-header");
    let mut body = event(&[&bench.ann], 1);
    body["id"] = json!("from-the-body");
    let ack = (bench.system).publish_with("new_post.1", headers, body.to_string());
    ack.await.unwrap();
    assert_eq!(socket.messages(1).await[0]["id"], "from-the-body");
}

#[tokio::test]
async fn subjects_as_long_as_the_server_takes_are_refused_too() {
    let mut bench = Bench::start().await;
    let body = bench.body();
    let mut sent = Vec::new();
    // A line of the protocol has 4,096 bytes, the subject of the answer and lengths included.
    for length in [500, 3_000, 3_700, 3_900, 4_000] {
        for address in [
            "t".repeat(length),
            format!("new_post.{}", "k".repeat(length)),
        ] {
            let subject = format!("events.{address}");
            let sequence = bench.publish(subject.as_bytes(), b"", &body).await;
            sent.push((sequence, subject));
            bench.fence("1").await;
        }
    }
    for (sequence, subject) in sent {
        let letter = bench.letters.of(sequence).await;
        let named = if subject.contains("new_post") {
            "key"
        } else {
            "type"
        };
        assert!(letter.reason().contains(named), "{}", letter.reason());
        assert_eq!(letter.body, body);
        // With what stands before it, the longest does not fit: its head is kept.
        let whole = format!("dead_letters.{subject}");
        assert!(whole.starts_with(&letter.subject), "{}", letter.subject);
        if subject.len() <= 3_700 {
            assert_eq!(letter.subject, whole);
        }
    }
    bench.assert_good_ones_arrived().await;
}
