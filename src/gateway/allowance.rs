//! How much one client may send.

use tokio::time::Instant;

/// Frames a client may send a second in the long run; each may be an acknowledgement.
const FRAMES_PER_SECOND: f64 = 1_000.0;
/// Frames it may send at once after a pause.
const FRAMES_BURST: f64 = 4_000.0;
/// Bytes a second in the long run, and at once.
const BYTES_PER_SECOND: f64 = 512.0 * 1024.0;
const BYTES_BURST: f64 = 2.0 * 1024.0 * 1024.0;

/// Two token buckets.
#[derive(Debug)]
pub struct Allowance {
    frames: f64,
    bytes: f64,
    updated: Instant,
}

impl Allowance {
    pub fn new(now: Instant) -> Allowance {
        Allowance {
            frames: FRAMES_BURST,
            bytes: BYTES_BURST,
            updated: now,
        }
    }

    /// Takes one frame out; false where the client sends more than it may.
    pub fn take(&mut self, bytes: usize, now: Instant) -> bool {
        let seconds = (now - self.updated).as_secs_f64();
        self.updated = now;
        self.frames = FRAMES_BURST.min(self.frames + seconds * FRAMES_PER_SECOND) - 1.0;
        self.bytes = BYTES_BURST.min(self.bytes + seconds * BYTES_PER_SECOND) - bytes as f64;
        self.frames >= 0.0 && self.bytes >= 0.0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_and_a_flood_does_not() {
        let now = Instant::now();
        let mut allowance = Allowance::new(now);
        for _ in 0..4_000 {
            assert!(allowance.take(100, now));
        }
        assert!(!allowance.take(100, now));
        let later = now + Duration::from_secs(10);
        assert!(allowance.take(100, later));
        assert!(!allowance.take(3 * 1024 * 1024, later));
    }
}
