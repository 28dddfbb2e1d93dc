//! Tokens checked with a key set (`CATCHUP_JWKS_URL`): fetched, rotated, and kept in an outage.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::key_server::{Answer, KeyServer};
use crate::support::token::{KeyPair, claims, hs256};
use crate::support::{Role, Socket, SocketRequest, System, eventually, user};

/// A gateway that takes its keys from this server; not waited for.
fn start_unready(server: &KeyServer) -> System {
    System::builder()
        .workers(0)
        .env("CATCHUP_AUTH", "")
        .env("CATCHUP_JWKS_URL", &server.url())
        .env("NO_PROXY", "127.0.0.1")
        .start_unready()
}

async fn start(server: &KeyServer) -> System {
    let system = start_unready(server);
    system.ready().await;
    system
}

/// A minute's token of a key with this name.
fn token(pair: KeyPair, key_id: &str) -> String {
    pair.sign_as(Some(key_id), &claims("ann", 60))
}

fn request(gateway: &Role, token: &str) -> SocketRequest {
    gateway.socket().device(&user("device")).bearer(token)
}

async fn let_in(gateway: &Role, token: &str) -> Socket {
    let mut socket = request(gateway, token).connect().await;
    assert_eq!(socket.expect("welcome").await["user"], "ann");
    socket
}

async fn assert_unauthorised(gateway: &Role, token: &str) {
    let refused = request(gateway, token).try_connect().await;
    let refused = refused.err().expect("a refusal");
    assert_eq!((refused.status, &refused.body["code"]), (401, &json!(4001)));
}

async fn fetches(gateway: &Role, outcome: &str) -> f64 {
    let metrics = gateway.metrics().await;
    metrics.value("catchup_key_fetches_total", &[("outcome", outcome)])
}

/// A token of a key that nobody has makes the set be fetched.
async fn demand_a_fetch(gateway: &Role) {
    assert_unauthorised(gateway, &token(KeyPair::Rsa, "unheard-of")).await;
}

#[tokio::test]
async fn nobody_is_let_in_before_there_are_keys() {
    let server = KeyServer::start(Answer::Status(500)).await;
    let system = start_unready(&server);
    let gateway = system.gateway(0);
    let reason = eventually("only the keys are missing", async || {
        let reasons = gateway.not_ready().await["reasons"].clone();
        let reason = reasons["keys"]
            .as_str()
            .filter(|text| text.contains("500"))?
            .to_owned();
        (reasons.as_object()?.len() == 1).then_some(reason)
    })
    .await;
    assert!(!reason.contains("hunter2"), "{reason}");
    let good = token(KeyPair::Ec, "a");
    let refused = request(gateway, &good).try_connect().await.err().unwrap();
    assert_eq!((refused.status, refused.retry_after.is_some()), (503, true));
    server.answer(Answer::Keys(vec![KeyPair::Ec.jwk("a")]));
    gateway.ready().await;
    let_in(gateway, &good).await;
    assert!(!gateway.log().contains("hunter2"));
}

