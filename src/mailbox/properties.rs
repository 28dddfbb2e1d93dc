//! Round trips and junk for what lies in Redis.

use proptest::prelude::*;

use super::reply::parse_connections;
use super::{Entry, EventKey, ReadEntry, info_epoch};

proptest! {
    #[test]
    fn an_entry_survives_its_text(
        creation_ms in 0..1_u64 << 44,
        sequence in any::<u64>(),
        times in any::<[u64; 2]>(),
        json in ".{0,80}",
    ) {
        let key = EventKey { creation_ms, sequence };
        let entry = Entry::new(key, times[0], times[1], &json);
        let read = ReadEntry::parse(entry.as_str()).unwrap();
        prop_assert_eq!(read.key.parse(), Ok(key));
        // Thirteen digits: the year 2286.
        prop_assert_eq!(read.time_ms, times[0].min(9_999_999_999_999));
        prop_assert_eq!(entry.expires_ms(), times[1].min(9_999_999_999_999));
        prop_assert_eq!(read.json, json);
    }

    #[test]
    fn any_text_is_read_or_is_no_entry(text in "(1 )?.{0,100}") {
        if let Some(read) = ReadEntry::parse(&text) {
            prop_assert!(text.ends_with(read.json));
        }
    }

    #[test]
    fn connections_are_read_and_what_is_none_is_left_out(
        connections in prop::collection::vec(
            ("[A-Za-z0-9._-]{1,64}", "[A-Za-z0-9_-]{1,64}", "[a-z0-9-]{1,36}", any::<[u64; 2]>()),
            0..16,
        ),
        junk in "[^,]{0,30}",
    ) {
        let texts = connections.iter().map(|(device, node, incarnation, numbers)| {
            format!("{device} {node} {incarnation} {} {}", numbers[0], numbers[1])
        });
        let read = parse_connections(&texts.collect::<Vec<_>>().join(","));
        prop_assert_eq!(read.len(), connections.len());
        for (read, (device, node, incarnation, numbers)) in read.iter().zip(&connections) {
            prop_assert_eq!((&read.device, &read.node, &read.incarnation), (device, node, incarnation));
            prop_assert_eq!([read.number, read.order], *numbers);
        }
        prop_assert!(parse_connections(&junk).len() <= 1);
    }

    #[test]
    fn an_epoch_is_found_in_what_a_server_says(bytes in any::<[u8; 20]>(), before in "\\PC{0,40}") {
        let epoch = crate::protocol::Epoch::from_bytes(bytes);
        let info = format!("# {before}\r\nmaster_replid:{epoch}\r\nrole:master\r\n");
        prop_assert_eq!(info_epoch(&info), Some(epoch));
    }
}
