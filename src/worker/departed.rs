//! Gateway processes that died: nothing is forwarded to them, and mailboxes forget them.
//!
//! A process lives while it holds its node's lease. One that was paused or cut off may come back
//! and find that its connections were removed: it asserts them again, but not before what was
//! decided meanwhile has been carried out, which is why that must be soon.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use tracing::debug;

use super::Shared;
use crate::event::UserId;
use crate::mailbox::{Connection, Link};

/// A lease that was not there is acted on within this time. With the time for a reply (2 s) it is
/// what a gateway waits for before it asserts its connections again.
const ACTED_ON_WITHIN: Duration = Duration::from_secs(1);
/// Most removals under way at once.
const REMOVALS_MAX: usize = 256;

/// A gateway process: node and incarnation.
type Process = (String, String);

/// The dead among the processes that the users of a batch are connected to.
#[derive(Default)]
pub(super) struct Departed {
    /// When each was found without a lease, and whose mailboxes name it.
    processes: HashMap<Process, (Instant, HashSet<UserId>)>,
}

impl Departed {
    /// Takes the connections of dead processes out of the users' lists.
    pub async fn take_out<'a>(
        &mut self,
        shared: &Shared,
        link: &Link,
        users: impl Iterator<Item = (&'a UserId, &'a mut Vec<Connection>)>,
    ) {
        let started = Instant::now();
        let mut lives: HashMap<Process, bool> = HashMap::new();
        for (user, connections) in users {
            let mut index = 0;
            while let Some(connection) = connections.get(index) {
                if self.is_alive(shared, link, &mut lives, connection).await {
                    index += 1;
                    continue;
                }
                let connection = connections.swap_remove(index);
                let process = (connection.node, connection.incarnation);
                let (_, named_by) =
                    (self.processes.entry(process)).or_insert_with(|| (started, HashSet::new()));
                named_by.insert(user.clone());
            }
        }
    }

    async fn is_alive(
        &self,
        shared: &Shared,
        link: &Link,
        lives: &mut HashMap<Process, bool>,
        connection: &Connection,
    ) -> bool {
        let Connection {
            node, incarnation, ..
        } = connection;
        let process = (node.clone(), incarnation.clone());
        if let Some(&is_alive) = lives.get(&process) {
            return is_alive;
        }
        let answer = shared.directory.is_alive(link, node, incarnation).await;
        let is_alive = answer.unwrap_or_else(|error| {
            debug!(node, %error, "a lease cannot be read: taken for held");
            true
        });
        lives.insert(process, is_alive);
        is_alive
    }

    /// Removes from the mailboxes what names them. What is not removed here is found again with
    /// the user's next message.
    pub async fn clear(self, shared: &Shared, link: &Link) {
        for ((node, incarnation), (found, users)) in self.processes {
            shared.links.skip(&node, &incarnation, link.epoch()).await;
            let count = users.len();
            let mut removals = futures_util::stream::iter(users)
                .map(|user| {
                    let (node, incarnation) = (&node, &incarnation);
                    async move {
                        match found.elapsed() < ACTED_ON_WITHIN {
                            true => link.drop_node(&user, node, incarnation).await.is_ok(),
                            false => false,
                        }
                    }
                })
                .buffer_unordered(REMOVALS_MAX);
            let mut removed = 0;
            while let Some(is_removed) = removals.next().await {
                removed += usize::from(is_removed);
            }
            debug!(
                node,
                incarnation, removed, count, "removed connections of a gateway that is gone"
            );
        }
    }
}
