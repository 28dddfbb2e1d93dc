//! The ids that were seen last.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

/// A client drops a message whose id is among this many it has seen (contract §4).
pub(super) const RECENT_IDS: usize = 1_000;

/// The last [`RECENT_IDS`] ids.
#[derive(Default)]
pub(super) struct Recent {
    order: VecDeque<Arc<str>>,
    ids: HashSet<Arc<str>>,
}

impl Recent {
    /// Remembers an id; false where it was known.
    pub(super) fn insert(&mut self, id: &str) -> bool {
        if self.ids.contains(id) {
            return false;
        }
        let id: Arc<str> = id.into();
        self.order.push_back(id.clone());
        self.ids.insert(id);
        if self.order.len() > RECENT_IDS
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_thousand_are_known() {
        let mut recent = Recent::default();
        for number in 0..=RECENT_IDS {
            assert!(recent.insert(&number.to_string()));
        }
        assert!(!recent.insert("1"));
        assert!(!recent.insert(&RECENT_IDS.to_string()));
        assert!(recent.insert("0"), "pushed out by the later ones");
        assert_eq!(
            (recent.order.len(), recent.ids.len()),
            (RECENT_IDS, RECENT_IDS)
        );
    }
}
