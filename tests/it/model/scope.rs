//! How large a search is: what there is, and how often something may go wrong.

use std::fmt;

use super::mutant::Mutant;

/// How often each kind of thing may go wrong on one path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Forwards that do not arrive, and replies to appends.
    pub losses: u8,
    pub gateway_crashes: u8,
    pub worker_crashes: u8,
    /// Leases that run out while the gateway lives.
    pub lapses: u8,
    /// Connections that break without anybody's being told.
    pub breaks: u8,
    /// Acknowledgements that are held up on their way to the store.
    pub late: u8,
    /// The store goes back to a moment before.
    pub roll_backs: u8,
    /// The mailbox is emptied.
    pub wipes: u8,
    /// Three quarters of the time to live pass.
    pub passes: u8,
}

/// What is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    pub name: &'static str,
    /// Of one user.
    pub devices: u8,
    pub events: u8,
    /// The events of high priority, one bit each.
    pub high: u16,
    /// Most messages waiting.
    pub cap: usize,
    /// Most messages unacknowledged on a connection.
    pub window: u32,
    /// A connection that breaks may bring so many frames more.
    pub last_frames: u8,
    /// A client acknowledges all that it gets at once; else at any time, or never.
    pub acknowledges_at_once: bool,
    pub budget: Budget,
    pub mutant: Option<Mutant>,
}

pub const GATEWAYS: u8 = 2;
pub const WORKERS: u8 = 2;

impl Scope {
    /// Two devices, three events of normal priority, nothing that limits and nothing that fails.
    pub const fn new(name: &'static str, budget: Budget) -> Scope {
        Scope {
            name,
            devices: 2,
            events: 3,
            high: 0,
            cap: 1_000,
            window: 256,
            last_frames: 1,
            acknowledges_at_once: true,
            budget,
            mutant: None,
        }
    }

    pub fn with(self, mutant: Mutant) -> Scope {
        Scope {
            mutant: Some(mutant),
            ..self
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scope {
            devices, events, ..
        } = self;
        write!(
            formatter,
            "{WORKERS} workers, {GATEWAYS} gateways, {devices} devices, {events} events"
        )?;
        if self.high > 0 {
            write!(formatter, " ({} high)", self.high.count_ones())?;
        }
        if !self.acknowledges_at_once {
            write!(formatter, ", acknowledged at any time")?;
        }
        if self.cap < usize::from(self.events) {
            write!(formatter, ", cap {}", self.cap)?;
        }
        if self.window < u32::from(self.events) {
            write!(formatter, ", window {}", self.window)?;
        }
        let budget = &self.budget;
        let mut separator = "; at most ";
        for (count, what) in [
            (budget.losses, "lost"),
            (budget.gateway_crashes, "gateway crashes"),
            (budget.worker_crashes, "worker crashes"),
            (budget.lapses, "lapsed leases"),
            (budget.breaks, "broken connections"),
            (budget.late, "late acknowledgements"),
            (budget.roll_backs, "roll-backs"),
            (budget.wipes, "emptied mailboxes"),
            (budget.passes, "long pauses"),
        ] {
            if count > 0 {
                write!(formatter, "{separator}{count} {what}")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}
