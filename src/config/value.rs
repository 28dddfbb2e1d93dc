//! The syntax of each setting. Errors say what to write; those of URLs do not show them.

use std::net::SocketAddr;
use std::time::Duration;

use crate::mailbox;
use crate::telemetry::logging::LogFormat;
use crate::worker::Durability;

/// The shortest time that messages may wait.
pub const MESSAGE_TTL_MIN: Duration = Duration::from_secs(1);
/// The longest time that messages may wait.
pub const MESSAGE_TTL_MAX: Duration = Duration::from_secs(30 * 86_400);
/// The highest cap on the messages that wait for one user.
pub const MAX_MESSAGES_MAX: u64 = 100_000;
/// The longest time that a gateway may take to leave.
pub const DRAIN_MAX: Duration = Duration::from_secs(600);
/// The highest limit on the sockets of a gateway; each costs a file descriptor and a few KiB.
pub const CONNECTIONS_MAX: u32 = 1_000_000;
/// The highest limit on new sockets a second.
pub const CONNECTS_PER_SECOND_MAX: u32 = 100_000;
/// Most characters of a namespace.
pub const NAMESPACE_CHARACTERS_MAX: usize = 32;
/// Most characters of a node's name.
pub const NODE_CHARACTERS_MAX: usize = 64;

/// Which browser pages may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// Only pages that the gateway's own host served.
    Same,
    Any,
    /// `scheme://host[:port]`, in small letters, without the scheme's usual port: as browsers
    /// send it.
    Listed(Vec<String>),
}

pub(super) fn nats_urls(text: &str) -> Result<Vec<String>, String> {
    let mut urls = Vec::new();
    for (index, url) in text.split(',').map(str::trim).enumerate() {
        let address = url.parse::<async_nats::ServerAddr>();
        let is_usable = address.is_ok_and(|address| {
            matches!(address.scheme(), "nats" | "tls") && !address.host().is_empty()
        });
        if url.is_empty() || !is_usable {
            let number = index + 1;
            return Err(format!(
                "server {number} is no NATS server: write nats://HOST:PORT or tls://HOST:PORT, \
                 several with commas between"
            ));
        }
        urls.push(url.to_owned());
    }
    Ok(urls)
}

pub(super) fn redis_url(text: &str) -> Result<String, String> {
    mailbox::check_url(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

pub(super) fn replicas(text: &str) -> Result<u8, String> {
    match text.parse() {
        Ok(replicas @ 1..=5) => Ok(replicas),
        _ => Err(format!("{text:?} must be a number from 1 to 5")),
    }
}

pub(super) fn namespace(text: &str) -> Result<String, String> {
    if text.len() <= NAMESPACE_CHARACTERS_MAX && text.chars().all(is_name_character) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{text:?} must be at most 32 letters, digits, `_` and `-`"
    ))
}

pub(super) fn node(text: &str) -> Result<String, String> {
    let is_name = (1..=NODE_CHARACTERS_MAX).contains(&text.len());
    if is_name && text.chars().all(is_name_character) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{text:?} must be 1 to 64 letters, digits, `_` and `-`"
    ))
}

/// The host's name as a node's name.
pub(super) fn default_node(host_name: &str) -> String {
    let clean = |character| {
        if is_name_character(character) {
            character
        } else {
            '-'
        }
    };
    let name: String = host_name
        .chars()
        .take(NODE_CHARACTERS_MAX)
        .map(clean)
        .collect();
    if name.is_empty() {
        "catchup".to_owned()
    } else {
        name
    }
}

fn is_name_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '_' | '-')
}

/// `address:port` or `host:port`.
pub(super) fn address(text: &str) -> Result<String, String> {
    let is_host = |host: &str| {
        !host.is_empty()
            && host.chars().all(|character| {
                character.is_ascii_alphanumeric() || matches!(character, '.' | '-')
            })
    };
    let is_host_and_port = text
        .rsplit_once(':')
        .is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok());
    if text.parse::<SocketAddr>().is_ok() || is_host_and_port {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{text:?} is no address: write 0.0.0.0:8080 or [::]:8080"
    ))
}

