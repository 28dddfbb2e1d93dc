//! Who is let in: signed tokens, their end, and fresh ones in time.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::process::scratch_folder;
use crate::support::socket::{data_of, messages_of};
use crate::support::token::{KeyPair, claims, hs256, now_seconds};
use crate::support::{SocketRequest, System, event, user};

const SECRET: &str = "a secret that only the tests know";

/// A gateway and a worker with a shared secret.
async fn with_secret() -> System {
    let builder = System::builder()
        .env("CATCHUP_AUTH", "")
        .env("CATCHUP_JWT_SECRET", SECRET);
    builder.start_shared("JWT with a secret").await
}

fn token(user: &str, seconds: i64) -> String {
    hs256(SECRET, &claims(user, seconds))
}

/// The refusal's status and code.
async fn refusal(request: &SocketRequest) -> (u16, Value) {
    let refused = request.try_connect().await.err().expect("a refusal");
    let message = refused.body["message"].as_str().expect("a message");
    assert!(!message.is_empty(), "{refused:?}");
    (refused.status, refused.body["code"].clone())
}

async fn assert_unauthorised(request: SocketRequest, about: &str) {
    assert_eq!(refusal(&request).await, (401, json!(4001)), "{about}");
    let mut socket = request.query("refuse", "close").connect().await;
    let frames = socket.expect_close(4001).await;
    assert!(
        frames.iter().all(|frame| frame["op"] == "error"),
        "{about}: {frames:?}"
    );
}

#[tokio::test]
async fn a_token_is_taken_from_the_header_or_the_query() {
    let system = with_secret().await;
    let gateway = system.gateway(0);
    let (ann, bob) = (user("ann"), user("bob"));
    let connected = async |request: SocketRequest| {
        request.connect().await.expect("welcome").await["user"].clone()
    };
    let header = gateway.socket().bearer(&token(&ann, 60));
    assert_eq!(connected(header.clone()).await, json!(ann));
    let query = gateway.socket().query("token", &token(&ann, 60));
    assert_eq!(connected(query.clone()).await, json!(ann));
    // The scheme is written in any case; `?user=` says nothing here.
    let lower = gateway
        .socket()
        .header("authorization", &format!("bearer {}", token(&ann, 60)));
    assert_eq!(connected(lower.user(&bob)).await, json!(ann));
    // Other credentials are somebody else's affair.
    let basic = query.header("Authorization", "Basic YW5uOnNlY3JldA==");
    assert_eq!(connected(basic).await, json!(ann));
    // The header is the one that counts.
    let both = header.query("token", "junk");
    assert_eq!(connected(both).await, json!(ann));
}

#[tokio::test]
async fn tokens_that_prove_nothing_are_refused() {
    let system = with_secret().await;
    let gateway = system.gateway(0);
    let ann = user("ann");
    assert_unauthorised(gateway.socket(), "no token").await;
    assert_unauthorised(gateway.socket().user(&ann), "a user's name").await;
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let good = token(&ann, 60);
    let parts: Vec<&str> = good.split('.').collect();
    let forged = encode(&claims("somebody-else", 60));
    let none = encode(&json!({"alg": "none", "typ": "JWT"}));
    let claims_of = |sub: Value| json!({ "sub": sub, "exp": now_seconds() + 60 });
    let without_exp = json!({ "sub": ann });
    let not_before = json!({ "sub": ann, "exp": now_seconds() + 90, "nbf": now_seconds() + 60 });
    let later = json!({ "sub": ann, "exp": "tomorrow" });
    let no_user = json!({ "exp": now_seconds() + 60 });
    let long_ago = json!({ "sub": ann, "exp": -1 });
    for (bad, about) in [
        (String::new(), "an empty token"),
        ("junk".to_owned(), "junk"),
        ("a.b.c".to_owned(), "three parts of junk"),
        (format!("{good}x"), "a signature with more"),
        (good[..good.len() - 2].to_owned(), "a signature cut short"),
        (
            format!("{}.{forged}.{}", parts[0], parts[2]),
            "claims exchanged",
        ),
        (format!("{none}.{forged}."), "no algorithm"),
        (
            format!("{none}.{}.{}", parts[1], parts[2]),
            "another algorithm",
        ),
        (hs256("another secret", &claims(&ann, 60)), "another secret"),
        (hs256("", &claims(&ann, 60)), "an empty secret"),
        (token(&ann, 0), "expired this second"),
        (token(&ann, -1), "expired a second ago"),
        (token(&ann, -30), "expired within a usual leeway"),
        (hs256(SECRET, &without_exp), "no exp"),
        (hs256(SECRET, &later), "an exp that is no number"),
        (hs256(SECRET, &long_ago), "an exp before all time"),
        (hs256(SECRET, &not_before), "not valid yet"),
        (hs256(SECRET, &no_user), "no sub"),
        (hs256(SECRET, &claims_of(json!(""))), "an empty sub"),
        (
            hs256(SECRET, &claims_of(json!("a b"))),
            "a sub with a space",
        ),
        (hs256(SECRET, &claims_of(json!("{a}"))), "a sub with braces"),
        (
            hs256(SECRET, &claims_of(json!("x".repeat(129)))),
            "a long sub",
        ),
        (hs256(SECRET, &claims_of(json!(null))), "a null sub"),
        (hs256(SECRET, &claims_of(json!(["ann"]))), "a list as sub"),
        (KeyPair::Rsa.sign(&claims(&ann, 60)), "another kind of key"),
        ("x".repeat(9_000), "a long text"),
    ] {
        assert_unauthorised(gateway.socket().query("token", &bad), about).await;
        assert_unauthorised(gateway.socket().bearer(&bad), about).await;
    }
    // Nothing of a token, good or bad, is in the log.
    let lines = gateway.log().lines();
    for secret in [parts[2], SECRET, "another secret"] {
        assert!(!lines.iter().any(|line| line.contains(secret)));
    }
}

