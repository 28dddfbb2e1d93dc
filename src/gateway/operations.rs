//! A connection's calls on its mailbox, as futures that own what they need.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::sleep;

use super::broadcasts::{self, Origin};
use super::node::Node;
use super::ring::ReadLimits;
use crate::event::UserId;
use crate::mailbox::{
    ConnectionId, Counters, Link, MailboxError, Page, PageRequest, REPLY_SECONDS_MAX, Register,
    Registered,
};
use crate::protocol::{Everyone, FRAME_MESSAGE_BYTES_MAX, FRAME_MESSAGES_MAX, Life, Position};
use crate::session::{EveryoneRead, PageRead, Placed, Registration, Run, Waiting};

/// A registration follows its user to another server of a cluster so often, with the pause in between:
/// a slot that is half here and half there can be used nowhere.
const MOVES_MAX: u32 = 8;
const MOVE_PAUSE: Duration = Duration::from_millis(50);

/// Who a connection is.
#[derive(Debug, Clone)]
pub struct Peer {
    pub user: UserId,
    pub device: Arc<str>,
    pub id: ConnectionId,
}

/// What a read brought.
pub enum Answer {
    Registered(Registered),
    Page {
        number: u64,
        read: PageRead,
    },
    /// The last places, from a `reassert`.
    Counted([u64; 2]),
}

pub type Reading = BoxFuture<'static, Result<Answer, MailboxError>>;
pub type Writing = BoxFuture<'static, Result<(), MailboxError>>;

/// Registers a connection for the first time.
///
/// A place among the events for everyone that the stream lost is no place: in the client's cursor
/// it is not counted, and a stored one is taken back.
pub async fn register_first(
    node: &Node,
    peer: &Peer,
    mut cursor: Option<Position>,
) -> Result<Registered, MailboxError> {
    if let Some(position) = &mut cursor {
        let everyone = &mut position.places.everyone;
        *everyone = broadcasts::known_place(node, *everyone, Origin::Client).await?;
    }
    // A turn is for Redis: who waits for NATS keeps none.
    let turn = node.replay_turn().await;
    let mut attempts = 0;
    let (link, mut registered) = loop {
        attempts += 1;
        match register_at(node, peer, cursor).await {
            // Nothing was done there.
            Err(MailboxError::Moved(_)) if attempts < MOVES_MAX => sleep(MOVE_PAUSE).await,
            registered => break registered?,
        }
    };
    drop(turn);
    let stored = registered.start;
    let known = broadcasts::known_place(node, stored.places.everyone, Origin::Store).await?;
    if known != stored.places.everyone {
        link.lose_everyone(&peer.user, &peer.device, &stored)
            .await?;
        registered.start.places.everyone = known;
    }
    Ok(registered)
}

async fn register_at(
    node: &Node,
    peer: &Peer,
    cursor: Option<Position>,
) -> Result<(Link, Registered), MailboxError> {
    let link = node.store.user(&peer.user).connect_and_look().await?;
    let request = || Register {
        cursor,
        // From then on the device may be registered elsewhere, and this one must not replace it.
        until_ms: Some(node.store_clock.now_ms() + REPLY_SECONDS_MAX * 1_000),
        ..register_request(node, peer)
    };
    let registered = match link.register(&peer.user, &request()).await {
        // Or the clock was not known well: now it is.
        Err(MailboxError::Late { now_ms }) => {
            node.store_clock.heard(now_ms);
            link.register(&peer.user, &request()).await
        }
        registered => registered,
    };
    Ok((link, registered?))
}

/// Registers a connection anew, from what the store has.
pub fn register_again(
    node: Arc<Node>,
    peer: Peer,
    order: u64,
    life: Option<Life>,
    cursor: Option<Position>,
) -> Reading {
    Box::pin(async move {
        let _turn = node.replay_turn().await;
        let link = node.store.user(&peer.user).connect_and_look().await?;
        let request = Register {
            order: Some(order),
            session_life: life,
            cursor,
            ..register_request(&node, &peer)
        };
        let registered = link.register(&peer.user, &request).await?;
        Ok(Answer::Registered(registered))
    })
}

