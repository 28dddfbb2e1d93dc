//! Layers, rules and refusals, without touching the process.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use clap::{Args as _, FromArgMatches as _};

use super::*;

/// Resolves with flags, variables and files as given.
fn try_resolve(
    role: Role,
    flags: &[&str],
    environment: &[(&str, &str)],
    files: &[(&str, &str)],
) -> Result<Resolved, String> {
    let command = Settings::augment_args(clap::Command::new("test"));
    let matches = command
        .try_get_matches_from([&["test"], flags].concat())
        .unwrap();
    let flags = Settings::from_arg_matches(&matches).unwrap();
    let read_file = |path: &str| {
        let file = files.iter().find(|(name, _)| *name == path);
        file.map(|(_, text)| (*text).to_owned())
            .ok_or(io::Error::from(io::ErrorKind::NotFound))
    };
    let environment = environment
        .iter()
        .map(|(name, value)| (name.into(), value.into()));
    let surroundings = Surroundings {
        environment: environment.collect(),
        host_name: "web-1.example.org".to_owned(),
        read_file: &read_file,
    };
    let resolved = resolve(role, &flags, &surroundings);
    resolved.map_err(|error| {
        let error = error.to_string();
        assert!(
            !error.contains('\n') && !error.contains("hunter2"),
            "{error}"
        );
        error
    })
}

fn worker(environment: &[(&str, &str)]) -> Result<Resolved, String> {
    try_resolve(Role::Worker, &[], environment, &[])
}

fn gateway(environment: &[(&str, &str)]) -> Result<Resolved, String> {
    try_resolve(Role::Gateway, &[], environment, &[("key.pem", "PEM")])
}

/// Asserts that a worker refuses the value and names the setting.
fn refuses(name: &str, value: &str) -> String {
    let error = worker(&[(name, value)]).expect_err(value);
    assert!(
        error.starts_with(&format!("{name} (environment): ")),
        "{error}"
    );
    error
}

#[test]
fn the_defaults_are_the_contracts() {
    let resolved = worker(&[("PATH", "/bin"), ("catchup_nats_url", "x")]).unwrap();
    assert_eq!(resolved.nats_urls, ["nats://127.0.0.1:4222"]);
    assert_eq!(resolved.redis_url, "redis://127.0.0.1:6379");
    assert_eq!(resolved.namespace, "");
    assert_eq!(resolved.listen, "0.0.0.0:8080");
    assert_eq!(resolved.admin_listen, "0.0.0.0:9090");
    assert_eq!(resolved.node, "web-1-example-org");
    assert_eq!(resolved.message_ttl, Duration::from_secs(86_400));
    assert_eq!(resolved.max_messages, 1_000);
    assert!(resolved.auth.is_none());
    assert_eq!(resolved.allowed_origins, Origins::Same);
    assert_eq!(resolved.drain, Duration::from_secs(30));
    assert_eq!(resolved.max_connections, 50_000);
    assert_eq!(resolved.max_connections_per_address, 25_000);
    assert_eq!(resolved.connects_per_second, 500);
    assert_eq!(resolved.durability, Durability::Delayed);
    assert_eq!(
        (resolved.log.as_str(), resolved.log_format),
        ("info", LogFormat::Text)
    );
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let file = "node = \"file\"\nmax_messages = 7\nnamespace = \"file\"\nlog = \"\"\n";
    let environment = [
        ("CATCHUP_CONFIG", "c.toml"),
        ("CATCHUP_NODE", "environment"),
        ("CATCHUP_NAMESPACE", "environment"),
    ];
    let files = [
        ("c.toml", file),
        ("d.toml", "node = \"d\"\nmax_messages = \"9\""),
    ];
    let resolved = try_resolve(Role::Worker, &["--node", "flag"], &environment, &files).unwrap();
    assert_eq!(resolved.node, "flag");
    assert_eq!(resolved.namespace, "environment");
    assert_eq!(resolved.max_messages, 7);
    let resolved = try_resolve(Role::Worker, &["--config=d.toml"], &environment, &files).unwrap();
    assert_eq!(
        (resolved.node.as_str(), resolved.max_messages),
        ("environment", 9)
    );
}

