//! The places of TCP connections that are no sockets yet, and who gives way where all are taken.
//!
//! Whoever opens connections and says nothing holds a place for as long as a head may take. Without
//! more, a few thousand of those would keep everybody out; so where no place is free, the one that
//! has been silent for longest loses its own to whoever comes. A client that speaks keeps its place.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::limits::REQUESTS_MAX;
use crate::telemetry::{Limit, Metrics};

/// All places.
pub struct Requests {
    places: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    silent: Mutex<Silent>,
}

/// The connections whose client has to say something, those silent for longest first.
#[derive(Default)]
struct Silent {
    next: u64,
    by_turn: BTreeMap<u64, CancellationToken>,
}

/// One place, given back when dropped.
pub struct Request {
    requests: Arc<Requests>,
    /// Cancelled where the place is needed for somebody else.
    gives_way: CancellationToken,
    /// Among the silent ones; `None` while the gateway has to answer.
    turn: Mutex<Option<u64>>,
    _place: OwnedSemaphorePermit,
}

impl Requests {
    pub fn new(metrics: Arc<Metrics>) -> Arc<Requests> {
        Arc::new(Requests {
            places: Arc::new(Semaphore::new(REQUESTS_MAX)),
            metrics,
            silent: Mutex::default(),
        })
    }

    /// A place for a connection that was just accepted. Waits only where all places are those of
    /// clients that wait for the gateway. `None` never comes: it would mean that nobody serves.
    pub async fn place(self: &Arc<Requests>) -> Option<Request> {
        let place = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                self.metrics.limit_hit(Limit::Requests);
                if let Some((_, longest)) = self.silent().by_turn.pop_first() {
                    longest.cancel();
                }
                Arc::clone(&self.places).acquire_owned().await.ok()?
            }
        };
        let request = Request {
            requests: Arc::clone(self),
            gives_way: CancellationToken::new(),
            turn: Mutex::new(None),
            _place: place,
        };
        request.expects_client();
        Some(request)
    }

    fn silent(&self) -> MutexGuard<'_, Silent> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Request {
    /// Waits until the place is needed for somebody else.
    pub async fn gives_way(&self) {
        self.gives_way.cancelled().await;
    }

    /// It is the client's turn: from now on the place may be needed more by others.
    pub fn expects_client(&self) {
        let mut turn = self.turn();
        let mut silent = self.requests.silent();
        let number = silent.next;
        silent.next += 1;
        silent.by_turn.insert(number, self.gives_way.clone());
        if let Some(before) = turn.replace(number) {
            silent.by_turn.remove(&before);
        }
    }

    /// It is the gateway's turn.
    pub fn expects_gateway(&self) {
        if let Some(turn) = self.turn().take() {
            self.requests.silent().by_turn.remove(&turn);
        }
    }

    fn turn(&self) -> MutexGuard<'_, Option<u64>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.expects_gateway();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn the_longest_silent_gives_way() {
        let requests = Requests::new(Arc::new(Metrics::new()));
        let mut all = Vec::new();
        for _ in 0..REQUESTS_MAX {
            all.push(requests.place().await.unwrap());
        }
        // The first has said something, and the second has been answered and is silent again.
        all[0].expects_gateway();
        all[1].expects_gateway();
        all[1].expects_client();
        let mut next = Box::pin(requests.place());
        assert!((&mut next).now_or_never().is_none());
        let gone = |request: &Request| request.gives_way.is_cancelled();
        assert_eq!(all.iter().position(gone), Some(2));
        drop(all.remove(2));
        let next = next.await.unwrap();
        assert!(!gone(&next));
        // Where the gateway has to answer all of them, whoever comes waits.
        all.push(next);
        all.iter().for_each(Request::expects_gateway);
        let mut last = Box::pin(requests.place());
        assert!((&mut last).now_or_never().is_none());
        assert_eq!(all.iter().filter(|request| gone(request)).count(), 0);
        all.pop();
        last.await.unwrap();
        drop(all);
        assert!(requests.silent().by_turn.is_empty());
        assert_eq!(requests.places.available_permits(), REQUESTS_MAX);
    }
}
