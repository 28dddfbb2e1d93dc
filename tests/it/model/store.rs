//! The calls on the mailbox, each one atomic step, on the plain model that the random sequences of
//! `crate::mailbox::random` hold against the real scripts; and what a mutant takes away from them.

use catchup::mailbox::ConnectionId;
use catchup::protocol::{EventKey, Everyone, Lane, Life, Places, Position};
use catchup::session::{PageRead, Placed, Registration, Run, Waiting};

use super::mutant::Mutant;
use super::world::{
    Answer, Connection, InFlight, Stage, TTL, World, bit, bit_of_key, device_name, epoch_of,
    incarnation_name, key_of, node_name,
};
use crate::mailbox::random::model::{Model as Mailbox, PageModel, Record};
use crate::mailbox::random::registering::{Expected, Given, Request};

/// When the first event was published, milliseconds.
const PUBLISHED_MS: u64 = 1_000;

impl World {
    fn mailbox_mut(&mut self) -> &mut Mailbox {
        self.mailbox.edit()
    }

    /// `append` or `append_once`: stores the event, and returns its place.
    pub fn store(&mut self, event: u8, mutant: Option<Mutant>) -> u64 {
        let is_first = self.events[usize::from(event)].expires.is_none();
        let now = self.mailbox.now;
        let stored = &mut self.events[usize::from(event)];
        let expires = *stored.expires.get_or_insert(now + TTL);
        let (lane, is_repeat) = (usize::from(stored.lane), stored.is_repeat);
        stored.stage = Stage::Appended;
        stored.is_repeat = true;
        if is_first {
            for device in self.devices.iter_mut().filter(|device| device.has_joined) {
                device.due |= bit(event);
            }
        }
        let mailbox = self.mailbox_mut();
        let before = mailbox.lanes[lane].clone();
        let place = match is_repeat {
            true => mailbox.append_once(lane, key_of(event), expires).0,
            false => mailbox.append(lane, &[(key_of(event), expires)]).0[0],
        };
        if mutant == Some(Mutant::ExpiryAtLengthOne) && !before.keys().is_empty() {
            mailbox.lanes[lane].keep_deadline_of(&before);
        }
        place
    }

    /// The gateway processes that an append finds the user on.
    pub fn presence(&self) -> Vec<(u8, u8)> {
        let mut found = Vec::new();
        for connection in &self.mailbox.connections {
            let process = process_of(&connection.id);
            if !found.contains(&process) {
                found.push(process);
            }
        }
        found
    }

    /// Sends a forward to each of these processes that lives and is not taken for dead.
    pub fn forward(&mut self, event: u8, place: u64, processes: &[(u8, u8)]) {
        for &(gateway, incarnation) in processes {
            let there = self.gateways[usize::from(gateway)];
            if there.incarnation == incarnation && !there.is_lapsed {
                self.forwards.push(InFlight {
                    gateway,
                    incarnation,
                    epoch: self.epoch,
                    life: self.mailbox.life,
                    lane: self.events[usize::from(event)].lane,
                    place,
                    event,
                });
            }
        }
    }

