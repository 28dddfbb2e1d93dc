//! The gateway's operations: registrations, pages, acknowledgements, presence.

use catchup::mailbox::{ConnectionId, MailboxError, Register, Registered};
use catchup::protocol::{Everyone, Life, Position};

use super::ledger::Tally;
use super::operation::CursorChoice;
use super::registering::{Given, Request};
use super::world::{Checked, Session, World, check, read_page, same};
use crate::mailbox::page_of;

pub const DEVICES: [&str; 3] = ["phone", "laptop", "tablet"];
const NODES: [&str; 2] = ["left", "right"];
const INCARNATION: &str = "first";

/// How a client comes.
#[derive(Debug, Clone, Copy)]
pub struct Visit {
    pub device: usize,
    pub node: usize,
    pub cursor: CursorChoice,
    pub is_deaf: bool,
    pub is_repeated: bool,
    pub most: usize,
}

impl World {
    pub async fn connect(&mut self, visit: Visit) -> Checked {
        let device = DEVICES[visit.device];
        let cursor = self.choose_cursor(device, visit.cursor);
        self.numbers += 1;
        let request = Request {
            device: device.to_owned(),
            id: ConnectionId {
                node: NODES[visit.node].into(),
                incarnation: INCARNATION.into(),
                number: self.numbers,
            },
            order: None,
            session_life: None,
            cursor,
            newest: Everyone {
                creation: 1,
                sequence: self.pushes,
            },
            most: visit.most,
        };
        let Some(registered) = self.register(&request, visit.is_repeated).await? else {
            return Ok(());
        };
        self.sessions.push(Session {
            device: device.to_owned(),
            id: request.id,
            order: registered.order,
            position: registered.start,
            heard: Vec::new(),
            is_deaf: false,
            contact: self.model.now,
            tallies: Tally::begin(registered.start.places.own),
        });
        self.welcome(self.sessions.len() - 1, &registered, visit.is_deaf)
    }

    /// A session registers anew, after it learned of another time line, life, or of nothing.
    pub async fn register_again(&mut self, session: usize, is_repeated: bool) -> Checked {
        let Some(index) = self.pick(session) else {
            return Ok(());
        };
        let session = self.sessions[index].clone();
        let request = Request {
            device: session.device,
            id: session.id,
            order: Some(session.order),
            session_life: Some(session.position.life.0),
            cursor: None,
            newest: Everyone::default(),
            most: 3,
        };
        let Some(registered) = self.register(&request, is_repeated).await? else {
            self.sessions.remove(index);
            return Ok(());
        };
        let session = &mut self.sessions[index];
        session.position = registered.start;
        session.tallies = Tally::begin(registered.start.places.own);
        // Cursors of before are refused by the gateway itself from here on.
        session.heard.clear();
        session.contact = self.model.now;
        let is_deaf = session.is_deaf;
        self.welcome(index, &registered, is_deaf)
    }