fn register_request(node: &Node, peer: &Peer) -> Register {
    Register {
        device: Arc::clone(&peer.device),
        connection: peer.id.clone(),
        order: None,
        session_life: None,
        cursor: None,
        newest_everyone: node.ring.newest(),
        oldest_everyone: node.ring.oldest(),
        // One with an order takes the place of nothing newer, however late it is.
        until_ms: None,
        page: PageRequest {
            messages_max: FRAME_MESSAGES_MAX,
            bytes_max: FRAME_MESSAGE_BYTES_MAX,
        },
    }
}

/// Reads the next page; the number comes back with it.
pub fn read_page(
    node: Arc<Node>,
    peer: Peer,
    number: u64,
    after: Position,
    messages_max: usize,
) -> Reading {
    Box::pin(async move {
        let _turn = node.replay_turn().await;
        let link = link_of(&node, &peer, &after).await?;
        let request = PageRequest {
            messages_max,
            bytes_max: FRAME_MESSAGE_BYTES_MAX,
        };
        let (counters, page) = (link.page(&peer.user, &peer.device, &after, request)).await?;
        let read = page_read(&node, &peer, &after, counters, page);
        Ok(Answer::Page { number, read })
    })
}

/// Says again that the connection is there.
pub fn reassert(node: Arc<Node>, peer: Peer, order: u64, position: Position) -> Reading {
    Box::pin(async move {
        let link = link_of(&node, &peer, &position).await?;
        let last = link
            .reassert(&peer.user, &peer.device, &peer.id, order, position.life)
            .await?;
        Ok(Answer::Counted(last))
    })
}

/// Stores an acknowledgement.
pub fn acknowledge(node: Arc<Node>, peer: Peer, position: Position) -> Writing {
    Box::pin(async move {
        let link = link_of(&node, &peer, &position).await?;
        (link.acknowledge(&peer.user, &peer.device, &position)).await
    })
}

/// A link on the time line of a position.
async fn link_of(node: &Node, peer: &Peer, position: &Position) -> Result<Link, MailboxError> {
    let link = node.store.user(&peer.user).connect().await?;
    if link.epoch() != position.epoch {
        return Err(MailboxError::EpochChanged {
            current: link.epoch(),
        });
    }
    Ok(link)
}

/// What the session machine needs of a registration.
pub fn registration(node: &Node, peer: &Peer, registered: Registered) -> Registration {
    let Registered {
        counters, start, ..
    } = registered;
    let everyone = start.places.everyone;
    let user = peer.user.as_str();
    let waiting = node.ring.pending(everyone, user, counters.now_ms);
    Registration {
        start,
        pending: registered.pending + waiting,
        store_lost: registered.store_lost,
        read: page_read(node, peer, &start, counters, registered.page),
    }
}

/// A page of the mailbox, and what follows the position among the events for everyone.
fn page_read(
    node: &Node,
    peer: &Peer,
    after: &Position,
    counters: Counters,
    page: Page,
) -> PageRead {
    node.store_clock.heard(counters.now_ms);
    let run = page.lane.map(|lane| Run {
        lane,
        evicted: page.evicted,
        expired: page.expired,
        messages: (page.entries.into_iter())
            .map(|entry| Waiting {
                key: entry.key,
                message: Placed {
                    place: entry.place,
                    time_ms: entry.time_ms,
                    json: entry.json,
                },
            })
            .collect(),
    });
    PageRead {
        now_ms: counters.now_ms,
        last: counters.last,
        acknowledged: counters.acknowledged,
        acknowledged_ms: counters.acknowledged_ms,
        run,
        everyone: read_everyone(node, peer, after.places.everyone, counters.now_ms),
    }
}

/// What follows a place among the events for everyone; at most one frame of it.
pub fn read_everyone(node: &Node, peer: &Peer, after: Everyone, now_ms: u64) -> EveryoneRead {
    let limits = ReadLimits {
        messages_max: FRAME_MESSAGES_MAX,
        bytes_max: FRAME_MESSAGE_BYTES_MAX,
    };
    (node.ring).read(after, peer.user.as_str(), now_ms, limits)
}
