//! A gateway's side of a connection: what it asks the store, and what it does with the answers, as
//! `src/gateway/connection` does it around the session machine.

use catchup::protocol::{Cursor, Epoch, Lane, Life, Position};
use catchup::session::{Effect, Forwarded, Identity, Session};

use super::mutant::Mutant;
use super::scope::Scope;
use super::shared::Shared;
use super::store::placed;
use super::world::{
    Answer, Connection, InFlight, Invariant, Reading, Wanted, World, device_name, epoch_of, key_of,
    node_name,
};

pub const USER: &str = "ann";

impl World {
    pub fn connection_mut(&mut self, index: usize) -> &mut Connection {
        self.connections[index].edit()
    }

    /// The device comes to a gateway with the last cursor that it got, and the gateway registers it.
    /// What is forwarded to the gateway before that is in the page, so it is one step.
    pub fn connect(&mut self, device: u8, gateway: u8, scope: &Scope) {
        self.numbers += 1;
        let incarnation = self.gateways[usize::from(gateway)].incarnation;
        let connection = Connection::new(self.numbers, device, gateway, incarnation);
        self.connections.push(Shared::new(connection));
        self.carry_out_call(self.connections.len() - 1, scope);
    }

    /// Carries out the next call of a connection: what is wanted first, else a `reassert`.
    pub fn carry_out_call(&mut self, index: usize, scope: &Scope) {
        let mutant = scope.mutant;
        let connection = self.connections[index].clone();
        let is_after_page = mutant == Some(Mutant::RegisterAfterPage);
        let mut is_half = false;
        let answer = match &connection.wanted {
            Some(Wanted::Register { again }) if is_after_page => {
                match connection.reading.clone() {
                    // The second step; what the connection is told is what was read before.
                    Some(reading) => match self.register(&connection, *again, mutant) {
                        Answer::Registered { .. } => reading.answer,
                        refused => refused,
                    },
                    None => {
                        is_half = true;
                        let mut aside = self.clone();
                        aside.register(&connection, *again, mutant)
                    }
                }
            }
            Some(Wanted::Register { again }) => self.register(&connection, *again, mutant),
            Some(Wanted::Page {
                number,
                after,
                messages_max,
            }) => self.page(connection.device, *number, after, *messages_max, mutant),
            None => {
                self.connection_mut(index).must_reassert = false;
                self.reassert(&connection, mutant)
            }
        };
        if connection.wanted.is_none() {
            // The answer of a `reassert` is only compared with what the session knows then.
            self.connection_mut(index).reading = Some(Reading { answer, is_half });
            return self.take_answer(index, scope);
        }
        if let (Answer::Registered { registration, .. }, false) = (&answer, is_half) {
            let lost = self.lost_by(&registration.start);
            self.connection_mut(index).lost = lost;
        }
        self.connection_mut(index).reading = Some(Reading { answer, is_half });
    }

    /// The answer of a call comes to the session.
    pub fn take_answer(&mut self, index: usize, scope: &Scope) {
        let connection = self.connection_mut(index);
        let Some(reading) = connection.reading.take() else {
            return;
        };
        let effects = match reading.answer {
            Answer::Registered {
                registration,
                order,
            } => {
                connection.wanted = None;
                connection.order = Some(order);
                let start = &registration.start;
                let time_line = (start.epoch, start.life);
                let is_same = connection.time_line.replace(time_line) == Some(time_line);
                let sent_to = connection.sent_to;
                connection.sent_to = match is_same {
                    true => [0, 1].map(|lane| start.places.own[lane].max(sent_to[lane])),
                    false => start.places.own,
                };
                let identity = identity(connection);
                let session = connection.session.get_or_insert_with(|| {
                    // The first registration was carried out before the socket was accepted.
                    Session::new(identity, scope.window).0
                });
                session.registered(registration)
            }
            Answer::Page { number, read } => {
                connection.wanted = None;
                // What the device acknowledged on another connection is passed.
                let sent_to = connection.sent_to;
                connection.sent_to = [0, 1].map(|lane| read.acknowledged[lane].max(sent_to[lane]));
                let mut session = connection.session.iter_mut();
                session
                    .next()
                    .map_or(Vec::new(), |session| session.page_read(number, read))
            }
            Answer::Counted(last) => {
                let mut session = connection.session.iter_mut();
                session
                    .next()
                    .map_or(Vec::new(), |session| session.counted(last))
            }
            Answer::OtherTimeLine => return self.register_again(index, scope),
            Answer::Replaced => return self.close(index),
        };
        self.carry_out(index, effects, scope);
    }