pub(super) fn message_ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text)?;
    if (MESSAGE_TTL_MIN..=MESSAGE_TTL_MAX).contains(&ttl) {
        return Ok(ttl);
    }
    Err(format!("{text:?} must lie between 1s and 30d"))
}

/// A whole number and `ms`, `s`, `m`, `h` or `d`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    let number = number.parse::<u64>().ok();
    number
        .zip(unit_ms)
        .and_then(|(number, unit_ms)| number.checked_mul(unit_ms))
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is no duration: write 24h, 30s or 250ms"))
}

pub(super) fn drain(text: &str) -> Result<Duration, String> {
    let drain = duration(text)?;
    if drain <= DRAIN_MAX {
        return Ok(drain);
    }
    Err(format!("{text:?} must lie between 0s and 10m"))
}

pub(super) fn max_messages(text: &str) -> Result<u64, String> {
    number(text, MAX_MESSAGES_MAX)
}

pub(super) fn connections(text: &str) -> Result<u32, String> {
    number(text, CONNECTIONS_MAX)
}

pub(super) fn connects(text: &str) -> Result<u32, String> {
    number(text, CONNECTS_PER_SECOND_MAX)
}

/// A whole number from 1 to `max`, in digits only.
fn number<N>(text: &str, max: N) -> Result<N, String>
where
    N: std::str::FromStr + PartialOrd + From<u8> + std::fmt::Display,
{
    let number = text.bytes().all(|byte| byte.is_ascii_digit());
    match number.then(|| text.parse::<N>().ok()).flatten() {
        Some(number) if number >= N::from(1) && number <= max => Ok(number),
        _ => Err(format!("{text:?} must be a number from 1 to {max}")),
    }
}

/// The URL of a key set. Errors do not show it: it may hold a password.
pub(super) fn jwks_url(text: &str) -> Result<String, String> {
    let url = reqwest::Url::parse(text).ok();
    url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .map(String::from)
        .ok_or_else(|| "is no URL of a key set: write https://HOST/PATH".to_owned())
}

pub(super) fn origins(text: &str) -> Result<Origins, String> {
    match text.trim() {
        "" => return Ok(Origins::Same),
        "*" => return Ok(Origins::Any),
        _ => {}
    }
    let origins: Result<Vec<String>, String> = text.split(',').map(str::trim).map(origin).collect();
    origins.map(Origins::Listed)
}

fn origin(text: &str) -> Result<String, String> {
    if text == "*" {
        return Err("`*` allows all: give it alone".to_owned());
    }
    let problem = || format!("{text:?} is no origin: write https://HOST or https://HOST:PORT");
    let origin = text.to_ascii_lowercase();
    let (scheme, rest) = origin.split_once("://").ok_or_else(problem)?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme.chars().all(|character| {
            character.is_ascii_alphanumeric() || matches!(character, '+' | '-' | '.')
        });
    let is_authority = !rest.is_empty()
        && rest.chars().all(|character| {
            character.is_ascii_alphanumeric()
                || matches!(character, '.' | '-' | '_' | ':' | '[' | ']')
        });
    if !is_scheme || !is_authority {
        return Err(problem());
    }
    let usual_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return Ok(origin),
    };
    Ok(origin
        .strip_suffix(usual_port)
        .unwrap_or(&origin)
        .to_owned())
}

pub(super) fn durability(text: &str) -> Result<Durability, String> {
    let all = Durability::ALL.iter().copied();
    let named = all.clone().find(|durability| durability.name() == text);
    named.ok_or_else(|| {
        let names: Vec<&str> = all.map(Durability::name).collect();
        format!("{text:?} is none of {}", names.join(", "))
    })
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("{text:?} is neither text nor json")),
    }
}
