//! The links from this worker to the gateway processes: forwards with numbers, and nothing for the
//! dead.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::outbox::{Content, Outbox};
use crate::bus::{Bus, Forward, GatewayMessage};
use crate::event::UserId;
use crate::mailbox::{Link, Store};
use crate::nodes::Directory;
use crate::protocol::Epoch;

/// A link that was used is said to be alive after so long, so that a lost forward is noticed even
/// where no other follows.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Most users whose connections on dead gateways wait to be removed. The next message to a user
/// that found no place here finds the connection again.
const REMOVALS_MAX: usize = 1_024;
/// A lease that was not there is acted on within this time. With the time for a reply (2 s) it is
/// what a gateway that takes its lease back waits for before it asserts its connections again.
const ACTED_ON_WITHIN: Duration = Duration::from_secs(1);
/// Most links that are kept in mind; beyond that all numbers begin anew, and every gateway looks
/// into its mailboxes once.
const LINKS_MAX: usize = 10_000;

/// The links of one worker; clones share them.
#[derive(Clone)]
pub(super) struct Links {
    inner: Arc<Inner>,
}

struct Inner {
    bus: Bus,
    store: Store,
    sender: String,
    directory: Directory,
    /// By subject. Kept also for the dead: a gateway process that is thought dead may prove alive.
    numbers: Mutex<HashMap<String, Arc<Numbered>>>,
    removals: mpsc::Sender<Removal>,
}

/// The numbers of one link. The lock is held while a forward gets its number and is handed to the
/// connection, so that they leave in the order of their numbers.
type Numbered = tokio::sync::Mutex<Numbers>;

#[derive(Default)]
struct Numbers {
    next: u64,
    /// The epoch of the last forward, where one was sent since the last heartbeat.
    used: Option<Epoch>,
}

/// A user's connections on a gateway process that is dead.
struct Removal {
    link: Link,
    user: UserId,
    node: String,
    incarnation: String,
    found: Instant,
}

impl Links {
    /// Heartbeats go out until `ends` is cancelled.
    pub fn new(bus: Bus, store: Store, sender: &str, ends: CancellationToken) -> Links {
        let (removals, removals_receiver) = mpsc::channel(REMOVALS_MAX);
        let links = Links {
            inner: Arc::new(Inner {
                bus,
                store,
                sender: sender.to_owned(),
                directory: Directory::default(),
                numbers: Mutex::default(),
                removals,
            }),
        };
        tokio::spawn((ends.clone()).run_until_cancelled_owned(links.clone().beat()));
        tokio::spawn(ends.run_until_cancelled_owned(remove(removals_receiver)));
        links
    }

    /// Publishes all that is in the outbox. What is lost from here on, the mailboxes have. `store`
    /// is the link that the places were given on.
    pub async fn send(&self, outbox: Outbox, store: &Link) {
        for (node, incarnation, contents) in outbox.into_parcels() {
            let is_alive = self.is_alive(&node, &incarnation).await;
            if !is_alive {
                self.remove_later(store, &node, &incarnation, &contents);
            }
            let subject = self.inner.bus.names.gateway(&node, &incarnation);
            let numbered = self.numbered(&subject);
            let mut numbers = numbered.lock().await;
            numbers.used = Some(store.epoch());
            for content in contents {
                if is_alive {
                    self.publish(&subject, &mut numbers, store.epoch(), content)
                        .await;
                } else {
                    // Should it live after all, it sees the hole.
                    numbers.next += 1;
                }
            }
        }
    }

    async fn is_alive(&self, node: &str, incarnation: &str) -> bool {
        let Inner {
            directory, store, ..
        } = &*self.inner;
        let is_alive = directory.is_alive(store, node, incarnation);
        // A forward to nobody is harmless.
        is_alive.await.unwrap_or(true)
    }

    async fn publish(&self, subject: &str, numbers: &mut Numbers, epoch: Epoch, content: Content) {
        let message = GatewayMessage::Forward(Forward {
            sender: self.inner.sender.clone(),
            link_number: numbers.next,
            epoch,
            payloads: content.payloads,
            recipients: content.recipients,
        });
        numbers.next += 1;
        let published = self
            .inner
            .bus
            .client
            .publish(subject.to_owned(), message.encode());
        if let Err(error) = published.await {
            // The gateway misses a number and looks into the mailboxes.
            warn!(subject, %error, "a forward was not sent");
        }
    }

    fn numbered(&self, subject: &str) -> Arc<Numbered> {
        let numbers = self.inner.numbers.lock();
        let mut numbers = numbers.unwrap_or_else(PoisonError::into_inner);
        if let Some(numbered) = numbers.get(subject) {
            return Arc::clone(numbered);
        }
        debug!(subject, "a first forward on this link");
        if numbers.len() >= LINKS_MAX {
            numbers.clear();
        }
        let numbered = Arc::<Numbered>::default();
        numbers.insert(subject.to_owned(), Arc::clone(&numbered));
        numbered
    }

    /// An empty forward on each link that was used since the last time.
    async fn beat(self) {
        let mut tick = interval(HEARTBEAT);
        loop {
            tick.tick().await;
            let links: Vec<(String, Arc<Numbered>)> = {
                let numbers = self.inner.numbers.lock();
                let numbers = numbers.unwrap_or_else(PoisonError::into_inner);
                let links = numbers.iter();
                links
                    .map(|(subject, numbered)| (subject.clone(), Arc::clone(numbered)))
                    .collect()
            };
            for (subject, numbered) in links {
                let mut numbers = numbered.lock().await;
                if let Some(epoch) = numbers.used.take() {
                    self.publish(&subject, &mut numbers, epoch, Content::default())
                        .await;
                }
            }
        }
    }

    fn remove_later(&self, store: &Link, node: &str, incarnation: &str, contents: &[Content]) {
        let found = Instant::now();
        for recipient in contents.iter().flat_map(|content| &content.recipients) {
            let Ok(user) = UserId::parse(&recipient.user) else {
                continue;
            };
            let removal = Removal {
                link: store.clone(),
                user,
                node: node.to_owned(),
                incarnation: incarnation.to_owned(),
                found,
            };
            if self.inner.removals.try_send(removal).is_err() {
                return;
            }
        }
    }
}

/// Takes dead gateways' connections out of mailboxes, one after the other.
async fn remove(mut removals: mpsc::Receiver<Removal>) {
    while let Some(removal) = removals.recv().await {
        let Removal {
            link,
            user,
            node,
            incarnation,
            found,
        } = &removal;
        if found.elapsed() > ACTED_ON_WITHIN {
            continue;
        }
        if let Err(error) = link.drop_node(user, node, incarnation).await {
            debug!(%error, "a dead gateway's connection stays for now");
        }
    }
}
