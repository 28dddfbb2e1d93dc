//! The publisher's subject: `events.<type>` or `events.<type>.<key>`.

use super::refusal::Refusal;
use super::text::is_printable;

/// Most bytes of a type: a letter and 63 more.
pub const TYPE_BYTES_MAX: usize = 64;
/// Most characters of an ordering key. The contract leaves the length open; this is that of an id.
pub const KEY_CHARACTERS_MAX: usize = 128;

/// Where an event was published, parsed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// `[a-z][a-z0-9_]{0,63}`; any, not only the built-in ones.
    pub event_type: String,
    /// Events with one key keep their order. 1 to 128 printable characters without white space or
    /// dots, and no wildcard (`*`, `>`).
    pub key: Option<String>,
}

impl Address {
    /// Reads a subject without its namespace.
    ///
    /// # Errors
    ///
    /// A bad type or key, or a subject of another shape.
    pub fn parse(subject: &str) -> Result<Address, Refusal> {
        let Some(rest) = subject.strip_prefix("events.") else {
            return Err(Refusal::new(
                "subject",
                "must be events.<type> or events.<type>.<key>",
            ));
        };
        match rest.split_once('.') {
            Some((event_type, key)) => Address::new(event_type, Some(key)),
            None => Address::new(rest, None),
        }
    }

    /// # Errors
    ///
    /// A bad type or key.
    pub fn new(event_type: &str, key: Option<&str>) -> Result<Address, Refusal> {
        if !is_type(event_type) {
            return Err(Refusal::new(
                "type",
                "must be a small letter and up to 63 more small letters, digits or underscores",
            ));
        }
        if key.is_some_and(|key| !is_key(key)) {
            return Err(Refusal::new(
                "key",
                "must be one token: 1 to 128 printable characters without spaces and dots, \
                 not * or >",
            ));
        }
        Ok(Address {
            event_type: event_type.to_owned(),
            key: key.map(str::to_owned),
        })
    }
}

fn is_type(text: &str) -> bool {
    text.len() <= TYPE_BYTES_MAX
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn is_key(text: &str) -> bool {
    (1..=4 * KEY_CHARACTERS_MAX).contains(&text.len())
        && text.chars().count() <= KEY_CHARACTERS_MAX
        && text.chars().all(|character| {
            character != '.' && !character.is_whitespace() && is_printable(character)
        })
        && !matches!(text, "*" | ">")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_read() {
        let address = Address::parse("events.new_post").unwrap();
        assert_eq!(
            (address.event_type.as_str(), address.key),
            ("new_post", None)
        );
        let address = Address::parse("events.z.42").unwrap();
        assert_eq!(
            (address.event_type.as_str(), address.key.as_deref()),
            ("z", Some("42"))
        );
        let longest = format!("events.{}.{}", "a".repeat(64), "é".repeat(128));
        assert!(Address::parse(&longest).is_ok());
    }

    #[test]
    fn bad_types_and_keys_are_named() {
        let reason = |subject: &str| Address::parse(subject).unwrap_err().to_string();
        for event_type in ["", "New", "1a", "_a", "a-b", "é", "a b", &"a".repeat(65)] {
            assert!(
                reason(&format!("events.{event_type}")).starts_with("type: "),
                "{event_type}"
            );
            assert!(reason(&format!("events.{event_type}.k")).starts_with("type: "));
        }
        for key in [
            "",
            "a.b",
            ".",
            "a b",
            "*",
            ">",
            "a\u{7f}",
            "\u{200b}",
            &"a".repeat(129),
        ] {
            assert!(
                reason(&format!("events.ok.{key}")).starts_with("key: "),
                "{key}"
            );
        }
        assert!(reason("other.ok").starts_with("subject: "));
        assert!(reason("events").starts_with("subject: "));
    }
}
