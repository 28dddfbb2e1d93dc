//! What a gateway does with a mailbox: register a connection, read pages, acknowledge.

use std::sync::Arc;

use super::append::parse_life;
use super::entry::ReadEntry;
use super::link::{ConnectionId, Link, random_life};
use super::reply::Reply;
use super::{DEVICES_MAX, MailboxError, NUMBER_MAX, scripts};
use crate::event::UserId;
use crate::protocol::{EventKey, Everyone, Lane, Life, Places, Position};
use crate::telemetry::MailboxOperation;

/// A connection that wants to be known.
#[derive(Debug, Clone)]
pub struct Register {
    pub device: Arc<str>,
    pub connection: ConnectionId,
    /// The order that an earlier `register` of this connection gave; `None` the first time.
    pub order: Option<u64>,
    /// The life of the session that registers again; `None` the first time.
    pub session_life: Option<Life>,
    /// The client's cursor, where it is one of this user and device.
    pub cursor: Option<Position>,
    /// Where a device that is new starts among the events for everyone.
    pub newest_everyone: Everyone,
    /// Where one starts that may have been known to a store that went back.
    pub oldest_everyone: Everyone,
    /// By Redis's clock, milliseconds since 1970: not carried out later, since nobody waits for
    /// the answer any more. `None`: whenever it gets there.
    pub until_ms: Option<u64>,
    pub page: PageRequest,
}

/// How much of a mailbox may be read at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest {
    /// Most messages; at least 1.
    pub messages_max: usize,
    /// Most bytes of messages; one message may be larger.
    pub bytes_max: usize,
}

/// The counters of a mailbox at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Redis's clock, milliseconds since 1970.
    pub now_ms: u64,
    /// The last place given out in each lane.
    pub last: [u64; 2],
    /// What the device has acknowledged in each lane, on whatever connection.
    pub acknowledged: [u64; 2],
    /// When the last acknowledged message was published, milliseconds since 1970; 0 for none.
    pub acknowledged_ms: u64,
}

/// A registered connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    pub counters: Counters,
    /// Where the device starts: what it has acknowledged.
    pub start: Position,
    /// Of two connections of a device the one with the greater order is the newer.
    pub order: u64,
    /// The device must be told that the store lost messages.
    pub store_lost: bool,
    /// How many messages wait for the device, without those that expired.
    pub pending: u64,
    /// The older connection of this device, which must be closed.
    pub replaced: Option<ConnectionId>,
    pub page: Page,
}

/// What comes next for a device: first what is missing, then messages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// The lane it was read from; `None` where the device has come to the end of all.
    pub lane: Option<Lane>,
    /// Places before the first entry that the cap evicted.
    pub evicted: u64,
    /// Places before the first entry that expired, after the evicted ones.
    pub expired: u64,
    /// The place before the first entry.
    pub before: u64,
    /// The next messages without a hole between them, sorted by their event's key.
    pub entries: Vec<PageEntry>,
}

/// One message of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageEntry {
    /// Orders it. One that somebody wrote by hand may be none: that comes first.
    pub key: EventKey,
    pub place: u64,
    pub time_ms: u64,
    pub json: Arc<str>,
}

