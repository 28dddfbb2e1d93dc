//! Where to connect: the URL, its query and the token.

use std::fmt::Write as _;

use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::header::AUTHORIZATION;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Uri};

use crate::event::UserId;

/// A gateway and who asks it.
pub(super) struct Target {
    /// `ws://host/v1/ws`: shown to people, therefore without a query.
    shown: String,
    /// `shown` and the query, but for the cursor.
    url: String,
    /// `Bearer` and the token, marked as sensitive.
    authorization: Option<HeaderValue>,
    pub(super) user: String,
}

impl Target {
    /// # Errors
    ///
    /// The flag that is wrong and what to write; never the token.
    pub(super) fn new(
        url: &str,
        user: &str,
        device: &str,
        token: Option<&str>,
    ) -> Result<Target, String> {
        UserId::parse(user).map_err(|error| format!("--user: {error}"))?;
        if !is_device(device) {
            return Err("--device must be 1 to 64 of letters, digits, `.`, `_` and `-`".to_owned());
        }
        let (shown, query) = address(url)?;
        let mut url = format!("{shown}?{query}");
        if !query.is_empty() {
            url.push('&');
        }
        // A token says itself who asks.
        if token.is_none() {
            push_parameter(&mut url, "user", user);
            url.push('&');
        }
        push_parameter(&mut url, "device", device);
        Ok(Target {
            shown,
            url,
            authorization: token.map(authorization).transpose()?,
            user: user.to_owned(),
        })
    }

    /// The URL for people to read: no query, no secret.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// The request to upgrade, with the last cursor where there is one.
    ///
    /// # Errors
    ///
    /// A URL that is none after all.
    pub(super) fn request(&self, cursor: Option<&str>) -> Result<Request, String> {
        let mut url = self.url.clone();
        if let Some(cursor) = cursor {
            url.push('&');
            push_parameter(&mut url, "cursor", cursor);
        }
        let request = url.into_client_request();
        let mut request = request.map_err(|_| format!("{} is no URL", self.shown))?;
        if let Some(authorization) = &self.authorization {
            request
                .headers_mut()
                .insert(AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }
}

/// The WebSocket URL without its query, and the query.
fn address(url: &str) -> Result<(String, String), String> {
    let problem = || "--url must be ws://, wss://, http:// or https:// and a host".to_owned();
    let uri: Uri = url.parse().map_err(|_| problem())?;
    let scheme = match uri.scheme_str() {
        Some("ws" | "http") => "ws",
        Some("wss" | "https") => "wss",
        _ => return Err(problem()),
    };
    let authority = uri.authority().ok_or_else(problem)?;
    if authority.as_str().contains('@') {
        return Err("--url must not hold a user or password: give a --token".to_owned());
    }
    if authority.host().is_empty() {
        return Err(problem());
    }
    let path = match uri.path() {
        "" | "/" => "/v1/ws",
        path => path,
    };
    Ok((
        format!("{scheme}://{authority}{path}"),
        uri.query().unwrap_or_default().to_owned(),
    ))
}

fn authorization(token: &str) -> Result<HeaderValue, String> {
    if token.is_empty() {
        return Err("--token is empty".to_owned());
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| "--token holds characters that no token has".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

fn is_device(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Appends `name=value`, percent-encoded but for unreserved characters (RFC 3986 §2.3).
fn push_parameter(url: &mut String, name: &str, value: &str) {
    url.push_str(name);
    url.push('=');
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            // Writing into a string cannot fail.
            let _ = write!(url, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(url: &str) -> String {
        let target = Target::new(url, "ann", "d", None).unwrap();
        target.request(None).unwrap().uri().to_string()
    }

    #[test]
    fn the_path_is_added_where_there_is_none() {
        for (given, used) in [
            ("ws://h:1", "ws://h:1/v1/ws?user=ann&device=d"),
            ("http://h/", "ws://h/v1/ws?user=ann&device=d"),
            ("https://h", "wss://h/v1/ws?user=ann&device=d"),
            (
                "wss://[::1]:9/v1/ws",
                "wss://[::1]:9/v1/ws?user=ann&device=d",
            ),
            (
                "ws://h/sub/v1/ws?ack=auto",
                "ws://h/sub/v1/ws?ack=auto&user=ann&device=d",
            ),
        ] {
            assert_eq!(url(given), used);
        }
    }

    #[test]
    fn parameters_are_encoded() {
        let target = Target::new("ws://h", "a+b/é&c=%", "D_1.-", None).unwrap();
        let request = target.request(Some("C.-_")).unwrap();
        let query = "user=a%2Bb%2F%C3%A9%26c%3D%25&device=D_1.-&cursor=C.-_";
        assert_eq!(request.uri().query(), Some(query));
    }

    #[test]
    fn the_token_travels_in_the_header_only() {
        let target = Target::new("ws://h?x=1", "ann", "d", Some("a.b.c")).unwrap();
        let request = target.request(None).unwrap();
        assert_eq!(request.uri().query(), Some("x=1&device=d"));
        assert_eq!(request.headers()[AUTHORIZATION], "Bearer a.b.c");
        assert!(!format!("{request:?}").contains("a.b.c"));
        assert_eq!(target.shown(), "ws://h/v1/ws");
    }

    #[test]
    fn wrong_flags_are_named() {
        let error = |url: &str, user: &str, device: &str, token: Option<&str>| {
            Target::new(url, user, device, token).err().unwrap()
        };
        for url in [
            "h:8080",
            "localhost",
            "ftp://h",
            "",
            "ws://",
            "ws:///v1/ws",
            "ws://h h",
        ] {
            assert!(error(url, "ann", "d", None).starts_with("--url "), "{url}");
        }
        assert!(error("ws://u:hunter2@h", "ann", "d", None).starts_with("--url must not hold"));
        assert!(error("ws://h", "a b", "d", None).starts_with("--user: "));
        assert!(error("ws://h", "ann", "", None).starts_with("--device "));
        assert!(error("ws://h", "ann", "a b", None).starts_with("--device "));
        assert!(error("ws://h", "ann", "d", Some("")).starts_with("--token "));
        let error = error("ws://h", "ann", "d", Some("hunter2\n"));
        assert!(error.starts_with("--token ") && !error.contains("hunter2"));
    }
}
