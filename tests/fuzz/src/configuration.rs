//! What operators write: variables, a file, URLs with passwords.

use std::io;

use catchup::config::{Role, Setting, Settings, Surroundings, redact_url, resolve};
use catchup::telemetry::logging::parse_filter;

const PASSWORD: &str = "hunter2";
const SECRETS: [Setting; 4] = [
    Setting::NatsUrl,
    Setting::RedisUrl,
    Setting::JwtSecret,
    Setting::JwksUrl,
];

/// `NAME=VALUE` as a variable; anything else as a file of settings.
pub fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    drop(parse_filter(text));
    let Some((name, value)) = text.split_once('=').filter(|(name, _)| !name.contains(' ')) else {
        return assert_one_line(&[("CATCHUP_CONFIG", "file")], text);
    };
    assert_one_line(&[(name, value)], "");
    if Setting::from_variable(name).is_some_and(|setting| SECRETS.contains(&setting)) {
        hide_password(name, value);
    }
}

/// A password within a URL, wherever a part of the text ends.
fn hide_password(variable: &str, text: &str) {
    // What it shows on purpose must not look like what it hides.
    let text = &text.replace(PASSWORD, "");
    let (scheme, rest) = text.split_once("://").unwrap_or(("redis", text));
    for url in [
        format!("{scheme}://user:{PASSWORD}@{rest}"),
        format!("{scheme}://{rest}?password={PASSWORD}"),
        format!("{text}{PASSWORD}"),
    ] {
        let error = refusal(&[(variable, &url)], "");
        assert!(error.is_none_or(|error| !error.contains(PASSWORD)), "{url}");
    }
    for url in [
        format!("redis://user:{PASSWORD}@{rest}"),
        format!("redis://{}?password={PASSWORD}@{rest}", "host"),
        format!("redis://host?password={rest}@{PASSWORD}"),
    ] {
        assert!(
            !redact_url(&url).contains(PASSWORD),
            "{url}: {}",
            redact_url(&url)
        );
    }
}

fn assert_one_line(environment: &[(&str, &str)], file: &str) {
    if let Some(error) = refusal(environment, file) {
        assert!(!error.contains(['\n', '\r']), "{error:?}");
    }
}

/// What a gateway says to these settings, if it does not start with them.
fn refusal(environment: &[(&str, &str)], file: &str) -> Option<String> {
    let read_file = |path: &str| match path {
        "file" => Ok(file.to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    let pairs = environment
        .iter()
        .map(|(name, value)| (name.into(), value.into()));
    let surroundings = Surroundings {
        environment: pairs.collect(),
        host_name: "host".to_owned(),
        read_file: &read_file,
    };
    let outcome = resolve(Role::Gateway, &Settings::default(), &surroundings);
    outcome.err().map(|error| error.to_string())
}
