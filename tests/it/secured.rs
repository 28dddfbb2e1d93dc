//! Servers with TLS, certificates of clients, nkeys and credentials.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::certificates::{Authority, Pair};
use crate::support::command::Ended;
use crate::support::process::scratch_folder;
use crate::support::servers::Servers;
use crate::support::socket::data_of;
use crate::support::{Catchup, NatsServer, RedisServer, System, event, user};

/// A nats-server that asks for certificates of clients which ask for TLS; the test itself does
/// not.
fn nats_with_tls(authority: &Authority, server: &Pair) -> NatsServer {
    let folder = scratch_folder("nats-tls");
    let file = folder.path().join("tls.conf");
    let text = format!(
        "allow_non_tls: true\ntls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
        server.certificate,
        server.key,
        authority.file(),
    );
    std::fs::write(&file, text).unwrap();
    NatsServer::start_with(&["-c", &file.display().to_string()])
}

fn text_of(path: &Path) -> String {
    path.display().to_string()
}

/// Runs a worker that must end at once.
async fn worker(env: &[(&str, String)]) -> Ended {
    let mut worker = Catchup::new(["worker", "--admin-listen", "127.0.0.1:0"]);
    for (name, value) in env {
        worker = worker.env(name, value);
    }
    worker.run().await
}

fn assert_one_line(ended: &Ended, code: i32, named: &str) {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    assert!(ended.stderr.contains(named), "{named}: {ended:?}");
}

/// Publishes to a user who is away, and reads it as that user.
async fn assert_delivers(system: &System) {
    let ann = user("ann");
    system.publish("new_post.1", event(&[&ann], 1)).await;
    system.until_waiting(&ann, 1).await;
    let mut socket = system.connect(&ann).await;
    assert_eq!(data_of(&socket.until_live().await), [1]);
    system.publish("new_post.1", event(&[&ann], 2)).await;
    assert_eq!(data_of(&socket.messages(1).await), [2]);
}

/// A worker that trusts another authority, or shows no certificate, ends and says which.
async fn assert_refuses_others(authority: &Authority, servers: [(&str, String); 2]) {
    let with = |authority: &Authority| {
        let ca = ("CATCHUP_CA_FILE", text_of(&authority.file()));
        servers.iter().cloned().chain([ca]).collect::<Vec<_>>()
    };
    let ended = worker(&with(&Authority::new())).await;
    assert_one_line(&ended, 1, "CATCHUP_CA_FILE");
    let ended = worker(&with(authority)).await;
    assert_one_line(&ended, 1, "CATCHUP_CLIENT_CERTIFICATE_FILE");
}

#[tokio::test]
async fn nats_over_tls_with_a_certificate_of_each_side() {
    let authority = Authority::new();
    let (server, client) = (authority.pair("server"), authority.pair("client"));
    let nats = nats_with_tls(&authority, &server);
    let url = format!("tls://localhost:{}", nats.port());
    let redis = RedisServer::start();
    let redis_url = redis.url();
    let system = System::builder()
        .servers(Servers { nats, redis })
        .env("CATCHUP_NATS_URL", &url)
        .env("CATCHUP_CA_FILE", &text_of(&authority.file()))
        .env(
            "CATCHUP_CLIENT_CERTIFICATE_FILE",
            &text_of(&client.certificate),
        )
        .env("CATCHUP_CLIENT_KEY_FILE", &text_of(&client.key))
        .start()
        .await;
    assert_delivers(&system).await;
    let mut publish = Catchup::new(["publish", "--type", "a", "--to", "ann", "--data", "7"]);
    for (name, value) in system.env() {
        publish = publish.env(name, value);
    }
    let ended = publish.run().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");

    assert_refuses_others(
        &authority,
        [("CATCHUP_NATS_URL", url), ("CATCHUP_REDIS_URL", redis_url)],
    )
    .await;
}

#[tokio::test]
#[ignore = "needs a Redis that was built with TLS; scripts/test runs it on Redis 7.0"]
async fn redis_over_tls_with_a_certificate_of_each_side() {
    let authority = Authority::new();
    let (server, client) = (authority.pair("server"), authority.pair("client"));
    let tls_port = crate::support::ports::free_port();
    let redis = RedisServer::start_with(&[
        "--appendonly",
        "yes",
        "--maxmemory-policy",
        "noeviction",
        "--tls-port",
        &tls_port.to_string(),
        "--tls-cert-file",
        &text_of(&server.certificate),
        "--tls-key-file",
        &text_of(&server.key),
        "--tls-ca-cert-file",
        &text_of(&authority.file()),
    ]);
    let nats = NatsServer::start();
    let nats_url = nats.url();
    let url = format!("rediss://localhost:{tls_port}");
    let system = System::builder()
        .servers(Servers { nats, redis })
        .env("CATCHUP_REDIS_URL", &url)
        .env("CATCHUP_CA_FILE", &text_of(&authority.file()))
        .env(
            "CATCHUP_CLIENT_CERTIFICATE_FILE",
            &text_of(&client.certificate),
        )
        .env("CATCHUP_CLIENT_KEY_FILE", &text_of(&client.key))
        .start()
        .await;
    assert_delivers(&system).await;

    assert_refuses_others(
        &authority,
        [("CATCHUP_NATS_URL", nats_url), ("CATCHUP_REDIS_URL", url)],
    )
    .await;
}

