//! Exponential back-off with full jitter: a gateway that comes back is not met by all at once.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

const FIRST_CEILING: Duration = Duration::from_millis(500);
const CEILING_MAX: Duration = Duration::from_secs(30);

/// The delays of one row of failed attempts.
pub(super) struct Backoff {
    ceiling: Duration,
}

impl Backoff {
    pub(super) fn new() -> Backoff {
        Backoff {
            ceiling: FIRST_CEILING,
        }
    }

    /// Anything from nothing to a ceiling that doubles each time.
    pub(super) fn next_delay(&mut self) -> Duration {
        // Each state has random keys: their hash of anything is a random number.
        let random = RandomState::new().hash_one(0_u8);
        let share = (random >> 11) as f64 / (1_u64 << 53) as f64;
        let delay = self.ceiling.mul_f64(share);
        self.ceiling = (2 * self.ceiling).min(CEILING_MAX);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_random_below_a_ceiling_that_doubles() {
        let mut backoff = Backoff::new();
        let mut delays = Vec::new();
        for attempt in 0..12 {
            let ceiling = FIRST_CEILING.saturating_mul(1 << attempt).min(CEILING_MAX);
            let delay = backoff.next_delay();
            assert!(delay <= ceiling, "{attempt}: {delay:?}");
            delays.push(delay);
        }
        delays.sort();
        delays.dedup();
        assert!(delays.len() > 6, "{delays:?}");
    }
}
