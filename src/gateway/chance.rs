//! Chance, for what must not happen everywhere at once. Nothing secret depends on it.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// A number below `limit`, and 0 where that is 0.
pub fn number_below(limit: u64) -> u64 {
    // Each state has keys of its own: their hash of anything is a random number.
    RandomState::new().hash_one(0_u8) % limit.max(1)
}

/// Anything from nothing to `most`, in milliseconds.
pub fn chance(most: Duration) -> Duration {
    let milliseconds = u64::try_from(most.as_millis()).unwrap_or(u64::MAX - 1);
    Duration::from_millis(number_below(milliseconds + 1))
}

/// Between once and twice the duration.
pub fn once_to_twice(duration: Duration) -> Duration {
    duration + chance(duration)
}

/// Puts the items in an order by chance (Fisher and Yates).
pub fn shuffle<T>(items: &mut [T]) {
    for index in (1..items.len()).rev() {
        let other = number_below(index as u64 + 1);
        items.swap(index, other as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_stays_in_its_bounds_and_reaches_them() {
        let mut seen = [false; 4];
        for _ in 0..1_000 {
            seen[chance(Duration::from_millis(3)).as_millis() as usize] = true;
            let twice = once_to_twice(Duration::from_millis(10)).as_millis();
            assert!((10..=20).contains(&twice));
        }
        assert_eq!(seen, [true; 4]);
        assert_eq!(
            (number_below(0), chance(Duration::ZERO)),
            (0, Duration::ZERO)
        );
    }

    #[test]
    fn shuffling_keeps_all_and_moves_most() {
        let mut items: Vec<usize> = (0..1_000).collect();
        shuffle(&mut items);
        let stayed = (0..1_000).filter(|index| items[*index] == *index).count();
        assert!(stayed < 20, "{stayed}");
        items.sort_unstable();
        assert!(items.into_iter().eq(0..1_000));
    }
}
