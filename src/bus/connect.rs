//! A connection to NATS that is kept, and what is known about it.

use std::future::Ready;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};

use super::{BusError, Names};
use crate::tls::{self, TlsFiles};

/// The oldest server that keeps subject transforms and several filters of a consumer.
const SERVER_VERSION_MIN: (u32, u32) = (2, 10);
/// A dead connection is noticed after two of these without an answer. The library's own default
/// of 60 s is longer than a worker may be silent.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Most messages that wait for a reader of this process. More than a pull asks for; beyond it the
/// library drops them and says so, and a gateway reads its mailboxes instead. Its own default of
/// 65,536 could be 16 GiB of forwards.
const SUBSCRIPTION_MESSAGES_MAX: usize = 2_048;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const RECONNECT_DELAY_MIN: Duration = Duration::from_millis(100);
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(4);

/// Where NATS is and how this process calls itself there.
#[derive(Clone)]
pub struct BusConfig {
    /// `nats://` or `tls://`, with a user and password or a token in front of the host where the
    /// server wants them. They are secrets.
    pub urls: Vec<String>,
    /// For servers that ask for TLS, and for `tls://`.
    pub tls: TlsFiles,
    /// Instead of what stands in the URLs.
    pub credentials: Option<BusCredentials>,
    /// How many servers keep a stream that this process makes.
    pub replicas: u8,
    pub namespace: String,
    /// Shown by the server's monitoring.
    pub name: String,
}

/// What proves to NATS who this process is. A secret.
#[derive(Clone)]
pub enum BusCredentials {
    /// The text of a file with a JWT and its seed.
    File(String),
    /// The seed of an nkey.
    Nkey(String),
}

/// True where the text holds a JWT and its seed, as `nsc` writes them.
pub fn is_credentials(text: &str) -> bool {
    ConnectOptions::with_credentials(text).is_ok()
}

/// A connection to NATS. It reconnects by itself; clones share it.
#[derive(Clone)]
pub struct Bus {
    pub client: Client,
    pub jetstream: jetstream::Context,
    pub names: Names,
    /// How many servers keep a stream that is made.
    pub replicas: u8,
    state: watch::Receiver<BusState>,
    closed: CancellationToken,
}

/// What happened to a connection since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BusState {
    pub connected: bool,
    /// How often it was lost.
    pub outages: u64,
    /// How often a full subscription dropped a message.
    pub slow_consumers: u64,
}

impl Bus {
    /// Changes with every outage, reconnect and dropped message.
    pub fn state(&self) -> watch::Receiver<BusState> {
        self.state.clone()
    }

    /// Cancelled when the client library gave this connection up for good, which it does where its
    /// reader panics: a header value with a carriage return inside is enough. Only another
    /// [`connect`] helps.
    pub fn closed(&self) -> &CancellationToken {
        &self.closed
    }
}

/// Connects, trying again until it works or `shutdown` is cancelled.
///
/// # Errors
///
/// [`BusError::Unsuitable`] where the server is too old or refuses the credentials, or a URL is
/// wrong; [`BusError::ShuttingDown`].
pub async fn connect(config: &BusConfig, shutdown: &CancellationToken) -> Result<Bus, BusError> {
    connect_reporting(config, shutdown, |_| ()).await
}

/// Like [`connect`]; `report` hears the reason of every attempt that fails.
///
/// # Errors
///
/// Those of [`connect`].
pub async fn connect_reporting(
    config: &BusConfig,
    shutdown: &CancellationToken,
    report: impl Fn(&str),
) -> Result<Bus, BusError> {
    let servers = Servers::parse(&config.urls)?;
    let mut attempt = 0;
    loop {
        let connecting = connect_once(config, &servers);
        let result = tokio::select! {
            result = connecting => result,
            () = shutdown.cancelled() => return Err(BusError::ShuttingDown),
        };
        let error = match result {
            Err(error) if error.is_retryable() => error.to_string(),
            result => return result,
        };
        report(&error);
        if attempt == 0 {
            warn!(reason = error, "cannot connect to NATS, trying again");
        }
        attempt += 1;
        tokio::select! {
            () = tokio::time::sleep(reconnect_delay(attempt)) => (),
            () = shutdown.cancelled() => return Err(BusError::ShuttingDown),
        }
    }
}

