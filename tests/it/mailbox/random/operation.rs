//! The operations of a sequence, as strategies that shrink. Every choice is a number that means
//! something in any state, so an operation can be left out of a sequence and the rest still runs.

use std::fmt;

use proptest::prelude::*;

/// Half as many on the average.
const OPERATIONS_MAX: usize = 180;

/// A mailbox's limits, and what is done to it.
#[derive(Clone)]
pub struct Sequence {
    pub cap: u64,
    /// The time to live is shorter than a connection counts without being asserted.
    pub is_short_lived: bool,
    pub operations: Vec<Operation>,
}

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
    /// The server writes everything to a snapshot and loads it again.
    Reload,
    ChangeEpoch(NewTimeLine),
    Checkpoint,
    RollBack(Reversal),
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

/// How the store comes to another epoch.
#[derive(Debug, Clone, Copy)]
pub enum NewTimeLine {
    /// Its connections stay.
    Promotion,
    /// It is killed and starts again with all it had.
    Restart,
}

/// How the store goes back to its checkpoint.
#[derive(Debug, Clone, Copy)]
pub enum Reversal {
    /// A replica that was behind is promoted: copies of the keys are put back.
    Promotion,
    /// It is killed, and its append-only file ends at the checkpoint or so many bytes later: in
    /// the middle of a command.
    CutLog { torn_bytes: u64 },
}

impl Operation {
    /// What it is called in the report.
    pub fn name(&self) -> String {
        let text = format!("{self:?}");
        let end = text.find(" {").unwrap_or(text.len());
        text[..end].replace('(', " by ").replace(')', "")
    }
}

impl fmt::Debug for Sequence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sequence {
            cap,
            is_short_lived,
            operations,
        } = self;
        write!(formatter, "cap {cap}, short time to live: {is_short_lived}")?;
        for operation in operations {
            write!(formatter, "\n  {operation:?}")?;
        }
        Ok(())
    }
}

pub fn sequences() -> impl Strategy<Value = Sequence> {
    let operations = prop::collection::vec(operations(), 1..=OPERATIONS_MAX);
    (4..12_u64, prop::bool::weighted(0.2), operations).prop_map(
        |(cap, is_short_lived, operations)| Sequence {
            cap,
            is_short_lived,
            operations,
        },
    )
}

fn operations() -> impl Strategy<Value = Operation> {
    prop_oneof![
        30 => publishing(),
        58 => serving(),
        12 => store(),
    ]
}

fn repeated() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.2)
}

fn publishing() -> impl Strategy<Value = Operation> {
    let append = (
        prop::bool::weighted(0.25),
        1..=3_usize,
        -1..10_i64,
        0..40_u64,
        repeated(),
        0..8_usize,
    );
    let append = append.prop_map(
        |(is_high, count, lifetime, jitter, is_repeated, lost_forward)| Operation::Append {
            lane: usize::from(is_high),
            count,
            lifetime,
            jitter,
            is_repeated,
            lost_forward,
        },
    );
    prop_oneof![
        4 => append,
        1 => (0..1_000_usize).prop_map(|which| Operation::Redeliver { which }),
    ]
}

fn serving() -> impl Strategy<Value = Operation> {
    let session = 0..1_000_usize;
    let connect = (
        0..3_usize,
        0..2_usize,
        cursors(),
        prop::bool::weighted(0.1),
        repeated(),
        1..=5_usize,
    );
    let connect =
        connect.prop_map(
            |(device, node, cursor, is_deaf, is_repeated, most)| Operation::Connect {
                device,
                node,
                cursor,
                is_deaf,
                is_repeated,
                most,
            },
        );
    let page = (session.clone(), 1..=6_usize)
        .prop_map(|(session, most)| Operation::Page { session, most });
    let acknowledge = (session, 0..4_usize, repeated(), repeated()).prop_map(
        |(session, which, is_repeated, is_late)| Operation::Acknowledge {
            session,
            which,
            is_repeated,
            is_late,
        },
    );
    prop_oneof![
        14 => connect,
        6 => of_session(|session, is_repeated| Operation::RegisterAgain { session, is_repeated }),
        15 => page,
        13 => acknowledge,
        2 => (0..100_usize).prop_map(|which| Operation::Arrive { which }),
        3 => of_session(|session, is_repeated| Operation::Reassert { session, is_repeated }),
        3 => of_session(|session, is_repeated| Operation::Unregister { session, is_repeated }),
        2 => of_session(|session, _| Operation::Vanish { session }),
        1 => of_session(|session, _| Operation::Deafen { session }),
    ]
}

fn of_session(make: fn(usize, bool) -> Operation) -> impl Strategy<Value = Operation> {
    (0..1_000_usize, repeated()).prop_map(move |(session, is_repeated)| make(session, is_repeated))
}

fn cursors() -> impl Strategy<Value = CursorChoice> {
    prop_oneof![
        4 => Just(CursorChoice::None),
        4 => Just(CursorChoice::Newest),
        1 => (0..1_000_usize).prop_map(CursorChoice::Earlier),
        1 => Just(CursorChoice::Forged),
    ]
}

fn store() -> impl Strategy<Value = Operation> {
    // Mostly short, sometimes beyond every time to live.
    let units = prop_oneof![7 => 1..=3_u64, 2 => 4..12_u64, 1 => 11..26_u64];
    // A restart takes as long as two sequences without one.
    let time_line = prop_oneof![
        9 => Just(NewTimeLine::Promotion),
        1 => Just(NewTimeLine::Restart),
    ];
    let reversal = prop_oneof![
        5 => Just(Reversal::Promotion),
        1 => (0..12_u64).prop_map(|torn_bytes| Reversal::CutLog { torn_bytes }),
    ];
    prop_oneof![
        2 => (0..2_usize, repeated())
            .prop_map(|(node, is_repeated)| Operation::DropNode { node, is_repeated }),
        3 => units.prop_map(|units| Operation::Pass { units }),
        1 => (0..2_usize).prop_map(|lane| Operation::LoseList { lane }),
        1 => Just(Operation::Reload),
        1 => time_line.prop_map(Operation::ChangeEpoch),
        2 => Just(Operation::Checkpoint),
        3 => reversal.prop_map(Operation::RollBack),
        1 => Just(Operation::Wipe),
    ]
}
