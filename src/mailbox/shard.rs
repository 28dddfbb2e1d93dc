//! One server of the store, with its one current connection, made anew when it broke.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use redis::AsyncConnectionConfig;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout};

use super::address::{Address, CONNECT_SECONDS_MAX, refused};
use super::condition::{Condition, Demand, View};
use super::link::Home;
use super::record::Record;
use super::server::inspect;
use super::store::StoreConfig;
use super::{Keys, Link, MailboxError};
use crate::telemetry::Metrics;

/// Commands written to the socket at once.
const PIPELINE_COMMANDS: usize = 1024;
/// Waits between attempts to connect: doubled from the first to the last.
const BACKOFF_MILLISECONDS_MIN: u64 = 50;
const BACKOFF_MILLISECONDS_MAX: u64 = 2_000;
/// How long a caller waits for a store that is there, and not as demanded, before it is told so.
const UNUSABLE_PAUSE: Duration = Duration::from_millis(200);

/// One Redis or Valkey server, or the primary that serves some slots of a cluster; clones share the
/// connection.
#[derive(Clone)]
pub struct Shard {
    inner: Arc<Inner>,
}

struct Inner {
    address: Address,
    config: StoreConfig,
    metrics: Arc<Metrics>,
    home: Home,
    current: RwLock<Option<Link>>,
    condition: Arc<Condition>,
    /// When the last look of [`Shard::connect_and_look`] began.
    looked: Mutex<Option<Instant>>,
    attempts: Mutex<Attempts>,
}

struct Attempts {
    next: Instant,
    wait: Duration,
    /// When the last attempt failed, and why.
    failed: Option<(Instant, MailboxError)>,
}

impl Shard {
    /// Does not connect.
    pub(super) fn new(
        address: Address,
        home: Home,
        config: StoreConfig,
        metrics: Arc<Metrics>,
        condition: Condition,
    ) -> Shard {
        Shard {
            inner: Arc::new(Inner {
                address,
                config,
                metrics,
                home,
                current: RwLock::new(None),
                condition: Arc::new(condition),
                looked: Mutex::new(None),
                attempts: Mutex::new(Attempts {
                    next: Instant::now(),
                    wait: Duration::from_millis(BACKOFF_MILLISECONDS_MIN),
                    failed: None,
                }),
            }),
        }
    }

    /// Its address in a cluster; else empty.
    pub fn name(&self) -> &Arc<str> {
        &self.inner.home.name
    }

    /// A key of its own: in a cluster with the hash tag of one of its slots.
    pub fn key_here(&self, name: impl FnOnce(&Keys) -> String) -> String {
        let name = name(&Keys::new(&self.inner.config.namespace));
        match self.inner.condition.view().as_deref().and_then(View::tag) {
            Some(tag) => format!("{name}:{{{tag}}}"),
            None => name,
        }
    }

    pub(super) fn condition(&self) -> &Condition {
        &self.inner.condition
    }

    /// It serves nobody any more: what it was given is with others, or lost.
    pub(super) fn retire(&self) {
        self.inner.condition.retire();
        if let Some(link) = self.unbroken() {
            link.give_up("the server serves no slots any more");
        }
    }

    /// True once it serves no slots of its cluster any more.
    pub fn is_retired(&self) -> bool {
        self.inner.condition.is_retired()
    }

    /// Says what the store must be from now on, so that [`Shard::connect`] gives a link to it.
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

    pub(super) fn unbroken(&self) -> Option<Link> {
        let current = self.inner.current.read();
        let current = current.unwrap_or_else(PoisonError::into_inner);
        current.as_ref().filter(|link| !link.is_broken()).cloned()
    }

    /// The current connection, or one new attempt. Attempts of all callers together are spaced by
    /// a growing wait, so a caller may simply ask again after an error.
    ///
    /// # Errors
    ///
    /// Also where the store is there, but not as [`Shard::demand`] asks.
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
        if was_usable
            && !self.inner.condition.record_has_left(&link)
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

    /// [`Shard::connect`] to a store whose record was read since the call. A mailbox that is not
    /// there any more may have gone with all others: then there is no link until it is back. Callers
    /// at the same time share one look.
    ///
    /// # Errors
    ///
    /// Those of [`Shard::connect`].
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

    /// [`Shard::connect`] for whoever makes a store whole, which need not be as demanded.
    ///
    /// # Errors
    ///
    /// Where the store cannot be reached.
    pub async fn connect_to_any(&self) -> Result<Link, MailboxError> {
        if let Some(link) = self.unbroken() {
            return Ok(link);
        }
        if self.is_retired() {
            let text = "the server serves no slots any more";
            return Err(MailboxError::Moved(text.to_owned()));
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
                // Another may have become primary.
                self.inner.home.note_change();
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
            home,
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
        let epoch = inspect(&mut connection, home.is_cluster()).await?;
        let metrics = Arc::clone(&self.inner.metrics);
        let condition = Arc::clone(&self.inner.condition);
        let link = Link::new(connection, epoch, own, metrics, condition, home.clone());
        // Before anybody has the link: what is known of the store is of its present self.
        link.look().await?;
        Ok(link)
    }
}
