//! Checking a signed token (RFC 7519) with a key.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

use super::{Identified, InvalidKey, Unauthorised};
use crate::event::UserId;

/// Longest token that is looked at.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

pub const RSA_ALGORITHMS: [Algorithm; 6] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// A key, and the algorithms it may be used with.
pub struct TokenCheck {
    key: DecodingKey,
    validation: Validation,
}

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
    Number(u64),
    Negative(i64),
}

impl TokenCheck {
    /// `algorithms`, of which there is at least one, all fit the key.
    pub fn new(key: DecodingKey, algorithms: Vec<Algorithm>) -> TokenCheck {
        let mut validation = Validation::new(algorithms[0]);
        validation.algorithms = algorithms;
        validation.leeway = 0;
        validation.validate_nbf = true;
        // The contract names sub and exp; an audience is the operator's own affair.
        validation.validate_aud = false;
        TokenCheck { key, validation }
    }

    /// The shared secret of HS256.
    pub fn with_secret(secret: &str) -> TokenCheck {
        let key = DecodingKey::from_secret(secret.as_bytes());
        TokenCheck::new(key, vec![Algorithm::HS256])
    }

    /// A public key in PEM form.
    pub fn with_public_key(pem: &str) -> Result<TokenCheck, InvalidKey> {
        let pem = pem.as_bytes();
        if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
            return Ok(TokenCheck::new(key, RSA_ALGORITHMS.to_vec()));
        }
        if let Ok(key) = DecodingKey::from_ec_pem(pem) {
            let algorithms = vec![Algorithm::ES256, Algorithm::ES384];
            return Ok(TokenCheck::new(key, algorithms));
        }
        let key = DecodingKey::from_ed_pem(pem).map_err(|_| InvalidKey)?;
        Ok(TokenCheck::new(key, vec![Algorithm::EdDSA]))
    }

    pub fn allows(&self, algorithm: Algorithm) -> bool {
        self.validation.algorithms.contains(&algorithm)
    }

    /// Checks a token. Errors say what is wrong with it, not what it says.
    pub fn check(&self, token: &str) -> Result<Identified, Unauthorised> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Unauthorised::Invalid);
        }
        let data = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation).map_err(
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
            Some(Subject::Negative(number)) => number.to_string(),
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

#[cfg(test)]
mod tests {
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
        let auth = TokenCheck::with_secret("key");
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
        let auth = TokenCheck::with_secret("key");
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
            TokenCheck::with_secret("other").check(&good),
            Err(Unauthorised::Invalid)
        );
        // "alg": "none" (RFC 7518 §3.6).
        let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIiwiZXhwIjo5OTk5OTk5OTk5fQ.";
        assert_eq!(auth.check(none), Err(Unauthorised::Invalid));
    }
}