    /// `register`, of a new connection or of a session that goes on.
    pub fn register(
        &mut self,
        connection: &Connection,
        again: Option<Life>,
        mutant: Option<Mutant>,
    ) -> Answer {
        let device = &self.devices[usize::from(connection.device)];
        let session = connection.session.as_ref();
        let request = Request {
            device: device_name(connection.device).to_owned(),
            id: connection.id(),
            order: connection.order,
            session_life: again.map(|life| life.0),
            cursor: match session {
                Some(session) => session.acknowledged(),
                None => device.cursor,
            },
            newest: Everyone::default(),
            most: catchup::protocol::FRAME_MESSAGES_MAX,
        };
        let Ok(replaced) = self.mailbox.take_over(&request) else {
            return Answer::Replaced;
        };
        let given = Given {
            epoch: usize::from(self.epoch),
            has_epoch: (request.cursor).is_some_and(|cursor| cursor.epoch == epoch_of(self.epoch)),
            life: match mutant {
                Some(Mutant::NoLife) => 1,
                _ => self.lives + 1,
            },
            order: connection.order.unwrap_or(connection.number),
        };
        if self.mailbox.life.is_none() {
            self.lives += 1;
        }
        let was_known = self.mailbox.devices.contains_key(&request.device);
        let mailbox = self.mailbox_mut();
        let expected = mailbox.register(&request, replaced, &given);
        match mutant {
            Some(Mutant::RegisterWithoutCursor) if !was_known => {
                mailbox.devices.remove(&request.device);
            }
            Some(Mutant::StoreLostNotOwed) => {
                if let Some(record) = mailbox.devices.get_mut(&request.device) {
                    record.lost = false;
                }
            }
            _ => {}
        }
        self.note_joined(connection.device, &expected);
        Answer::Registered {
            registration: self.registration(&expected),
            order: given.order,
        }
    }

    /// A device that nobody welcomed yet has a right to what waits for it.
    fn note_joined(&mut self, device: u8, expected: &Expected) {
        let mailbox = self.mailbox.clone();
        let device = &mut self.devices[usize::from(device)];
        device.seen = mailbox.now;
        device.has_joined = true;
        if expected.is_new && !device.was_welcomed {
            device.due = waiting_after(&mailbox, &expected.start);
        }
    }

    /// What a `store_lost` of this registration stands for: all that was stored once, and will not
    /// come after the start.
    pub fn lost_by(&self, start: &Position) -> u16 {
        // What is stored again, though this time line had it, stays where it was.
        let lanes = self.mailbox.lanes.iter();
        let had = lanes
            .flat_map(|lane| &lane.slots)
            .map(|slot| bit_of_key(slot.key));
        let mut coming = self.pending() & !had.fold(0, |all, one| all | one);
        for (lane, model) in self.mailbox.lanes.iter().enumerate() {
            let after = start.places.own[lane];
            let present = model.present().filter(|(place, _)| *place > after);
            coming |= present
                .map(|(_, slot)| bit_of_key(slot.key))
                .fold(0, |all, one| all | one);
        }
        self.appended() & !coming
    }

    fn registration(&self, expected: &Expected) -> Registration {
        let start = &expected.start;
        Registration {
            start: Position {
                epoch: epoch_of(self.epoch),
                life: Life(self.mailbox.life.expect("drawn by register")),
                places: Places {
                    own: start.places,
                    everyone: start.everyone,
                },
                time_ms: start.time_ms,
                store_lost_told: false,
            },
            pending: expected.pending,
            store_lost: start.lost,
            read: self.page_read(&expected.page, start),
        }
    }

    fn page_read(&self, page: &PageModel, record: &Record) -> PageRead {
        PageRead {
            now_ms: self.mailbox.now,
            last: self.last(),
            acknowledged: record.places,
            acknowledged_ms: record.time_ms,
            run: page.lane.map(|lane| Run {
                lane: Lane::ALL[lane],
                evicted: page.evicted,
                expired: page.expired,
                messages: (page.entries.iter())
                    .map(|&(place, key)| Waiting {
                        key: EventKey {
                            creation_ms: 1,
                            sequence: key,
                        },
                        message: placed(place, key),
                    })
                    .collect(),
            }),
            ..PageRead::default()
        }
    }

    /// True where a call with this position is refused: another epoch or life, or a device that was
    /// forgotten.
    fn refuses(&self, device: u8, position: &Position, mutant: Option<Mutant>) -> bool {
        let is_forgotten = !self.mailbox.devices.contains_key(device_name(device));
        position.epoch != epoch_of(self.epoch)
            || Some(position.life.0) != self.mailbox.life
            || (is_forgotten && mutant != Some(Mutant::RegisterWithoutCursor))
    }

