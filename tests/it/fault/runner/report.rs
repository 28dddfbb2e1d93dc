//! What a run shows: a table of the faults, and the figures of the oracle.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::kind::Kind;
use super::memory::MemoryFigures;
use crate::support::oracle::Verdict;

/// Most lines of one list of what went wrong.
const LINES_MAX: usize = 20;

#[derive(Default)]
pub struct Report {
    pub seed: u64,
    pub elapsed: Duration,
    pub rows: BTreeMap<Kind, Row>,
    /// The steps of two faults at the same time, which are counted by kind as well.
    pub together: Row,
    pub verdict: Verdict,
    /// How long after the last fault, with everybody there, all had arrived.
    pub quiet_after: Duration,
    /// What had not arrived when it should have.
    pub late: Vec<String>,
    /// Told as lost with the store, although it could be brought again.
    pub is_announced_wrong: bool,
    /// What was left in Redis and NATS.
    pub left: Vec<String>,
    pub memory: MemoryFigures,
}

/// The faults of one kind. Those that another one joined are only counted here.
#[derive(Default)]
pub struct Row {
    pub count: usize,
    /// From the end of each fault until the store was whole, all processes ready, and events that
    /// were published after it had arrived.
    pub recoveries: Vec<Duration>,
    /// Faults after which that was never so.
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
        for (name, row) in self.all_rows() {
            if row.unrecovered > 0 {
                wrongs.push(format!("{} times no recovery of {name}", row.unrecovered));
            }
        }
        if self.is_announced_wrong && verdict.announced > 0 {
            let count = verdict.announced;
            wrongs.push(format!("{count} told as missed that nothing removed"));
        }
        wrongs.extend(self.left.iter().map(|left| format!("left: {left}")));
        wrongs.extend(self.memory.wrongs());
        wrongs
    }

    /// By their names, in the order of the table.
    fn all_rows(&self) -> impl Iterator<Item = (&'static str, &Row)> {
        let kinds = self.rows.iter().map(|(kind, row)| (kind.name(), row));
        let together = Some(("two at once", &self.together));
        kinds.chain(together.filter(|(_, row)| row.count > 0))
    }

    /// Panics where anything went wrong.
    pub fn assert_kept(&self) {
        let wrongs = self.wrongs();
        assert!(wrongs.is_empty(), "{}", wrongs.join("\n"));
    }
}

impl Row {
    fn worst(&self) -> String {
        seconds(self.recoveries.iter().max())
    }

    fn median(&self) -> String {
        let mut recoveries = self.recoveries.clone();
        recoveries.sort();
        seconds(recoveries.get(recoveries.len().saturating_sub(1) / 2))
    }
}

fn seconds(duration: Option<&Duration>) -> String {
    duration.map_or("-".to_owned(), |duration| {
        format!("{:.2} s", duration.as_secs_f64())
    })
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "{:<18} {:>5} {:>9} {:>9} {:>8}",
            "fault", "count", "worst", "median", "repeats"
        )?;
        for (name, row) in self.all_rows() {
            writeln!(
                formatter,
                "{name:<18} {:>5} {:>9} {:>9} {:>8}",
                row.count,
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
            "{} out of order, {} to a wrong user, {} false missed, {} times told of a lost store",
            verdict.inversions.len(),
            verdict.strange.len(),
            verdict.false_missed.len(),
            verdict.store_lost,
        )?;
        writeln!(formatter, "{}", self.memory)?;
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
