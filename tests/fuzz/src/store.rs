//! What Redis says, and what lies in its keys: anybody may have put it there.

use catchup::mailbox::{Entry, ReadEntry, info_epoch, info_field, parse_connections};
use catchup::protocol::{Epoch, EventKey};

pub fn store(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    drop(ReadEntry::parse(text));
    let numbers = bytes
        .iter()
        .take(8)
        .fold(0, |number, byte| number << 8 | u64::from(*byte));
    let key = EventKey {
        creation_ms: numbers % (1 << 44),
        sequence: numbers,
    };
    let entry = Entry::new(key, numbers, numbers.rotate_left(32), text);
    let read = ReadEntry::parse(entry.as_str()).expect("what was written");
    assert_eq!((read.key.parse(), read.json), (Ok(key), text));
    for connection in parse_connections(text) {
        assert!(!connection.device.contains([' ', ',']) && !connection.node.contains([' ', ',']));
    }
    for field in ["role", "master_replid", ""] {
        let _: Option<&str> = info_field(text, field);
    }
    let _: Option<Epoch> = info_epoch(text);
    if let Ok(epoch) = Epoch::from_hex(text) {
        assert_eq!(epoch.to_string(), text.to_ascii_lowercase());
    }
}
