//! Random walks: an adversary that appends, removes, forwards, answers and acknowledges in any
//! order, loses forwards and rolls the store back, against a witness that knows every place.

mod model;
mod random;
mod steps;
mod witness;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use self::model::{Mailbox, epoch};
use self::random::Random;
use self::witness::{Device, Lines, Witness};
use super::identity;
use crate::protocol::{Lane, Life, Position};
use crate::session::{Effect, Forwarded, PageRead, Registration, Session};

const WALKS: u64 = 3_000;
const STEPS: usize = 90;

/// What differs from walk to walk.
struct Habits {
    window: u32,
    burst: usize,
    acknowledges_itself: bool,
    /// Forwards can be lost.
    loses: bool,
    /// A lost forward is noticed (`reconcile`, `counted`), else only by what comes after it.
    notices: bool,
    /// The store is rolled back, repaired and wiped.
    is_turbulent: bool,
    /// The gateway reconciles where nothing was lost; that repairs more than it should.
    is_nervous: bool,
}

enum Question {
    Register { again: Option<Life> },
    Page { after: Position, most: usize },
}

enum Answer {
    Registration(Registration),
    Page(PageRead),
    OtherTimeLine,
}

/// A call to the mailbox: asked, then carried out there, then answered.
struct Call {
    number: u64,
    question: Question,
    answer: Option<Answer>,
}

enum Notice {
    HoldExpired,
    CheckEpoch,
    Reconcile,
    Counted([u64; 2]),
    RegisterAgain,
}

struct Walk {
    random: Random,
    habits: Habits,
    lines: Lines,
    snapshots: Vec<Mailbox>,
    device: Device,
    session: Session,
    witness: Witness,
    /// The cursor that the client connected with.
    cursor: Option<Position>,
    calls: Vec<Call>,
    forwards: Vec<Forwarded>,
    notices: Vec<Notice>,
    acks: VecDeque<String>,
    /// Acknowledged and not yet stored, by this connection and by the one before it.
    unflushed: Option<Position>,
    late: Option<Position>,
    names: u64,
    epochs: u8,
    is_told: bool,
}

#[test]
fn whatever_happens_every_place_is_delivered_once_in_order_or_announced() {
    for seed in 0..WALKS {
        let result = catch_unwind(AssertUnwindSafe(|| Walk::new(seed, false).run()));
        if let Err(panic) = result {
            eprintln!("walk {seed} failed; its steps:");
            let again = catch_unwind(AssertUnwindSafe(|| Walk::new(seed, true).run()));
            resume_unwind(again.err().unwrap_or(panic));
        }
    }
}

impl Habits {
    fn random(random: &mut Random) -> Habits {
        Habits {
            window: [1, 2, 5, 64, 70, 130, 256][random.below(7)],
            burst: [1, 2, 4, 50][random.below(4)],
            acknowledges_itself: random.below(6) == 0,
            loses: random.coin(),
            notices: random.coin(),
            is_turbulent: random.coin(),
            is_nervous: random.below(4) == 0,
        }
    }
}

impl Walk {
    fn new(seed: u64, is_told: bool) -> Walk {
        let mut random = Random::new(seed);
        let habits = Habits::random(&mut random);
        let (session, _) = Session::new(identity(habits.acknowledges_itself), habits.window);
        let witness = Witness::new(habits.window, habits.acknowledges_itself);
        let mut walk = Walk {
            random,
            habits,
            lines: Lines {
                current: Mailbox::new(epoch(1)),
                ended: Vec::new(),
            },
            snapshots: Vec::new(),
            device: Device::default(),
            session,
            witness,
            cursor: None,
            calls: Vec::new(),
            forwards: Vec::new(),
            notices: Vec::new(),
            acks: VecDeque::new(),
            unflushed: None,
            late: None,
            names: 0,
            epochs: 1,
            is_told,
        };
        walk.ask(0, Question::Register { again: None });
        walk
    }

