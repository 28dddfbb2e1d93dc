//! The scopes of the short form. Each is searched as it is, and with the mutants that need no more
//! than it allows; so what catches a mutant lets the protocol itself pass.

use super::mutant::Mutant;
use super::scope::{Budget, Scope};

const NOTHING: Budget = Budget {
    losses: 0,
    gateway_crashes: 0,
    worker_crashes: 0,
    lapses: 0,
    breaks: 0,
    late: 0,
    roll_backs: 0,
    wipes: 0,
    passes: 0,
};

pub const CALM: Scope = Scope::new("calm", NOTHING);

pub const SLOW_CLIENTS: Scope = Scope {
    events: 2,
    acknowledges_at_once: false,
    ..Scope::new("slow-clients", NOTHING)
};

pub const LOST: Scope = Scope {
    events: 2,
    ..Scope::new(
        "lost",
        Budget {
            losses: 1,
            ..NOTHING
        },
    )
};

pub const CRASHES: Scope = Scope {
    devices: 1,
    events: 2,
    ..Scope::new(
        "crashes",
        Budget {
            gateway_crashes: 1,
            worker_crashes: 1,
            ..NOTHING
        },
    )
};

pub const LAPSE: Scope = Scope {
    devices: 1,
    events: 2,
    ..Scope::new(
        "lapse",
        Budget {
            lapses: 1,
            ..NOTHING
        },
    )
};

pub const ROLL_BACK: Scope = Scope {
    devices: 1,
    events: 2,
    ..Scope::new(
        "roll-back",
        Budget {
            roll_backs: 1,
            ..NOTHING
        },
    )
};

pub const ROLL_BACK_AND_BREAK: Scope = Scope {
    events: 1,
    ..Scope::new(
        "roll-back-and-break",
        Budget {
            roll_backs: 1,
            breaks: 1,
            ..NOTHING
        },
    )
};

pub const WIPE: Scope = Scope {
    devices: 1,
    events: 2,
    ..Scope::new(
        "wipe",
        Budget {
            wipes: 1,
            ..NOTHING
        },
    )
};

pub const WIPE_AND_BREAKS: Scope = Scope {
    devices: 1,
    events: 1,
    ..Scope::new(
        "wipe-and-breaks",
        Budget {
            wipes: 1,
            breaks: 2,
            ..NOTHING
        },
    )
};

pub const CAP: Scope = Scope {
    devices: 1,
    cap: 1,
    ..Scope::new(
        "cap",
        Budget {
            breaks: 1,
            ..NOTHING
        },
    )
};

pub const TIME: Scope = Scope {
    devices: 1,
    events: 2,
    ..Scope::new(
        "time",
        Budget {
            passes: 3,
            ..NOTHING
        },
    )
};

/// Take minutes: only in the long form.
pub const LONG: [Scope; 2] = [WIPE_AND_BREAKS, ROLL_BACK_AND_BREAK];

pub const SHORT: [Scope; 9] = [
    CALM,
    SLOW_CLIENTS,
    LOST,
    CRASHES,
    LAPSE,
    ROLL_BACK,
    WIPE,
    CAP,
    TIME,
];

/// The scope in which a mutant is caught.
pub const fn scope_of(mutant: Mutant) -> Scope {
    match mutant {
        Mutant::ForwardBeforeAppend
        | Mutant::PresenceBeforeStoring
        | Mutant::RegisterAfterPage
        | Mutant::RegisterWithoutCursor
        | Mutant::AckPastPushed => CALM,
        Mutant::NoEpoch => ROLL_BACK,
        Mutant::NoLife | Mutant::MissedWithoutCursor | Mutant::ReplayWaitsForHigh => WIPE,
        Mutant::StoreLostNotOwed => WIPE_AND_BREAKS,
        Mutant::WelcomeWithoutCursor => ROLL_BACK_AND_BREAK,
        Mutant::NoTrimmedKeys => CRASHES,
        Mutant::ExpiryAtLengthOne => TIME,
    }
}
