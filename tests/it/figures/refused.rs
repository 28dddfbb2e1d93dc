//! A publisher of nothing but refused events, as fast as it can: the events of others pass, the
//! memory of nobody grows, and each of the refused is a dead letter.

use std::collections::BTreeSet;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::Info;
use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::{Instant, interval, sleep};

use super::{mebibytes, milliseconds, parameter, quantile};
use crate::fault::alone;
use crate::support::oracle::PROMISES_KEPT_WITHIN;
use crate::support::process::memory;
use crate::support::socket::messages_of;
use crate::support::{Role, Socket, System};

/// Refused events under way to JetStream at one time.
const PUBLISHES_MAX: usize = 512;
/// How many users the good events are for, one each in turn.
const USERS: usize = 10;
/// How long the good events are alone before, for comparison.
const QUIET: Duration = Duration::from_secs(1);
/// How often memory is looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(200);
/// What a role may have at most in the second half of the flood beyond what it had in the first.
const GROWTH_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How long the dead letters of all may take.
const BURIED_WAIT: Duration = Duration::from_secs(600);

#[derive(Clone, Copy)]
struct Scale {
    /// How long the flood lasts.
    flood: Duration,
    good_per_second: f64,
    /// Of a refused event's body, about.
    bytes: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_refused_events_holds_nobody_up() {
    refused(Scale {
        flood: Duration::from_secs(3),
        good_per_second: 50.0,
        bytes: 100,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "large: scripts/bench refused"]
async fn bench_refused() {
    refused(Scale {
        flood: Duration::from_secs(parameter("TEST_SECONDS", 30)),
        good_per_second: parameter("TEST_EVENTS_PER_SECOND", 50.0),
        bytes: parameter("TEST_BYTES", 100),
    })
    .await;
}

async fn refused(scale: Scale) {
    let _alone = alone().await;
    let system = System::builder().workers(2).own_servers().start().await;
    let mut sockets = Vec::new();
    for user in 0..USERS {
        let mut socket = system.connect(&format!("user-{user}")).await;
        socket.until_live().await;
        sockets.push(socket);
    }
    let all = (QUIET + scale.flood).as_secs_f64() * scale.good_per_second;
    let good = Good {
        sent: (0..all as usize).map(|_| OnceLock::new()).collect(),
        heard: Mutex::default(),
    };
    let start = Instant::now();
    let until = start + QUIET + scale.flood;
    let hearing = join_all(sockets.iter_mut().enumerate().map(|it| good.hear(it)));
    let flooding = async {
        tokio::time::sleep_until(start + QUIET).await;
        let flood_starts = Instant::now();
        let sequences = flood(&system, until, scale.bytes).await;
        (sequences, flood_starts)
    };
    let publishing = good.publish(&system, scale.good_per_second);
    let watching = watch_memory(&system, until);
    let ((sequences, flood_starts), (), samples, _) =
        tokio::join!(flooding, publishing, watching, hearing);
    let heard_after = start.elapsed();
    system.processed_within(BURIED_WAIT).await;
    let processed_after = start.elapsed();

    println!(
        "refused: {} refused events of about {} bytes in {:.1} s, {:.0}/s; the last is a dead \
         letter {:.1} s after the end of it",
        sequences.len(),
        scale.bytes,
        scale.flood.as_secs_f64(),
        sequences.len() as f64 / scale.flood.as_secs_f64(),
        (processed_after - QUIET - scale.flood)
            .as_secs_f64()
            .max(0.0),
    );
    let late = heard_after.saturating_sub(QUIET + scale.flood);
    println!(
        "refused: {} good events, 0 lost, the last heard {:.1} s after the end",
        good.sent.len(),
        late.as_secs_f64()
    );
    good.print_latency(flood_starts);
    for (role, samples) in system.roles().zip(&samples) {
        assert_flat(role, samples);
    }
    assert_dead_letters(&system, &sequences).await;
}

/// The good events.
struct Good {
    /// When each was published.
    sent: Vec<OnceLock<Instant>>,
    heard: Mutex<Vec<Heard>>,
}

/// How long a good event took to its client.
struct Heard {
    number: usize,
    /// From before it was published.
    published: Duration,
    /// From the time at which JetStream stored it, to the millisecond.
    stored: Duration,
}

impl Good {
    /// Publishes all of them at this rate, over all partitions and without a key.
    async fn publish(&self, system: &System, per_second: f64) {
        let mut ticks = interval(Duration::from_secs(1).div_f64(per_second));
        let numbers = stream_of(&mut ticks).take(self.sent.len()).enumerate();
        let one = |(number, ()): (usize, ())| async move {
            let event =
                json!({ "targetUserIds": [format!("user-{}", number % USERS)], "data": number });
            let address = match number % 4 {
                3 => "new_comment".to_owned(),
                _ => format!("new_comment.good-{number}"),
            };
            self.sent[number].set(Instant::now()).expect("once");
            system.publish(&address, event).await;
        };
        numbers
            .map(one)
            .buffer_unordered(PUBLISHES_MAX)
            .collect::<()>()
            .await;
    }

    /// Reads what is for one user, until it is all there.
    async fn hear(&self, (user, socket): (usize, &mut Socket)) {
        let mut missing: BTreeSet<usize> = (user..self.sent.len()).step_by(USERS).collect();
        while !missing.is_empty() {
            let frame = socket.frame_within(PROMISES_KEPT_WITHIN).await;
            let frame = frame.unwrap_or_else(|| panic!("user-{user} waits for {missing:?}"));
            assert_eq!(frame["op"], "messages", "{frame}");
            for message in messages_of(&frame) {
                let number = message["data"].as_u64().expect("a number") as usize;
                if missing.remove(&number) {
                    let sent = self.sent[number].get().expect("it was sent");
                    self.heard.lock().expect("not poisoned").push(Heard {
                        number,
                        published: sent.elapsed(),
                        stored: age_of(&message),
                    });
                }
            }
            socket.ack(&frame).await;
        }
    }

    fn print_latency(&self, flood_starts: Instant) {
        let heard = self.heard.lock().expect("not poisoned");
        let when = |number: usize| *self.sent[number].get().expect("it was sent");
        let has_key = |number: usize| number % 4 != 3;
        for (name, in_flood, keyed) in [
            ("before the flood", false, None),
            ("in the flood, with a key", true, Some(true)),
            ("in the flood, without a key", true, Some(false)),
        ] {
            let is_chosen = |number: usize| {
                (when(number) >= flood_starts) == in_flood
                    && keyed.is_none_or(|keyed| keyed == has_key(number))
            };
            let chosen: Vec<&Heard> = heard.iter().filter(|it| is_chosen(it.number)).collect();
            let describe = |latency: fn(&Heard) -> Duration| {
                let mut latencies: Vec<Duration> = chosen.iter().map(|it| latency(it)).collect();
                latencies.sort_unstable();
                let [median, high, most] =
                    [0.5, 0.99, 1.0].map(|share| quantile(&latencies, share));
                format!(
                    "median {:.0} ms, 99 % {:.0} ms, at most {:.0} ms",
                    milliseconds(median),
                    milliseconds(high),
                    milliseconds(most)
                )
            };
            println!(
                "refused: {} good events {name}: from publish to client {}; from its storing {}",
                chosen.len(),
                describe(|it| it.published),
                describe(|it| it.stored),
            );
        }
    }
}

/// How long ago JetStream stored the event of a message.
fn age_of(message: &Value) -> Duration {
    let time = message["time"].as_str().expect("a time");
    let time = OffsetDateTime::parse(time, &Rfc3339).expect("as of RFC 3339");
    Duration::try_from(OffsetDateTime::now_utc() - time).unwrap_or_default()
}

/// A stream of ticks.
fn stream_of(ticks: &mut tokio::time::Interval) -> impl futures_util::Stream<Item = ()> + '_ {
    stream::unfold(ticks, |ticks| async move {
        ticks.tick().await;
        Some(((), ticks))
    })
}

/// Publishes bad events until then, as fast as JetStream takes them; returns their sequences.
async fn flood(system: &System, until: Instant, bytes: usize) -> BTreeSet<u64> {
    let client = async_nats::connect(system.nats_server().url()).await;
    let jetstream = async_nats::jetstream::new(client.expect("the test's NATS answers"));
    let pad = "x".repeat(bytes);
    let bodies = [
        json!({ "targetUserIDs": ["user-1"], "data": pad }).to_string(),
        json!({ "targetUserIds": ["user-2"], "pad": pad }).to_string(),
        json!({ "targetUserIds": ["user 3"], "data": pad }).to_string(),
        json!({ "targetUserIds": ["user-4"], "data": pad, "ttlSeconds": 0 }).to_string(),
        format!("{{\"targetUserIds\": [\"user-5\"], \"data\": {pad}}}"),
    ];
    let bodies = bodies.map(bytes::Bytes::from);
    let one = |number: usize| {
        let address = match number % 4 {
            3 => "new_post".to_owned(),
            _ => format!("new_post.bad-{}", number % 1_000),
        };
        let subject = system.subject(&format!("events.{address}"));
        let sent = jetstream.publish(subject, bodies[number % bodies.len()].clone());
        async move { sent.await.expect("sent").await.expect("a PubAck").sequence }
    };
    let numbers = stream::iter(0..).take_while(|_| std::future::ready(Instant::now() < until));
    let sequences = numbers.map(one).buffer_unordered(PUBLISHES_MAX);
    sequences.collect().await
}

/// The resident memory of each role, again and again until then.
async fn watch_memory(system: &System, until: Instant) -> Vec<Vec<u64>> {
    let mut samples: Vec<Vec<u64>> = system.roles().map(|_| Vec::new()).collect();
    while Instant::now() < until {
        for (role, samples) in system.roles().zip(&mut samples) {
            samples.push(memory(role.process_id().expect("it runs")).resident);
        }
        // A sample now and then is enough.
        sleep(SAMPLE_INTERVAL).await;
    }
    samples
}

fn assert_flat(role: &Role, samples: &[u64]) {
    let after = memory(role.process_id().expect("it runs"));
    let (first, second) = samples.split_at(samples.len() / 2);
    let most = |samples: &[u64]| samples.iter().copied().max().unwrap_or(0);
    let at = |index: usize| mebibytes(samples.get(index).copied().unwrap_or(0));
    println!(
        "refused: resident memory of {}: {:.1} MiB at the start, {:.1} MiB in the middle, {:.1} \
         MiB at the end, {:.1} MiB when all is done; at most {:.1} MiB",
        role.name(),
        at(0),
        at(samples.len() / 2),
        at(samples.len() - 1),
        mebibytes(after.resident),
        mebibytes(after.peak),
    );
    let grown = most(second).saturating_sub(most(first));
    assert!(grown <= GROWTH_BYTES_MAX, "{}: {grown} bytes", role.name());
}

/// Each refused event has one dead letter, and nothing else has.
async fn assert_dead_letters(system: &System, refused: &BTreeSet<u64>) {
    let jetstream = system.jetstream().await;
    let name = system.stream_name("DEAD_LETTERS");
    let mut stream = jetstream.get_stream(name).await.expect("the stream");
    let Info { state, config, .. } = stream.info().await.expect("its state").clone();
    println!(
        "refused: DEAD_LETTERS holds {} of {} refused, {:.1} MiB; its limits: {} messages, {} \
         bytes (-1: none), {} days",
        state.messages,
        refused.len(),
        mebibytes(state.bytes),
        config.max_messages,
        config.max_bytes,
        config.max_age.as_secs() / (24 * 3600),
    );
    let consumer = stream.create_consumer(pull::Config {
        ack_policy: AckPolicy::None,
        headers_only: true,
        ..Default::default()
    });
    let consumer = consumer.await.expect("a consumer");
    let letters = consumer.messages().await.expect("messages");
    let letters = letters.take(state.messages as usize);
    let sequence = |letter: &async_nats::jetstream::Message| {
        let headers = letter.headers.as_ref().expect("headers");
        let sequence = headers.get("Catchup-Sequence").expect("the sequence");
        sequence.as_str().parse::<u64>().expect("a number")
    };
    let letters: Vec<u64> = letters
        .map_ok(|letter| sequence(&letter))
        .try_collect()
        .await
        .expect("all letters");
    let unique: BTreeSet<u64> = letters.iter().copied().collect();
    assert_eq!(unique.len(), letters.len(), "a dead letter is there twice");
    let kept = config.max_messages.max(0) as usize;
    if refused.len() <= kept {
        assert!(unique == *refused, "{} of {}", unique.len(), refused.len());
    } else {
        assert!(unique.is_subset(refused) && unique.len() == kept);
    }
    let metric = [("type", "new_post"), ("outcome", "dead_letter")];
    let counted = system.metric("catchup_events_total", &metric).await;
    assert!(counted >= refused.len() as f64, "{counted}");
}