    fn run(mut self) {
        for _ in 0..STEPS {
            self.step();
        }
        self.last_blow();
        self.be_fair();
        if self.habits.loses && !self.habits.notices {
            // What came after a loss shows it.
            for lane in Lane::ALL {
                self.append(lane);
            }
            self.be_fair();
        }
        self.check_end();
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..20 => self.append_some(),
            20..40 => self.deliver_forward(true),
            40..45 => self.lose_forward(),
            45..50 => self.remove_some(),
            50..66 => self.go_on_with_a_call(),
            66..76 => self.client_acknowledges(),
            76..84 => self.deliver_ack(),
            84..88 => self.flush(),
            88..92 => self.deliver_notice(),
            92 => self.ephemeral(),
            93 => self.snapshots.push(self.lines.current.clone()),
            94..96 if self.habits.is_turbulent => self.end_the_time_line(),
            96 => self.reconnect(),
            97 if self.habits.is_nervous => self.notices.push(Notice::Reconcile),
            98 if self.habits.is_nervous => {
                let last = self.lines.current.last();
                self.notices.push(Notice::Counted(last));
            }
            _ => {}
        }
    }

    /// The worst moment: a call was carried out in the mailbox, its answer is under way, and what
    /// it saw is no longer all. Nothing that comes later will repair it.
    fn last_blow(&mut self) {
        match self.random.below(4) {
            0 => self.reconnect(),
            1 => self.register_again(),
            2 => self.notices.push(Notice::Reconcile),
            _ => return,
        }
        self.deliver_notice();
        self.go_on_with_a_call();
        if self.random.coin() {
            self.append_some();
        }
        while self.habits.loses && !self.forwards.is_empty() {
            self.lose_forward();
        }
        if self.habits.is_turbulent && self.random.coin() {
            self.end_the_time_line();
        }
    }

    /// Everything under way arrives, and the client acknowledges all it gets.
    fn be_fair(&mut self) {
        self.tell(|| "fair from here on".to_owned());
        let mut acknowledged = 0;
        for _ in 0..10_000 {
            let frames = self.witness.frames.len();
            let waiting = [
                self.forwards.len(),
                self.notices.len(),
                self.calls.len(),
                self.acks.len(),
                frames - acknowledged,
            ];
            let first = self.random.below(waiting.len());
            let mut order = (0..waiting.len()).map(|offset| (first + offset) % waiting.len());
            match order.find(|index| waiting[*index] > 0) {
                Some(0) => self.deliver_forward(false),
                Some(1) => self.deliver_notice(),
                Some(2) => self.go_on_with_a_call(),
                Some(3) => self.deliver_ack(),
                Some(_) => {
                    acknowledged = frames;
                    let cursor = self.witness.frames[frames - 1].cursor;
                    self.acks.push_back(cursor.to_string());
                }
                None => {
                    self.late = None;
                    self.flush();
                    return;
                }
            }
        }
        panic!("it never comes to rest");
    }

    fn check_end(&mut self) {
        let mailbox = &self.lines.current;
        let time_line = self.session.time_line().expect("registered");
        assert!(mailbox.is_of(time_line), "on the time line that counts");
        assert_eq!(self.witness.sent_to, mailbox.last(), "all is sent or told");
        assert_eq!(self.witness.lives_told, 1, "live is told");
        assert!(
            mailbox.is_settled(),
            "all is acknowledged, and nothing owed"
        );
        for lane in Lane::ALL {
            self.append(lane);
            let forward = self.forwards.pop().expect("connected");
            let effects = self.session.forwarded(forward);
            let is_sent = matches!(effects.first(), Some(Effect::Send { .. }));
            let length = 1 + usize::from(self.habits.acknowledges_itself);
            assert!(is_sent && effects.len() == length, "live: {effects:?}");
            self.take(effects);
            self.be_fair();
        }
    }
}
