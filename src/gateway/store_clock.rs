//! Redis's clock, which judges how long messages live, on this node.

use std::sync::atomic::{AtomicI64, Ordering};

use super::node::wall_clock_ms;

/// How far Redis's clock is ahead of this machine's, as the last reply showed it.
#[derive(Default)]
pub struct StoreClock {
    ahead_ms: AtomicI64,
}

impl StoreClock {
    /// Notes what Redis said. It is late by the time that the reply took, so [`Self::now_ms`] is
    /// never ahead of Redis, as long as this machine's clock is not set.
    pub fn heard(&self, now_ms: u64) {
        let ahead_ms = now_ms as i64 - wall_clock_ms() as i64;
        self.ahead_ms.store(ahead_ms, Ordering::Relaxed);
    }

    /// Milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        wall_clock_ms().saturating_add_signed(self.ahead_ms.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_from_what_was_heard() {
        let clock = StoreClock::default();
        for offset_ms in [-3_600_000, 0, 86_400_000] {
            let heard = wall_clock_ms().saturating_add_signed(offset_ms);
            clock.heard(heard);
            let passed = clock.now_ms() - heard;
            assert!(passed < 10_000, "{passed} ms");
        }
    }
}
