//! What publishers send.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use catchup::event::{
    Address, Audience, DATA_BYTES_MAX, Event, Limits, TARGETS_MAX, is_message_id,
};
use serde_json::value::RawValue;

const LIMITS: Limits = Limits {
    ttl_max: Duration::from_secs(86_400),
};
/// Contract §3: one ASCII line that names the field.
const REFUSAL_BYTES_MAX: usize = 200;

/// A body. A refusal goes into a NATS header, which may have no line break.
pub fn event(bytes: &[u8]) {
    let address = Address::new("new_post", Some("7")).expect("a good address");
    let event = match Event::parse(&address, bytes, &LIMITS) {
        Ok(event) => event,
        Err(refusal) => return assert_clean(&refusal.to_string()),
    };
    assert!(event.data.get().len() <= DATA_BYTES_MAX);
    assert!(
        event
            .ttl
            .is_none_or(|ttl| (Duration::from_secs(1)..=LIMITS.ttl_max).contains(&ttl))
    );
    for text in [&event.id, &event.collapse_key].into_iter().flatten() {
        assert!(is_message_id(text));
    }
    if let Audience::Users(users) = &event.audience {
        assert!(users.len() <= TARGETS_MAX);
        let distinct: BTreeSet<&str> = users.iter().map(|user| user.as_str()).collect();
        assert_eq!(distinct.len(), users.len());
        assert!(
            !users
                .iter()
                .any(|user| event.exclude.as_ref() == Some(user))
        );
    } else {
        // A misspelt field must never make a broadcast of a private message.
        // Raw, because `data` may hold what is JSON and no text: half a surrogate pair.
        let body: BTreeMap<String, &RawValue> = serde_json::from_slice(bytes).expect("JSON");
        let targets = body.get("targetUserIds");
        assert!(targets.is_none_or(|targets| targets.get() == "null"));
    }
}

pub fn subject(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match Address::parse(text) {
        Ok(Address { event_type, key }) => {
            let key = key.map(|key| format!(".{key}")).unwrap_or_default();
            assert_eq!(format!("events.{event_type}{key}"), text);
        }
        Err(refusal) => assert_clean(&refusal.to_string()),
    }
}

fn assert_clean(refusal: &str) {
    let is_printable = refusal.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    assert!(
        is_printable && refusal.len() <= REFUSAL_BYTES_MAX,
        "{refusal:?}"
    );
}
