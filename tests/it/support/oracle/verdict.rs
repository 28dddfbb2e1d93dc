//! What the oracle says of a test: what is lost, told, wrong.

use std::collections::{HashMap, HashSet};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Ear, Inner, Missed, Oracle, Owed};

/// How every promise was kept. Each entry of a list names the device and the id or the frame.
#[derive(Debug, Default)]
pub struct Verdict {
    pub events: usize,
    /// Messages that reached a device for the first time.
    pub deliveries: usize,
    pub repeats: u64,
    pub reconnects: u64,
    /// Owed, not heard, and in the count of no `missed` frame.
    pub lost: Vec<String>,
    /// Owed, not heard, and told by a `missed` frame.
    pub announced: usize,
    /// Heard by a user who is not among the event's, or never published.
    pub strange: Vec<String>,
    /// `missed` frames that tell of nothing that is missing.
    pub false_missed: Vec<String>,
    /// The same, but for `store_lost` after [`Oracle::store_loses`], which is right to be told.
    pub store_lost: usize,
    /// Heard for the first time after a later one of the same key, audience and priority.
    pub inversions: Vec<String>,
}

impl Oracle {
    /// Whether anything is missing that was not announced.
    pub(super) fn has_lost(&self) -> bool {
        let inner = self.inner();
        let mut verdict = Verdict::default();
        for ear in inner.ears.values() {
            inner.judge_missing("", ear, &mut verdict);
        }
        !verdict.lost.is_empty()
    }

    /// How the promises are kept. Nothing may be published at the same time: what is heard before
    /// its PubAck is known looks like something strange.
    pub fn verdict(&self) -> Verdict {
        let inner = self.inner();
        let mut verdict = Verdict {
            events: inner.promises.len(),
            deliveries: inner.deliveries,
            ..Verdict::default()
        };
        for ((user, device), ear) in &inner.ears {
            let name = format!("{user}/{device}");
            verdict.repeats += ear.repeats;
            verdict.reconnects += ear.connections.saturating_sub(1);
            inner.judge_missing(&name, ear, &mut verdict);
            inner.judge_heard(user, &name, ear, &mut verdict);
        }
        verdict
    }
}

impl Inner {
    /// What is missing is announced where a `missed` frame speaks of its time, up to the frame's
    /// count.
    fn judge_missing(&self, name: &str, ear: &Ear, verdict: &mut Verdict) {
        if ear.missing.is_empty() && ear.missed.is_empty() {
            return;
        }
        let mut missing: Vec<(&str, u64, (u64, u64))> = (ear.missing.iter())
            .map(|id| {
                let promise = &self.promises[id];
                (id.as_str(), promise.sequence, promise.stored_ms)
            })
            .collect();
        missing.sort_by_key(|(_, sequence, _)| *sequence);
        let mut announced: HashSet<&str> = HashSet::new();
        // A frame is told again on the next connection until it is acknowledged; those of one
        // connection speak of different messages.
        let mut on_connection: (u64, HashSet<&str>) = (0, HashSet::new());
        let mut frames: Vec<&Missed> = ear.missed.iter().collect();
        // Each lane has frames of its own. Those that speak of a shorter time choose first, so that
        // the others are left with what only they can mean.
        frames.sort_by_key(|missed| (missed.connection, missed.time_ms("to")));
        for missed in frames {
            if on_connection.0 != missed.connection {
                on_connection = (missed.connection, HashSet::new());
            }
            let told: Vec<&str> = (missing.iter())
                .filter(|(id, _, stored_ms)| {
                    missed.speaks_of(*stored_ms) && !on_connection.1.contains(id)
                })
                .map(|(id, _, _)| *id)
                .take(missed.count())
                .collect();
            if told.is_empty() && self.has_lost_before(missed) {
                verdict.store_lost += 1;
            } else if told.is_empty() {
                verdict
                    .false_missed
                    .push(format!("{name}: {}", missed.frame));
            }
            on_connection.1.extend(&told);
            announced.extend(told);
        }
        let lost = missing.iter().filter(|(id, ..)| !announced.contains(id));
        verdict
            .lost
            .extend(lost.map(|(id, sequence, _)| format!("{name}: {id} (sequence {sequence})")));
        verdict.announced += announced.len();
    }

    /// Whether a frame tells of a loss of the store that there was.
    fn has_lost_before(&self, missed: &Missed) -> bool {
        let lost_at = self
            .store_lost_at
            .filter(|_| missed.frame["reason"] == "store_lost");
        lost_at.is_some_and(|lost_at| lost_at <= missed.heard_at)
    }

    fn judge_heard(&self, user: &str, name: &str, ear: &Ear, verdict: &mut Verdict) {
        let mut last: HashMap<(&str, bool, bool), (u64, &str)> = HashMap::new();
        for id in &ear.heard {
            let promise = self.promises.get(id);
            let Some(promise) = promise.filter(|promise| promise.is_for(user)) else {
                verdict.strange.push(format!("{name}: {id}"));
                continue;
            };
            let Some(key) = promise.key.as_deref() else {
                continue;
            };
            let is_personal = matches!(promise.audience, Owed::Users(_));
            let line = (key, is_personal, promise.is_high);
            let before = last.insert(line, (promise.sequence, id));
            if let Some((sequence, other)) = before
                && sequence > promise.sequence
            {
                let inversion = format!("{name}: {id} after {other}, both of the key {key}");
                verdict.inversions.push(inversion);
            }
        }
    }
}

