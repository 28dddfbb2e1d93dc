//! A state of the whole: the store, the bus, workers, gateways, clients; and the truth beside it.

use catchup::mailbox::ConnectionId;
use catchup::protocol::{Epoch, Life, Position};
use catchup::session::{Forwarded, PageRead, Registration, Session};

use super::scope::{Budget, GATEWAYS, Scope, WORKERS};
use super::shared::Shared;
use crate::mailbox::random::model::{LaneModel, Model as Mailbox, TTLS, Time};

/// A set of events, one bit each.
pub type Events = u16;

/// The time to live of messages; three quarters of it pass at once.
pub const TTL: Time = TTLS[0];
pub const PAUSE: Time = TTL / 4 * 3;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    pub mailbox: Shared<Mailbox>,
    /// Counts the time lines of the store.
    pub epoch: u8,
    /// What the store may go back to.
    pub checkpoint: Option<Shared<Mailbox>>,
    /// What each place meant on the time lines that are over, the last one last.
    pub ended: Vec<Shared<Ended>>,
    pub events: Vec<Event>,
    /// Forwards under way, in no order; kept sorted, so that equal states are equal.
    pub forwards: Vec<InFlight>,
    pub gateways: [Gateway; GATEWAYS as usize],
    pub connections: Vec<Shared<Connection>>,
    /// Acknowledgements that are held up on their way to the store, by device.
    pub late: Vec<(u8, Position)>,
    pub devices: Vec<Device>,
    pub left: Budget,
    /// How many connections, and how many lives, there ever were.
    pub numbers: u64,
    pub lives: u64,
    /// What was broken; nothing happens after it.
    pub breach: Option<Breach>,
}

/// A promise of the design that was broken, and how.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Breach {
    pub invariant: Invariant,
    pub text: String,
}

/// See `super::check` for what each of them asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Invariant {
    I2,
    I3,
    I4,
    I5,
    I6,
}

/// A time line that is over.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ended {
    pub epoch: u8,
    pub life: Option<u64>,
    pub lanes: [LaneModel; 2],
}

/// An event that JetStream has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Event {
    pub lane: u8,
    pub worker: u8,
    pub stage: Stage,
    /// It may be in the mailbox already.
    pub is_repeat: bool,
    /// Once it was appended for the first time.
    pub expires: Option<Time>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Stage {
    /// To be appended.
    Waits,
    /// Only with a mutant: the gateways that the worker will tell, or has told.
    Looked(Vec<(u8, u8)>),
    Told,
    Appended,
    /// Acknowledged to JetStream: never delivered again.
    Confirmed,
}

/// A forward to one process of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InFlight {
    pub gateway: u8,
    pub incarnation: u8,
    pub epoch: u8,
    pub life: Option<u64>,
    pub lane: u8,
    pub place: u64,
    pub event: u8,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Gateway {
    pub incarnation: u8,
    /// Workers take it for dead.
    pub is_lapsed: bool,
}

/// One connection: the gateway's side, the client's, and what was really sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Connection {
    pub device: u8,
    pub gateway: u8,
    pub incarnation: u8,
    pub number: u64,
    /// Given by the first registration.
    pub order: Option<u64>,
    /// There once the first registration was answered.
    pub session: Option<Session>,
    /// Forwards that came before that.
    pub inbox: Vec<Forwarded>,
    pub wanted: Option<Wanted>,
    pub reading: Option<Reading>,
    pub must_reassert: bool,
    pub is_holding: bool,
    /// The next acknowledgement is held up on its way to the store.
    pub is_held_up: bool,
    /// So many frames reach the client yet; `None` for all.
    pub frames_left: Option<u8>,
    /// The last cursor that reached the client and that it did not acknowledge; and the last such
    /// one of the time line before.
    pub heard: Option<Position>,
    pub former: Option<Position>,
    pub time_line: Option<(Epoch, Life)>,
    pub sent_to: [u64; 2],
    /// What a `store_lost` of the last registration stands for.
    pub lost: Events,
    /// Only with a mutant: the highest places that forwards named since it was live.
    pub high: [u64; 2],
}

/// What a connection has to read from the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Wanted {
    Register {
        again: Option<Life>,
    },
    Page {
        number: u64,
        after: Position,
        messages_max: usize,
    },
}

/// A call that the store has carried out, and whose answer is under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reading {
    pub answer: Answer,
    /// Only with a mutant: the connection is not added yet.
    pub is_half: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Answer {
    Registered {
        registration: Registration,
        order: u64,
    },
    Page {
        number: u64,
        read: PageRead,
    },
    Counted([u64; 2]),
    /// Another epoch or life, or an unknown device: register again.
    OtherTimeLine,
    /// A newer connection of the device is there.
    Replaced,
}

/// A device as it really is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Device {
    /// It was registered.
    pub has_joined: bool,
    /// A `welcome` reached it.
    pub was_welcomed: bool,
    pub cursor: Option<Position>,
    pub received: Events,
    pub told: Events,
    /// What it has a right to.
    pub due: Events,
    /// When it was last connected.
    pub seen: Time,
}