    /// `page`.
    pub fn page(
        &mut self,
        device: u8,
        number: u64,
        after: &Position,
        messages_max: usize,
        mutant: Option<Mutant>,
    ) -> Answer {
        if self.refuses(device, after, mutant) {
            return Answer::OtherTimeLine;
        }
        let page = self.mailbox.page(&after.places, messages_max);
        let record = self.record_of(device);
        let read = self.page_read(&page, &record);
        let mailbox = self.mailbox_mut();
        mailbox.show(&page);
        mailbox.drop_heads();
        Answer::Page { number, read }
    }

    /// The device's record; only a mutant has none.
    fn record_of(&self, device: u8) -> Record {
        let record = self.mailbox.devices.get(device_name(device));
        record.cloned().unwrap_or(Record {
            places: [0, 0],
            everyone: Everyone::default(),
            time_ms: 0,
            seen: self.mailbox.now,
            lost: false,
        })
    }

    /// `ack`; true where the session has to register again.
    pub fn acknowledge(
        &mut self,
        device: u8,
        mut position: Position,
        mutant: Option<Mutant>,
    ) -> bool {
        if self.refuses(device, &position, mutant) {
            return true;
        }
        let last = self.last();
        if mutant == Some(Mutant::AckPastPushed) {
            position.places.own = last;
        }
        let own = position.places.own;
        if own[0] > last[0] || own[1] > last[1] {
            // `ahead`: refused, and nothing else to be done about it.
            return false;
        }
        let (epoch, record) = (usize::from(self.epoch), self.record_of(device));
        let mailbox = self.mailbox_mut();
        (mailbox.devices)
            .entry(device_name(device).to_owned())
            .or_insert(record);
        mailbox.acknowledge(device_name(device), &position, epoch);
        false
    }

    /// `reassert`.
    pub fn reassert(&mut self, connection: &Connection, mutant: Option<Mutant>) -> Answer {
        let known = connection
            .session
            .as_ref()
            .and_then(|session| session.acknowledged());
        let (Some(position), Some(order)) = (known, connection.order) else {
            return Answer::OtherTimeLine;
        };
        if self.refuses(connection.device, &position, mutant) {
            return Answer::OtherTimeLine;
        }
        let device = device_name(connection.device);
        let mut others = self.mailbox.connections.iter();
        if others.any(|one| one.device == device && one.order > order) {
            return Answer::Replaced;
        }
        let epoch = usize::from(self.epoch);
        self.mailbox_mut()
            .assert(device, &connection.id(), order, epoch);
        Answer::Counted(self.last())
    }

    /// `unregister`.
    pub fn unregister(&mut self, connection: &Connection) {
        let id = connection.id();
        self.mailbox_mut().disconnect(|one| one.id == id, true);
    }

    /// `drop_node`.
    pub fn drop_node(&mut self, gateway: u8, incarnation: u8) {
        let (node, incarnation) = (node_name(gateway), incarnation_name(incarnation));
        self.mailbox_mut().disconnect(
            |one| &*one.id.node == node && &*one.id.incarnation == incarnation,
            false,
        );
    }
}

/// The gateway and the incarnation of a connection, by their names.
fn process_of(id: &ConnectionId) -> (u8, u8) {
    let gateway = u8::from(&*id.node != node_name(0));
    (gateway, id.incarnation.parse().expect("a number"))
}

/// A message as it goes to a gateway: its JSON is the event's key.
pub fn placed(place: u64, key: u64) -> Placed {
    Placed {
        place,
        time_ms: PUBLISHED_MS + key,
        json: key.to_string().into(),
    }
}

fn waiting_after(mailbox: &Mailbox, start: &Record) -> u16 {
    let lanes = mailbox.lanes.iter().zip(start.places);
    lanes
        .flat_map(|(lane, after)| lane.present().filter(move |(place, _)| *place > after))
        .fold(0, |all, (_, slot)| all | bit_of_key(slot.key))
}