impl Missed {
    fn count(&self) -> usize {
        let count = self.frame["count"].as_u64();
        count.map_or(usize::MAX, |count| count as usize)
    }

    /// Whether an event that was stored between these times can be one that the frame tells of.
    fn speaks_of(&self, (earliest_ms, latest_ms): (u64, u64)) -> bool {
        let (from, to) = (self.time_ms("from"), self.time_ms("to"));
        from.is_none_or(|from| latest_ms >= from) && to.is_none_or(|to| earliest_ms <= to)
    }

    /// A time of the frame, in milliseconds since 1970.
    fn time_ms(&self, field: &str) -> Option<u64> {
        let text = self.frame[field].as_str()?;
        let time = OffsetDateTime::parse(text, &Rfc3339).expect("RFC 3339");
        Some((time.unix_timestamp_nanos() / 1_000_000) as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::super::{Audience, Event, Promise};
    use super::*;

    const TIME: &str = "2026-01-02T03:04:05.000Z";
    const TIME_MS: u64 = 1_767_323_045_000;

    fn promised(oracle: &Oracle, sequence: u64, event: Event<'_>) {
        let promise = Promise {
            sequence,
            key: event.key.map(str::to_owned),
            is_high: event.is_high,
            audience: event.audience.owed(),
            began: Instant::now(),
            stored_ms: (TIME_MS, TIME_MS),
        };
        oracle.inner().promise(&sequence.to_string(), promise);
    }

    fn keyed(audience: Audience<'_>) -> Event<'_> {
        Event {
            key: Some("key"),
            audience,
            is_high: false,
        }
    }

    fn heard(oracle: &Oracle, user: &str, ids: &[&str]) {
        let messages: Vec<_> = ids.iter().map(|id| json!({ "id": id })).collect();
        let frame = json!({ "op": "messages", "messages": messages });
        oracle.hear(user, "d", &frame);
    }

    fn missed(oracle: &Oracle, user: &str, count: u64, to: &str) {
        let frame = json!({
            "op": "missed", "count": count, "reason": "evicted", "from": null, "to": to,
        });
        oracle.hear(user, "d", &frame);
    }

    #[test]
    fn what_is_owed_and_not_heard_is_lost() {
        let oracle = Oracle::default();
        promised(&oracle, 1, keyed(Audience::Users(&["ann"])));
        promised(&oracle, 2, keyed(Audience::Everyone));
        oracle.expect_device("ann", "d");
        oracle.expect_device("ann", "second");
        promised(&oracle, 3, keyed(Audience::EveryoneBut("ann")));
        promised(&oracle, 4, keyed(Audience::Everyone));
        let lost = oracle.verdict().lost;
        let due = ["ann/d: 1", "ann/d: 4", "ann/second: 4"];
        let is_due = |(lost, due): (&String, &str)| lost.starts_with(due);
        assert!(
            lost.len() == 3 && lost.iter().zip(due).all(is_due),
            "{lost:?}"
        );
        heard(&oracle, "ann", &["1", "4", "1"]);
        let verdict = oracle.verdict();
        assert_eq!((verdict.lost.len(), verdict.repeats), (1, 1));
        assert_eq!(verdict.deliveries, 2);
    }

    #[test]
    fn what_a_missed_frame_counts_is_announced() {
        let oracle = Oracle::default();
        oracle.expect_device("ann", "d");
        for sequence in 1..=3 {
            promised(&oracle, sequence, keyed(Audience::Users(&["ann"])));
        }
        missed(&oracle, "ann", 2, "2026-01-02T03:04:06.000Z");
        let verdict = oracle.verdict();
        assert_eq!((verdict.announced, verdict.lost.len()), (2, 1));
        assert!(verdict.false_missed.is_empty());
        // One that ends before anything is missing tells nothing.
        missed(&oracle, "ann", 2, "2026-01-02T03:04:04.000Z");
        assert_eq!(oracle.verdict().false_missed.len(), 1);
    }

    #[test]
    fn a_loss_of_the_store_is_told_rightly_only_after_it() {
        let oracle = Oracle::default();
        oracle.expect_device("ann", "d");
        let told = || {
            let frame = json!({ "op": "missed", "count": null, "reason": "store_lost" });
            oracle.hear("ann", "d", &frame);
            let verdict = oracle.verdict();
            (verdict.false_missed.len(), verdict.store_lost)
        };
        assert_eq!(told(), (1, 0));
        oracle.store_loses();
        assert_eq!(told(), (1, 1));
        missed(&oracle, "ann", 1, TIME);
        assert_eq!(oracle.verdict().false_missed.len(), 2, "another reason");
    }

    #[test]
    fn a_wrong_user_and_a_wrong_order_are_seen() {
        let oracle = Oracle::default();
        promised(&oracle, 1, keyed(Audience::Users(&["ann", "bob"])));
        promised(&oracle, 2, keyed(Audience::Users(&["ann"])));
        heard(&oracle, "bob", &["1", "2"]);
        heard(&oracle, "ann", &["2", "1"]);
        let verdict = oracle.verdict();
        assert_eq!(verdict.strange, ["bob/d: 2"]);
        assert_eq!(verdict.inversions.len(), 1);
        assert!(verdict.inversions[0].starts_with("ann/d: 1 after 2"));
        missed(&oracle, "bob", 1, TIME);
        assert_eq!(oracle.verdict().false_missed.len(), 1);
    }
}
