//! What comes after what, and what at the same time: a function of the seed.

use std::time::Duration;

use super::fault::{Fault, Fleet};
use super::kind::Kind;
use super::{Length, Parameters};
use crate::support::chance::Chance;

/// How long all is well after a recovery.
const REST: std::ops::Range<Duration> = Duration::from_millis(150)..Duration::from_millis(700);

pub struct Plan {
    kinds: Vec<Kind>,
    /// Of a hundred faults, so many are joined by another one.
    overlap_percent: u64,
    fleet: Fleet,
    length: Length,
    chance: Chance,
    /// What is still to be drawn before each kind has had its turn.
    turn: Vec<Kind>,
    drawn: usize,
}

/// One fault, or two of which the second begins while the first goes on.
pub struct Step {
    pub first: Fault,
    /// With the time from the begin of the first to its own.
    pub second: Option<(Duration, Fault)>,
    pub rest: Duration,
}

impl Plan {
    pub fn new(parameters: &Parameters, chance: Chance) -> Plan {
        Plan {
            kinds: parameters.kinds.clone(),
            overlap_percent: parameters.overlap_percent,
            fleet: parameters.fleet(),
            length: parameters.length,
            chance,
            turn: Vec::new(),
            drawn: 0,
        }
    }

    /// What is next, `elapsed` after the begin; `None` at the end. Must not be asked where there
    /// are no kinds.
    pub fn next(&mut self, elapsed: Duration) -> Option<Step> {
        if self.is_over(elapsed) {
            return None;
        }
        let first = self.fault();
        let second = match self.chance.percent(self.overlap_percent) {
            true => self.second(&first),
            false => None,
        };
        self.drawn += if second.is_some() { 2 } else { 1 };
        Some(Step {
            first,
            second,
            rest: self.chance.duration(REST),
        })
    }

    pub fn is_over(&self, elapsed: Duration) -> bool {
        match self.length {
            Length::Faults(count) => self.drawn >= count,
            Length::Time(time) => elapsed >= time,
        }
    }

    /// Of kinds in turn, each as often as the others.
    fn fault(&mut self) -> Fault {
        if self.turn.is_empty() {
            self.turn.clone_from(&self.kinds);
        }
        let index = self.chance.below(self.turn.len() as u64) as usize;
        let kind = self.turn.swap_remove(index);
        Fault::draw(kind, self.fleet, &mut self.chance)
    }

    /// Another fault that can go on at the same time; what cannot has its turn later.
    fn second(&mut self, first: &Fault) -> Option<(Duration, Fault)> {
        let second = self.fault();
        if !second.goes_with(first) {
            self.turn.push(second.kind);
            return None;
        }
        let begins = first.lasts.max(Duration::from_millis(500));
        Some((self.chance.duration(Duration::ZERO..begins), second))
    }
}

#[test]
fn a_plan_is_repeated_by_its_seed_and_every_kind_has_its_turn() {
    let drawn = |seed: u64| -> Vec<String> {
        let parameters = Parameters {
            overlap_percent: 50,
            ..Parameters::new(seed, &Kind::ALL, Length::Faults(3 * Kind::ALL.len()))
        };
        let mut plan = Plan::new(&parameters, Chance::new(seed));
        let mut faults = Vec::new();
        while let Some(step) = plan.next(Duration::ZERO) {
            let second = step.second.map(|(_, second)| second);
            assert!(second.iter().all(|second| second.goes_with(&step.first)));
            faults.extend([Some(step.first), second].into_iter().flatten());
        }
        faults.iter().map(ToString::to_string).collect()
    };
    assert_eq!(drawn(7), drawn(7));
    assert_ne!(drawn(7), drawn(8));
    for kind in Kind::ALL {
        let begin = format!("{kind} of");
        let count = drawn(7)
            .iter()
            .filter(|fault| fault.starts_with(&begin))
            .count();
        assert!((2..=4).contains(&count), "{kind}: {count}");
    }
}