impl World {
    pub fn new(scope: &Scope) -> World {
        let events = (0..scope.events).map(|event| Event {
            lane: u8::from(scope.high & bit(event) != 0),
            worker: event % WORKERS,
            stage: Stage::Waits,
            is_repeat: false,
            expires: None,
        });
        World {
            mailbox: Shared::new(Mailbox::new(scope.cap, TTL)),
            epoch: 1,
            checkpoint: None,
            ended: Vec::new(),
            events: events.collect(),
            forwards: Vec::new(),
            gateways: Default::default(),
            connections: Vec::new(),
            late: Vec::new(),
            devices: vec![Device::default(); usize::from(scope.devices)],
            left: scope.budget,
            numbers: 0,
            lives: 0,
            breach: None,
        }
    }

    pub fn breaks(&mut self, invariant: Invariant, text: impl FnOnce() -> String) {
        if self.breach.is_none() {
            self.breach = Some(Breach {
                invariant,
                text: text(),
            });
        }
    }

    pub fn last(&self) -> [u64; 2] {
        self.mailbox.lanes.each_ref().map(LaneModel::last)
    }

    /// The lanes of this time line as they are, or as they were at its end.
    pub fn lanes_of(&self, (epoch, life): (Epoch, Life)) -> Option<&[LaneModel; 2]> {
        let is_it =
            |number: u8, known: Option<u64>| epoch_of(number) == epoch && known == Some(life.0);
        if is_it(self.epoch, self.mailbox.life) {
            return Some(&self.mailbox.lanes);
        }
        let mut ended = self.ended.iter().rev();
        let found = ended.find(|ended| is_it(ended.epoch, ended.life))?;
        Some(&found.lanes)
    }

    /// Events that a worker still has to append.
    pub fn pending(&self) -> Events {
        let waiting = (0..)
            .zip(&self.events)
            .filter(|(_, event)| !matches!(event.stage, Stage::Appended | Stage::Confirmed));
        waiting.map(|(number, _)| bit(number)).sum()
    }

    pub fn appended(&self) -> Events {
        let appended = (0..)
            .zip(&self.events)
            .filter(|(_, event)| event.expires.is_some());
        appended.map(|(number, _)| bit(number)).sum()
    }

    /// The connection that a device listens to.
    pub fn connection_of(&self, device: u8) -> Option<&Connection> {
        let mut connections = self.connections.iter().map(|one| &**one);
        connections.find(|one| one.device == device && one.hears())
    }
}

impl Connection {
    pub fn new(number: u64, device: u8, gateway: u8, incarnation: u8) -> Connection {
        Connection {
            device,
            gateway,
            incarnation,
            number,
            order: None,
            session: None,
            inbox: Vec::new(),
            wanted: Some(Wanted::Register { again: None }),
            reading: None,
            must_reassert: false,
            is_holding: false,
            is_held_up: false,
            frames_left: None,
            heard: None,
            former: None,
            time_line: None,
            sent_to: [0, 0],
            lost: 0,
            high: [0, 0],
        }
    }

    /// True where the client and the gateway hear each other.
    pub fn hears(&self) -> bool {
        self.frames_left != Some(0)
    }

    pub fn is_live(&self) -> bool {
        // There are no events for everyone, so this asks only for the phase and the window.
        let mut session = self.session.iter();
        session.any(|session| session.follows_everyone().is_some())
    }

    /// True where the client acknowledged that it was told of a loss, on this time line.
    pub fn has_acknowledged_loss(&self) -> bool {
        let mut session = self.session.iter();
        session.any(|session| {
            session
                .acknowledged()
                .is_some_and(|known| known.store_lost_told)
        })
    }

    pub fn id(&self) -> ConnectionId {
        ConnectionId {
            node: node_name(self.gateway).into(),
            incarnation: incarnation_name(self.incarnation).into(),
            number: self.number,
        }
    }

    /// What the client has to acknowledge: a cursor beyond the last that the session knows of, or one
    /// of the time line before, which says that what is in flight has arrived.
    pub fn unacknowledged(&self) -> Option<Position> {
        let heard = self.heard.filter(|_| self.hears())?;
        let known = self.session.as_ref()?.acknowledged()?;
        let is_same_line = (heard.epoch, heard.life) == (known.epoch, known.life);
        let is_news = !heard.places.is_within(&known.places)
            || (heard.store_lost_told && !known.store_lost_told);
        (!is_same_line || is_news).then_some(heard)
    }
}

pub fn bit(event: u8) -> Events {
    1 << event
}

/// The key of an event, which orders it; 1 for the first.
pub fn key_of(event: u8) -> u64 {
    u64::from(event) + 1
}

/// The set of one event, by its key.
pub fn bit_of_key(key: u64) -> Events {
    1 << (key - 1)
}

pub fn epoch_of(number: u8) -> Epoch {
    Epoch::from_bytes([number; 20])
}

pub fn node_name(gateway: u8) -> &'static str {
    ["left", "right"][usize::from(gateway)]
}

pub fn incarnation_name(incarnation: u8) -> &'static str {
    ["0", "1", "2", "3", "4", "5", "6", "7", "8"][usize::from(incarnation)]
}

pub fn device_name(device: u8) -> &'static str {
    ["phone", "laptop", "tablet"][usize::from(device)]
}
