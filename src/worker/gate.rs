//! The store as the pull loops see it: there or away. They wait here, and nothing is pulled while
//! it is away.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{REDIS, WorkerError};
use crate::event::UserId;
use crate::mailbox::{Link, MailboxError, Shard, Store};
use crate::telemetry::Health;

/// How often an idle connection is tried.
const PROBE: Duration = Duration::from_secs(1);
/// A store that refused an append counts as away for this long; whoever waits with a batch tries
/// more often than that.
const REFUSED: Duration = Duration::from_secs(5);

/// The way to the store, and what is known of it.
pub(super) struct StoreGate {
    store: Store,
    health: Health,
    up: watch::Sender<bool>,
    refusal: Mutex<Option<(Instant, String)>>,
}

impl StoreGate {
    pub fn new(store: Store, health: Health) -> StoreGate {
        StoreGate {
            store,
            health,
            up: watch::Sender::new(false),
            refusal: Mutex::new(None),
        }
    }

    /// True while the store takes messages.
    pub fn up(&self) -> watch::Receiver<bool> {
        self.up.subscribe()
    }

    /// The server that a user's mailbox is on, however long it takes to find it.
    ///
    /// # Errors
    ///
    /// Where the store cannot be used at all.
    pub async fn shard(&self, user: &UserId) -> Result<Shard, WorkerError> {
        loop {
            match self.store.user(user).shard().await {
                Ok(shard) => return Ok(shard),
                // The store spaces the attempts.
                Err(error) => self.show(Err(error))?,
            }
        }
    }

    /// A connection to a server, however long it takes; `None` once the server serves nobody any
    /// more.
    ///
    /// # Errors
    ///
    /// Where the store cannot be used at all.
    pub async fn link(&self, shard: &Shard) -> Result<Option<Link>, WorkerError> {
        loop {
            match shard.connect().await {
                Ok(link) => return Ok(Some(link)),
                Err(_) if shard.is_retired() => return Ok(None),
                // The store spaces the attempts.
                Err(error) => self.show(Err(error))?,
            }
        }
    }

    /// Notes how a call went. What concerns one mailbox alone says nothing of the store.
    ///
    /// # Errors
    ///
    /// Where the store cannot be used at all.
    pub fn note(&self, outcome: Result<(), MailboxError>) -> Result<(), WorkerError> {
        let refusal = match &outcome {
            Ok(()) => None,
            Err(error @ (MailboxError::Unreachable(_) | MailboxError::Refusing(_))) => {
                Some((Instant::now(), error.to_string()))
            }
            Err(MailboxError::Unsuitable(reason)) => {
                return Err(WorkerError::Unsuitable(reason.clone()));
            }
            // It is tried where the user is now.
            Err(MailboxError::Moved(_)) => return Ok(()),
            Err(error) => {
                warn!(%error, "a batch waits for a mailbox");
                return Ok(());
            }
        };
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = refusal;
        self.show(outcome)
    }

    /// Tries the store each second until `ends` is cancelled, and shows its health.
    ///
    /// # Errors
    ///
    /// Where the store cannot be used at all.
    pub async fn keep(&self, ends: &CancellationToken) -> Result<(), WorkerError> {
        loop {
            let probe = self.probe().await;
            self.show(probe)?;
            tokio::select! {
                () = tokio::time::sleep(PROBE) => (),
                () = ends.cancelled() => return Ok(()),
            }
        }
    }

    async fn probe(&self) -> Result<(), MailboxError> {
        let shards = self.store.find_shards().await?;
        let probes = shards.iter().map(async |shard| {
            let link = shard.connect().await?;
            let answer: Result<String, _> = redis::cmd("PING").query_async(&mut link.raw()).await;
            answer.map_err(|error| link.judge(error))
        });
        join_all(probes)
            .await
            .into_iter()
            .try_for_each(|probe| probe.map(drop))?;
        let refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        match &*refusal {
            Some((when, reason)) if when.elapsed() < REFUSED => {
                Err(MailboxError::Refusing(reason.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Tells health, log and pull loops, each change once.
    fn show(&self, state: Result<(), MailboxError>) -> Result<(), WorkerError> {
        if let Err(MailboxError::Unsuitable(reason)) = state {
            return Err(WorkerError::Unsuitable(reason));
        }
        let state = state.map_err(|error| error.to_string());
        let is_up = state.is_ok();
        self.up.send_if_modified(|up| {
            let was_up = std::mem::replace(up, is_up);
            match &state {
                Ok(()) if !was_up => info!("the store takes messages"),
                Err(reason) if was_up => warn!(reason, "the store is away: events wait"),
                _ => (),
            }
            was_up != is_up
        });
        self.health.set(REDIS, state);
        Ok(())
    }
}
