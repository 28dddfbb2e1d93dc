//! Documents good and bad, and tokens of their keys.

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::*;

fn rsa_key() -> Value {
    json!({ "kty": "RSA", "n": BASE64_URL_SAFE_NO_PAD.encode([0x81; 256]), "e": "AQAB" })
}

fn ec_key(curve: &str, bytes: usize) -> Value {
    let coordinate = BASE64_URL_SAFE_NO_PAD.encode(vec![1; bytes]);
    json!({ "kty": "EC", "crv": curve, "x": coordinate, "y": coordinate })
}

fn ed_key() -> Value {
    json!({ "kty": "OKP", "crv": "Ed25519", "x": BASE64_URL_SAFE_NO_PAD.encode([1; 32]) })
}

fn with(mut key: Value, more: Value) -> Value {
    let fields = key.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    key
}

/// The algorithms of the one key; none where it is left out.
fn algorithms(key: Value) -> Vec<Algorithm> {
    let document = json!({ "keys": [key] }).to_string();
    let Ok(set) = KeySet::parse(document.as_bytes()) else {
        return Vec::new();
    };
    let all = [
        RSA_ALGORITHMS.as_slice(),
        &[Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA],
    ];
    let mut all = all.concat();
    all.retain(|algorithm| set.keys[0].check.allows(*algorithm));
    all
}

#[test]
fn a_key_is_used_with_the_algorithms_that_fit_it() {
    for (key, expected) in [
        (rsa_key(), RSA_ALGORITHMS.to_vec()),
        (
            with(rsa_key(), json!({ "alg": "PS256", "use": "sig" })),
            vec![Algorithm::PS256],
        ),
        (
            with(rsa_key(), json!({ "key_ops": ["verify"] })),
            RSA_ALGORITHMS.to_vec(),
        ),
        (ec_key("P-256", 32), vec![Algorithm::ES256]),
        (ec_key("P-384", 48), vec![Algorithm::ES384]),
        (ed_key(), vec![Algorithm::EdDSA]),
        (
            with(ed_key(), json!({ "alg": "Ed25519" })),
            vec![Algorithm::EdDSA],
        ),
    ] {
        assert_eq!(algorithms(key.clone()), expected, "{key}");
    }
}

#[test]
fn keys_that_cannot_be_used_are_left_out() {
    let short = BASE64_URL_SAFE_NO_PAD.encode([0x81; 128]);
    for key in [
        json!({ "kty": "oct", "k": "c2VjcmV0", "alg": "HS256" }),
        with(rsa_key(), json!({ "use": "enc" })),
        with(rsa_key(), json!({ "key_ops": ["encrypt"] })),
        with(rsa_key(), json!({ "alg": "HS256" })),
        with(rsa_key(), json!({ "alg": "RSA-OAEP" })),
        with(rsa_key(), json!({ "alg": "ES256" })),
        with(rsa_key(), json!({ "n": short })),
        with(rsa_key(), json!({ "n": "not base64!" })),
        with(rsa_key(), json!({ "e": 65537 })),
        ec_key("P-256", 48),
        ec_key("P-521", 66),
        ec_key("secp256k1", 32),
        with(ec_key("P-256", 32), json!({ "alg": "ES384" })),
        with(ed_key(), json!({ "crv": "X25519" })),
        with(ed_key(), json!({ "x": "AQ" })),
        json!({ "kid": "no type" }),
        json!("text"),
        json!(null),
    ] {
        assert!(algorithms(key.clone()).is_empty(), "{key}");
    }
    let document = json!({ "keys": [rsa_key(), 7, ed_key()], "more": {} }).to_string();
    let set = KeySet::parse(document.as_bytes()).unwrap();
    assert_eq!((set.usable(), set.left_out()), (2, 1));
}

#[test]
fn other_documents_are_refused() {
    for junk in [
        "",
        "<html>",
        "[]",
        "{}",
        r#"{"keys":{}}"#,
        r#"{"keys":[]}"#,
        "\u{0}",
    ] {
        assert!(KeySet::parse(junk.as_bytes()).is_err(), "{junk}");
    }
    assert!(KeySet::parse(b"{\"keys\":[\xff]}").is_err());
    let document = json!({ "keys": vec![rsa_key(); KEYS_MAX + 1] }).to_string();
    let error = KeySet::parse(document.as_bytes()).err();
    assert_eq!(error, Some(InvalidKeySet::TooManyKeys(KEYS_MAX + 1)));
}

#[test]
fn a_tokens_header_chooses_the_key() {
    let key = |id: &str| with(rsa_key(), json!({ "kid": id }));
    let document = json!({ "keys": [key("a"), key("b")] }).to_string();
    let set = KeySet::parse(document.as_bytes()).unwrap();
    let token = |kid: Option<&str>| {
        let header = Header {
            kid: kid.map(str::to_owned),
            ..Header::default()
        };
        let claims = json!({ "sub": "ann", "exp": 9_999_999_999_u64 });
        encode(
            &header,
            &claims,
            &EncodingKey::from_secret(b"public key as a secret"),
        )
        .unwrap()
    };
    assert_eq!(set.check(&token(Some("c"))), Err(Unauthorised::UnknownKey));
    // HS256 is in no set, whatever its secret is.
    assert_eq!(set.check(&token(Some("a"))), Err(Unauthorised::Invalid));
    assert_eq!(set.check(&token(None)), Err(Unauthorised::Invalid));
    for junk in ["", "a.b.c", &"x".repeat(TOKEN_BYTES_MAX + 1)] {
        assert_eq!(set.check(junk), Err(Unauthorised::Invalid));
    }
}