impl Link {
    /// Adds a connection, stores the device's cursors and reads its first page, in one step.
    ///
    /// Errors: [`MailboxError::TooManyDevices`], [`MailboxError::Replaced`] where a newer
    /// connection of the device registered meanwhile, [`MailboxError::Late`] after `until_ms`, and
    /// what every call can give.
    pub async fn register(
        &self,
        user: &UserId,
        request: &Register,
    ) -> Result<Registered, MailboxError> {
        let limits = self.limits();
        let mut script = self.script(&scripts::REGISTER, user);
        script
            .arg(self.epoch().to_string())
            .arg(&*request.device)
            .arg(&*request.connection.node)
            .arg(&*request.connection.incarnation)
            .arg(request.connection.number)
            .arg(request.order.unwrap_or(0))
            .arg(random_life().0.to_string())
            .arg(
                request
                    .session_life
                    .map_or(String::new(), |life| life.0.to_string()),
            )
            .arg(limits.ttl_ms)
            .arg(limits.hash_ttl_ms())
            .arg(limits.trim_hold_ms)
            .arg(DEVICES_MAX)
            .arg(request.page.messages_max)
            .arg(request.page.bytes_max)
            .arg(request.newest_everyone.creation)
            .arg(request.newest_everyone.sequence)
            .arg(request.until_ms.unwrap_or(0));
        // A forged cursor may hold any number; nobody was given one like that.
        let cursor = (request.cursor.as_ref()).filter(|position| is_countable(position));
        match cursor {
            Some(position) => script
                .arg(position.epoch.to_string())
                .arg(position.life.0.to_string())
                .arg(position.places.own[0])
                .arg(position.places.own[1])
                .arg(position.places.everyone.creation)
                .arg(position.places.everyone.sequence)
                .arg(position.time_ms)
                .arg(u8::from(position.store_lost_told)),
            None => script.arg(&["", "0", "0", "0", "0", "0", "0", "0"]),
        };
        let loss = self.loss();
        script
            .arg(loss.lost_ms)
            .arg(loss.wiped_until_ms)
            .arg(loss.back_until_ms)
            .arg(request.oldest_everyone.creation)
            .arg(request.oldest_everyone.sequence);
        let reply = self.call(MailboxOperation::Register, user, &script).await?;
        self.read_registered(reply)
    }

    fn read_registered(&self, mut reply: Reply) -> Result<Registered, MailboxError> {
        let now_ms = reply.number()?;
        let life = parse_life(&reply.text()?)
            .ok_or_else(|| MailboxError::Unexpected("a mailbox without life".to_owned()))?;
        let order = reply.number()?;
        let own = [reply.number()?, reply.number()?];
        let everyone = Everyone {
            creation: reply.number()?,
            sequence: reply.number()?,
        };
        let time_ms = reply.number()?;
        let store_lost = reply.number()? == 1;
        Ok(Registered {
            counters: Counters {
                now_ms,
                last: [reply.number()?, reply.number()?],
                acknowledged: own,
                acknowledged_ms: time_ms,
            },
            start: Position {
                epoch: self.epoch(),
                life,
                places: Places { own, everyone },
                time_ms,
                store_lost_told: false,
            },
            order,
            store_lost,
            pending: reply.number()?,
            replaced: parse_replaced(&reply.text()?),
            page: read_page(reply.array()?)?,
        })
    }

    /// The next page after `position`. Errors: [`MailboxError::LifeChanged`] and
    /// [`MailboxError::EpochChanged`] where the position belongs to another mailbox or time line,
    /// [`MailboxError::UnknownDevice`] where nothing is kept for the device any more.
    pub async fn page(
        &self,
        user: &UserId,
        device: &str,
        position: &Position,
        request: PageRequest,
    ) -> Result<(Counters, Page), MailboxError> {
        let mut script = self.script(&scripts::PAGE, user);
        script
            .arg(position.epoch.to_string())
            .arg(position.life.0.to_string())
            .arg(device)
            .arg(position.places.own[0])
            .arg(position.places.own[1])
            .arg(request.messages_max)
            .arg(request.bytes_max);
        let mut reply = self.call(MailboxOperation::Page, user, &script).await?;
        let counters = Counters {
            now_ms: reply.number()?,
            last: [reply.number()?, reply.number()?],
            acknowledged: [reply.number()?, reply.number()?],
            acknowledged_ms: reply.number()?,
        };
        Ok((counters, read_page(reply.array()?)?))
    }

    /// Moves the device's cursors forward and trims. Errors: as [`Link::page`], and
    /// [`MailboxError::UnknownDevice`], [`MailboxError::Ahead`].
    pub async fn acknowledge(
        &self,
        user: &UserId,
        device: &str,
        position: &Position,
    ) -> Result<(), MailboxError> {
        if !is_countable(position) {
            return Err(MailboxError::Ahead);
        }
        let limits = self.limits();
        let places = &position.places;
        let mut script = self.script(&scripts::ACK, user);
        script
            .arg(position.epoch.to_string())
            .arg(position.life.0.to_string())
            .arg(device)
            .arg(places.own[0])
            .arg(places.own[1])
            .arg(places.everyone.creation)
            .arg(places.everyone.sequence)
            .arg(position.time_ms)
            .arg(u8::from(position.store_lost_told))
            .arg(limits.ttl_ms)
            .arg(limits.hash_ttl_ms())
            .arg(limits.trim_hold_ms)
            .arg(self.loss().no_trim_before_ms());
        self.call(MailboxOperation::Ack, user, &script).await?;
        Ok(())
    }

