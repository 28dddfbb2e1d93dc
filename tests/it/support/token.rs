//! JSON Web Tokens, good and bad, signed with a secret or with the key pairs in `fixtures`.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

/// A key pair for tests only.
#[derive(Clone, Copy, Debug)]
pub enum KeyPair {
    Rsa,
    Ec,
    Ed25519,
}

/// `{"sub": user, "exp": now + seconds}`; negative seconds make an expired token.
pub fn claims(user: &str, seconds: i64) -> Value {
    json!({ "sub": user, "exp": now_seconds() + seconds })
}

/// Seconds since 1970.
pub fn now_seconds() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.expect("after 1970").as_secs();
    seconds.try_into().expect("before the year 292,277,026,596")
}

/// Signed with HS256.
pub fn hs256(secret: &str, claims: &Value) -> String {
    sign(
        Algorithm::HS256,
        claims,
        &EncodingKey::from_secret(secret.as_bytes()),
    )
}

impl KeyPair {
    /// Signed with this pair's private key: RS256, ES256 or EdDSA.
    pub fn sign(self, claims: &Value) -> String {
        let pem = std::fs::read(self.fixture("private")).expect("a fixture");
        let (algorithm, key) = match self {
            KeyPair::Rsa => (Algorithm::RS256, EncodingKey::from_rsa_pem(&pem)),
            KeyPair::Ec => (Algorithm::ES256, EncodingKey::from_ec_pem(&pem)),
            KeyPair::Ed25519 => (Algorithm::EdDSA, EncodingKey::from_ed_pem(&pem)),
        };
        sign(algorithm, claims, &key.expect("a key"))
    }

    /// For `CATCHUP_JWT_PUBLIC_KEY_FILE`.
    pub fn public_key_file(self) -> PathBuf {
        self.fixture("public")
    }

    fn fixture(self, half: &str) -> PathBuf {
        let name = match self {
            KeyPair::Rsa => "rsa",
            KeyPair::Ec => "ec",
            KeyPair::Ed25519 => "ed25519",
        };
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/fixtures");
        PathBuf::from(format!("{folder}/{name}.{half}.pem"))
    }
}

fn sign(algorithm: Algorithm, claims: &Value, key: &EncodingKey) -> String {
    encode(&Header::new(algorithm), claims, key).expect("the claims can be signed")
}
