//! Properties of the envelope over random bodies.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::tests::{is_clean, parse};
use super::{Address, Audience, Event, Priority, UserId};

fn json_values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(".{0,8}", inner, 0..6)
                .prop_map(|entries| entries.into_iter().collect()),
        ]
    })
}

fn valid_bodies() -> impl Strategy<Value = Value> {
    let user = "[a-z0-9@.é-]{1,40}";
    let text = "[ -~é消]{1,40}";
    let optional = (
        prop::option::of(prop::collection::vec(user, 0..8)),
        prop::option::of(user),
        prop::option::of(text),
        prop::option::of(1..=86_400_u64),
        prop::option::of(prop_oneof![Just("high"), Just("normal")]),
        prop::option::of(text),
        prop::option::of(any::<bool>()),
    );
    (json_values(), optional).prop_map(|(data, optional)| {
        let (targets, exclude, id, ttl, priority, collapse_key, ephemeral) = optional;
        let mut body = serde_json::Map::from_iter([("data".to_owned(), data)]);
        let mut insert = |name: &str, value: Option<Value>| {
            body.extend(value.map(|value| (name.to_owned(), value)));
        };
        insert("targetUserIds", targets.map(Value::from));
        insert("excludeUserId", exclude.map(Value::from));
        insert("id", id.map(Value::from));
        insert("ttlSeconds", ttl.map(Value::from));
        insert("priority", priority.map(Value::from));
        insert("collapseKey", collapse_key.map(Value::from));
        insert("ephemeral", ephemeral.map(Value::from));
        Value::Object(body)
    })
}

/// The event as a body again.
fn to_body(event: &Event<'_>) -> Value {
    let mut body = json!({
        "priority": if event.priority == Priority::High { "high" } else { "normal" },
        "ephemeral": event.ephemeral,
    });
    if let Audience::Users(users) = &event.audience {
        body["targetUserIds"] = users.iter().map(UserId::as_str).collect();
    }
    for (name, text) in [
        ("excludeUserId", event.exclude.as_ref().map(UserId::as_str)),
        ("id", event.id.as_deref()),
        ("collapseKey", event.collapse_key.as_deref()),
    ] {
        if let Some(text) = text {
            body[name] = text.into();
        }
    }
    if let Some(ttl) = event.ttl {
        body["ttlSeconds"] = ttl.as_secs().into();
    }
    body
}

proptest! {
    #[test]
    fn a_valid_body_survives_being_read(body in valid_bodies()) {
        let text = body.to_string();
        let event = parse(text.as_bytes()).unwrap();
        let again = to_body(&event);
        for (name, value) in body.as_object().unwrap() {
            if name == "targetUserIds" {
                let exclude = body.get("excludeUserId");
                let mut left: Vec<&Value> = Vec::new();
                for user in value.as_array().unwrap() {
                    if Some(user) != exclude && !left.contains(&user) {
                        left.push(user);
                    }
                }
                let found: Vec<&Value> = again[name].as_array().unwrap().iter().collect();
                prop_assert_eq!(found, left);
            } else if name == "data" {
                prop_assert_eq!(event.data.get(), value.to_string());
            } else {
                prop_assert_eq!(&again[name], value, "{}", name);
            }
        }
    }

    #[test]
    fn a_damaged_body_is_read_or_cleanly_refused(
        body in valid_bodies(),
        damages in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3), 1..6),
    ) {
        let mut bytes = body.to_string().into_bytes();
        for (place, byte, kind) in damages {
            let index = place.index(bytes.len());
            match kind {
                0 => bytes[index] = byte,
                1 => bytes.insert(index, byte),
                _ => bytes.truncate(index.max(1)),
            }
        }
        if let Err(refusal) = parse(&bytes) {
            prop_assert!(is_clean(&refusal.to_string()), "{}", refusal);
        }
    }

    #[test]
    fn junk_is_cleanly_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let refusal = parse(&bytes).unwrap_err().to_string();
        prop_assert!(refusal.starts_with("body: ") && is_clean(&refusal), "{}", refusal);
    }

    #[test]
    fn any_field_is_read_or_refused_by_its_name(name in ".{1,300}", value in json_values()) {
        let body = Value::Object(serde_json::Map::from_iter([(name, value)])).to_string();
        let refusal = parse(body.as_bytes()).unwrap_err().to_string();
        prop_assert!(is_clean(&refusal), "{}", refusal);
        prop_assert!(refusal.contains("is no field of an event"), "{}", refusal);
    }

    #[test]
    fn subjects_are_read_or_cleanly_refused(subject in "(events\\.)?.{0,300}") {
        if let Err(refusal) = Address::parse(&subject) {
            prop_assert!(is_clean(&refusal.to_string()), "{}", refusal);
        }
    }
}