#[tokio::test]
async fn an_nkey_instead_of_a_password() {
    let [right, wrong] = [nkeys::KeyPair::new_user(), nkeys::KeyPair::new_user()];
    let folder = scratch_folder("nkey");
    let config = folder.path().join("nkey.conf");
    let users = json!([{ "nkey": right.public_key() }, { "user": "test", "password": "test" }]);
    std::fs::write(
        &config,
        format!("authorization: {{ users: {users} }}, no_auth_user: test"),
    )
    .unwrap();
    let nats = NatsServer::start_with(&["-c", &text_of(&config)]);
    let url = nats.url();
    let files = [("right", &right), ("wrong", &wrong)].map(|(name, pair)| {
        let file = folder.path().join(name);
        std::fs::write(&file, format!("{}\n", pair.seed().unwrap())).unwrap();
        text_of(&file)
    });
    let redis = RedisServer::start();
    let redis_url = redis.url();
    let system = System::builder()
        .servers(Servers { nats, redis })
        .env("CATCHUP_NATS_NKEY_FILE", &files[0])
        .start()
        .await;
    assert_delivers(&system).await;
    let ended = worker(&[
        ("CATCHUP_NATS_URL", url),
        ("CATCHUP_REDIS_URL", redis_url),
        ("CATCHUP_NATS_NKEY_FILE", files[1].clone()),
    ])
    .await;
    assert_one_line(&ended, 1, "CATCHUP_NATS_NKEY_FILE");
    let seed = wrong.seed().unwrap();
    assert!(!ended.stdout.contains(&seed) && !ended.stderr.contains(&seed));
}

/// A JWT as NATS has it: signed by `issuer`, about `subject`.
fn jwt(issuer: &nkeys::KeyPair, subject: &str, nats: Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = encode(&json!({ "typ": "JWT", "alg": "ed25519-nkey" }));
    let claims = encode(&json!({
        "jti": subject, "iat": 1_700_000_000, "iss": issuer.public_key(), "sub": subject,
        "name": "test", "nats": nats,
    }));
    let signed = format!("{header}.{claims}");
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A nats-server whose users are known by JWTs of one account, and the credentials of a user.
fn nats_with_jwts(folder: &Path) -> (NatsServer, String) {
    use nkeys::KeyPair;
    let operator = KeyPair::new_operator();
    let [account, system] = [KeyPair::new_account(), KeyPair::new_account()];
    let user = KeyPair::new_user();
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1,
        "consumer": -1,
    });
    let of_account = json!({ "type": "account", "version": 2, "limits": limits });
    let of_system = json!({ "type": "account", "version": 2, "limits": {
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1,
    } });
    let accounts = json!({
        account.public_key(): jwt(&operator, &account.public_key(), of_account),
        system.public_key(): jwt(&operator, &system.public_key(), of_system),
    });
    let of_operator = json!({ "type": "operator", "version": 2 });
    let operator_jwt = jwt(&operator, &operator.public_key(), of_operator);
    let config = folder.join("jwt.conf");
    let text = format!(
        "operator: {operator_jwt}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {accounts}",
        system.public_key()
    );
    std::fs::write(&config, text).unwrap();
    let of_user = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 });
    let user_jwt = jwt(&account, &user.public_key(), of_user);
    let credentials = format!(
        "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    );
    let file = folder.join("user.creds");
    std::fs::write(&file, credentials).unwrap();
    let nats = NatsServer::start_with(&["-c", &config.display().to_string()]);
    (nats, text_of(&file))
}

#[tokio::test]
async fn credentials_with_a_jwt() {
    let folder = scratch_folder("jwt");
    let (nats, credentials) = nats_with_jwts(folder.path());
    let url = nats.url();
    let redis = RedisServer::start();
    let redis_url = redis.url();
    let system = System::builder()
        .servers(Servers { nats, redis })
        .env("CATCHUP_NATS_CREDENTIALS_FILE", &credentials)
        .start()
        .await;
    let mut publish = Catchup::new(["publish", "--type", "a", "--to", "ann", "--data", "7"]);
    for (name, value) in system.env() {
        publish = publish.env(name, value);
    }
    let ended = publish.run().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let mut socket = system.connect("ann").await;
    assert_eq!(data_of(&socket.until_live().await), [7]);
    let servers = [("CATCHUP_NATS_URL", url), ("CATCHUP_REDIS_URL", redis_url)];
    assert_one_line(&worker(&servers).await, 1, "CATCHUP_NATS_CREDENTIALS_FILE");
}

#[tokio::test]
async fn files_that_are_missing_or_junk_are_named() {
    let authority = Authority::new();
    let [one, other] = ["one", "other"].map(|name| authority.pair(name));
    let folder = scratch_folder("junk");
    let junk = folder.path().join("junk");
    std::fs::write(&junk, "junk\n").unwrap();
    let junk = text_of(&junk);
    for (name, value) in [
        ("CATCHUP_CA_FILE", &junk),
        ("CATCHUP_CA_FILE", &"/nowhere".to_owned()),
        ("CATCHUP_NATS_NKEY_FILE", &junk),
        ("CATCHUP_NATS_CREDENTIALS_FILE", &junk),
        ("CATCHUP_CLIENT_KEY_FILE", &text_of(&one.key)),
        ("CATCHUP_REPLICAS", &"many".to_owned()),
    ] {
        let ended = worker(&[(name, value.clone())]).await;
        assert_one_line(&ended, 2, name);
    }
    let ended = worker(&[
        ("CATCHUP_CLIENT_CERTIFICATE_FILE", text_of(&one.certificate)),
        ("CATCHUP_CLIENT_KEY_FILE", text_of(&other.key)),
    ])
    .await;
    assert_one_line(&ended, 2, "CATCHUP_CLIENT_CERTIFICATE_FILE");
}
