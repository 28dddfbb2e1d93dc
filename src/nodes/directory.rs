//! A worker's view of which gateway processes live.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::AsyncTypedCommands as _;

use crate::mailbox::{MailboxError, Store};

/// A lease that was seen counts this long. Only good news is kept: a process that was just
/// started must not be taken for dead because of what its predecessor left.
const SEEN_SECONDS: Duration = Duration::from_secs(3);
/// Most nodes remembered; beyond that all are forgotten and looked up again.
const NODES_MAX: usize = 10_000;

/// Leases seen lately; shared by the tasks of a worker.
#[derive(Default)]
pub struct Directory {
    seen: Mutex<HashMap<String, (String, Instant)>>,
}

impl Directory {
    /// True where this process of the node holds the node's lease. A process that does not is
    /// dead or ends itself; its connections may be removed.
    pub async fn is_alive(
        &self,
        store: &Store,
        node: &str,
        incarnation: &str,
    ) -> Result<bool, MailboxError> {
        if self.was_seen(node, incarnation) {
            return Ok(true);
        }
        let route = store.key(|keys| keys.node(node));
        let away = || MailboxError::Unreachable("no connection".to_owned());
        let link = route.link().ok_or_else(away)?;
        let holder =
            (link.raw().get(link.keys().node(node)).await).map_err(|error| link.judge(error))?;
        let is_alive = holder.as_deref() == Some(incarnation);
        if let Some(holder) = holder {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.len() >= NODES_MAX {
                seen.clear();
            }
            seen.insert(node.to_owned(), (holder, Instant::now()));
        }
        Ok(is_alive)
    }

    fn was_seen(&self, node: &str, incarnation: &str) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(node)
            .is_some_and(|(holder, at)| holder == incarnation && at.elapsed() < SEEN_SECONDS)
    }
}
