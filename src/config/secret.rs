//! What must never be shown.

use std::fmt;

/// A secret text. Its `Debug` shows nothing, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The secret itself: for the code that needs it, never for a log or an error.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}

/// One URL without what may be secret in it: user, password and query become `***`.
pub fn redact_url(url: &str) -> String {
    // Letters, digits and three signs (RFC 3986 §3.1); anything else before `://` may be a secret.
    let is_scheme_character = |it: char| it.is_ascii_alphanumeric() || "+-.".contains(it);
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) if scheme.chars().all(is_scheme_character) => {
            (format!("{scheme}://"), rest)
        }
        _ => (String::new(), url),
    };
    // The last `@`, because passwords often hold one that ought to be escaped.
    let (user, rest) = match rest.rsplit_once('@') {
        // What is a password with a question mark here is a query with an `@` there, and then the
        // secret goes on behind it.
        Some((user, _)) if user.contains(['?', '#']) => ("", "***"),
        Some((_, rest)) => ("***@", rest),
        None => ("", rest),
    };
    let (rest, query) = match rest.find(['?', '#']) {
        Some(index) => (&rest[..index], "?***"),
        None => (rest, ""),
    };
    format!("{scheme}{user}{rest}{query}")
}

#[cfg(test)]
mod properties {
    use proptest::prelude::*;

    use super::redact_url;

    proptest! {
        #[test]
        fn a_secret_is_never_shown(
            scheme in "([a-z+]{1,12}://)?",
            user in "[a-z]{0,5}:?[ -~]{0,10}",
            rest in "[ -~]{0,30}",
        ) {
            // What stands before it is a scheme, and no secret.
            prop_assume!(!rest.contains("://"));
            for url in [
                format!("{scheme}{user}hunter2@{rest}"),
                format!("{scheme}{user}hunter2{rest}@host"),
                format!("{scheme}host/path?{user}hunter2{rest}"),
                format!("{scheme}host/path?{user}@{rest}hunter2"),
            ] {
                let shown = redact_url(&url);
                prop_assert!(!shown.contains("hunter2"), "{}: {}", url, shown);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_shown_without_secrets() {
        for (url, shown) in [
            ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
            ("redis://:pw@host/0", "redis://***@host/0"),
            ("nats://user:p@s/sw@host:4222", "nats://***@host:4222"),
            ("nats://user:p@s/s?w@host:4222", "nats://***"),
            ("nats://token@host", "nats://***@host"),
            ("user:pw@host:4222", "***@host:4222"),
            ("redis://host?password=pw", "redis://host?***"),
            ("ws://host/v1/ws?token=a@b", "ws://***"),
            ("redis://host?password=a@b?c#d", "redis://***"),
            ("host/path?://pw", "host/path?***"),
        ] {
            assert_eq!(redact_url(url), shown);
        }
    }

    #[test]
    fn a_secret_shows_nothing() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(secret.reveal(), "hunter2");
    }
}