async fn connect_once(config: &BusConfig, servers: &Servers) -> Result<Bus, BusError> {
    let (state_sender, state) = watch::channel(BusState {
        connected: true,
        outages: 0,
        slow_consumers: 0,
    });
    let closed = CancellationToken::new();
    let watcher = Arc::new(Watcher {
        name: config.name.clone(),
        state: state_sender,
        _closes: closed.clone().drop_guard(),
    });
    let mut options = ConnectOptions::new()
        .name(&config.name)
        .ping_interval(PING_INTERVAL)
        .subscription_capacity(SUBSCRIPTION_MESSAGES_MAX)
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| watcher.hear(event));
    options = secured(options, config, servers)?;
    let connecting = options.connect(&servers.addresses[..]);
    let client = connecting.await.map_err(|error| judge(&error))?;
    check_version(&client.server_info().version)?;
    Ok(Bus {
        jetstream: jetstream::new(client.clone()),
        client,
        names: Names::new(&config.namespace),
        replicas: config.replicas,
        state,
        closed,
    })
}

/// Adds certificates and credentials.
fn secured(
    mut options: ConnectOptions,
    config: &BusConfig,
    servers: &Servers,
) -> Result<ConnectOptions, BusError> {
    if let Some(authorities) = &config.tls.authorities {
        options = options.add_root_certificates(authorities.clone());
    }
    if let Some(client) = &config.tls.client {
        options = options.add_client_certificate(client.certificate.clone(), client.key.clone());
    }
    match (&config.credentials, &servers.user) {
        (Some(BusCredentials::File(text)), _) => options.credentials(text).map_err(|_| {
            BusError::Unsuitable(
                "CATCHUP_NATS_CREDENTIALS_FILE: the file holds no JWT with its seed".to_owned(),
            )
        }),
        (Some(BusCredentials::Nkey(seed)), _) => Ok(options.nkey(seed.clone())),
        (None, Some((user, Some(password)))) => {
            Ok(options.user_and_password(user.clone(), password.clone()))
        }
        (None, Some((token, None))) => Ok(options.token(token.clone())),
        (None, None) => Ok(options),
    }
}

/// What trying again cannot help is unsuitable.
fn judge(error: &ConnectError) -> BusError {
    let text = error.to_string();
    if let Some(refusal) = tls::refusal(&text) {
        return BusError::Unsuitable(format!("no TLS with NATS: {refusal} ({text})"));
    }
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            BusError::Unsuitable(
                "NATS refused the credentials: check the user and password, or the token, in \
                 CATCHUP_NATS_URL, or the file that CATCHUP_NATS_CREDENTIALS_FILE or \
                 CATCHUP_NATS_NKEY_FILE names"
                    .to_owned(),
            )
        }
        _ => BusError::Unreachable(text),
    }
}

fn check_version(version: &str) -> Result<(), BusError> {
    let mut numbers = version.split(['.', '-']).map(str::parse::<u32>);
    let found = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Some((major, minor)),
        _ => None,
    };
    if found >= Some(SERVER_VERSION_MIN) {
        return Ok(());
    }
    Err(BusError::Unsuitable(format!(
        "the NATS server has version {version:?}: use 2.10 or newer"
    )))
}

/// Hears what happens to a connection. The client owns it, so it is dropped with the client's
/// last task.
struct Watcher {
    name: String,
    state: watch::Sender<BusState>,
    _closes: DropGuard,
}

impl Watcher {
    fn hear(&self, event: Event) -> Ready<()> {
        match event {
            Event::Connected => {
                if self.state.borrow().outages > 0 {
                    info!(connection = self.name, "connected to NATS again");
                }
                self.state.send_modify(|state| state.connected = true);
            }
            Event::Disconnected => {
                warn!(connection = self.name, "lost the connection to NATS");
                self.state.send_modify(|state| {
                    state.connected = false;
                    state.outages += 1;
                });
            }
            Event::SlowConsumer(_) => self.state.send_modify(|state| state.slow_consumers += 1),
            other => debug!(connection = self.name, event = %other, "NATS"),
        }
        std::future::ready(())
    }
}

