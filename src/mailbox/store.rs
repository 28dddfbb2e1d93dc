//! The Redis server: one current connection, made anew when it broke.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout};

use super::address::{Address, CONNECT_SECONDS_MAX, refused};
use super::condition::{Condition, Demand};
use super::info::{info_epoch, info_field};
use super::record::Record;
use super::{ConfigError, Keys, Link, MailboxError, NUMBER_MAX, TRIM_HOLD_SECONDS};
use crate::protocol::Epoch;
use crate::telemetry::Metrics;
use crate::tls::TlsFiles;

/// Longest wait for one reply. A reply that comes later is lost: its outcome is unknown.
pub const REPLY_SECONDS_MAX: u64 = 2;
/// Commands written to the socket at once.
const PIPELINE_COMMANDS: usize = 1024;
/// Waits between attempts to connect: doubled from the first to the last.
const BACKOFF_MILLISECONDS_MIN: u64 = 50;
const BACKOFF_MILLISECONDS_MAX: u64 = 2_000;
/// How long a caller waits for a store that is there, and not as demanded, before it is told so.
const UNUSABLE_PAUSE: Duration = Duration::from_millis(200);
/// The hash with the cursors is kept at least this long.
const HASH_SECONDS_MIN: u64 = 7 * 24 * 3600;
/// Longer times to live count as this one: a hundred years.
const TTL_MS_MAX: u64 = 100 * 365 * 24 * 3600 * 1000;

/// How to reach the store, and what it holds.
#[derive(Clone)]
pub struct StoreConfig {
    /// `CATCHUP_REDIS_URL` as the contract has it. A secret: never log it.
    pub url: String,
    /// For TLS, where the URL asks for it.
    pub tls: TlsFiles,
    pub namespace: String,
    /// How long a message waits; at least a second.
    pub ttl: Duration,
    /// Most messages waiting in one lane of one user.
    pub cap: u64,
    /// See [`TRIM_HOLD_SECONDS`].
    pub trim_hold: Duration,
    /// See [`REPLY_SECONDS_MAX`].
    pub reply_max: Duration,
}

impl StoreConfig {
    /// The contract's defaults for a store at `url`.
    pub fn new(url: &str) -> StoreConfig {
        StoreConfig {
            url: url.to_owned(),
            tls: TlsFiles::default(),
            namespace: String::new(),
            ttl: Duration::from_secs(24 * 3600),
            cap: 1000,
            trim_hold: Duration::from_secs(TRIM_HOLD_SECONDS),
            reply_max: Duration::from_secs(REPLY_SECONDS_MAX),
        }
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            ttl_ms: milliseconds(self.ttl).max(1),
            cap: self.cap.clamp(1, NUMBER_MAX),
            trim_hold_ms: milliseconds(self.trim_hold),
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).map_or(TTL_MS_MAX, |value| value.min(TTL_MS_MAX))
}

/// What the scripts are told with every call.
pub(super) struct Limits {
    pub ttl_ms: u64,
    pub cap: u64,
    pub trim_hold_ms: u64,
}

impl Limits {
    /// Twice the time to live, and renewed when half of it is over: a list outlives what it holds.
    pub fn list_ttl_ms(&self) -> i64 {
        2 * self.ttl_ms.cast_signed()
    }

    /// The cursors outlive the lists.
    pub fn hash_ttl_ms(&self) -> i64 {
        (7 * self.ttl_ms).max(HASH_SECONDS_MIN * 1000).cast_signed()
    }
}

/// One Redis or Valkey server; clones share the connection.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    address: Address,
    config: StoreConfig,
    metrics: Arc<Metrics>,
    current: RwLock<Option<Link>>,
    condition: Arc<Condition>,
    /// When the last look of [`Store::connect_and_look`] began.
    looked: Mutex<Option<Instant>>,
    attempts: Mutex<Attempts>,
}

struct Attempts {
    next: Instant,
    wait: Duration,
    /// When the last attempt failed, and why.
    failed: Option<(Instant, MailboxError)>,
}

impl Store {
    /// Reads the address; does not connect.
    pub fn open(config: StoreConfig, metrics: Arc<Metrics>) -> Result<Store, ConfigError> {
        Ok(Store {
            inner: Arc::new(Inner {
                address: Address::parse(&config.url)?,
                config,
                metrics,
                current: RwLock::new(None),
                condition: Arc::default(),
                looked: Mutex::new(None),
                attempts: Mutex::new(Attempts {
                    next: Instant::now(),
                    wait: Duration::from_millis(BACKOFF_MILLISECONDS_MIN),
                    failed: None,
                }),
            }),
        })
    }

