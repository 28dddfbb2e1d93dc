//! The name of a user.

use std::fmt;
use std::sync::Arc;

use super::text::is_printable;

/// Most bytes of a user's id (contract §3).
pub const USER_ID_BYTES_MAX: usize = 128;

/// A user's id: 1 to 128 bytes, printable, without spaces, `{` or `}`. Braces would move the
/// user's keys to another slot of a Redis cluster.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

/// The text is no user id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a user id must be 1 to 128 bytes, printable, without spaces, `{{` or `}}`")]
pub struct InvalidUserId;

impl UserId {
    pub fn parse(text: &str) -> Result<UserId, InvalidUserId> {
        let is_allowed = |character: char| {
            !matches!(character, '{' | '}') && !character.is_whitespace() && is_printable(character)
        };
        let is_valid =
            (1..=USER_ID_BYTES_MAX).contains(&text.len()) && text.chars().all(is_allowed);
        if is_valid {
            Ok(UserId(text.into()))
        } else {
            Err(InvalidUserId)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same text, shared.
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_ids_are_short_and_printable_without_spaces_and_braces() {
        for good in [
            "a",
            "12345",
            "ann@example.org",
            "a:b/c*>",
            "ü",
            &"x".repeat(128),
        ] {
            assert_eq!(UserId::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            " ",
            "a b",
            "a\tb",
            "a\u{a0}b",
            "a\u{3000}b",
            "{",
            "a}",
            "a\0",
            "a\n",
            "\u{7f}",
            "\u{200b}",
            "\u{feff}",
            &"x".repeat(129),
            &"ü".repeat(65),
        ] {
            assert_eq!(UserId::parse(bad), Err(InvalidUserId), "{bad:?}");
        }
    }
}