#[test]
fn empty_is_not_set() {
    let files = [("c.toml", "node = \"file\"\nnamespace = \"file\"")];
    let environment = [
        ("CATCHUP_CONFIG", "c.toml"),
        ("CATCHUP_NODE", ""),
        ("CATCHUP_NATS_URL", ""),
        ("CATCHUP_JWKS_URL", ""),
        ("CATCHUP_JWT_SECRET", "s"),
    ];
    let flags = ["--namespace", ""];
    let resolved = try_resolve(Role::Gateway, &flags, &environment, &files).unwrap();
    assert_eq!(resolved.node, "file");
    assert_eq!(resolved.nats_urls, ["nats://127.0.0.1:4222"]);
    assert_eq!(resolved.namespace, "", "an empty flag means the default");
    assert!(worker(&[("CATCHUP_CONFIG", "")]).is_ok());
}

#[test]
fn unknown_names_stop_the_start_and_are_told() {
    let error = worker(&[("CATCHUP_NATS_URLS", "x")]).unwrap_err();
    assert!(
        error.contains("CATCHUP_NATS_URLS") && error.contains("did you mean CATCHUP_NATS_URL?")
    );
    let error = worker(&[("CATCHUP_HUE", "hunter2")]).unwrap_err();
    assert!(
        error.contains("the variable CATCHUP_HUE is no setting: remove it"),
        "{error}"
    );
    assert!(worker(&[("CATCHUP_", "")]).is_err() && worker(&[("CATCHUP_nats_url", "x")]).is_err());
    for (file, told) in [
        ("nats_urls = \"hunter2\"", "did you mean nats_url?"),
        ("NATS_URL = \"\"", "the key NATS_URL in the file c.toml"),
        ("config = \"d.toml\"", "the key config in the file c.toml"),
        ("[nats]\nurl = \"\"", "the key nats in the file c.toml"),
        (
            "nats_url = [\"hunter2\"]",
            "nats_url in the file c.toml must be a string",
        ),
        ("node = true", "node in the file c.toml must be a string"),
        (
            "node = \"a\"\njwt_secret = \"hunter2",
            "CATCHUP_CONFIG: line 2 of the file c.toml",
        ),
        (
            "node = \"a\"\nnode = \"hunter2\"",
            "CATCHUP_CONFIG: line 2 of the file c.toml",
        ),
        ("max_messages = 0", "CATCHUP_MAX_MESSAGES (file c.toml): "),
    ] {
        let error = try_resolve(
            Role::Worker,
            &["--config", "c.toml"],
            &[],
            &[("c.toml", file)],
        );
        let error = error.expect_err(file);
        assert!(error.contains(told), "{file}: {error}");
    }
    let error = worker(&[("CATCHUP_CONFIG", "absent.toml")]).unwrap_err();
    assert!(
        error.starts_with("CATCHUP_CONFIG: the file absent.toml cannot be read"),
        "{error}"
    );
}

