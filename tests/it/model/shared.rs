//! Parts of a state that most steps leave alone: cloned by reference and hashed once. A search
//! clones and hashes whole states all the time.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// A value with its digest.
pub struct Shared<T> {
    value: Arc<T>,
    /// `None` since it was edited.
    digest: Option<u64>,
}

impl<T: Clone + Hash> Shared<T> {
    pub fn new(value: T) -> Shared<T> {
        Shared {
            value: Arc::new(value),
            digest: None,
        }
    }

    pub fn edit(&mut self) -> &mut T {
        self.digest = None;
        Arc::make_mut(&mut self.value)
    }

    /// To be called before it is hashed.
    pub fn seal(&mut self) {
        let value = &self.value;
        self.digest.get_or_insert_with(|| digest_of(&**value));
    }

    /// True where neither was edited since one was cloned from the other.
    pub fn is_untouched(&self, other: &Shared<T>) -> bool {
        Arc::ptr_eq(&self.value, &other.value)
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Shared<T> {
        Shared {
            value: Arc::clone(&self.value),
            digest: self.digest,
        }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Hash> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.digest.expect("sealed after it was edited"));
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Shared<T>) -> bool {
        Arc::ptr_eq(&self.value, &other.value) || self.value == other.value
    }
}

impl<T: Eq> Eq for Shared<T> {}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(formatter)
    }
}

/// Two states with one digest are taken for one; with some millions of states and 64 bits that
/// happens once in some millions of runs.
pub fn digest_of<T: Hash>(value: &T) -> u64 {
    let mut digest = Digest(0x9e37_79b9_7f4a_7c15);
    value.hash(&mut digest);
    digest.finish()
}

/// A few instructions a word, also where nothing is optimised. The steps are those of splitmix64
/// (Vigna).
struct Digest(u64);

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        self.0 = (mixed ^ (mixed >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.0 ^= self.0 >> 32;
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(u64::from(word));
    }

    fn write_u16(&mut self, word: u16) {
        self.write_u64(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn write_isize(&mut self, word: isize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
