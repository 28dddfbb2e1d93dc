//! What a run shows: a table of the faults, and the figures of the oracle.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::kind::Kind;
use crate::support::oracle::Verdict;

/// Most lines of one list of what went wrong.
const LINES_MAX: usize = 20;

#[derive(Default)]
pub struct Report {
    pub seed: u64,
    pub elapsed: Duration,
    pub rows: BTreeMap<Kind, Row>,
    pub verdict: Verdict,
    /// How long after the last fault, with everybody there, all had arrived.
    pub quiet_after: Duration,
    /// What had not arrived when it should have.
    pub late: Vec<String>,
}

/// The faults of one kind.
#[derive(Default)]
pub struct Row {
    /// From the end of each fault until an event that was published after it arrived.
    pub recoveries: Vec<Duration>,
    /// Faults after which none arrived.
    pub unrecovered: usize,
    /// Messages that came again from the fault's begin to that of the next one.
    pub repeats: u64,
}

impl Report {
    /// What went wrong: a line each; empty where the promise was kept.
    pub fn wrongs(&self) -> Vec<String> {
        let verdict = &self.verdict;
        let keeps_order = self.rows.keys().all(|kind| kind.keeps_order());
        let inversions: &[String] = match keeps_order {
            true => &verdict.inversions,
            false => &[],
        };
        let lists: [(&str, &[String]); 5] = [
            ("lost", &verdict.lost),
            ("late", &self.late),
            ("wrong user", &verdict.strange),
            ("false missed", &verdict.false_missed),
            ("out of order", inversions),
        ];
        let mut wrongs = Vec::new();
        for (name, list) in lists {
            let lines = list.iter().take(LINES_MAX);
            wrongs.extend(lines.map(|line| format!("{name}: {line}")));
            if list.len() > LINES_MAX {
                wrongs.push(format!("{name}: {} more", list.len() - LINES_MAX));
            }
        }
        for (kind, row) in &self.rows {
            if row.unrecovered > 0 {
                wrongs.push(format!("{} times no recovery of {kind}", row.unrecovered));
            }
        }
        wrongs
    }

    /// Panics where anything went wrong.
    pub fn assert_kept(&self) {
        let wrongs = self.wrongs();
        assert!(wrongs.is_empty(), "{}", wrongs.join("\n"));
    }
}

impl Row {
    pub fn count(&self) -> usize {
        self.recoveries.len() + self.unrecovered
    }

    fn worst(&self) -> f64 {
        let worst = self.recoveries.iter().max();
        worst.map_or(f64::NAN, Duration::as_secs_f64)
    }

    fn median(&self) -> f64 {
        let mut recoveries = self.recoveries.clone();
        recoveries.sort();
        let middle = recoveries.get(recoveries.len().saturating_sub(1) / 2);
        middle.map_or(f64::NAN, Duration::as_secs_f64)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "{:<18} {:>5} {:>9} {:>9} {:>8}",
            "fault", "count", "worst", "median", "repeats"
        )?;
        for (kind, row) in &self.rows {
            writeln!(
                formatter,
                "{kind:<18} {:>5} {:>7.2} s {:>7.2} s {:>8}",
                row.count(),
                row.worst(),
                row.median(),
                row.repeats
            )?;
        }
        let verdict = &self.verdict;
        writeln!(
            formatter,
            "seed {}, {:.0} s, all there {:.1} s after the last fault, {} late; {} reconnects",
            self.seed,
            self.elapsed.as_secs_f64(),
            self.quiet_after.as_secs_f64(),
            self.late.len(),
            verdict.reconnects,
        )?;
        writeln!(
            formatter,
            "{} out of order, {} to a wrong user, {} false missed",
            verdict.inversions.len(),
            verdict.strange.len(),
            verdict.false_missed.len(),
        )?;
        for wrong in self.wrongs() {
            writeln!(formatter, "{wrong}")?;
        }
        write!(
            formatter,
            "total: events {} deliveries {} lost {} announced {} repeats {}",
            verdict.events,
            verdict.deliveries,
            verdict.lost.len(),
            verdict.announced,
            verdict.repeats
        )
    }
}