#[tokio::test]
async fn every_kind_of_key_proves_and_nothing_else_does() {
    let keys = vec![
        KeyPair::Rsa.jwk("rsa"),
        KeyPair::Ec.jwk("ec"),
        KeyPair::Ed25519.jwk("ed"),
        json!({ "kid": "shared", "kty": "oct", "k": "c2VjcmV0" }),
        json!({ "kid": "later", "kty": "AKP", "alg": "ML-DSA-44", "pub": "AA" }),
    ];
    let server = KeyServer::start(Answer::Keys(keys)).await;
    let system = start(&server).await;
    let gateway = system.gateway(0);
    let claims = claims("ann", 60);
    for (pair, key_id) in [
        (KeyPair::Rsa, "rsa"),
        (KeyPair::Ec, "ec"),
        (KeyPair::Ed25519, "ed"),
    ] {
        let_in(gateway, &pair.sign_as(Some(key_id), &claims)).await;
        let_in(gateway, &pair.sign_as(None, &claims)).await;
        // Its own signature under another key's name.
        let other = if key_id == "ec" { "ed" } else { "ec" };
        assert_unauthorised(gateway, &pair.sign_as(Some(other), &claims)).await;
    }
    // A shared secret in a public document is none.
    assert_unauthorised(gateway, &hs256("secret", &claims)).await;
    let expired = KeyPair::Ec.sign_as(Some("ec"), &crate::support::token::claims("ann", -1));
    let refused = request(gateway, &expired)
        .try_connect()
        .await
        .err()
        .unwrap();
    assert!(
        refused.body["message"]
            .as_str()
            .unwrap()
            .contains("expired")
    );
    // All of that came from one fetch.
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn a_rotated_key_is_known_at_once_and_a_removed_one_no_more() {
    let server = KeyServer::start(Answer::Keys(vec![KeyPair::Rsa.jwk("old")])).await;
    let system = start(&server).await;
    let gateway = system.gateway(0);
    let (old, new) = (token(KeyPair::Rsa, "old"), token(KeyPair::Ec, "new"));
    let mut before = let_in(gateway, &old).await;
    server.answer(Answer::Keys(vec![
        KeyPair::Rsa.jwk("old"),
        KeyPair::Ec.jwk("new"),
    ]));
    let start = Instant::now();
    let_in(gateway, &new).await;
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
    let_in(gateway, &old).await;
    assert_eq!(server.requests(), 2);
    server.answer(Answer::Keys(vec![KeyPair::Ec.jwk("new")]));
    demand_a_fetch(gateway).await;
    assert_unauthorised(gateway, &old).await;
    let_in(gateway, &new).await;
    // Who is in already stays until its token ends.
    before.until_live().await;
}

#[tokio::test]
async fn an_outage_changes_nothing_for_known_keys() {
    let server = KeyServer::start(Answer::Keys(vec![KeyPair::Ed25519.jwk("a")])).await;
    let system = start(&server).await;
    let gateway = system.gateway(0);
    let known = token(KeyPair::Ed25519, "a");
    let mut failed = 0.0;
    for answer in [
        Answer::Status(503),
        Answer::Body(Bytes::from(vec![b' '; 300 * 1024])),
        Answer::Redirect("file:///etc/passwd".to_owned()),
        Answer::Redirect(server.other_url().replace("http:", "https:")),
        Answer::Nothing,
    ] {
        server.answer(answer.clone());
        demand_a_fetch(gateway).await;
        failed = eventually(format!("a failed fetch: {answer:?}"), async || {
            let now = fetches(gateway, "failed").await;
            (now > failed).then_some(now)
        })
        .await;
        let_in(gateway, &known).await;
    }
    assert_eq!(gateway.admin("/readyz").await.unwrap().status, 200);
    assert_eq!(fetches(gateway, "fetched").await, 1.0);
    // Said once for the whole outage, and without the secret part of the URL.
    let warnings = |line: &String| line.contains("cannot be fetched") && line.contains("WARN");
    assert_eq!(
        gateway
            .log()
            .lines()
            .iter()
            .filter(|line| warnings(line))
            .count(),
        1
    );
    assert!(!gateway.log().contains("hunter2"));
    server.answer(Answer::Keys(vec![KeyPair::Rsa.jwk("b")]));
    let_in(gateway, &token(KeyPair::Rsa, "b")).await;
    assert_unauthorised(gateway, &known).await;
}

#[tokio::test]
async fn a_redirect_within_the_scheme_is_followed() {
    let server = KeyServer::start(Answer::Keys(vec![KeyPair::Ec.jwk("a")])).await;
    server.answer(Answer::Redirect(server.other_url()));
    let system = start(&server).await;
    let_in(system.gateway(0), &token(KeyPair::Ec, "a")).await;
}

#[tokio::test]
async fn a_key_without_a_name_is_tried_for_every_token() {
    let mut key = KeyPair::Rsa.jwk("a");
    key.as_object_mut().unwrap().remove("kid");
    let server = KeyServer::start(Answer::Keys(vec![key])).await;
    let system = start(&server).await;
    let gateway = system.gateway(0);
    let_in(gateway, &token(KeyPair::Rsa, "any")).await;
    assert_unauthorised(gateway, &token(KeyPair::Ec, "any")).await;
}

#[tokio::test]
async fn made_up_keys_make_few_fetches() {
    let server = KeyServer::start(Answer::Keys(vec![KeyPair::Ec.jwk("a")])).await;
    let system = start(&server).await;
    let gateway = system.gateway(0);
    let start = Instant::now();
    let made_up = (0..60).map(|index| token(KeyPair::Ec, &format!("made-up-{index}")));
    let mut attempts = tokio::task::JoinSet::new();
    for token in made_up {
        let request = request(gateway, &token);
        attempts.spawn(async move {
            request
                .try_connect()
                .await
                .err()
                .map(|refused| refused.status)
        });
    }
    let mut later = 0;
    while start.elapsed() < Duration::from_secs(6) {
        let attempt = request(gateway, &token(KeyPair::Ec, &format!("later-{later}")));
        assert!(attempt.try_connect().await.is_err());
        later += 1;
        // A client with a good token never waits for them.
        let good = Instant::now();
        let_in(gateway, &token(KeyPair::Ec, "a")).await;
        assert!(
            good.elapsed() < Duration::from_secs(3),
            "{:?}",
            good.elapsed()
        );
    }
    let statuses = attempts.join_all().await;
    assert!(
        statuses.iter().all(|status| *status == Some(401)),
        "{statuses:?}"
    );
    // The first at the start, three at once, then one in five seconds.
    let most = 4 + 1 + start.elapsed().as_secs() as usize / 5;
    assert!(server.requests() <= most, "{}", server.requests());
}

#[tokio::test]
async fn a_fresh_token_of_a_new_key_keeps_the_connection() {
    let server = KeyServer::start(Answer::Keys(vec![KeyPair::Rsa.jwk("old")])).await;
    let system = start(&server).await;
    let gateway = system.gateway(0);
    let short = KeyPair::Rsa.sign_as(Some("old"), &claims("ann", 4));
    let mut socket = let_in(gateway, &short).await;
    socket.until_live().await;
    let end = Instant::now() + Duration::from_secs(4);
    server.answer(Answer::Keys(vec![KeyPair::Ec.jwk("new")]));
    let fresh = |pair, key_id| json!({ "op": "token", "token": token(pair, key_id) }).to_string();
    socket.send(&fresh(KeyPair::Ec, "new")).await;
    socket
        .expect_silence(end + Duration::from_secs(2) - Instant::now())
        .await;
    // In an outage nobody can say whether a key is a good one: the token before holds on.
    server.answer(Answer::Status(503));
    socket.send(&fresh(KeyPair::Ec, "newer")).await;
    eventually("a failed fetch", async || {
        (fetches(gateway, "failed").await > 0.0).then_some(())
    })
    .await;
    socket.expect_silence(Duration::from_millis(300)).await;
    server.answer(Answer::Keys(vec![KeyPair::Ec.jwk("new")]));
    // And one of a key that is in no set ends it.
    socket.send(&fresh(KeyPair::Ec, "nowhere")).await;
    let frames: Vec<Value> = socket.expect_close(4001).await;
    assert_eq!(frames[0]["op"], "error");
}
