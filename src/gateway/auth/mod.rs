//! Who a client is, and which browser pages may connect.

mod fetch;
mod key_set;
mod origin;
mod token;

use std::sync::Arc;
use std::time::SystemTime;

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;

pub use fetch::{InvalidUrl, KeySource};
pub use key_set::{InvalidKeySet, KEYS_MAX, KeySet};
pub use origin::AllowedOrigins;
use token::TokenCheck;

use crate::event::UserId;

/// How clients prove who they are.
pub enum Auth {
    /// Everybody is who they say (`?user=`). For development only.
    None,
    /// A token signed with one key.
    Jwt(Box<TokenCheck>),
    /// A token signed with one of the keys of a set that is fetched.
    Jwks(Arc<KeySource>),
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
    #[error("the token names a key that is not in the key set")]
    UnknownKey,
    #[error("the token names a key that is not known, and the key set cannot be fetched")]
    NoKeys,
    #[error("the token is not valid: check its signature, algorithm and form")]
    Invalid,
}

/// The text is not a public key that tokens can be checked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a public key in PEM form (RSA, EC P-256 or P-384, Ed25519)")]
pub struct InvalidKey;

impl Auth {
    /// Tokens signed with a shared secret (HS256).
    pub fn with_secret(secret: &str) -> Auth {
        Auth::Jwt(Box::new(TokenCheck::with_secret(secret)))
    }

    /// Tokens signed with the private half of a key in PEM form.
    ///
    /// # Errors
    ///
    /// Text that is no such key.
    pub fn with_public_key(pem: &str) -> Result<Auth, InvalidKey> {
        Ok(Auth::Jwt(Box::new(TokenCheck::with_public_key(pem)?)))
    }

    /// Tokens signed with a key of the set (JWKS, RFC 7517) at an `http` or `https` URL.
    ///
    /// # Errors
    ///
    /// Text that is no such URL.
    pub fn with_key_set(url: &str) -> Result<Auth, InvalidUrl> {
        Ok(Auth::Jwks(Arc::new(KeySource::new(url)?)))
    }

    /// False as long as nobody can be let in, because no key is known.
    pub fn is_ready(&self) -> bool {
        match self {
            Auth::None | Auth::Jwt(_) => true,
            Auth::Jwks(source) => source.has_keys(),
        }
    }

    /// Checks a token with the keys that are known at this moment;
    /// [`Unauthorised::UnknownKey`] may change with time.
    pub fn check_at_once(&self, token: &str) -> Result<Identified, Unauthorised> {
        match self {
            Auth::None => Err(Unauthorised::Invalid),
            Auth::Jwt(check) => check.check(token),
            Auth::Jwks(source) => source.check_at_once(token),
        }
    }

    /// Checks a token; one of an unknown key makes the set be fetched again, and waits for that.
    pub async fn check(&self, token: &str) -> Result<Identified, Unauthorised> {
        match self {
            Auth::None | Auth::Jwt(_) => self.check_at_once(token),
            Auth::Jwks(source) => source.check(token).await,
        }
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

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

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
