//! The settings of contract §2: flags, environment and file, turned into checked values.
//!
//! A flag wins over the environment, the environment over the file named by `CATCHUP_CONFIG` or
//! `--config`. Anything unknown or contradictory stops the start ([`ConfigError`], exit code 2).
//! The settings of other roles are accepted, so that one environment serves all. Secrets appear in
//! no error: [`ConfigError`] never holds the value of a secret or a URL.
//!
//! [`resolve`] is a function of its arguments; only [`Surroundings::of_process`] looks at the
//! process.

mod auth;
mod secret;
mod servers;
mod setting;
mod sources;
#[cfg(test)]
mod tests;
mod value;

use std::io;
use std::time::Duration;

use crate::telemetry::logging::{self, LogFormat};
use crate::tls::TlsFiles;
use crate::worker::Durability;

pub use auth::AuthSettings;
pub use secret::{Secret, redact_url};
pub use servers::NatsCredentials;
pub use setting::{Setting, Settings};
pub use sources::Surroundings;
pub use value::{
    CONNECTIONS_MAX, CONNECTS_PER_SECOND_MAX, DRAIN_MAX, MAX_MESSAGES_MAX, MESSAGE_TTL_MAX,
    MESSAGE_TTL_MIN, Origins,
};

use sources::Values;

/// What a command does, as far as its settings differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Dev,
    Gateway,
    Worker,
    Publish,
    Listen,
}

impl Role {
    /// True where the role decides who a client is.
    fn uses_auth(self) -> bool {
        match self {
            Role::Gateway => true,
            Role::Dev | Role::Worker | Role::Publish | Role::Listen => false,
        }
    }
}

/// A setting that stops the start. The text names the setting and says what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// Every setting, checked. What a role does not use holds its default or what was given.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// At least one server; may hold passwords: show only through [`redact_url`].
    pub nats_urls: Vec<String>,
    /// May hold a password: show only through [`redact_url`].
    pub redis_url: String,
    /// For the connections to both.
    pub tls: TlsFiles,
    pub nats_credentials: Option<NatsCredentials>,
    /// How many servers keep a stream that is made.
    pub replicas: u8,
    /// Empty, or put before every name in NATS and Redis.
    pub namespace: String,
    /// `host:port` for clients.
    pub listen: String,
    /// `host:port` for health and metrics.
    pub admin_listen: String,
    pub node: String,
    pub message_ttl: Duration,
    pub max_messages: u64,
    /// Who a client is; only for a gateway.
    pub auth: Option<AuthSettings>,
    pub allowed_origins: Origins,
    /// Over how long a gateway's sockets are closed when it leaves.
    pub drain: Duration,
    /// Most sockets of a gateway.
    pub max_connections: u32,
    /// Most sockets of a gateway from one peer address.
    pub max_connections_per_address: u32,
    /// New sockets a second.
    pub connects_per_second: u32,
    /// What has to be sure of a stored event before it is acknowledged.
    pub durability: Durability,
    /// A filter that [`logging::parse_filter`] takes.
    pub log: String,
    pub log_format: LogFormat,
}

/// Puts the layers together and checks every value.
///
/// # Errors
///
/// The first setting that is unknown, malformed or contradictory.
pub fn resolve(
    role: Role,
    flags: &Settings,
    surroundings: &Surroundings<'_>,
) -> Result<Resolved, ConfigError> {
    let values = Values::collect(flags, surroundings)?;
    let node = value::default_node(&surroundings.host_name);
    let resolved = Resolved {
        nats_urls: values.read(Setting::NatsUrl, value::nats_urls)?,
        redis_url: values.read(Setting::RedisUrl, value::redis_url)?,
        tls: servers::tls_files(role, &values, surroundings)?,
        nats_credentials: servers::nats_credentials(role, &values, surroundings)?,
        replicas: values.read(Setting::Replicas, value::replicas)?,
        namespace: values.read(Setting::Namespace, value::namespace)?,
        listen: values.read(Setting::Listen, value::address)?,
        admin_listen: values.read(Setting::AdminListen, value::address)?,
        node: values.read_or(Setting::Node, &node, value::node)?,
        message_ttl: values.read(Setting::MessageTtl, value::message_ttl)?,
        max_messages: values.read(Setting::MaxMessages, value::max_messages)?,
        auth: auth::resolve(role, &values, surroundings)?,
        allowed_origins: values.read(Setting::AllowedOrigins, value::origins)?,
        drain: values.read(Setting::Drain, value::drain)?,
        max_connections: values.read(Setting::MaxConnections, value::connections)?,
        max_connections_per_address: values
            .read(Setting::MaxConnectionsPerAddress, value::connections)?,
        connects_per_second: values.read(Setting::ConnectsPerSecond, value::connects)?,
        durability: values.read(Setting::Durability, value::durability)?,
        log: values.read(Setting::Log, |text| {
            logging::parse_filter(text).map(|_filter| text.to_owned())
        })?,
        log_format: values.read(Setting::LogFormat, value::log_format)?,
    };
    let is_one_address = resolved.listen == resolved.admin_listen;
    if role == Role::Gateway && is_one_address && !resolved.listen.ends_with(":0") {
        return Err(ConfigError(
            "CATCHUP_LISTEN and CATCHUP_ADMIN_LISTEN are the same address: give each its own port"
                .to_owned(),
        ));
    }
    Ok(resolved)
}

/// Reads a whole file as text.
type ReadFile<'a> = &'a dyn Fn(&str) -> io::Result<String>;