/// Doubles from [`RECONNECT_DELAY_MIN`] to [`RECONNECT_DELAY_MAX`], half of it by chance: a fleet
/// that lost one server must not come back in one moment.
fn reconnect_delay(attempt: usize) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
    let longest = RECONNECT_DELAY_MIN
        .saturating_mul(2_u32.saturating_pow(doublings))
        .min(RECONNECT_DELAY_MAX);
    // A fresh `RandomState` is the standard library's only source of chance.
    let percent = 50 + RandomState::new().build_hasher().finish() % 51;
    longest.mul_f64(percent as f64 / 100.0)
}

/// The servers' addresses without credentials, so that no log of the client library shows them.
struct Servers {
    addresses: Vec<ServerAddr>,
    /// The first URL's that has one: a user and password, or a token alone.
    user: Option<(String, Option<String>)>,
}

impl Servers {
    fn parse(urls: &[String]) -> Result<Servers, BusError> {
        let mut servers = Servers {
            addresses: Vec::with_capacity(urls.len()),
            user: None,
        };
        for url in urls {
            // The parser's error would repeat the URL and what is secret in it.
            let wrong = || {
                BusError::Unsuitable(
                    "CATCHUP_NATS_URL: expected nats://host:port or tls://host:port, several \
                     separated by commas"
                        .to_owned(),
                )
            };
            let address: ServerAddr = url.parse().map_err(|_| wrong())?;
            if !matches!(address.scheme(), "nats" | "tls") || address.host().is_empty() {
                return Err(wrong());
            }
            if let (None, Some(user)) = (&servers.user, address.username()) {
                let password = address.password().map(percent_decode);
                servers.user = Some((percent_decode(user), password));
            }
            let mut url = address.into_inner();
            url.set_username("").map_err(|()| wrong())?;
            url.set_password(None).map_err(|()| wrong())?;
            let address = ServerAddr::from_url(url).map_err(|_| wrong())?;
            servers.addresses.push(address);
        }
        match servers.addresses.is_empty() {
            true => Err(BusError::Unsuitable(
                "CATCHUP_NATS_URL: name at least one server".to_owned(),
            )),
            false => Ok(servers),
        }
    }
}

/// Undoes the escapes of a URL's user and password (RFC 3986 §2.1).
fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while let Some(&byte) = bytes.get(index) {
        let escaped = text
            .get(index + 1..index + 3)
            .filter(|_| byte == b'%')
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(escaped.unwrap_or(byte));
        index += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_older_than_2_10_are_refused() {
        for version in ["2.10.0", "2.11.0-preview.1", "2.15.1", "3.0.0"] {
            assert_eq!(check_version(version), Ok(()), "{version}");
        }
        for version in ["2.9.25", "1.4.1", "", "x.y"] {
            assert!(check_version(version).is_err(), "{version}");
        }
    }

    #[test]
    fn credentials_are_taken_out_of_the_addresses() {
        let urls = [
            "nats://a:1".to_owned(),
            "nats://ann:p%40ss@b:2".to_owned(),
            "tls://ben:other@c".to_owned(),
        ];
        let servers = Servers::parse(&urls).unwrap();
        assert_eq!(servers.user, Some(("ann".into(), Some("p@ss".into()))));
        let addresses: Vec<_> = servers
            .addresses
            .iter()
            .map(ServerAddr::as_url_str)
            .collect();
        assert_eq!(addresses, ["nats://a:1", "nats://b:2", "tls://c"]);
        let token = Servers::parse(&["nats://secret@a".to_owned()]).unwrap();
        assert_eq!(token.user, Some(("secret".into(), None)));
    }

    #[test]
    fn a_wrong_url_is_not_repeated() {
        for url in ["http://ann:hidden@a", "nats://", "nats://ann:hidden@[", ""] {
            let error = Servers::parse(&[url.to_owned()]).err().unwrap();
            assert!(!error.to_string().contains("hidden"), "{url}");
            assert!(error.to_string().starts_with("CATCHUP_NATS_URL"), "{url}");
        }
        assert!(Servers::parse(&[]).is_err());
    }

    #[test]
    fn the_delay_grows_and_stays_within_its_bounds() {
        for attempt in 0..100 {
            let delay = reconnect_delay(attempt);
            assert!(delay >= RECONNECT_DELAY_MIN / 2 && delay <= RECONNECT_DELAY_MAX);
        }
        assert!(reconnect_delay(1) <= RECONNECT_DELAY_MIN);
        assert!(reconnect_delay(20) >= RECONNECT_DELAY_MAX / 2);
    }
}