#[tokio::test]
async fn other_claims_do_not_matter() {
    let system = with_secret().await;
    let ann = user("ann");
    let exp = now_seconds() + 60;
    for claims in [
        json!({"sub": ann, "exp": exp, "aud": ["one", "two"], "iss": "somebody", "jti": "1"}),
        json!({"sub": ann, "exp": exp, "nbf": now_seconds() - 10, "iat": now_seconds() - 10}),
        json!({"sub": ann, "exp": exp as f64 + 0.5}),
        json!({"sub": ann, "exp": exp, "user": {"name": "x"}}),
    ] {
        let request = system.gateway(0).socket().bearer(&hs256(SECRET, &claims));
        assert_eq!(
            request.connect().await.expect("welcome").await["user"],
            json!(ann)
        );
    }
}

#[tokio::test]
async fn the_public_key_of_each_kind_proves_its_signatures() {
    let ann = user("ann");
    for pair in [KeyPair::Rsa, KeyPair::Ec, KeyPair::Ed25519] {
        let file = pair.public_key_file();
        let system = System::builder()
            .workers(0)
            .env("CATCHUP_AUTH", "jwt")
            .env("CATCHUP_JWT_PUBLIC_KEY_FILE", &file.display().to_string())
            .start()
            .await;
        let gateway = system.gateway(0);
        let request = gateway.socket().bearer(&pair.sign(&claims(&ann, 60)));
        let welcome = request.connect().await.expect("welcome").await;
        assert_eq!(welcome["user"], json!(ann), "{pair:?}");
        let expired = gateway.socket().bearer(&pair.sign(&claims(&ann, -1)));
        assert_unauthorised(expired, "expired").await;
        for other in [KeyPair::Rsa, KeyPair::Ec, KeyPair::Ed25519] {
            if other.public_key_file() != file {
                let request = gateway.socket().bearer(&other.sign(&claims(&ann, 60)));
                assert_unauthorised(request, "another key").await;
            }
        }
        // The public key is known to everybody: as a shared secret it proves nothing.
        let pem = std::fs::read_to_string(&file).unwrap();
        let forged = hs256(&pem, &claims(&ann, 60));
        assert_unauthorised(gateway.socket().bearer(&forged), "the key as a secret").await;
    }
}

#[tokio::test]
async fn a_connection_ends_with_its_token() {
    let system = with_secret().await;
    let ann = user("ann");
    let start = Instant::now();
    let request = system.gateway(0).socket().bearer(&token(&ann, 3));
    let mut socket = request.connect().await;
    socket.until_live().await;
    let frames = socket.expect_close(4001).await;
    let lasted = start.elapsed();
    assert!(lasted < Duration::from_secs(4), "{lasted:?}");
    let [error] = &frames[..] else {
        panic!("one error frame: {frames:?}");
    };
    assert_eq!(
        (&error["op"], &error["code"]),
        (&json!("error"), &json!(4001))
    );
    assert!(error["message"].is_string());
}

#[tokio::test]
async fn a_fresh_token_in_time_keeps_the_connection() {
    let system = with_secret().await;
    let ann = user("ann");
    let request = system.gateway(0).socket().bearer(&token(&ann, 2));
    let mut socket = request.connect().await;
    socket.until_live().await;
    let refresh = |token: &str| json!({ "op": "token", "token": token }).to_string();
    socket.send(&refresh(&token(&ann, 60))).await;
    // Past the end of the first.
    socket.expect_silence(Duration::from_millis(2_500)).await;
    let address = format!("new_post.{ann}");
    system.publish(&address, event(&[&ann], 1)).await;
    let frame = socket.expect("messages").await;
    assert_eq!(data_of(&messages_of(&frame)), [1]);
    // The newest one counts, though it ends sooner.
    socket.send(&refresh(&token(&ann, 2))).await;
    socket.expect_close(4001).await;
}

#[tokio::test]
async fn a_token_in_the_connection_must_be_good_and_the_same_users() {
    let system = with_secret().await;
    let (ann, bob) = (user("ann"), user("bob"));
    for (fresh, about) in [
        (token(&bob, 60), "another user's"),
        (token(&ann, -1), "expired"),
        (hs256("another secret", &claims(&ann, 60)), "another secret"),
        ("junk".to_owned(), "junk"),
        (String::new(), "empty"),
    ] {
        let request = system.gateway(0).socket().bearer(&token(&ann, 60));
        let mut socket = request.connect().await;
        socket.until_live().await;
        let frame = json!({ "op": "token", "token": fresh }).to_string();
        socket.send(&frame).await;
        let frames = socket.expect_close(4001).await;
        assert_eq!(frames[0]["code"], 4001, "{about}: {frames:?}");
        assert!(
            fresh.is_empty() || !frames[0].to_string().contains(&fresh),
            "{about}"
        );
    }
}

#[tokio::test]
async fn a_key_that_is_none_stops_the_start() {
    let folder = scratch_folder("key");
    let junk = folder.path().join("junk.pem");
    std::fs::write(
        &junk,
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    )
    .unwrap();
    let missing = folder.path().join("missing.pem");
    for file in [junk, missing] {
        let ended = crate::support::Catchup::new(["gateway", "--listen", "127.0.0.1:0"])
            .env("CATCHUP_ADMIN_LISTEN", "127.0.0.1:0")
            .env("CATCHUP_JWT_PUBLIC_KEY_FILE", &file.display().to_string())
            .run()
            .await;
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(
            ended.stderr.contains("CATCHUP_JWT_PUBLIC_KEY_FILE"),
            "{ended:?}"
        );
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    }
}