#[test]
fn the_variables_of_kubernetes_are_let_pass() {
    for (name, value) in [
        ("CATCHUP_SERVICE_HOST", "10.0.0.1"),
        ("CATCHUP_GATEWAY_SERVICE_HOST", "10.0.0.1"),
        ("CATCHUP_GATEWAY_SERVICE_PORT", "8080"),
        ("CATCHUP_GATEWAY_SERVICE_PORT_WS", "8080"),
        ("CATCHUP_PORT", "tcp://10.0.0.1:8080"),
        ("CATCHUP_GATEWAY_PORT", "tcp://10.0.0.1:8080"),
        ("CATCHUP_GATEWAY_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("CATCHUP_GATEWAY_PORT_8080_TCP_PROTO", "tcp"),
        ("CATCHUP_GATEWAY_PORT_8080_TCP_PORT", "8080"),
        ("CATCHUP_GATEWAY_PORT_8080_TCP_ADDR", "10.0.0.1"),
    ] {
        assert!(worker(&[(name, value)]).is_ok(), "{name}");
    }
    for (name, value) in [
        ("CATCHUP_GATEWAY_PORT", "8080"),
        ("CATCHUP_SUPPORT", "tcp://10.0.0.1:8080"),
        ("CATCHUP_GATEWAY_PORT_X_TCP_ADDR", "10.0.0.1"),
        ("CATCHUP_GATEWAY_PORT_8080_TCP_NAME", "a"),
        ("CATCHUP_SERVICE", "a"),
    ] {
        assert!(worker(&[(name, value)]).is_err(), "{name}");
    }
}

/// Asserts that a worker takes the good values and refuses the bad ones.
fn checks(name: &str, good: &[&str], bad: &[&str]) {
    for value in good {
        assert!(worker(&[(name, value)]).is_ok(), "{name}={value}");
    }
    for value in bad {
        refuses(name, value);
    }
}

#[test]
fn servers_are_checked() {
    checks(
        "CATCHUP_NATS_URL",
        &[
            "nats://a:1,nats://b:2",
            "a:4222",
            "tls://u:p@a, nats://b",
            "nats://[::1]:4222",
        ],
        &[
            "http://a",
            "ws://a",
            "nats://",
            "nats://a,,nats://b",
            "nats://u:hunter2@a:x",
            ",",
        ],
    );
    checks(
        "CATCHUP_REDIS_URL",
        &["redis://a", "redis://u:p@a:1/2", "redis://[::1]:6379"],
        &[
            "a:6379",
            "http://hunter2",
            "redis://",
            "redis://:hunter2@a:x",
            "redis://a/x",
        ],
    );
    checks(
        "CATCHUP_NAMESPACE",
        &["a", "Stage_1-b", "abcdefghijabcdefghijabcdefghijab"],
        &["a.b", "a b", "ü", "a*", "abcdefghijabcdefghijabcdefghijabc"],
    );
}

#[test]
fn addresses_and_names_are_checked() {
    checks(
        "CATCHUP_LISTEN",
        &["[::]:80", "127.0.0.1:0", "localhost:8080"],
        &BAD_ADDRESSES,
    );
    checks("CATCHUP_ADMIN_LISTEN", &["0.0.0.0:9"], &BAD_ADDRESSES);
    checks(
        "CATCHUP_NODE",
        &["a", "A-b_1"],
        &["a.b", "a b", "ü", &"abcde".repeat(13)],
    );
    checks(
        "CATCHUP_ALLOWED_ORIGINS",
        &[
            "*",
            "https://a.example, http://localhost:3000",
            "http://[::1]:1",
            "app://x",
        ],
        &[
            "a.example",
            "https://",
            "https://a/",
            "*,https://a",
            "https://a,",
            "https://u@a",
        ],
    );
}

#[test]
fn numbers_and_words_are_checked() {
    let bad_durations = [
        "24", "h", "1.5h", "1 h", "1h30m", "-1h", "999ms", "31d", "1w", "1H", "+1h",
    ];
    checks(
        "CATCHUP_MESSAGE_TTL",
        &["1s", "1500ms", "60m", "24h", "30d", "01d"],
        &bad_durations,
    );
    let long_durations = ["18446744073709551616s", "18446744073709551615d"];
    checks("CATCHUP_MESSAGE_TTL", &[], &long_durations);
    checks(
        "CATCHUP_MAX_MESSAGES",
        &["1", "100000"],
        &[
            "0",
            "-1",
            "+5",
            "1e3",
            "100001",
            "1_000",
            "99999999999999999999",
            "many",
        ],
    );
    checks(
        "CATCHUP_DRAIN",
        &["0s", "250ms", "30s", "10m", "600s"],
        &["0", "601s", "11m", "1h", "-1s", "soon"],
    );
    for (name, most, more) in [
        ("CATCHUP_MAX_CONNECTIONS", "1000000", "1000001"),
        ("CATCHUP_MAX_CONNECTIONS_PER_ADDRESS", "1000000", "1000001"),
        ("CATCHUP_CONNECTS_PER_SECOND", "100000", "100001"),
    ] {
        let bad = ["0", "-1", "+5", "1.5", "1e3", more, "4294967297", "none"];
        checks(name, &["1", "050", most], &bad);
    }
    checks("CATCHUP_AUTH", &["jwt", "none"], &["JWT", "basic"]);
    checks(
        "CATCHUP_LOG",
        &["debug", "warn,catchup=trace"],
        &["verbose", "catchup=loud"],
    );
    checks(
        "CATCHUP_DURABILITY",
        &["delayed", "fsync", "replica", "none"],
        &["Delayed", "aof", "fsync,replica", "0", "off"],
    );
    checks("CATCHUP_LOG_FORMAT", &["text", "json"], &["JSON", "pretty"]);
}

const BAD_ADDRESSES: [&str; 6] = [
    "8080",
    ":8080",
    "0.0.0.0",
    "0.0.0.0:65536",
    "::1:8080",
    "a/b:80",
];

#[test]
fn values_are_read() {
    let resolved = worker(&[
        ("CATCHUP_NATS_URL", "nats://a:1, b:2"),
        ("CATCHUP_MESSAGE_TTL", "1500ms"),
        (
            "CATCHUP_ALLOWED_ORIGINS",
            "HTTPS://A.example:443,http://b:8080",
        ),
        ("CATCHUP_LOG_FORMAT", "json"),
    ])
    .unwrap();
    assert_eq!(resolved.nats_urls, ["nats://a:1", "b:2"]);
    assert_eq!(resolved.message_ttl, Duration::from_millis(1_500));
    let origins = ["https://a.example".to_owned(), "http://b:8080".to_owned()];
    assert_eq!(resolved.allowed_origins, Origins::Listed(origins.to_vec()));
    assert_eq!(resolved.log_format, LogFormat::Json);
    let host_name = "é".repeat(70);
    assert_eq!(value::default_node(&host_name), "-".repeat(64));
    assert_eq!(value::default_node(""), "catchup");
}

#[test]
fn the_store_has_an_address() {
    for url in [
        "redis+cluster://:hunter2@a:1,b:2/0",
        "redis+sentinel://:hunter2@a:1,b:2",
        "http://hunter2",
    ] {
        assert!(refuses("CATCHUP_REDIS_URL", url).contains("redis://"));
    }
    for url in [
        "rediss://a",
        "redis+sentinel://a:1,b:2/NAME",
        "redis+cluster://a:1,b:2",
        "rediss+cluster://a",
    ] {
        let environment = [("CATCHUP_REDIS_URL", url)];
        assert!(try_resolve(Role::Worker, &[], &environment, &[]).is_ok());
    }
}

#[test]
fn a_key_set_has_a_url() {
    for url in [
        "https://id.example/.well-known/jwks.json",
        "http://127.0.0.1:1/a?b=c",
        "HTTPS://u:hunter2@[::1]",
    ] {
        match gateway(&[("CATCHUP_JWKS_URL", url)]).unwrap().auth {
            Some(AuthSettings::Jwks { url }) => assert!(url.reveal().starts_with("http")),
            other => panic!("{other:?}"),
        }
    }
    for url in [
        "hunter2",
        "ftp://hunter2/k",
        "file:///hunter2",
        "https://:hunter2@",
        "jwks.json",
    ] {
        let error = gateway(&[("CATCHUP_JWKS_URL", url)]).unwrap_err();
        assert!(
            error.starts_with("CATCHUP_JWKS_URL (environment): is no URL of a key set"),
            "{error}"
        );
        // A gateway's setting: others do not look at it.
        assert!(worker(&[("CATCHUP_JWKS_URL", url)]).is_ok());
    }
}

#[test]
fn a_gateway_has_exactly_one_key() {
    let secret = ("CATCHUP_JWT_SECRET", "hunter2");
    let file = ("CATCHUP_JWT_PUBLIC_KEY_FILE", "key.pem");
    let none = ("CATCHUP_AUTH", "none");
    match gateway(&[secret]).unwrap().auth {
        Some(AuthSettings::JwtSecret(secret)) => assert_eq!(secret.reveal(), "hunter2"),
        other => panic!("{other:?}"),
    }
    match gateway(&[file]).unwrap().auth {
        Some(AuthSettings::JwtPublicKey { file, pem }) => {
            assert_eq!((&*file, &*pem), ("key.pem", "PEM"))
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        gateway(&[none]).unwrap().auth,
        Some(AuthSettings::None)
    ));

    let error = |environment: &[(&str, &str)]| gateway(environment).unwrap_err();
    assert!(error(&[]).starts_with("CATCHUP_AUTH: jwt needs a key"));
    assert!(error(&[secret, file]).starts_with("CATCHUP_JWT_PUBLIC_KEY_FILE (environment): "));
    assert!(error(&[secret, file]).contains("contradicts CATCHUP_JWT_SECRET"));
    assert!(error(&[secret, ("CATCHUP_JWKS_URL", "u")]).starts_with("CATCHUP_JWKS_URL"));
    assert!(error(&[none, secret]).starts_with("CATCHUP_JWT_SECRET (environment): contradicts"));
    assert!(error(&[none, file]).starts_with("CATCHUP_JWT_PUBLIC_KEY_FILE (environment): "));
    let jwks = ("CATCHUP_JWKS_URL", "https://a/k");
    assert!(error(&[none, jwks]).starts_with("CATCHUP_JWKS_URL (environment): contradicts"));
    assert!(error(&[file, jwks]).contains("contradicts CATCHUP_JWT_PUBLIC_KEY_FILE"));
    assert!(error(&[]).contains("CATCHUP_JWKS_URL"));
    let absent = error(&[("CATCHUP_JWT_PUBLIC_KEY_FILE", "absent.pem")]);
    assert!(absent.contains("CATCHUP_JWT_PUBLIC_KEY_FILE") && absent.contains("cannot be read"));
    // Those are a gateway's settings: others do not look at the file, nor at contradictions.
    assert!(worker(&[none, secret, ("CATCHUP_JWT_PUBLIC_KEY_FILE", "absent.pem")]).is_ok());
}

#[test]
fn one_address_cannot_serve_both() {
    let environment = [("CATCHUP_AUTH", "none"), ("CATCHUP_LISTEN", "0.0.0.0:9090")];
    assert!(
        gateway(&environment)
            .unwrap_err()
            .contains("CATCHUP_ADMIN_LISTEN")
    );
    assert!(worker(&environment).is_ok());
    let any_port = [
        ("CATCHUP_AUTH", "none"),
        ("CATCHUP_LISTEN", "127.0.0.1:0"),
        ("CATCHUP_ADMIN_LISTEN", "127.0.0.1:0"),
    ];
    assert!(gateway(&any_port).is_ok());
}

#[test]
fn variables_need_not_be_utf_8_unless_they_are_ours() {
    let junk = || OsString::from_vec(vec![0xff]);
    let resolve = |name: OsString| {
        let surroundings = Surroundings {
            environment: vec![(name, junk())],
            host_name: "h".to_owned(),
            read_file: &|_| Err(io::Error::from(io::ErrorKind::NotFound)),
        };
        resolve(Role::Worker, &Settings::default(), &surroundings)
    };
    assert!(resolve("OTHER".into()).is_ok() && resolve(junk()).is_ok());
    let error = resolve("CATCHUP_NODE".into()).unwrap_err().to_string();
    assert_eq!(error, "CATCHUP_NODE (environment) must be UTF-8 text");
    let name = OsString::from_vec(b"CATCHUP_\xff".to_vec());
    assert!(
        resolve(name)
            .unwrap_err()
            .to_string()
            .contains("is no setting")
    );
}
