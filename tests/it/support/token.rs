//! JSON Web Tokens, good and bad, signed with a secret or with the key pairs in `fixtures`.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD as STANDARD, BASE64_URL_SAFE_NO_PAD as URL_SAFE_NO_PAD};
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
        self.sign_as(None, claims)
    }

    /// The same; the token's header names the key.
    pub fn sign_as(self, key_id: Option<&str>, claims: &Value) -> String {
        let pem = std::fs::read(self.fixture("private")).expect("a fixture");
        let (algorithm, key) = match self {
            KeyPair::Rsa => (Algorithm::RS256, EncodingKey::from_rsa_pem(&pem)),
            KeyPair::Ec => (Algorithm::ES256, EncodingKey::from_ec_pem(&pem)),
            KeyPair::Ed25519 => (Algorithm::EdDSA, EncodingKey::from_ed_pem(&pem)),
        };
        let header = Header {
            kid: key_id.map(str::to_owned),
            ..Header::new(algorithm)
        };
        encode(&header, claims, &key.expect("a key")).expect("the claims can be signed")
    }

    /// The public key as a member of a key set (RFC 7517).
    pub fn jwk(self, key_id: &str) -> Value {
        let pem = std::fs::read_to_string(self.fixture("public")).expect("a fixture");
        let lines: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let der = STANDARD.decode(lines).expect("base64");
        // All end with the key itself (RFC 5280 §4.1): of RSA the modulus, and a head and the
        // three bytes of the exponent after it; of EC both coordinates.
        let part = |from_end: usize, length: usize| {
            let start = der.len() - from_end;
            URL_SAFE_NO_PAD.encode(&der[start..start + length])
        };
        match self {
            KeyPair::Rsa => {
                json!({ "kid": key_id, "kty": "RSA", "use": "sig", "n": part(261, 256), "e": "AQAB" })
            }
            KeyPair::Ec => {
                let (x, y) = (part(64, 32), part(32, 32));
                json!({ "kid": key_id, "kty": "EC", "crv": "P-256", "alg": "ES256", "x": x, "y": y })
            }
            KeyPair::Ed25519 => {
                json!({ "kid": key_id, "kty": "OKP", "crv": "Ed25519", "x": part(32, 32) })
            }
        }
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
