//! The operations of a sequence, drawn from a seed. Every choice is a number that means something
//! in any state, so an operation can be left out of a sequence and the rest still runs.

#[derive(Debug, Clone)]
pub enum Operation {
    Append {
        lane: usize,
        count: usize,
        /// How long they wait, in units of time; negative: they are late already.
        lifetime: i64,
        jitter: u64,
        /// The reply is lost, and the call repeated by `append_once`.
        is_repeated: bool,
        /// The forward with this index does not arrive.
        lost_forward: usize,
    },
    /// JetStream delivers an event again.
    Redeliver {
        which: usize,
    },
    Connect {
        device: usize,
        node: usize,
        cursor: CursorChoice,
        /// The client hears the welcome and nothing after it.
        is_deaf: bool,
        is_repeated: bool,
        most: usize,
    },
    /// A session that learned of another time line or life registers anew.
    RegisterAgain {
        session: usize,
        is_repeated: bool,
    },
    Page {
        session: usize,
        most: usize,
    },
    Acknowledge {
        session: usize,
        which: usize,
        is_repeated: bool,
        /// The call is held up and carried out later.
        is_late: bool,
    },
    /// What was held up arrives.
    Arrive {
        which: usize,
    },
    Reassert {
        session: usize,
        is_repeated: bool,
    },
    /// A connection ends in good order.
    Unregister {
        session: usize,
        is_repeated: bool,
    },
    /// A connection ends, and nobody tells the store.
    Vanish {
        session: usize,
    },
    DropNode {
        node: usize,
        is_repeated: bool,
    },
    /// From here on nothing reaches the client.
    Deafen {
        session: usize,
    },
    Pass {
        units: u64,
    },
    /// The whole key of a list expires.
    LoseList {
        lane: usize,
    },
    ChangeEpoch,
    Checkpoint,
    RollBack,
    Wipe,
}

#[derive(Debug, Clone, Copy)]
pub enum CursorChoice {
    None,
    Newest,
    Earlier(usize),
    /// Beyond every place.
    Forged,
}

/// SplitMix64: small, and the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn index(&mut self, limit: u64) -> usize {
        self.below(limit) as usize
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

pub fn sequence(seed: u64, length: usize) -> Vec<Operation> {
    let mut random = Random::new(seed);
    (0..length).map(|_| draw(&mut random)).collect()
}

fn draw(random: &mut Random) -> Operation {
    let session = random.index(1_000);
    let is_repeated = random.percent(20);
    match random.below(100) {
        0..=23 => Operation::Append {
            lane: usize::from(random.percent(25)),
            count: 1 + random.index(3),
            lifetime: random.below(11) as i64 - 1,
            jitter: random.below(40),
            is_repeated,
            lost_forward: random.index(8),
        },
        24..=29 => Operation::Redeliver {
            which: random.index(1_000),
        },
        30..=43 => Operation::Connect {
            device: random.index(3),
            node: random.index(2),
            cursor: draw_cursor(random),
            is_deaf: random.percent(10),
            is_repeated,
            most: 1 + random.index(5),
        },
        44..=49 => Operation::RegisterAgain {
            session,
            is_repeated,
        },
        50..=64 => Operation::Page {
            session,
            most: 1 + random.index(6),
        },
        65..=77 => Operation::Acknowledge {
            session,
            which: random.index(4),
            is_repeated,
            is_late: random.percent(20),
        },
        78..=79 => Operation::Arrive {
            which: random.index(100),
        },
        80..=82 => Operation::Reassert {
            session,
            is_repeated,
        },
        83..=85 => Operation::Unregister {
            session,
            is_repeated,
        },
        86..=87 => Operation::Vanish { session },
        88..=89 => Operation::DropNode {
            node: random.index(2),
            is_repeated,
        },
        90 => Operation::Deafen { session },
        91..=93 => Operation::Pass {
            units: draw_units(random),
        },
        94 => Operation::LoseList {
            lane: random.index(2),
        },
        95 => Operation::ChangeEpoch,
        96 => Operation::Checkpoint,
        97..=98 => Operation::RollBack,
        _ => Operation::Wipe,
    }
}

/// Mostly short, sometimes beyond every time to live.
fn draw_units(random: &mut Random) -> u64 {
    match random.below(10) {
        0..=6 => 1 + random.below(3),
        7..=8 => 4 + random.below(8),
        _ => 11 + random.below(15),
    }
}

fn draw_cursor(random: &mut Random) -> CursorChoice {
    match random.below(10) {
        0..=3 => CursorChoice::None,
        4..=7 => CursorChoice::Newest,
        8 => CursorChoice::Earlier(random.index(1_000)),
        _ => CursorChoice::Forged,
    }
}
