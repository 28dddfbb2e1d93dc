//! A place in a mailbox, and what makes it comparable: the store's epoch and the mailbox's life.

use std::fmt;
use std::str::FromStr;

/// One of the two lists of a mailbox. Each has its own counter, cap and cursors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    Normal,
    High,
}

impl Lane {
    /// Both lanes, in the order of [`Lane::index`].
    pub const ALL: [Lane; 2] = [Lane::Normal, Lane::High];

    /// Index into arrays with one element a lane.
    pub fn index(self) -> usize {
        match self {
            Lane::Normal => 0,
            Lane::High => 1,
        }
    }
}

/// The store's time line: Redis's `master_replid`, which changes at a restart and at a promotion.
/// Positions of different epochs cannot be compared.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch([u8; 20]);

impl Epoch {
    /// Reads the 40 hexadecimal digits of `master_replid`.
    pub fn from_hex(hex: &str) -> Result<Epoch, InvalidEpoch> {
        let digits = hex.as_bytes();
        if digits.len() != 40 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(InvalidEpoch);
        }
        let mut bytes = [0; 20];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte =
                u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).map_err(|_| InvalidEpoch)?;
        }
        Ok(Epoch(bytes))
    }

    pub fn from_bytes(bytes: [u8; 20]) -> Epoch {
        Epoch(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// The text is not 40 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a replication id must be 40 hexadecimal digits")]
pub struct InvalidEpoch;

/// The identity of one mailbox hash, drawn at random when it is first registered. A mailbox that
/// was lost and made again has another life, so its places mean something else. Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Life(pub u64);

/// A place in the stream `BROADCASTS`: its time line, which is when the stream was created
/// (milliseconds since 1970) or something later, and the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Everyone {
    pub creation: u64,
    pub sequence: u64,
}

impl Everyone {
    /// Before all that any stream ever held: what follows it is told as lost.
    pub const LOST: Everyone = Everyone {
        creation: 1,
        sequence: 0,
    };
}

/// How far a device has come in every lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Places {
    /// The last place in each of the user's own lanes, by [`Lane::index`]. The first place is 1.
    pub own: [u64; 2],
    pub everyone: Everyone,
}

impl Places {
    pub fn of(&self, lane: Lane) -> u64 {
        self.own[lane.index()]
    }

    pub fn set(&mut self, lane: Lane, place: u64) {
        self.own[lane.index()] = place;
    }

    /// True where this lies at or before `other` in every lane.
    pub fn is_within(&self, other: &Places) -> bool {
        self.own[0] <= other.own[0]
            && self.own[1] <= other.own[1]
            && self.everyone <= other.everyone
    }

    /// The further of the two in each lane.
    pub fn max(&self, other: &Places) -> Places {
        Places {
            own: [self.own[0].max(other.own[0]), self.own[1].max(other.own[1])],
            everyone: self.everyone.max(other.everyone),
        }
    }
}

/// What orders and names an event: when its stream was created, and its place there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct EventKey {
    /// Creation of the stream, milliseconds since 1970; below 2^44.
    pub creation_ms: u64,
    pub sequence: u64,
}

impl fmt::Display for EventKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let creation = self.creation_ms & 0xfff_ffff_ffff;
        write!(formatter, "{creation:011x}{:016x}", self.sequence)
    }
}

impl FromStr for EventKey {
    type Err = InvalidEventKey;

    fn from_str(text: &str) -> Result<EventKey, InvalidEventKey> {
        if text.len() != 27 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(InvalidEventKey);
        }
        let number = |digits: &str| u64::from_str_radix(digits, 16).map_err(|_| InvalidEventKey);
        Ok(EventKey {
            creation_ms: number(&text[..11])?,
            sequence: number(&text[11..])?,
        })
    }
}

/// The text is not 27 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event's key must be 27 hexadecimal digits")]
pub struct InvalidEventKey;

/// A place that proves a prefix: equal positions mean equal prefixes (invariant I3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    pub epoch: Epoch,
    pub life: Life,
    pub places: Places,
    /// When the newest message up to here was published, in milliseconds since 1970; 0 for none.
    pub time_ms: u64,
    /// True from the frame on that told the device of a `store_lost` in this life: only an
    /// acknowledgement of such a position settles what is owed.
    pub store_lost_told: bool,
}