    fn register_again(&mut self, index: usize, scope: &Scope) {
        self.feed(index, scope, Session::register_again);
    }

    /// The connection ends, and its presence is removed. What was acknowledged is stored.
    pub fn close(&mut self, index: usize) {
        let connection = self.connections.remove(index);
        self.unregister(&connection);
    }

    /// Lets a session take something.
    pub fn feed(
        &mut self,
        index: usize,
        scope: &Scope,
        input: impl FnOnce(&mut Session) -> Vec<Effect>,
    ) {
        let Some(session) = &mut self.connection_mut(index).session else {
            return;
        };
        let effects = input(session);
        self.carry_out(index, effects, scope);
    }

    /// A forward arrives at its gateway, which hands it to each of the user's connections.
    pub fn deliver(&mut self, forward: &InFlight, scope: &Scope) {
        for index in 0..self.connections.len() {
            let connection = &self.connections[index];
            let process = (connection.gateway, connection.incarnation);
            if process != (forward.gateway, forward.incarnation) {
                continue;
            }
            if connection.session.is_none() || !connection.inbox.is_empty() {
                self.connection_mut(index).inbox.push(forwarded(forward));
            } else {
                self.take_forward(index, forwarded(forward), scope);
            }
        }
    }

    /// The first forward that waited for the connection to be there.
    pub fn take_from_inbox(&mut self, index: usize, scope: &Scope) {
        let forward = self.connection_mut(index).inbox.remove(0);
        self.take_forward(index, forward, scope);
    }

    fn take_forward(&mut self, index: usize, forward: Forwarded, scope: &Scope) {
        if scope.mutant == Some(Mutant::ReplayWaitsForHigh) && !self.connections[index].is_live() {
            let high = &mut self.connection_mut(index).high[forward.lane.index()];
            *high = forward.message.place.max(*high);
        }
        self.feed(index, scope, |session| session.forwarded(forward));
    }

    /// The client acknowledges this position.
    pub fn take_acknowledgement(&mut self, index: usize, position: &Position, scope: &Scope) {
        let device = device_name(self.connections[index].device);
        let text = Cursor::new(*position, USER, device).to_string();
        self.feed(index, scope, |session| session.ack(&text));
    }

    /// Stores an acknowledgement, at once: unless it is held up.
    fn store_acknowledgement(&mut self, index: usize, position: Position, scope: &Scope) {
        let device = self.connections[index].device;
        if self.connections[index].is_held_up {
            self.connection_mut(index).is_held_up = false;
            self.late.push((device, position));
        } else if self.acknowledge(device, position, scope.mutant) {
            self.register_again(index, scope);
        }
    }

    fn carry_out(&mut self, index: usize, effects: Vec<Effect>, scope: &Scope) {
        let mut unstored = None;
        for effect in effects {
            match effect {
                Effect::Send { frame, .. } => self.send(index, &frame, scope),
                Effect::ReadPage {
                    number,
                    after,
                    messages_max,
                } => {
                    self.connection_mut(index).wanted = Some(Wanted::Page {
                        number,
                        after,
                        messages_max,
                    });
                }
                Effect::Register { again } => {
                    let connection = self.connection_mut(index);
                    // What is under way belongs to the old registration.
                    connection.reading = None;
                    connection.wanted = Some(Wanted::Register { again });
                }
                Effect::Acknowledge { position, .. } => unstored = Some(position),
                Effect::Hold => self.connection_mut(index).is_holding = true,
                Effect::CheckEpoch => self.connection_mut(index).must_reassert = true,
                Effect::Replayed { .. } => {}
                Effect::Close { code, message } => self.breaks(Invariant::I4, || {
                    format!("a client that keeps the rules is closed: {code:?} {message}")
                }),
            }
        }
        // The answer of the store comes when all of this is done.
        if let Some(position) = unstored {
            self.store_acknowledgement(index, position, scope);
        }
        if self.connections[index].is_live() && self.connections[index].high != [0, 0] {
            self.connection_mut(index).high = [0, 0];
        }
    }
}

fn identity(connection: &Connection) -> Identity {
    Identity {
        user: USER.into(),
        device: device_name(connection.device).into(),
        node: node_name(connection.gateway).into(),
        heartbeat_seconds: 15,
        acknowledges_itself: false,
    }
}

fn forwarded(forward: &InFlight) -> Forwarded {
    let epoch: Epoch = epoch_of(forward.epoch);
    Forwarded {
        epoch,
        life: forward.life.map(Life),
        lane: Lane::ALL[usize::from(forward.lane)],
        message: placed(forward.place, key_of(forward.event)),
    }
}
