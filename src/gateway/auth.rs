//! Who a client is, and which browser pages may connect.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HOST, ORIGIN};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

use crate::event::UserId;

/// Longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// How clients prove who they are.
pub enum Auth {
    /// Everybody is who they say (`?user=`). For development only.
    None,
    /// A signed token (RFC 7519).
    Jwt(Box<TokenCheck>),
}

/// A key, and the algorithms it may be used with.
pub struct TokenCheck {
    key: DecodingKey,
    validation: Validation,
}

/// A token that proved a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identified {
    pub user: UserId,
    /// When the proof ends; `None` without tokens.
    pub expires: Option<SystemTime>,
}

/// Why a token was not accepted. Never contains any of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unauthorised {
    #[error("no token: send Authorization: Bearer TOKEN, or ?token=TOKEN")]
    Missing,
    #[error("the token has expired: send a fresh one")]
    Expired,
    #[error("the token is not valid yet")]
    Early,
    #[error("the token has no exp claim, which is required")]
    NoExpiry,
    #[error("the token's sub claim is missing or no user id")]
    NoUser,
    #[error("the token is not valid: check its signature, algorithm and form")]
    Invalid,
}

/// The text is not a public key that tokens can be checked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a public key in PEM form (RSA, EC P-256 or P-384, Ed25519)")]
pub struct InvalidKey;

#[derive(Deserialize)]
struct Claims {
    sub: Option<Subject>,
    /// Seconds since 1970; the library insists on it.
    exp: Option<f64>,
}

/// RFC 7519 asks for a string; publishers may name users by integers, so a token may as well.
#[derive(Deserialize)]
#[serde(untagged)]
enum Subject {
    Text(String),
    Number(i64),
}

impl Auth {
    /// Tokens signed with a shared secret (HS256).
    pub fn with_secret(secret: &str) -> Auth {
        let key = DecodingKey::from_secret(secret.as_bytes());
        Auth::with_key(key, vec![Algorithm::HS256])
    }

    /// Tokens signed with the private half of a key in PEM form.
    pub fn with_public_key(pem: &str) -> Result<Auth, InvalidKey> {
        let pem = pem.as_bytes();
        if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
            let algorithms = vec![
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ];
            return Ok(Auth::with_key(key, algorithms));
        }
        if let Ok(key) = DecodingKey::from_ec_pem(pem) {
            let algorithms = vec![Algorithm::ES256, Algorithm::ES384];
            return Ok(Auth::with_key(key, algorithms));
        }
        let key = DecodingKey::from_ed_pem(pem).map_err(|_| InvalidKey)?;
        Ok(Auth::with_key(key, vec![Algorithm::EdDSA]))
    }

    fn with_key(key: DecodingKey, algorithms: Vec<Algorithm>) -> Auth {
        let mut validation = Validation::new(algorithms[0]);
        validation.algorithms = algorithms;
        validation.leeway = 0;
        validation.validate_nbf = true;
        // The contract names sub and exp; an audience is the operator's own affair.
        validation.validate_aud = false;
        Auth::Jwt(Box::new(TokenCheck { key, validation }))
    }

    /// Checks a token. Errors say what is wrong with it, not what it says.
    pub fn check(&self, token: &str) -> Result<Identified, Unauthorised> {
        use jsonwebtoken::errors::ErrorKind;
        let check = match self {
            Auth::None => return Err(Unauthorised::Invalid),
            Auth::Jwt(check) => check,
        };
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Unauthorised::Invalid);
        }
        let data = jsonwebtoken::decode::<Claims>(token, &check.key, &check.validation).map_err(
            |error| match error.kind() {
                ErrorKind::ExpiredSignature => Unauthorised::Expired,
                ErrorKind::ImmatureSignature => Unauthorised::Early,
                ErrorKind::MissingRequiredClaim(_) => Unauthorised::NoExpiry,
                _ => Unauthorised::Invalid,
            },
        )?;
        let subject = match data.claims.sub {
            Some(Subject::Text(text)) => text,
            Some(Subject::Number(number)) => number.to_string(),
            None => return Err(Unauthorised::NoUser),
        };
        let user = UserId::parse(&subject).map_err(|_| Unauthorised::NoUser)?;
        let seconds = data.claims.exp.ok_or(Unauthorised::NoExpiry)?;
        let since_epoch =
            Duration::try_from_secs_f64(seconds).map_err(|_| Unauthorised::Invalid)?;
        let expires = UNIX_EPOCH.checked_add(since_epoch);
        // The library compares whole seconds and lets the second of the expiry pass.
        if expires.is_some_and(|expires| expires <= SystemTime::now()) {
            return Err(Unauthorised::Expired);
        }
        Ok(Identified { user, expires })
    }
}

