//! Where a key set comes from: fetched, kept, and fetched again.
//!
//! The set is fetched at the start, every few minutes, and when a token names a key that is not in
//! it (that at a limited rate: everybody can make up a key's name). A fetch that fails changes
//! nothing: the last good set stays, for as long as the outage lasts. A good one replaces all.

use std::error::Error as _;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, StatusCode, Url};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::key_set::{DOCUMENT_BYTES_MAX, InvalidKeySet, KeySet};
use super::{Identified, Unauthorised};
use crate::gateway::chance::once_to_twice;
use crate::telemetry::{Health, KeyFetch, Metrics};

/// The set is fetched again after this, and up to twice of it by chance.
const REFRESH_INTERVAL: Duration = Duration::from_secs(300);
/// Waits between failed fetches, doubled from the first to the last.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(500);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Tokens of unknown keys make one fetch in this time, in the long run.
const DEMAND_INTERVAL: Duration = Duration::from_secs(5);
/// How many fetches they may make at once after a pause.
const DEMANDS_AT_ONCE: u32 = 3;
/// How long such a token waits for a fetch.
const DEMAND_SECONDS_MAX: Duration = Duration::from_secs(8);
/// How long one fetch may take, and its connection.
const FETCH_SECONDS_MAX: Duration = Duration::from_secs(5);
const CONNECT_SECONDS_MAX: Duration = Duration::from_secs(3);
/// Most redirects that are followed, all with the scheme of the URL.
const REDIRECTS_MAX: usize = 3;
/// The part of the node's health.
const COMPONENT: &str = "keys";

/// The text is no URL of a key set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no http or https URL")]
pub struct InvalidUrl;