    /// `None` where a newer connection is there.
    async fn register(
        &mut self,
        request: &Request,
        is_repeated: bool,
    ) -> Checked<Option<Registered>> {
        let call = call_of(request);
        let mut outcome = self.link.register(&self.user, &call).await;
        let replaced = match self.model.take_over(request) {
            Ok(replaced) => replaced,
            Err(()) => {
                let error = outcome.err();
                same("register", error, Some(MailboxError::Replaced))?;
                return Ok(None);
            }
        };
        if is_repeated && let Ok(first) = &outcome {
            let mut second = self.link.register(&self.user, &call).await;
            if let Ok(second) = &mut second {
                second.counters.now_ms = first.counters.now_ms;
            }
            same("the repeated register", &second, &outcome)?;
            outcome = second;
        }
        let registered = outcome.map_err(|error| format!("register: {error}"))?;
        self.note_life(registered.start.life)?;
        let greatest = self.model.connections.iter().map(|one| one.order).max();
        check!(
            request.order.is_some() || Some(registered.order) > greatest,
            "the newest connection's order is {}",
            registered.order
        );
        let given = Given {
            epoch: self.epoch,
            has_epoch: request
                .cursor
                .is_some_and(|cursor| self.is_current(&cursor)),
            life: registered.start.life.0,
            order: registered.order,
        };
        let waited = self.model.lanes.clone();
        let expected = self.model.register(request, replaced, &given);
        let start = &registered.start;
        same("start", start.places.own, expected.start.places)?;
        same("everyone", start.places.everyone, expected.start.everyone)?;
        same("time", start.time_ms, expected.start.time_ms)?;
        same("store_lost", registered.store_lost, expected.start.lost)?;
        same("replaced", registered.replaced.clone(), expected.replaced)?;
        same("pending", registered.pending, expected.pending)?;
        same("first page", read_page(&registered.page), expected.page)?;
        let last = self.model.lanes.each_ref().map(|lane| lane.last());
        same("last", registered.counters.last, last)?;
        if expected.is_new {
            let places = expected.start.places;
            let after = |lane: usize| {
                let present = waited[lane].present();
                let after = present.filter(move |one| one.0 > places[lane]);
                after.map(|one| one.1.key).collect::<Vec<u64>>()
            };
            let waiting = after(0).into_iter().chain(after(1));
            self.ledger.begin(&request.device, waiting);
        }
        Ok(Some(registered))
    }

    /// The frames that follow a registration: `welcome`, `missed store_lost`, the first page.
    fn welcome(&mut self, index: usize, registered: &Registered, is_deaf: bool) -> Checked {
        self.hear(index);
        self.sessions[index].is_deaf |= is_deaf;
        if registered.store_lost {
            let session = &mut self.sessions[index];
            session.position.store_lost_told = true;
            if !session.is_deaf {
                let device = session.device.clone();
                self.ledger.tell_store_lost(&device);
            }
            self.figures.store_lost += 1;
            self.hear(index);
        }
        self.push_page(index, &read_page(&registered.page))
    }

    pub async fn page(&mut self, session: usize, most: usize) -> Checked {
        let Some(index) = self.pick(session) else {
            return Ok(());
        };
        let Session {
            device, position, ..
        } = self.sessions[index].clone();
        let call = self
            .link
            .page(&self.user, &device, &position, page_of(most));
        let outcome = call.await;
        if let Some(error) = self.expected_error(&device, &position) {
            return same("page", outcome.err(), Some(error));
        }
        let (counters, page) = outcome.map_err(|error| format!("page: {error}"))?;
        let expected = self.model.page(&position.places, most);
        same("page", read_page(&page), expected.clone())?;
        self.model.show(&expected);
        let record = self.model.devices[&device].clone();
        same("acknowledged", counters.acknowledged, record.places)?;
        same("time", counters.acknowledged_ms, record.time_ms)?;
        self.sessions[index].contact = self.model.now;
        // Told and sent first: dropping the heads changes what the places say.
        self.push_page(index, &expected)?;
        self.model.drop_heads();
        let last = self.model.lanes.each_ref().map(|lane| lane.last());
        same("last", counters.last, last)
    }

    pub async fn acknowledge(
        &mut self,
        session: usize,
        which: usize,
        is_repeated: bool,
        is_late: bool,
    ) -> Checked {
        let Some(index) = self.pick(session) else {
            return Ok(());
        };
        let session = &self.sessions[index];
        // Mostly one of the newest that it heard.
        let Some(position) = session.heard.iter().rev().take(4).nth(which) else {
            return Ok(());
        };
        let (device, position) = (session.device.clone(), *position);
        if is_late {
            self.late.push((device, position));
            return Ok(());
        }
        for _ in 0..=usize::from(is_repeated) {
            self.acknowledge_at(&device, &position).await?;
        }
        Ok(())
    }

