//! Numbers by chance that a seed repeats.

use std::ops::Range;
use std::time::Duration;

/// A sequence of numbers (splitmix64 by Vigna); the same for the same seed.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    /// A sequence of its own, so that what this one gives does not depend on how often the other
    /// is asked.
    pub fn branch(&mut self) -> Chance {
        Chance(self.next())
    }

    /// From 0 up to and without `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }

    pub fn one_of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }

    /// A time in this range, to the millisecond.
    pub fn duration(&mut self, range: Range<Duration>) -> Duration {
        let width = (range.end.saturating_sub(range.start)).as_millis() as u64;
        range.start + Duration::from_millis(self.below(width.max(1)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// `TEST_SEED`, else one that no other run has.
pub fn seed() -> u64 {
    let given = std::env::var("TEST_SEED").ok();
    let given = given.map(|text| text.parse().expect("TEST_SEED is a whole number"));
    given.unwrap_or_else(|| u64::from(std::process::id()) << 20)
}