/// Why a fetch brought no keys. Never shows the URL, which may hold a password.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{}", describe(.0))]
    Http(#[from] reqwest::Error),
    #[error("the answer was {0}")]
    Status(StatusCode),
    #[error("the document has more than {DOCUMENT_BYTES_MAX} bytes")]
    TooLong,
    #[error(transparent)]
    Document(#[from] InvalidKeySet),
}

/// A key set and its origin.
pub struct KeySource {
    url: Url,
    keys: RwLock<Option<Arc<KeySet>>>,
    /// The number of the fetch that somebody waits for.
    demanded: watch::Sender<u64>,
    fetches: watch::Sender<Fetches>,
}

/// How many fetches there were.
#[derive(Debug, Clone, Copy, Default)]
struct Fetches {
    begun: u64,
    ended: u64,
    /// The last one brought nothing.
    has_failed: bool,
}

impl KeySource {
    pub fn new(url: &str) -> Result<KeySource, InvalidUrl> {
        let url = Url::parse(url).map_err(|_| InvalidUrl)?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(InvalidUrl);
        }
        Ok(KeySource {
            url,
            keys: RwLock::new(None),
            demanded: watch::Sender::default(),
            fetches: watch::Sender::default(),
        })
    }

    pub fn has_keys(&self) -> bool {
        self.keys().is_some()
    }

    pub fn check_at_once(&self, token: &str) -> Result<Identified, Unauthorised> {
        match self.keys() {
            Some(keys) => keys.check(token),
            None => Err(Unauthorised::UnknownKey),
        }
    }

    /// Checks a token; one of an unknown key is checked again after the next fetches, until one
    /// ended that began after this call.
    ///
    /// # Errors
    ///
    /// [`Unauthorised::NoKeys`] where the key may be a good one, but cannot be had.
    pub async fn check(&self, token: &str) -> Result<Identified, Unauthorised> {
        let until = Instant::now() + DEMAND_SECONDS_MAX;
        let mut fetches = self.fetches.subscribe();
        let next = fetches.borrow_and_update().begun + 1;
        loop {
            match self.check_at_once(token) {
                Err(Unauthorised::UnknownKey) => {}
                checked => return checked,
            }
            let Fetches {
                ended, has_failed, ..
            } = *fetches.borrow();
            if ended >= next {
                return Err(match has_failed {
                    true => Unauthorised::NoKeys,
                    false => Unauthorised::UnknownKey,
                });
            }
            self.demanded.send_if_modified(|demanded| {
                let is_more = *demanded < next;
                *demanded = next.max(*demanded);
                is_more
            });
            let changed = timeout_at(until, fetches.changed()).await;
            if !matches!(changed, Ok(Ok(()))) {
                return Err(Unauthorised::NoKeys);
            }
        }
    }

    /// Fetches again and again, for as long as the future is polled. The process is not ready
    /// from this call until there are keys.
    pub fn keep(
        self: Arc<KeySource>,
        health: Health,
        metrics: Arc<Metrics>,
    ) -> impl Future<Output = ()> + Send {
        health.set(COMPONENT, Err("no key set was fetched yet".to_owned()));
        async move { self.fetch_on(&health, &metrics).await }
    }

    async fn fetch_on(&self, health: &Health, metrics: &Metrics) {
        let mut is_failing = false;
        let mut retry_pause = RETRY_PAUSE_MIN;
        let mut demands = Demands::new();
        let mut demanded = self.demanded.subscribe();
        loop {
            self.fetches.send_modify(|fetches| fetches.begun += 1);
            let fetched = self.fetch().await;
            let pause = match fetched {
                Ok(keys) => {
                    metrics.key_fetch(KeyFetch::Fetched);
                    self.take(keys, is_failing);
                    health.set(COMPONENT, Ok(()));
                    (is_failing, retry_pause) = (false, RETRY_PAUSE_MIN);
                    once_to_twice(REFRESH_INTERVAL)
                }
                Err(error) => {
                    metrics.key_fetch(KeyFetch::Failed);
                    self.note_failure(&error, is_failing, health);
                    is_failing = true;
                    retry_pause = (retry_pause * 2).min(RETRY_PAUSE_MAX);
                    once_to_twice(retry_pause / 2)
                }
            };
            self.fetches.send_modify(|fetches| {
                fetches.ended = fetches.begun;
                fetches.has_failed = is_failing;
            });
            let ended = self.fetches.borrow().ended;
            tokio::select! {
                () = sleep(pause) => {}
                () = async {
                    // The sender is this source's own.
                    let _ = demanded.wait_for(|demanded| *demanded > ended).await;
                    demands.turn().await;
                } => {}
            }
        }
    }

    fn take(&self, keys: KeySet, was_failing: bool) {
        let (count, left_out) = (keys.usable(), keys.left_out());
        let mut current = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let before = current.replace(Arc::new(keys));
        drop(current);
        let is_same = before.is_some_and(|before| before.usable() == count);
        match is_same && !was_failing {
            true => tracing::debug!("the key set was fetched: {count} keys"),
            false => tracing::info!(left_out, "the key set was fetched: {count} keys"),
        }
    }

    fn note_failure(&self, error: &FetchError, was_failing: bool, health: &Health) {
        let is_kept = self.has_keys();
        if !is_kept {
            let reason = format!("the key set cannot be fetched: {error}");
            health.set(COMPONENT, Err(reason));
        }
        // Once an outage: the metric counts the rest.
        match was_failing {
            true => tracing::debug!("the key set cannot be fetched: {error}"),
            false => tracing::warn!(
                is_kept,
                "the key set of CATCHUP_JWKS_URL cannot be fetched: {error}"
            ),
        }
    }

    async fn fetch(&self) -> Result<KeySet, FetchError> {
        // A connection each time: the next fetch is minutes away.
        let client = Client::builder()
            .timeout(FETCH_SECONDS_MAX)
            .connect_timeout(CONNECT_SECONDS_MAX)
            .redirect(Policy::custom(redirect))
            .user_agent(concat!("catchup/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let mut response = client.get(self.url.clone()).send().await?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let mut document = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            document.extend_from_slice(&chunk);
            if document.len() > DOCUMENT_BYTES_MAX {
                return Err(FetchError::TooLong);
            }
        }
        Ok(KeySet::parse(&document)?)
    }

    fn keys(&self) -> Option<Arc<KeySet>> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.clone()
    }
}

/// Follows a redirect only with the same scheme: keys must not come in the clear, nor from a file.
fn redirect(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let first = attempt.previous().first();
    let is_same_scheme = first.is_some_and(|first| first.scheme() == attempt.url().scheme());
    if !is_same_scheme {
        return attempt.error("a redirect to another scheme");
    }
    if attempt.previous().len() > REDIRECTS_MAX {
        return attempt.error("too many redirects");
    }
    attempt.follow()
}

/// The innermost reason, which is the one that helps; the outer ones may show the URL.
fn describe(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it did not answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match error.source() {
        Some(_) => cause.to_string(),
        None => "the request failed".to_owned(),
    }
}

/// At what rate fetches may be demanded.
struct Demands {
    /// When all that were made are paid for.
    settled: Instant,
}

impl Demands {
    fn new() -> Demands {
        Demands {
            settled: Instant::now(),
        }
    }

    /// Waits until one more is allowed.
    async fn turn(&mut self) {
        let ahead = DEMAND_INTERVAL * (DEMANDS_AT_ONCE - 1);
        let at = self.settled.checked_sub(ahead).unwrap_or(self.settled);
        sleep_until(at).await;
        self.settled = self.settled.max(Instant::now()) + DEMAND_INTERVAL;
    }
}
