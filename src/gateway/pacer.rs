//! At what rate new sockets are let in, and when those beyond it are asked to come back.
//!
//! Two schedules of one rate. The first hands out turns: a short burst at once, then one turn each
//! interval, at most [`CONNECT_QUEUE`] ahead. Who finds it full is refused with a moment of the
//! second, so that the refused come back one after the other and find turns free. They get most of
//! the rate, and the rest is for those who come for the first time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::chance::chance;
use super::limits::CONNECT_QUEUE;

/// What may be let in at once after a pause, as time of the rate.
const BURST: Duration = Duration::from_millis(50);
/// The share of the rate that is promised to those who were refused.
const PROMISED_SHARE: f64 = 0.8;
/// Soonest that a refused client is asked to come back.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Latest; beyond it, anywhere in its last half.
const RETRY_MAX: Duration = Duration::from_secs(120);

/// When a new socket may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    At(Instant),
    /// Not here and now: come back after this.
    Refused(Duration),
}

pub struct Pacer {
    interval: Duration,
    state: Mutex<State>,
}

struct State {
    /// The next free turn; in the past after a pause.
    next: Instant,
    /// The next moment to be promised.
    promised: Instant,
}

impl Pacer {
    /// `per_second` is at least 1.
    pub fn new(per_second: u32, now: Instant) -> Pacer {
        let state = State {
            next: now,
            promised: now,
        };
        Pacer {
            interval: Duration::from_secs(1) / per_second.max(1),
            state: Mutex::new(state),
        }
    }

    /// Takes the next turn.
    pub fn turn(&self, now: Instant) -> Turn {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = state.next.max(now.checked_sub(BURST).unwrap_or(now));
        if turn <= now + CONNECT_QUEUE {
            state.next = turn + self.interval;
            return Turn::At(turn.max(now));
        }
        let promise = state.promised.max(now + RETRY_MIN);
        if promise > now + RETRY_MAX {
            let half = RETRY_MAX / 2;
            return Turn::Refused(half + chance(half));
        }
        state.promised = promise + self.interval.div_f64(PROMISED_SHARE);
        Turn::Refused(promise - now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `count` who come at once get a turn, the last turn, and what the others are told.
    fn storm(pacer: &Pacer, now: Instant, count: usize) -> (usize, Duration, Vec<Duration>) {
        let (mut turns, mut last, mut delays) = (0, Duration::ZERO, Vec::new());
        for _ in 0..count {
            match pacer.turn(now) {
                Turn::At(at) => (turns, last) = (turns + 1, at - now),
                Turn::Refused(delay) => delays.push(delay),
            }
        }
        (turns, last, delays)
    }

    #[test]
    fn a_rate_is_kept_and_a_second_waits() {
        let now = Instant::now() + Duration::from_secs(3600);
        let pacer = Pacer::new(100, now);
        // One now, and those of the next second.
        let (turns, last, delays) = storm(&pacer, now, 1_000);
        assert_eq!(turns, 101);
        assert!(last <= CONNECT_QUEUE, "{last:?}");
        assert_eq!(delays.len(), 1_000 - turns);
        // Later, the turns of the time between are free.
        let (turns, _, _) = storm(&pacer, now + Duration::from_millis(500), 1_000);
        assert_eq!(turns, 50);
        let (turns, _, _) = storm(&pacer, now + Duration::from_secs(60), 3);
        assert_eq!(turns, 3);
    }

    #[test]
    fn the_refused_come_back_one_after_the_other() {
        let now = Instant::now() + Duration::from_secs(3600);
        let pacer = Pacer::new(100, now);
        let (_, _, delays) = storm(&pacer, now, 2_000);
        assert_eq!(delays[0], RETRY_MIN);
        for pair in delays.windows(2) {
            assert_eq!(pair[1] - pair[0], Duration::from_micros(12_500));
        }
    }

    #[test]
    fn nobody_is_sent_away_for_longer_than_the_maximum() {
        let now = Instant::now() + Duration::from_secs(3600);
        let pacer = Pacer::new(1, now);
        let (turns, _, delays) = storm(&pacer, now, 500);
        assert!(turns <= 2);
        assert!(
            delays
                .iter()
                .all(|delay| (RETRY_MIN..=RETRY_MAX).contains(delay))
        );
        let far = delays.iter().filter(|delay| **delay > RETRY_MAX / 2);
        assert!(far.count() > 400);
    }
}
