//! Which sockets this node holds, by user.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::session::Forwarded;

/// Most forwards that wait for one socket's task; one more makes it read its mailbox instead.
pub const CONNECTION_QUEUE_MAX: usize = 64;
/// Locks, so that connects and forwards of different users seldom meet.
const SHARDS: usize = 16;

/// What a forward brings to a connection.
pub enum Item {
    Forwarded(Forwarded),
    Ephemeral { time_ms: u64, json: Arc<str> },
}

/// What else a connection may be told. Never lost, in no order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Signal {
    /// A forward may have been lost: compare with the mailbox.
    Reconcile = 1,
    /// A newer connection of the device took over.
    Replaced = 2,
    /// The node goes away.
    Leave = 4,
    /// Another process took the node's name.
    NameTaken = 8,
    /// A forward found no room in the queue: read the mailbox.
    Overflowed = 16,
}

/// The sending half of a connection.
#[derive(Clone)]
pub struct Handle {
    pub number: u64,
    queue: mpsc::Sender<Item>,
    signals: Arc<Signals>,
}

/// The receiving half.
pub struct Inbox {
    pub queue: mpsc::Receiver<Item>,
    pub signals: Arc<Signals>,
}

/// Signals raised and not yet taken.
#[derive(Default)]
pub struct Signals {
    raised: AtomicU8,
    notify: Notify,
}

impl Signals {
    fn raise(&self, signal: Signal) {
        self.raised.fetch_or(signal as u8, Ordering::AcqRel);
        self.notify.notify_one();
    }

    /// Waits for at least one signal and takes all of them.
    pub async fn taken(&self) -> Taken {
        loop {
            match self.raised.swap(0, Ordering::AcqRel) {
                0 => self.notify.notified().await,
                raised => return Taken(raised),
            }
        }
    }
}

/// A set of signals.
#[derive(Debug, Clone, Copy)]
pub struct Taken(u8);

impl Taken {
    pub fn has(self, signal: Signal) -> bool {
        self.0 & signal as u8 != 0
    }
}

impl Handle {
    /// A connection's two halves.
    pub fn new(number: u64) -> (Handle, Inbox) {
        let (sender, queue) = mpsc::channel(CONNECTION_QUEUE_MAX);
        let signals = Arc::new(Signals::default());
        let handle = Handle {
            number,
            queue: sender,
            signals: Arc::clone(&signals),
        };
        (handle, Inbox { queue, signals })
    }

    pub fn signal(&self, signal: Signal) {
        self.signals.raise(signal);
    }
}

type Shard = HashMap<Arc<str>, Vec<Handle>>;

/// All connections of this process.
pub struct Registry {
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

impl Default for Registry {
    fn default() -> Registry {
        Registry {
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }
}

impl Registry {
    /// Makes a connection reachable; before it is registered in Redis, so that no forward can
    /// come too early. Returns true where it is the user's first on this node.
    pub fn add(&self, user: &Arc<str>, handle: Handle) -> bool {
        let mut shard = self.shard(user);
        let handles = shard.entry(Arc::clone(user)).or_default();
        handles.push(handle);
        handles.len() == 1
    }

    /// Returns true where it was the user's last on this node.
    pub fn remove(&self, user: &str, number: u64) -> bool {
        let mut shard = self.shard(user);
        let Some(handles) = shard.get_mut(user) else {
            return false;
        };
        handles.retain(|handle| handle.number != number);
        if handles.is_empty() {
            shard.remove(user);
            return true;
        }
        false
    }

    pub fn has(&self, user: &str) -> bool {
        self.shard(user).contains_key(user)
    }

    /// Hands an item to every connection of a user. Returns how many were too busy: they are told
    /// to read their mailbox.
    pub fn deliver(&self, user: &str, item: impl Fn() -> Item) -> usize {
        let shard = self.shard(user);
        let mut busy = 0;
        for handle in shard.get(user).into_iter().flatten() {
            if let Err(TrySendError::Full(_)) = handle.queue.try_send(item()) {
                handle.signal(Signal::Overflowed);
                busy += 1;
            }
        }
        busy
    }

    /// Hands an ephemeral item to every connection of this node but one user's. Who is too busy
    /// goes without.
    pub fn announce(&self, exclude: Option<&str>, item: impl Fn() -> Item) {
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for (user, handles) in shard.iter() {
                if exclude != Some(&**user) {
                    for handle in handles {
                        let _ = handle.queue.try_send(item());
                    }
                }
            }
        }
    }

    /// Tells one connection, or all of a user where `number` is `None`.
    pub fn signal(&self, user: &str, number: Option<u64>, signal: Signal) {
        for handle in self.shard(user).get(user).into_iter().flatten() {
            if number.is_none_or(|number| number == handle.number) {
                handle.signal(signal);
            }
        }
    }

    /// All connections at this moment.
    pub fn handles(&self) -> Vec<Handle> {
        let mut handles = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            handles.extend(shard.values().flatten().cloned());
        }
        handles
    }

    /// All users at this moment.
    pub fn users(&self) -> Vec<Arc<str>> {
        let mut users = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            users.extend(shard.keys().cloned());
        }
        users
    }

    fn shard(&self, user: &str) -> MutexGuard<'_, Shard> {
        let index = self.hasher.hash_one(user) as usize % SHARDS;
        (self.shards[index].lock()).unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item() -> Item {
        Item::Ephemeral {
            time_ms: 0,
            json: "{}".into(),
        }
    }

    #[tokio::test]
    async fn a_full_queue_becomes_a_signal() {
        let registry = Registry::default();
        let user: Arc<str> = "ann".into();
        let (handle, inbox) = Handle::new(1);
        assert!(registry.add(&user, handle));
        for _ in 0..CONNECTION_QUEUE_MAX {
            assert_eq!(registry.deliver("ann", item), 0);
        }
        assert_eq!(registry.deliver("ann", item), 1);
        assert!(inbox.signals.taken().await.has(Signal::Overflowed));
        assert_eq!(registry.deliver("bob", item), 0);
    }

    #[tokio::test]
    async fn signals_reach_one_or_all_connections_of_a_user() {
        let registry = Registry::default();
        let user: Arc<str> = "ann".into();
        let (first, first_inbox) = Handle::new(1);
        let (second, second_inbox) = Handle::new(2);
        assert!(registry.add(&user, first));
        assert!(!registry.add(&user, second));
        registry.signal("ann", Some(2), Signal::Replaced);
        registry.signal("ann", None, Signal::Leave);
        let taken = first_inbox.signals.taken().await;
        assert!(taken.has(Signal::Leave) && !taken.has(Signal::Replaced));
        assert!(second_inbox.signals.taken().await.has(Signal::Replaced));
        assert!(!registry.remove("ann", 1));
        assert!(registry.remove("ann", 2) && !registry.has("ann"));
        assert!(!registry.remove("ann", 2));
    }
}