/// The token of a request: the header's, else the query's.
pub fn token_of<'a>(headers: &'a HeaderMap, query: Option<&'a str>) -> Option<&'a str> {
    let header = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            (scheme.eq_ignore_ascii_case("bearer")).then(|| token.trim())
        });
    header.or(query)
}

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
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::{Value, json};

    use super::*;

    fn now_seconds() -> u64 {
        (SystemTime::now().duration_since(UNIX_EPOCH).unwrap()).as_secs()
    }

    fn token(claims: &Value) -> String {
        encode(
            &Header::default(),
            claims,
            &EncodingKey::from_secret(b"key"),
        )
        .unwrap()
    }

    #[test]
    fn a_good_token_names_its_user_and_its_end() {
        let auth = Auth::with_secret("key");
        let exp = now_seconds() + 60;
        for sub in [json!("12345"), json!(12345)] {
            let token = token(&json!({ "sub": sub, "exp": exp, "aud": "somebody" }));
            let identified = auth.check(&token).unwrap();
            assert_eq!(identified.user.as_str(), "12345");
            assert_eq!(
                identified.expires,
                Some(UNIX_EPOCH + Duration::from_secs(exp))
            );
        }
    }

    #[test]
    fn other_tokens_are_refused_with_their_reason() {
        let auth = Auth::with_secret("key");
        let exp = now_seconds() + 60;
        for (claims, reason) in [
            (json!({ "sub": "a" }), Unauthorised::NoExpiry),
            (
                json!({ "sub": "a", "exp": now_seconds() }),
                Unauthorised::Expired,
            ),
            (
                json!({ "sub": "a", "exp": exp, "nbf": exp }),
                Unauthorised::Early,
            ),
            (json!({ "exp": exp }), Unauthorised::NoUser),
            (json!({ "sub": "a b", "exp": exp }), Unauthorised::NoUser),
            (json!({ "sub": "a", "exp": "soon" }), Unauthorised::Invalid),
        ] {
            assert_eq!(auth.check(&token(&claims)), Err(reason), "{claims}");
        }
        let good = token(&json!({ "sub": "a", "exp": exp }));
        for junk in ["", "a.b.c", &good[1..], &"x".repeat(9000)] {
            assert_eq!(auth.check(junk), Err(Unauthorised::Invalid), "{junk}");
        }
        assert_eq!(
            Auth::with_secret("other").check(&good),
            Err(Unauthorised::Invalid)
        );
        // "alg": "none" (RFC 7518 §3.6).
        let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIiwiZXhwIjo5OTk5OTk5OTk5fQ.";
        assert_eq!(auth.check(none), Err(Unauthorised::Invalid));
    }

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

    #[test]
    fn the_header_wins_over_the_query() {
        let mut headers = HeaderMap::new();
        assert_eq!(token_of(&headers, Some("q")), Some("q"));
        headers.insert(AUTHORIZATION, HeaderValue::from_static("bearer h"));
        assert_eq!(token_of(&headers, Some("q")), Some("h"));
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Basic xyz"));
        assert_eq!(token_of(&headers, None), None);
    }
}
