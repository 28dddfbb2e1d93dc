//! The machine driven directly: every transition, one behaviour a test, then random walks.

mod acknowledging;
mod forwarding;
mod missed;
mod registering;
mod replaying;
mod walk;
mod window;

use super::{Effect, Forwarded, Identity, PageRead, Placed, Registration, Run, Session};
use crate::protocol::{Cursor, Epoch, Everyone, Lane, Life, Places, Position, ServerFrame};

const NOW_MS: u64 = 1_000_000;

fn identity(acknowledges_itself: bool) -> Identity {
    Identity {
        user: "ann".into(),
        device: "phone".into(),
        node: "n1".into(),
        heartbeat_seconds: 25,
        acknowledges_itself,
    }
}

/// A session, whose effects are given as text to compare with.
struct Bench {
    session: Session,
    /// The number of the last read.
    number: u64,
}

impl Bench {
    fn new(window: u32) -> Bench {
        Bench {
            session: Session::new(identity(false), window).0,
            number: 0,
        }
    }

    /// `ack=auto`.
    fn automatic() -> Bench {
        Bench {
            session: Session::new(identity(true), 256).0,
            number: 0,
        }
    }

    /// Registered and live at these places.
    fn live(window: u32, places: [u64; 2]) -> Bench {
        let mut bench = Bench::new(window);
        let effects = bench.registered(registration(places, nothing(places)));
        let places = format!("{},{}", places[0], places[1]);
        let expected = [
            format!("welcome {places}, 0 pending"),
            format!("live {places}, 0 replayed"),
        ];
        assert_eq!(effects, expected);
        bench
    }

    fn registered(&mut self, registration: Registration) -> Vec<String> {
        let effects = self.session.registered(registration);
        self.shown(effects)
    }

    /// Answers the last read.
    fn page_read(&mut self, read: PageRead) -> Vec<String> {
        let effects = self.session.page_read(self.number, read);
        self.shown(effects)
    }

    fn forwarded(&mut self, lane: Lane, place: u64) -> Vec<String> {
        let effects = self.session.forwarded(forward(lane, place));
        self.shown(effects)
    }

    fn ephemeral(&mut self) -> Vec<String> {
        let effects = self.session.ephemeral(1, "e".into());
        self.shown(effects)
    }

    fn ack(&mut self, places: [u64; 2]) -> Vec<String> {
        self.ack_position(position(places))
    }

    fn ack_position(&mut self, position: Position) -> Vec<String> {
        let text = Cursor::new(position, "ann", "phone").to_string();
        let effects = self.session.ack(&text);
        self.shown(effects)
    }

    fn shown(&mut self, effects: Vec<Effect>) -> Vec<String> {
        if let Some(Effect::ReadPage { number, .. }) = effects.last() {
            self.number = *number;
        }
        effects.iter().map(shown).collect()
    }
}

fn shown(effect: &Effect) -> String {
    match effect {
        Effect::Register { again } => format!("register, life {:?}", again.map(|life| life.0)),
        Effect::ReadPage {
            after,
            messages_max,
            ..
        } => format!("read {messages_max} after {}", places_of(after)),
        Effect::Send { frame, .. } => shown_frame(frame),
        Effect::Acknowledge { position, messages } => {
            format!("acknowledge {}, {messages} more", places_of(position))
        }
        Effect::Hold => "hold".to_owned(),
        Effect::CheckEpoch => "check the epoch".to_owned(),
        Effect::Replayed { messages } => format!("replayed {messages}"),
        Effect::Close { code, .. } => format!("close {}", code.code()),
    }
}

fn shown_frame(frame: &ServerFrame) -> String {
    match frame {
        ServerFrame::Welcome(welcome) => {
            let places = places_of(&welcome.cursor.position);
            format!("welcome {places}, {} pending", welcome.pending)
        }
        ServerFrame::Messages {
            cursor,
            replay,
            messages,
        } => {
            let kind = if *replay { "replay" } else { "messages" };
            let texts: Vec<&str> = messages.iter().map(|text| &**text).collect();
            let texts = match texts.as_slice() {
                [first, .., last] if texts.len() > 3 => format!("{first}..{last}"),
                _ => texts.join(" "),
            };
            format!("{kind} {texts} to {}", places_of(&cursor.position))
        }
        ServerFrame::Missed {
            cursor,
            count,
            reason,
            ..
        } => {
            let count = count.map_or("?".to_owned(), |count| count.to_string());
            let places = places_of(&cursor.position);
            format!("missed {count} {reason:?} to {places}")
        }
        ServerFrame::Live { cursor, replayed } => {
            format!("live {}, {replayed} replayed", places_of(&cursor.position))
        }
        other => format!("{other:?}"),
    }
}

/// Places normal and high; `told` where the cursor says that `store_lost` was told.
fn places_of(position: &Position) -> String {
    let [normal, high] = position.places.own;
    let told = if position.store_lost_told {
        " told"
    } else {
        ""
    };
    format!("{normal},{high}{told}")
}

fn epoch(number: u8) -> Epoch {
    Epoch::from_bytes([number; 20])
}

fn position(own: [u64; 2]) -> Position {
    Position {
        epoch: epoch(1),
        life: Life(1),
        places: Places {
            own,
            everyone: Everyone::default(),
        },
        time_ms: 0,
        store_lost_told: false,
    }
}

/// Message `n3` at place 3 of the normal lane, `h3` of the high one.
fn message(lane: Lane, place: u64) -> Placed {
    let name = match lane {
        Lane::Normal => 'n',
        Lane::High => 'h',
    };
    Placed {
        place,
        time_ms: 1_000 + place,
        json: format!("{name}{place}").into(),
    }
}

fn forward(lane: Lane, place: u64) -> Forwarded {
    Forwarded {
        epoch: epoch(1),
        life: Some(Life(1)),
        lane,
        message: message(lane, place),
    }
}

fn run(lane: Lane, places: std::ops::RangeInclusive<u64>) -> Run {
    Run {
        lane,
        evicted: 0,
        expired: 0,
        messages: places.map(|place| message(lane, place)).collect(),
    }
}

/// A page with these messages, read when the last places were `last`.
fn page(last: [u64; 2], lane: Lane, places: std::ops::RangeInclusive<u64>) -> PageRead {
    PageRead {
        now_ms: NOW_MS,
        last,
        run: Some(run(lane, places)),
        ..PageRead::default()
    }
}

fn nothing(last: [u64; 2]) -> PageRead {
    PageRead {
        now_ms: NOW_MS,
        last,
        ..PageRead::default()
    }
}

fn registration(start: [u64; 2], read: PageRead) -> Registration {
    Registration {
        start: position(start),
        pending: read.last[0] + read.last[1] - start[0] - start[1],
        store_lost: false,
        read,
    }
}

/// A registration on the time line after a fail-over.
fn after_fail_over(start: [u64; 2], read: PageRead) -> Registration {
    let mut registration = registration(start, read);
    registration.start.epoch = epoch(2);
    registration
}
