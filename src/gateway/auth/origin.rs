//! Which browser pages may connect.

use hyper::HeaderMap;
use hyper::header::{HOST, ORIGIN};

/// Which browser pages may open a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedOrigins {
    /// Only pages that this host served.
    Same,
    Any,
    /// `scheme://host[:port]`, as browsers send it.
    Listed(Vec<String>),
}

impl AllowedOrigins {
    /// A request without `Origin` comes from no browser and passes (contract §2).
    pub fn allow(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(ORIGIN) else {
            return true;
        };
        let Ok(origin) = origin.to_str() else {
            return false;
        };
        match self {
            AllowedOrigins::Any => true,
            AllowedOrigins::Listed(list) => list
                .iter()
                .any(|allowed| allowed.eq_ignore_ascii_case(origin)),
            // The scheme is not compared: a proxy may end TLS in front of this node.
            AllowedOrigins::Same => {
                let host = headers.get(HOST).and_then(|host| host.to_str().ok());
                let of_origin = origin.split_once("://").map(|(_, host)| host);
                host.zip(of_origin)
                    .is_some_and(|(host, of_origin)| host.eq_ignore_ascii_case(of_origin))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn origins_are_compared_as_the_setting_says() {
        let mut headers = HeaderMap::new();
        for origins in [
            AllowedOrigins::Same,
            AllowedOrigins::Any,
            AllowedOrigins::Listed(Vec::new()),
        ] {
            assert!(origins.allow(&headers));
        }
        headers.insert(HOST, HeaderValue::from_static("h.example:8080"));
        headers.insert(ORIGIN, HeaderValue::from_static("https://h.example:8080"));
        assert!(AllowedOrigins::Same.allow(&headers));
        headers.insert(ORIGIN, HeaderValue::from_static("https://other.example"));
        assert!(!AllowedOrigins::Same.allow(&headers));
        let listed = AllowedOrigins::Listed(vec!["https://other.example".to_owned()]);
        assert!(listed.allow(&headers) && AllowedOrigins::Any.allow(&headers));
        headers.insert(ORIGIN, HeaderValue::from_static("null"));
        assert!(!AllowedOrigins::Same.allow(&headers) && !listed.allow(&headers));
    }
}
