//! A connection's calls on its mailbox, as futures that own what they need.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::node::Node;
use crate::event::UserId;
use crate::mailbox::{
    ConnectionId, Counters, Link, MailboxError, Page, PageRequest, Register, Registered,
};
use crate::protocol::{Everyone, FRAME_MESSAGE_BYTES_MAX, FRAME_MESSAGES_MAX, Life, Position};
use crate::session::{PageRead, Placed, Registration, Run};

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
pub async fn register_first(
    node: &Node,
    peer: &Peer,
    cursor: Option<Position>,
) -> Result<Registered, MailboxError> {
    let _turn = node.replay_turn().await;
    let link = node.store.connect().await?;
    let request = Register {
        cursor,
        ..register_request(peer)
    };
    link.register(&peer.user, &request).await
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
        let link = node.store.connect().await?;
        let request = Register {
            order: Some(order),
            session_life: life,
            cursor,
            ..register_request(&peer)
        };
        let registered = link.register(&peer.user, &request).await?;
        Ok(Answer::Registered(registered))
    })
}

fn register_request(peer: &Peer) -> Register {
    Register {
        device: Arc::clone(&peer.device),
        connection: peer.id.clone(),
        order: None,
        session_life: None,
        cursor: None,
        newest_everyone: Everyone::default(),
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
        let link = link_of(&node, &after).await?;
        let request = PageRequest {
            messages_max,
            bytes_max: FRAME_MESSAGE_BYTES_MAX,
        };
        let (counters, page) = (link.page(&peer.user, &peer.device, &after, request)).await?;
        let read = page_read(counters, page);
        Ok(Answer::Page { number, read })
    })
}

/// Says again that the connection is there.
pub fn reassert(node: Arc<Node>, peer: Peer, order: u64, position: Position) -> Reading {
    Box::pin(async move {
        let link = link_of(&node, &position).await?;
        let last = link
            .reassert(&peer.user, &peer.device, &peer.id, order, position.life)
            .await?;
        Ok(Answer::Counted(last))
    })
}

/// Stores an acknowledgement.
pub fn acknowledge(node: Arc<Node>, peer: Peer, position: Position) -> Writing {
    Box::pin(async move {
        let link = link_of(&node, &position).await?;
        (link.acknowledge(&peer.user, &peer.device, &position)).await
    })
}

/// A link on the time line of a position.
async fn link_of(node: &Node, position: &Position) -> Result<Link, MailboxError> {
    let link = node.store.connect().await?;
    if link.epoch() != position.epoch {
        return Err(MailboxError::EpochChanged {
            current: link.epoch(),
        });
    }
    Ok(link)
}

/// What the session machine needs of a registration.
pub fn registration(registered: Registered) -> Registration {
    Registration {
        start: registered.start,
        pending: registered.pending,
        store_lost: registered.store_lost,
        read: page_read(registered.counters, registered.page),
    }
}

fn page_read(counters: Counters, page: Page) -> PageRead {
    let run = page.lane.map(|lane| Run {
        lane,
        evicted: page.evicted,
        expired: page.expired,
        messages: (page.entries.into_iter())
            .map(|entry| Placed {
                place: entry.place,
                time_ms: entry.time_ms,
                json: entry.json,
            })
            .collect(),
    });
    PageRead {
        now_ms: counters.now_ms,
        last: counters.last,
        acknowledged: counters.acknowledged,
        acknowledged_ms: counters.acknowledged_ms,
        run,
    }
}
