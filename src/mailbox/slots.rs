//! Hash slots of a Redis Cluster (Redis Cluster specification, "Key distribution model"): which
//! slot a key lies in, sets of slots, and a key for a given slot.

use std::fmt;

/// Slots of every cluster.
pub(super) const SLOTS: u16 = 16_384;

/// CRC16-XMODEM, as the specification has it.
const fn crc16(bytes: &[u8]) -> u16 {
    let mut crc = 0_u16;
    let mut index = 0;
    while index < bytes.len() {
        crc ^= (bytes[index] as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            let carry = crc & 0x8000 != 0;
            crc <<= 1;
            if carry {
                crc ^= 0x1021;
            }
            bit += 1;
        }
        index += 1;
    }
    crc
}

/// The slot of a key: of what stands between its first `{` and the next `}`, where that is not
/// empty, else of all of it.
pub(super) fn slot_of(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| {
        let (tag, _) = rest.split_once('}')?;
        (!tag.is_empty()).then_some(tag)
    });
    crc16(tag.unwrap_or(key).as_bytes()) % SLOTS
}

/// The smallest number whose digits lie in this slot: a hash tag for it.
pub(super) fn tag_of(slot: u16) -> String {
    let mut numbers = (0_u64..).map(|number| number.to_string());
    let lies_there = |text: &String| crc16(text.as_bytes()) % SLOTS == slot;
    // Five digits reach every slot; a test tries all.
    numbers.find(lies_there).unwrap_or_default()
}

/// A set of slots.
#[derive(Clone, PartialEq, Eq)]
pub struct SlotSet {
    words: Box<[u64; SLOTS as usize / 64]>,
}

impl Default for SlotSet {
    fn default() -> SlotSet {
        SlotSet {
            words: Box::new([0; SLOTS as usize / 64]),
        }
    }
}

impl SlotSet {
    /// Adds a slot; one that no cluster has is left out.
    pub fn insert(&mut self, slot: u16) {
        if let Some(word) = self.words.get_mut(usize::from(slot) / 64) {
            *word |= 1 << (slot % 64);
        }
    }

    pub fn remove(&mut self, slot: u16) {
        if let Some(word) = self.words.get_mut(usize::from(slot) / 64) {
            *word &= !(1 << (slot % 64));
        }
    }

    pub fn contains(&self, slot: u16) -> bool {
        let word = self.words.get(usize::from(slot) / 64);
        word.is_some_and(|word| word & (1 << (slot % 64)) != 0)
    }

    pub fn add_all(&mut self, other: &SlotSet) {
        for (word, other) in self.words.iter_mut().zip(other.words.iter()) {
            *word |= other;
        }
    }

    /// Whether every slot of this set is in one of the two.
    pub fn is_within(&self, one: &SlotSet, other: &SlotSet) -> bool {
        let words = self
            .words
            .iter()
            .zip(one.words.iter().zip(other.words.iter()));
        words
            .into_iter()
            .all(|(word, (one, other))| word & !(one | other) == 0)
    }

    pub fn is_subset(&self, other: &SlotSet) -> bool {
        self.is_within(other, other)
    }

    pub fn iter(&self) -> impl Iterator<Item = u16> {
        (0..SLOTS).filter(|slot| self.contains(*slot))
    }

    /// One slot of the set, which seldom changes when few slots come or go: the least by an order
    /// that has nothing to do with how slots are handed out.
    pub(super) fn representative(&self) -> Option<u16> {
        // Odd, so it maps the slots onto themselves (Knuth's multiplicative hashing).
        self.iter()
            .min_by_key(|slot| slot.wrapping_mul(40_503) % SLOTS)
    }

    /// Reads what `Display` writes; `None` for anything else.
    pub fn parse(text: &str) -> Option<SlotSet> {
        let mut set = SlotSet::default();
        for range in text.split(',').filter(|range| !range.is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
            if first > last || last >= SLOTS {
                return None;
            }
            (first..=last).for_each(|slot| set.insert(slot));
        }
        Some(set)
    }
}

/// As ranges: `0-99,200`.
impl fmt::Display for SlotSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        let mut slots = self.iter().peekable();
        while let Some(first) = slots.next() {
            let mut last = first;
            while let Some(next) = slots.next_if_eq(&(last + 1)) {
                last = next;
            }
            match first == last {
                true => write!(formatter, "{separator}{first}")?,
                false => write!(formatter, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SlotSet({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lie_where_the_specification_says() {
        // "Appendix A" of the specification.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (key, like) in [
            ("{user1000}.following", "user1000"),
            ("foo{bar}{zap}", "bar"),
            ("foo{{bar}}zap", "{bar"),
            ("offline_messages:{ann}:high", "ann"),
        ] {
            assert_eq!(slot_of(key), crc16(like.as_bytes()) % SLOTS, "{key}");
        }
        let whole = "foo{}{bar}";
        assert_eq!(slot_of(whole), crc16(whole.as_bytes()) % SLOTS);
    }

    #[test]
    fn every_slot_has_a_tag() {
        for slot in (0..SLOTS).step_by(97).chain([SLOTS - 1]) {
            assert_eq!(slot_of(&format!("x:{{{}}}", tag_of(slot))), slot);
        }
    }

    #[test]
    fn sets_are_written_as_ranges_and_read_again() {
        for text in ["", "0", "0-16383", "5,7-9,63-65,16383"] {
            let set = SlotSet::parse(text).unwrap();
            assert_eq!(set.to_string(), text);
        }
        for junk in ["a", "5-4", "16384", "1-", "-1"] {
            assert_eq!(SlotSet::parse(junk), None, "{junk}");
        }
    }

    #[test]
    fn sets_are_compared() {
        let set = |text| SlotSet::parse(text).unwrap();
        assert!(set("1-9").is_within(&set("1-5"), &set("6-20")));
        assert!(!set("1-9").is_within(&set("1-5"), &set("7-20")));
        assert!(set("").is_subset(&set("")));
        let mut grown = set("1");
        grown.add_all(&set("3-4"));
        grown.remove(4);
        assert_eq!(grown, set("1,3"));
    }

    #[test]
    fn the_representative_seldom_changes() {
        let half = SlotSet::parse("0-8191").unwrap();
        let before = half.representative();
        let changes = (8_192..8_292).filter(|slot| {
            let mut grown = half.clone();
            grown.insert(*slot);
            grown.representative() != before
        });
        assert!(changes.count() <= 2);
        assert_eq!(SlotSet::default().representative(), None);
    }
}