    /// Says what the store must be from now on, so that [`Store::connect`] gives a link to it.
    pub fn demand(&self, demand: Demand) {
        self.inner.condition.set_demand(demand);
    }

    /// The store's record, as it was last read.
    pub fn records(&self) -> watch::Receiver<Record> {
        self.inner.condition.records()
    }

    /// Whether a link could be had at this moment.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn check(&self) -> Result<(), MailboxError> {
        match self.unbroken() {
            Some(link) => self.inner.condition.permits(&link),
            None => Err(MailboxError::Unreachable("no connection".to_owned())),
        }
    }

    /// The current connection, if it is not known to be broken and the store is as demanded.
    pub fn link(&self) -> Option<Link> {
        let link = self.unbroken()?;
        self.inner.condition.permits(&link).is_ok().then_some(link)
    }

    fn unbroken(&self) -> Option<Link> {
        let current = self.inner.current.read();
        let current = current.unwrap_or_else(PoisonError::into_inner);
        current.as_ref().filter(|link| !link.is_broken()).cloned()
    }

    /// The current connection, or one new attempt. Attempts of all callers together are spaced by
    /// a growing wait, so a caller may simply ask again after an error.
    ///
    /// # Errors
    ///
    /// Also where the store is there, but not as [`Store::demand`] asks.
    pub async fn connect(&self) -> Result<Link, MailboxError> {
        let link = self.connect_to_any().await?;
        if self.inner.condition.permits(&link).is_err() {
            // A caller asks again at once.
            let mut records = self.records();
            records.mark_unchanged();
            let _ = timeout(UNUSABLE_PAUSE, records.changed()).await;
        }
        self.inner.condition.permits(&link)?;
        Ok(link)
    }

    /// Reads the store's record, and writes its clock. Where the store turns out to be emptied, its
    /// link is given up, and with it all that was done on it and is not acknowledged.
    ///
    /// # Errors
    ///
    /// Where the store cannot be reached, or takes no writes.
    pub async fn look(&self) -> Result<Record, MailboxError> {
        let link = self.connect_to_any().await?;
        let was_usable = self.inner.condition.permits(&link).is_ok();
        let record = link.look().await?;
        if link.is_broken() {
            // A newer link may have read another record.
            return Err(MailboxError::Unreachable("given up".to_owned()));
        }
        self.inner.condition.note(record.clone());
        if was_usable
            && matches!(
                self.inner.condition.permits(&link),
                Err(MailboxError::Incomplete(_))
            )
        {
            tracing::error!("Redis lost what it held while it was connected: was it emptied?");
            link.give_up("the store was emptied");
        }
        Ok(record)
    }

    /// [`Store::connect`] to a store whose record was read since the call. A mailbox that is not
    /// there any more may have gone with all others: then there is no link until it is back. Callers
    /// at the same time share one look.
    ///
    /// # Errors
    ///
    /// Those of [`Store::connect`].
    pub async fn connect_and_look(&self) -> Result<Link, MailboxError> {
        let called = Instant::now();
        let mut looked = self.inner.looked.lock().await;
        if looked.is_none_or(|looked| looked <= called) {
            let begins = Instant::now();
            self.look().await?;
            *looked = Some(begins);
        }
        drop(looked);
        self.connect().await
    }

    /// [`Store::connect`] for whoever makes a store whole, which need not be as demanded.
    ///
    /// # Errors
    ///
    /// Where the store cannot be reached.
    pub async fn connect_to_any(&self) -> Result<Link, MailboxError> {
        if let Some(link) = self.unbroken() {
            return Ok(link);
        }
        let called = Instant::now();
        let mut attempts = self.inner.attempts.lock().await;
        if let Some(link) = self.unbroken() {
            return Ok(link);
        }
        // All who waited for one attempt share its end: a queue of them would take minutes.
        if let Some((failed, error)) = &attempts.failed
            && *failed > called
        {
            return Err(error.clone());
        }
        tokio::time::sleep_until(attempts.next).await;
        match self.attempt().await {
            Ok(link) => {
                attempts.wait = Duration::from_millis(BACKOFF_MILLISECONDS_MIN);
                attempts.next = Instant::now() + attempts.wait;
                let mut current =
                    (self.inner.current.write()).unwrap_or_else(PoisonError::into_inner);
                *current = Some(link.clone());
                Ok(link)
            }
            Err(error) => {
                self.inner.condition.hear(&error, &self.inner.metrics);
                attempts.wait =
                    (attempts.wait * 2).min(Duration::from_millis(BACKOFF_MILLISECONDS_MAX));
                attempts.next = Instant::now() + attempts.wait;
                attempts.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// A connection of its own that no other caller shares, for commands that block. Not spaced:
    /// the caller waits between attempts.
    pub async fn connect_apart(&self) -> Result<Link, MailboxError> {
        self.attempt().await
    }

    async fn attempt(&self) -> Result<Link, MailboxError> {
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(self.inner.config.reply_max))
            .set_connection_timeout(Some(Duration::from_secs(CONNECT_SECONDS_MAX)))
            .set_pipeline_buffer_size(PIPELINE_COMMANDS);
        let Inner {
            address,
            config: own,
            ..
        } = &*self.inner;
        let client = address.primary(&own.tls).await?;
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(refused)?;
        let name = Keys::new(&self.inner.config.namespace).client_name();
        let mut command = redis::cmd("CLIENT");
        command.arg("SETNAME").arg(name);
        let named: Result<(), _> = command.query_async(&mut connection).await;
        if let Err(error) = named {
            tracing::debug!("the connection stays without a name: {error}");
        }
        let epoch = inspect(&mut connection).await?;
        let metrics = Arc::clone(&self.inner.metrics);
        let condition = Arc::clone(&self.inner.condition);
        let link = Link::new(connection, epoch, own, metrics, condition);
        // Before anybody has the link: what is known of the store is of its present self.
        self.inner.condition.note(link.look().await?);
        Ok(link)
    }
}

/// Reads the epoch and makes sure that the server can keep the promise.
async fn inspect(connection: &mut MultiplexedConnection) -> Result<Epoch, MailboxError> {
    let replication: String = redis::cmd("INFO")
        .arg("replication")
        .query_async(connection)
        .await
        .map_err(refused)?;
    if info_field(&replication, "role") != Some("master") {
        return Err(MailboxError::Refusing(
            "READONLY: the address leads to a replica; give the primary's".to_owned(),
        ));
    }
    let epoch = info_epoch(&replication)
        .ok_or_else(|| MailboxError::Unsuitable("the server gives no master_replid".to_owned()))?;

    let server: String = redis::cmd("INFO")
        .arg("server")
        .query_async(connection)
        .await
        .map_err(refused)?;
    check_version(&server)?;

    check_setting(connection, "maxmemory-policy", "noeviction").await?;
    if let Err(error) = check_setting(connection, "appendonly", "yes").await {
        tracing::warn!("{error}: what waits is lost when Redis ends");
    }
    Ok(epoch)
}

/// Compares one setting of the server. A managed service may forbid CONFIG; then the operator has
/// to know it.
async fn check_setting(
    connection: &mut MultiplexedConnection,
    name: &str,
    wanted: &str,
) -> Result<(), MailboxError> {
    let mut command = redis::cmd("CONFIG");
    command.arg("GET").arg(name);
    let reply: Result<Vec<String>, _> = command.query_async(connection).await;
    match reply.as_deref() {
        Ok([_, value]) if value != wanted => Err(MailboxError::Unsuitable(format!(
            "Redis has {name} {value} and may lose messages: set it to {wanted}"
        ))),
        Ok(_) => Ok(()),
        Err(_) => {
            tracing::warn!("Redis does not show its {name}: it must be {wanted}");
            Ok(())
        }
    }
}

/// Redis 7.0 or newer, Valkey 8 or newer (contract §6).
fn check_version(server: &str) -> Result<(), MailboxError> {
    let (name, version, major_min) = match info_field(server, "valkey_version") {
        Some(version) => ("Valkey", version, 8),
        None => (
            "Redis",
            info_field(server, "redis_version").unwrap_or("0"),
            7,
        ),
    };
    let major: u32 = version
        .split('.')
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    if major < major_min {
        return Err(MailboxError::Unsuitable(format!(
            "{name} {version} is too old: use Redis 7.0 or newer, or Valkey 8 or newer"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_are_refused() {
        for (info, fits) in [
            ("redis_version:7.0.15\r\n", true),
            ("redis_version:6.2.14\r\n", false),
            (
                "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\n",
                true,
            ),
            (
                "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:7.2.5\r\n",
                false,
            ),
            ("", false),
        ] {
            assert_eq!(check_version(info).is_ok(), fits, "{info}");
        }
    }
}
