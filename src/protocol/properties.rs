//! Round trips and junk for what clients see and send.

use proptest::prelude::*;

use super::*;

fn positions() -> impl Strategy<Value = Position> {
    (any::<[u8; 20]>(), any::<[u64; 6]>(), any::<bool>()).prop_map(|(epoch, numbers, told)| {
        let [life, normal, high, creation, sequence, time_ms] = numbers;
        Position {
            epoch: Epoch::from_bytes(epoch),
            life: Life(life),
            places: Places {
                own: [normal, high],
                everyone: Everyone { creation, sequence },
            },
            time_ms,
            store_lost_told: told,
        }
    })
}

proptest! {
    #[test]
    fn a_cursor_survives_its_text(position in positions(), user in ".{1,40}", device in ".{1,40}") {
        let cursor = Cursor::new(position, &user, &device);
        let text = cursor.to_string();
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        prop_assert!(text.len() <= CURSOR_CHARACTERS_MAX && text.bytes().all(is_allowed));
        let read = Cursor::decode(&text);
        prop_assert_eq!(read, Ok(cursor));
        prop_assert!(cursor.belongs_to(&user, &device));
        let other = format!("{device}x");
        prop_assert!(!cursor.belongs_to(&user, &other));
    }

    #[test]
    fn a_damaged_cursor_is_refused_or_written_the_same(
        position in positions(),
        place in any::<prop::sample::Index>(),
        character in "[ -~é]",
    ) {
        let text = Cursor::new(position, "ann", "phone").to_string();
        let at = place.index(text.len());
        for damaged in [
            format!("{}{character}{}", &text[..at], &text[at + 1..]),
            format!("{}{character}{}", &text[..at], &text[at..]),
            text[..at].to_owned(),
        ] {
            if let Ok(cursor) = Cursor::decode(&damaged) {
                prop_assert_eq!(cursor.to_string(), damaged);
            }
        }
    }

    #[test]
    fn an_epoch_and_a_key_survive_their_texts(bytes in any::<[u8; 20]>(), sequence in any::<u64>(),
        creation_ms in 0..1_u64 << 44)
    {
        let epoch = Epoch::from_bytes(bytes);
        prop_assert_eq!(Epoch::from_hex(&epoch.to_string()), Ok(epoch));
        let key = EventKey { creation_ms, sequence };
        prop_assert_eq!(key.to_string().parse(), Ok(key));
    }

    #[test]
    fn client_frames_are_read_as_they_were_written(text in ".{0,200}", extra in any::<i64>()) {
        let ack = serde_json::json!({"extra": extra, "op": "ack", "cursor": text}).to_string();
        let acknowledgement = ClientFrame::Ack { cursor: text.clone() };
        prop_assert!(ClientFrame::parse(&ack) == Ok(acknowledgement), "{}", ack);
        let frame = serde_json::json!({"op": "token", "token": text}).to_string();
        let token = ClientFrame::Token { token: text };
        prop_assert!(ClientFrame::parse(&frame) == Ok(token), "{}", frame);
    }

    #[test]
    fn junk_is_no_client_frame(text in "\\PC{0,200}") {
        prop_assert!(ClientFrame::parse(&text) == Err(InvalidFrame::NotAFrame));
    }

    #[test]
    fn every_frame_is_json_with_what_it_was_given(
        position in positions(),
        user in ".{1,40}",
        messages in prop::collection::vec(".{0,20}", 1..64),
        count in any::<u64>(),
    ) {
        let cursor = Cursor::new(position, &user, "d");
        let texts: Vec<String> = messages.iter()
            .map(|text| serde_json::Value::from(text.as_str()).to_string())
            .collect();
        let frame = ServerFrame::Messages {
            cursor,
            replay: count % 2 == 0,
            messages: texts.iter().map(|text| text.as_str().into()).collect(),
        };
        let value: serde_json::Value = serde_json::from_str(&frame.encode()).unwrap();
        prop_assert_eq!(&value["messages"], &serde_json::Value::from(messages));
        prop_assert_eq!(&value["cursor"], &serde_json::Value::from(cursor.to_string()));
        prop_assert_eq!(value.get("replay").is_some(), count % 2 == 0);
        let missed = ServerFrame::Missed {
            cursor,
            count: Some(count),
            reason: MissedReason::Expired,
            from_ms: Some(position.time_ms),
            to_ms: count,
        };
        let value: serde_json::Value = serde_json::from_str(&missed.encode()).unwrap();
        prop_assert_eq!(&value["count"], &serde_json::Value::from(count));
        prop_assert!(value["from"].is_string() && value["to"].is_string());
    }
}