    /// An acknowledgement that was held up, perhaps since another time line.
    pub async fn arrive(&mut self, which: usize) -> Checked {
        if self.late.is_empty() {
            return Ok(());
        }
        let (device, position) = self.late.remove(which % self.late.len());
        self.acknowledge_at(&device, &position).await
    }

    async fn acknowledge_at(&mut self, device: &str, position: &Position) -> Checked {
        let call = self.link.acknowledge(&self.user, device, position);
        let outcome = call.await;
        if let Some(error) = self.expected_error(device, position) {
            return same("acknowledge", outcome, Err(error));
        }
        same("acknowledge", outcome, Ok(()))?;
        self.model.acknowledge(device, position, self.epoch);
        Ok(())
    }

    pub async fn reassert(&mut self, session: usize, is_repeated: bool) -> Checked {
        let Some(index) = self.pick(session) else {
            return Ok(());
        };
        let session = self.sessions[index].clone();
        if !self.is_current(&session.position) {
            // The link's own epoch goes with the call: the gateway compares it before.
            return Ok(());
        }
        for _ in 0..=usize::from(is_repeated) {
            let life = session.position.life;
            let call = self.link.reassert(
                &self.user,
                &session.device,
                &session.id,
                session.order,
                life,
            );
            let outcome = call.await;
            if let Some(error) = self.expected_error(&session.device, &session.position) {
                return same("reassert", outcome, Err(error));
            }
            let mut others = self.model.connections.iter();
            if others.any(|one| one.device == session.device && one.order > session.order) {
                self.sessions.remove(index);
                return same("reassert", outcome, Err(MailboxError::Replaced));
            }
            self.model
                .assert(&session.device, &session.id, session.order, self.epoch);
            let last = self.model.lanes.each_ref().map(|lane| lane.last());
            same("reassert", outcome, Ok(last))?;
            self.sessions[index].contact = self.model.now;
        }
        Ok(())
    }

    pub async fn unregister(&mut self, session: usize, is_repeated: bool) -> Checked {
        let Some(index) = self.pick(session) else {
            return Ok(());
        };
        let session = self.sessions.remove(index);
        for _ in 0..=usize::from(is_repeated) {
            let call = self.link.unregister(&self.user, &session.id);
            same("unregister", call.await, Ok(()))?;
        }
        self.model.disconnect(|one| one.id == session.id, true);
        Ok(())
    }

    pub async fn drop_node(&mut self, node: usize, is_repeated: bool) -> Checked {
        let name = NODES[node];
        for _ in 0..=usize::from(is_repeated) {
            let call = self.link.drop_node(&self.user, name, INCARNATION);
            same("drop_node", call.await, Ok(()))?;
        }
        self.model.disconnect(|one| &*one.id.node == name, false);
        Ok(())
    }

    pub fn pick(&self, which: usize) -> Option<usize> {
        (!self.sessions.is_empty()).then(|| which % self.sessions.len())
    }

    fn choose_cursor(&mut self, device: &str, choice: CursorChoice) -> Option<Position> {
        let client = self.ledger.client(device);
        let newest = client.cursors.last().copied();
        match choice {
            CursorChoice::None => {
                // It has lost its memory.
                client.cursors.clear();
                None
            }
            CursorChoice::Newest => newest,
            CursorChoice::Earlier(which) => {
                let count = client.cursors.len().max(1);
                client.cursors.iter().rev().nth(which % count).copied()
            }
            CursorChoice::Forged => {
                let mut forged = newest?;
                forged.places.own[0] += 1_000;
                Some(forged)
            }
        }
    }
}

fn call_of(request: &Request) -> Register {
    Register {
        device: request.device.as_str().into(),
        connection: request.id.clone(),
        order: request.order,
        session_life: request.session_life.map(Life),
        cursor: request.cursor,
        newest_everyone: request.newest,
        oldest_everyone: request.newest,
        until_ms: None,
        page: page_of(request.most),
    }
}
