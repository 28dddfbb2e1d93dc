//! Which sockets this node holds, by user.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::limits::USER_CONNECTIONS_MAX;
use crate::session::Forwarded;

/// Most forwards that wait for one socket's task; one more makes it read its mailbox instead.
pub const CONNECTION_QUEUE_MAX: usize = 64;
/// Shortest time that a client of a leaving node is asked to stay away: a load balancer has to see
/// first that the node is not ready.
pub const AWAY_MIN: Duration = Duration::from_millis(300);
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
    shared: Arc<Shared>,
}

/// The receiving half, for one task.
pub struct Inbox(Arc<Shared>);

/// What both halves share. A channel of the runtime keeps room for 32 items, 3 KiB, for as long as
/// it lives; this queue of an idle socket has none.
#[derive(Default)]
struct Shared {
    queue: Mutex<VecDeque<Item>>,
    queued: Notify,
    /// Signals not yet taken.
    raised: AtomicU8,
    /// When the client is to come back elsewhere, once it was told to go.
    return_at: OnceLock<Instant>,
    signalled: Notify,
}

impl Inbox {
    /// Waits for the next item. May be dropped and called again.
    pub async fn item(&self) -> Item {
        loop {
            match self.0.pop() {
                Some(item) => return item,
                None => self.0.queued.notified().await,
            }
        }
    }

    /// Waits for at least one signal and takes all of them. May be dropped and called again.
    pub async fn signals(&self) -> Taken {
        loop {
            match self.0.raised.swap(0, Ordering::AcqRel) {
                0 => self.0.signalled.notified().await,
                raised => return Taken(raised),
            }
        }
    }

    /// How long the client is asked to stay away from now on. What was planned is a moment: who is
    /// told late, because the node had too much to do, does not come late, and together with others.
    pub fn retry_delay(&self, now: Instant) -> Duration {
        let return_at = self.0.return_at.get();
        let left = return_at.map(|at| at.saturating_duration_since(now));
        left.unwrap_or_default().max(AWAY_MIN)
    }
}

impl Shared {
    /// False where it is full.
    fn push(&self, item: Item) -> bool {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() >= CONNECTION_QUEUE_MAX {
            return false;
        }
        queue.push_back(item);
        drop(queue);
        self.queued.notify_one();
        true
    }

    fn pop(&self) -> Option<Item> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let item = queue.pop_front();
        if queue.is_empty() {
            *queue = VecDeque::new();
        }
        item
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
        let shared = Arc::new(Shared::default());
        let handle = Handle {
            number,
            shared: Arc::clone(&shared),
        };
        (handle, Inbox(shared))
    }

    pub fn signal(&self, signal: Signal) {
        self.shared.raised.fetch_or(signal as u8, Ordering::AcqRel);
        self.shared.signalled.notify_one();
    }

    /// Tells it to go, and when the client is to come back. The first such moment stands.
    pub fn send_away(&self, signal: Signal, return_at: Instant) {
        let _ = self.shared.return_at.set(return_at);
        self.signal(signal);
    }
}

/// What became of a connection that wants to be reachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// The user's first on this node.
    First,
    Further,
    /// The user has [`USER_CONNECTIONS_MAX`] already; it was not added.
    TooMany,
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
    /// come too early.
    pub fn add(&self, user: &Arc<str>, handle: Handle) -> Added {
        let mut shard = self.shard(user);
        if let Some(handles) = shard.get_mut(user) {
            if handles.len() >= USER_CONNECTIONS_MAX {
                return Added::TooMany;
            }
            handles.push(handle);
            return Added::Further;
        }
        // Most users have one: `push` would make room for four.
        shard.insert(Arc::clone(user), vec![handle]);
        Added::First
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
            if !handle.shared.push(item()) {
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
                        handle.shared.push(item());
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
        assert_eq!(registry.add(&user, handle), Added::First);
        for _ in 0..CONNECTION_QUEUE_MAX {
            assert_eq!(registry.deliver("ann", item), 0);
        }
        assert_eq!(registry.deliver("ann", item), 1);
        assert!(inbox.signals().await.has(Signal::Overflowed));
        assert_eq!(registry.deliver("bob", item), 0);
        for _ in 0..CONNECTION_QUEUE_MAX {
            assert!(matches!(inbox.item().await, Item::Ephemeral { .. }));
        }
        assert_eq!(inbox.0.queue.lock().unwrap().capacity(), 0);
        assert_eq!(registry.deliver("ann", item), 0);
    }

    #[test]
    fn who_is_told_late_comes_back_when_planned() {
        let now = Instant::now();
        let after = |milliseconds| now + Duration::from_millis(milliseconds);
        let (handle, inbox) = Handle::new(1);
        assert_eq!(inbox.retry_delay(now), AWAY_MIN);
        handle.send_away(Signal::Leave, after(2_000));
        assert_eq!(inbox.retry_delay(now), Duration::from_millis(2_000));
        assert_eq!(inbox.retry_delay(after(500)), Duration::from_millis(1_500));
        assert_eq!(inbox.retry_delay(after(1_900)), AWAY_MIN);
        assert_eq!(inbox.retry_delay(after(3_000)), AWAY_MIN);
    }

    #[test]
    fn a_user_has_so_many_connections_and_no_more() {
        let registry = Registry::default();
        let user: Arc<str> = "ann".into();
        for number in 0..USER_CONNECTIONS_MAX as u64 {
            assert_ne!(registry.add(&user, Handle::new(number).0), Added::TooMany);
        }
        assert_eq!(registry.add(&user, Handle::new(99).0), Added::TooMany);
        assert!(!registry.remove("ann", 5));
        assert_eq!(registry.add(&user, Handle::new(99).0), Added::Further);
    }

    #[tokio::test]
    async fn signals_reach_one_or_all_connections_of_a_user() {
        let registry = Registry::default();
        let user: Arc<str> = "ann".into();
        let (first, first_inbox) = Handle::new(1);
        let (second, second_inbox) = Handle::new(2);
        assert_eq!(registry.add(&user, first), Added::First);
        assert_eq!(registry.add(&user, second), Added::Further);
        registry.signal("ann", Some(2), Signal::Replaced);
        registry.signal("ann", None, Signal::Leave);
        let taken = first_inbox.signals().await;
        assert!(taken.has(Signal::Leave) && !taken.has(Signal::Replaced));
        assert!(second_inbox.signals().await.has(Signal::Replaced));
        assert!(!registry.remove("ann", 1));
        assert!(registry.remove("ann", 2) && !registry.has("ann"));
        assert!(!registry.remove("ann", 2));
    }
}
