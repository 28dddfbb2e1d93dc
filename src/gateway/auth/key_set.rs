//! A set of public keys (JWKS, RFC 7517), as far as tokens may be checked with it.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, decode_header};
use serde::Deserialize;

use super::token::{RSA_ALGORITHMS, TOKEN_BYTES_MAX, TokenCheck};
use super::{Identified, Unauthorised};

/// Longest document that is read.
pub const DOCUMENT_BYTES_MAX: usize = 256 * 1024;
/// Most keys of a set. A token without a `kid` is tried with all that fit its algorithm.
pub const KEYS_MAX: usize = 64;
/// Bytes of an RSA modulus: what the library checks signatures with, 2,048 to 8,192 bits.
const MODULUS_BYTES_MIN: usize = 256;
const MODULUS_BYTES_MAX: usize = 1_024;
/// Longest exponent.
const EXPONENT_BYTES_MAX: usize = 8;

/// The keys of one document that can be used.
pub struct KeySet {
    keys: Vec<Key>,
    left_out: usize,
}

struct Key {
    id: Option<String>,
    check: TokenCheck,
}

/// Why a document gives no keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKeySet {
    #[error("the document is not JSON of the form {{\"keys\":[…]}}")]
    Form,
    #[error("the document has {0} keys; at most {KEYS_MAX} are allowed")]
    TooManyKeys(usize),
    #[error("the document has no key that can be used (RSA, EC P-256 or P-384, Ed25519)")]
    NoKeys,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

/// A JWK (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2). What is not named here does not matter.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Reads a document. Keys that are not public keys for signatures are left out (RFC 7517 §5).
    pub fn parse(document: &[u8]) -> Result<KeySet, InvalidKeySet> {
        let document: Document =
            serde_json::from_slice(document).map_err(|_| InvalidKeySet::Form)?;
        let count = document.keys.len();
        if count > KEYS_MAX {
            return Err(InvalidKeySet::TooManyKeys(count));
        }
        let keys = document.keys.into_iter();
        let keys: Vec<Key> = keys
            .filter_map(|key| Key::read(serde_json::from_value(key).ok()?))
            .collect();
        if keys.is_empty() {
            return Err(InvalidKeySet::NoKeys);
        }
        let left_out = count - keys.len();
        Ok(KeySet { keys, left_out })
    }

    /// How many keys of the document can be used.
    pub fn usable(&self) -> usize {
        self.keys.len()
    }

    /// How many keys of the document cannot be used.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Checks a token with the key it names, or with all that fit where it names none.
    pub fn check(&self, token: &str) -> Result<Identified, Unauthorised> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Unauthorised::Invalid);
        }
        let header = decode_header(token).map_err(|_| Unauthorised::Invalid)?;
        let is_named = header.kid.is_none() || self.keys.iter().any(|key| key.id == header.kid);
        // A key without a name may be any.
        let fits = |key: &&Key| header.kid.is_none() || key.id.is_none() || key.id == header.kid;
        let keys = self.keys.iter().filter(fits);
        for key in keys.filter(|key| key.check.allows(header.alg)) {
            match key.check.check(token) {
                // The signature, unless another key made it.
                Err(Unauthorised::Invalid) => {}
                checked => return checked,
            }
        }
        Err(match is_named {
            true => Unauthorised::Invalid,
            false => Unauthorised::UnknownKey,
        })
    }
}

impl Key {
    fn read(jwk: Jwk) -> Option<Key> {
        let is_for_signatures = jwk.usage.as_deref().is_none_or(|usage| usage == "sig");
        let verifies = (jwk.key_ops.as_ref())
            .is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
        if !is_for_signatures || !verifies {
            return None;
        }
        let (key, mut algorithms) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => (rsa(&jwk)?, RSA_ALGORITHMS.to_vec()),
            ("EC", Some("P-256")) => (point(&jwk, 32)?, vec![Algorithm::ES256]),
            ("EC", Some("P-384")) => (point(&jwk, 48)?, vec![Algorithm::ES384]),
            ("OKP", Some("Ed25519")) => (ed25519(&jwk)?, vec![Algorithm::EdDSA]),
            _ => return None,
        };
        if let Some(alg) = &jwk.alg {
            // RFC 9864 gives EdDSA with this curve a name of its own.
            let alg = if alg == "Ed25519" { "EdDSA" } else { alg };
            let only: Algorithm = alg.parse().ok()?;
            algorithms.retain(|algorithm| *algorithm == only);
        }
        (!algorithms.is_empty()).then(|| Key {
            id: jwk.kid,
            check: TokenCheck::new(key, algorithms),
        })
    }
}

fn rsa(jwk: &Jwk) -> Option<DecodingKey> {
    let (modulus, exponent) = (decode(&jwk.n)?, decode(&jwk.e)?);
    let modulus_bytes = modulus.iter().skip_while(|byte| **byte == 0).count();
    let fits = (MODULUS_BYTES_MIN..=MODULUS_BYTES_MAX).contains(&modulus_bytes)
        && (1..=EXPONENT_BYTES_MAX).contains(&exponent.len());
    fits.then(|| DecodingKey::from_rsa_raw_components(&modulus, &exponent))
}

fn point(jwk: &Jwk, coordinate_bytes: usize) -> Option<DecodingKey> {
    let fits = |text| decode(text).is_some_and(|bytes| bytes.len() == coordinate_bytes);
    if !fits(&jwk.x) || !fits(&jwk.y) {
        return None;
    }
    DecodingKey::from_ec_components(jwk.x.as_deref()?, jwk.y.as_deref()?).ok()
}

fn ed25519(jwk: &Jwk) -> Option<DecodingKey> {
    (decode(&jwk.x)?.len() == 32).then_some(())?;
    DecodingKey::from_ed_components(jwk.x.as_deref()?).ok()
}

fn decode(text: &Option<String>) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(text.as_deref()?).ok()
}

#[cfg(test)]
mod tests;
