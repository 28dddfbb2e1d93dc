//! What the first version wrote, and what a version to come may write: neither is lost while
//! roles of two versions run side by side. The bytes here are never changed: a format that changes
//! gets the next number, and readers keep both.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use catchup::bus::{Broadcast, GatewayMessage};
use catchup::protocol::{Cursor, Everyone, Life, Places};
use redis::AsyncCommands as _;
use serde_json::Value;

use crate::support::socket::data_of;
use crate::support::{System, event, eventually};

const NORMAL: &str = "1 1a20d1f82ed0000000000000002 1795516500371 9999999999999 - \
    {\"id\":\"1795516500371-2\",\"type\":\"new_post\",\"key\":\"1\",\
    \"time\":\"2026-11-24T10:35:00.371Z\",\"data\":2}";
const HIGH: &str = "1 1a20d1f82ed0000000000000003 1795516500372 9999999999999 - \
    {\"id\":\"1795516500372-3\",\"type\":\"new_post\",\"key\":\"1\",\
    \"time\":\"2026-11-24T10:35:00.372Z\",\"data\":3,\"priority\":\"high\"}";
const HASH: [(&str, &str); 11] = [
    ("born", "1795516500109"),
    // Its place among the events for everyone: before all of any stream.
    ("device:default", "1 0 0 0 1795516500081 1795516500370 0"),
    ("expiry:high", "1795516500376"),
    ("expiry:normal", "1795516500372"),
    ("floor:normal", "1"),
    ("hold", "bb17f38ac6343290083ffaec699c9bae9a3bed08 0"),
    ("last:high", "1"),
    ("last:normal", "2"),
    ("life", "12120572110295896355"),
    ("shown:normal", "1"),
    ("trimmed", "1a20d1f82ed0000000000000001=1"),
];
const BROADCAST: &str = "{\"version\":1,\"key\":\"1a20d1f82ed0000000000000004\",\
    \"time\":1795516500373,\"expires\":9999999999999,\"exclude\":\"ben\",\"message\":\
    {\"id\":\"1795516500373-4\",\"type\":\"new_post\",\"key\":\"1\",\
    \"time\":\"2026-11-24T10:35:00.373Z\",\"data\":4}}";
const CURSOR: &str = "AQC7F_OKxjQykAg_-uxpnJuumjvtCKg07B3ksZEjAAAAAAAAAAEAAAAAAAAAAAAAAaINH4LWAA\
    AAAAAAAAAAAAGiDR-Icc3MlowpA4wF";
/// A forward of `{"data":1}` to ann, place 7 of the normal lane.
const FORWARD: &str = "AQEACHdvcmtlci0xAAAAAAAAAAW7F/OKxjQykAg/+uxpnJuumjvtCAAAAAEAAAGiDR+IcQAAAAp7Im\
    RhdGEiOjF9AAAAAQADYW5uAAAAAAUAAAAAAAAAB6g07B3ksZEj";

#[tokio::test]
async fn a_mailbox_of_the_first_version_is_read_on() {
    let system = System::start().await;
    let mut redis = system.redis().await;
    let () = redis
        .hset_multiple(system.key("mailbox:{ann}"), &HASH)
        .await
        .unwrap();
    for (list, entry) in [("", NORMAL), (":high", HIGH)] {
        let key = system.key(&format!("offline_messages:{{ann}}{list}"));
        let () = redis.rpush(key, entry).await.unwrap();
    }
    let subject = system.subject("broadcasts.new_post.1");
    let jetstream = system.jetstream().await;
    let sent = jetstream.publish(subject, BROADCAST.into()).await.unwrap();
    sent.await.unwrap();
    eventually("the gateway has the broadcast", async || {
        let mut probe = system.connect("ann").await;
        let welcome = probe.expect("welcome").await;
        (welcome["pending"] == 3).then_some(())
    })
    .await;
    let mut ann = system.connect("ann").await;
    let frames = ann.frames_until("live").await;
    let told: Vec<&Value> = frames
        .iter()
        .filter(|frame| frame["op"] == "missed")
        .collect();
    assert_eq!(told, [] as [&Value; 0]);
    let messages = crate::support::socket::all_messages(&frames);
    assert_eq!(data_of(&messages), [3, 2, 4]);
    system.publish("new_post.1", event(&["ann"], 5)).await;
    assert_eq!(data_of(&ann.messages(1).await), [5]);
}

#[test]
fn what_the_first_version_sent_is_understood() {
    let cursor = Cursor::decode(CURSOR).unwrap();
    assert!(cursor.belongs_to("ann", "default"));
    let places = Places {
        own: [1, 0],
        everyone: Everyone {
            creation: 1_795_516_498_646,
            sequence: 0,
        },
    };
    assert_eq!(cursor.position.places, places);
    assert_eq!(cursor.position.life, Life(12_120_572_110_295_896_355));
    assert_eq!(cursor.to_string(), CURSOR);

    let broadcast = Broadcast::decode(BROADCAST.as_bytes()).unwrap();
    assert_eq!(broadcast.encode().unwrap(), BROADCAST);

    let bytes = Bytes::from(STANDARD.decode(FORWARD).unwrap());
    let GatewayMessage::Forward(forward) = GatewayMessage::decode(&bytes).unwrap() else {
        panic!("no forward");
    };
    assert_eq!(
        (forward.sender.as_str(), forward.link_number),
        ("worker-1", 5)
    );
    assert_eq!(&*forward.payloads[0].json, "{\"data\":1}");
    assert_eq!(&*forward.recipients[0].user, "ann");
    assert_eq!(forward.recipients[0].spot.map(|spot| spot.place), Some(7));
    assert_eq!(GatewayMessage::Forward(forward).encode(), bytes);
}

/// Of a worker of the next version, only what it stores has to be understood.
#[tokio::test]
async fn a_forward_of_a_version_to_come_is_read_from_the_mailbox() {
    let system = System::start().await;
    let mut ann = system.connect("ann").await;
    ann.until_live().await;
    let fields = system.mailbox("ann").await;
    let connection = String::from_utf8(fields["connections"].clone()).unwrap();
    let mut words = connection.split(' ').skip(1);
    let (node, incarnation) = (words.next().unwrap(), words.next().unwrap());
    let mut redis = system.redis().await;
    let mut append = redis::pipe();
    append.atomic();
    append.hincr(system.key("mailbox:{ann}"), "last:normal", 1);
    append.rpush(system.key("offline_messages:{ann}"), NORMAL);
    let (_, _): (u64, u64) = append.query_async(&mut redis).await.unwrap();
    let subject = system.subject(&format!("gateway.{node}.{incarnation}"));
    let nats = system.nats().await;
    nats.publish(subject, Bytes::from_static(&[2, 1, 0]))
        .await
        .unwrap();
    assert_eq!(data_of(&ann.messages(1).await), [2]);
    // However many there are, the node goes round one time after the other.
    let subject = system.subject(&format!("gateway.{node}.{incarnation}"));
    for _ in 0..200 {
        let junk = Bytes::from_static(&[2, 1, 0]);
        nats.publish(subject.clone(), junk).await.unwrap();
    }
    nats.flush().await.unwrap();
    system.publish("new_post.1", event(&["ann"], 3)).await;
    assert_eq!(data_of(&ann.messages(1).await), [3]);
    let holes = system.metric("catchup_reconciles_total", &[("reason", "link_hole")]);
    assert!((1.0..=200.0).contains(&holes.await));
}
