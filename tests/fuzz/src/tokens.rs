//! Tokens that clients show, and the sets of keys that they are checked with.

use std::sync::LazyLock;

use catchup::event::UserId;
use catchup::gateway::{Auth, KEYS_MAX, KeySet};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};

const SECRET: &str = "a secret that no fuzzer guesses";

static AUTH: LazyLock<Auth> = LazyLock::new(|| Auth::with_secret(SECRET));

/// `{"alg":"HS256"}`, and text to be signed after it: base64url without padding.
const HEAD: &str = "eyJhbGciOiJIUzI1NiJ9";

/// The bytes as a whole token, which nobody signed, and as the claims of a token that is signed.
pub fn token(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert!(AUTH.check_at_once(text).is_err());
    }
    let message = format!("{HEAD}.{}", base64url(bytes));
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).expect("signed");
    match AUTH.check_at_once(&format!("{message}.{signature}")) {
        Ok(identified) => {
            assert!(UserId::parse(identified.user.as_str()).is_ok());
            assert!((identified.expires).is_none_or(|end| end > std::time::SystemTime::now()));
        }
        Err(error) => assert_says_nothing(&error.to_string(), bytes),
    }
}

pub fn key_set(bytes: &[u8]) {
    match KeySet::parse(bytes) {
        Ok(keys) => {
            assert!((1..=KEYS_MAX).contains(&keys.usable()));
            assert!(keys.usable() + keys.left_out() <= KEYS_MAX);
            assert!(keys.check(&format!("{HEAD}.e30.AAAA")).is_err());
        }
        Err(error) => assert_says_nothing(&error.to_string(), bytes),
    }
}

/// An error says what is wrong, and repeats no longer part of the input.
fn assert_says_nothing(error: &str, bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert!(text.len() < 100 || !error.contains(text), "{error}");
    }
}

fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let first = chunk.iter().enumerate();
        let bits = first.fold(0, |bits, (at, byte)| {
            bits | u32::from(*byte) << (16 - 8 * at)
        });
        let digits = (0..=chunk.len()).map(|at| DIGITS[(bits >> (18 - 6 * at) & 63) as usize]);
        text.extend(digits.map(char::from));
    }
    text
}