    /// Takes the device's place among the events for everyone back to [`Everyone::LOST`], where it
    /// is still that of `position`. Acknowledgements only move it forward. Errors: as
    /// [`Link::page`].
    pub async fn lose_everyone(
        &self,
        user: &UserId,
        device: &str,
        position: &Position,
    ) -> Result<(), MailboxError> {
        let mut script = self.script(&scripts::LOSE_EVERYONE, user);
        script
            .arg(position.epoch.to_string())
            .arg(position.life.0.to_string())
            .arg(device);
        for place in [position.places.everyone, Everyone::LOST] {
            script.arg(place.creation).arg(place.sequence);
        }
        self.call(MailboxOperation::Ack, user, &script).await?;
        Ok(())
    }

    /// Says again that a connection is there; returns the last place in each lane. Errors: as
    /// [`Link::page`], and [`MailboxError::UnknownDevice`] (register anew),
    /// [`MailboxError::Replaced`].
    pub async fn reassert(
        &self,
        user: &UserId,
        device: &str,
        connection: &ConnectionId,
        order: u64,
        life: Life,
    ) -> Result<[u64; 2], MailboxError> {
        let limits = self.limits();
        let mut script = self.script(&scripts::REASSERT, user);
        script
            .arg(self.epoch().to_string())
            .arg(life.0.to_string())
            .arg(device)
            .arg(&*connection.node)
            .arg(&*connection.incarnation)
            .arg(connection.number)
            .arg(order)
            .arg(limits.ttl_ms)
            .arg(limits.hash_ttl_ms())
            .arg(limits.trim_hold_ms)
            .arg(self.loss().no_trim_before_ms());
        let mut reply = self.call(MailboxOperation::Reassert, user, &script).await?;
        Ok([reply.number()?, reply.number()?])
    }

    /// Removes a connection, if it is still there. After its acknowledgements are written.
    pub async fn unregister(
        &self,
        user: &UserId,
        connection: &ConnectionId,
    ) -> Result<(), MailboxError> {
        let mut script = scripts::UNREGISTER.key(self.keys().mailbox(user.as_str()));
        script
            .arg(&*connection.node)
            .arg(&*connection.incarnation)
            .arg(connection.number);
        self.run(MailboxOperation::Unregister, user, &script)
            .await?;
        Ok(())
    }
}

/// True where the scripts can count with all numbers of a position.
fn is_countable(position: &Position) -> bool {
    let places = &position.places;
    [
        places.own[0],
        places.own[1],
        places.everyone.creation,
        places.everyone.sequence,
        position.time_ms,
    ]
    .iter()
    .all(|number| *number < NUMBER_MAX)
}

fn parse_replaced(text: &str) -> Option<ConnectionId> {
    let mut parts = text.split(' ');
    Some(ConnectionId {
        node: parts.next()?.into(),
        incarnation: parts.next()?.into(),
        number: parts.next()?.parse().ok()?,
    })
}

fn read_page(mut reply: Reply) -> Result<Page, MailboxError> {
    let lane = match reply.number()? {
        0 => return Ok(Page::default()),
        1 => Lane::Normal,
        2 => Lane::High,
        other => return Err(MailboxError::Unexpected(format!("lane {other}"))),
    };
    let evicted = reply.number()?;
    let expired = reply.number()?;
    let before = reply.number()?;
    let texts = reply.texts()?;
    let mut sorted: Vec<(&str, PageEntry)> = Vec::with_capacity(texts.len());
    for (text, place) in texts.iter().zip(before + 1..) {
        let entry = ReadEntry::parse(text)
            .ok_or_else(|| MailboxError::Unexpected("a list entry of another form".to_owned()))?;
        let page_entry = PageEntry {
            key: entry.key.parse().unwrap_or_default(),
            place,
            time_ms: entry.time_ms,
            json: entry.json.into(),
        };
        sorted.push((entry.key, page_entry));
    }
    // Workers append side by side, so neighbours may have changed places.
    sorted.sort_by(|left, right| left.0.cmp(right.0));
    Ok(Page {
        lane: Some(lane),
        evicted,
        expired,
        before,
        entries: sorted.into_iter().map(|(_, entry)| entry).collect(),
    })
}
