//! That what the processes hold does not grow with the faults.

use std::fmt;
use std::time::{Duration, Instant};

use crate::support::System;
use crate::support::role::Kind;

/// How much more the largest process of the second half of a run may hold than that of the first,
/// in bytes. What was for everyone stays in a gateway's memory: up to 20,000 messages of about
/// 400 bytes. The rest is what an allocator keeps.
const GROWTH_BYTES_MAX: u64 = 16 << 20;
/// In a shorter run nothing has had the time to grow, and the first faults make it.
const RUN_MIN: Duration = Duration::from_secs(120);

const MEBIBYTE: f64 = (1 << 20) as f64;

/// Looks at all processes again and again.
pub struct MemoryWatch {
    began: Instant,
    /// After so long, the most that any process of a kind had resident.
    looks: Vec<(Duration, Kind, u64)>,
}

/// The most that any process of each kind had resident, in bytes.
#[derive(Debug, Default)]
pub struct MemoryFigures {
    elapsed: Duration,
    gateways: Halves,
    workers: Halves,
}

#[derive(Debug, Default, Clone, Copy)]
struct Halves {
    first: u64,
    second: u64,
}

impl MemoryWatch {
    pub fn start() -> MemoryWatch {
        MemoryWatch {
            began: Instant::now(),
            looks: Vec::new(),
        }
    }

    pub fn look(&mut self, system: &System) {
        let elapsed = self.began.elapsed();
        let running = system.roles().filter(|role| role.is_running());
        let looks = running.map(|role| (elapsed, role.kind(), role.resident_bytes()));
        self.looks.extend(looks);
    }

    pub fn figures(&self) -> MemoryFigures {
        let elapsed = self.began.elapsed();
        let most = |kind: Kind, is_second: bool| {
            let looks = self.looks.iter().filter(|look| {
                let (at, of, _) = look;
                *of == kind && (*at > elapsed / 2) == is_second
            });
            looks.map(|(_, _, bytes)| *bytes).max().unwrap_or(0)
        };
        let halves = |kind: Kind| Halves {
            first: most(kind, false),
            second: most(kind, true),
        };
        MemoryFigures {
            elapsed,
            gateways: halves(Kind::Gateway),
            workers: halves(Kind::Worker),
        }
    }
}

impl MemoryFigures {
    /// What grew.
    pub fn wrongs(&self) -> Vec<String> {
        let grew = |halves: &Halves| {
            self.elapsed >= RUN_MIN && halves.second > halves.first + GROWTH_BYTES_MAX
        };
        let all = [("gateway", self.gateways), ("worker", self.workers)];
        let grown = all.into_iter().filter(|(_, halves)| grew(halves));
        grown
            .map(|(name, halves)| format!("the memory of a {name} grew: {halves}"))
            .collect()
    }
}

impl fmt::Display for Halves {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = |bytes: u64| bytes as f64 / MEBIBYTE;
        let (first, second) = (mebibytes(self.first), mebibytes(self.second));
        write!(formatter, "{first:.0} MiB, then {second:.0} MiB")
    }
}

impl fmt::Display for MemoryFigures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (gateways, workers) = (self.gateways, self.workers);
        write!(
            formatter,
            "most memory in the first half, then in the second: a gateway {gateways}; a worker \
             {workers}"
        )
    }
}

#[test]
fn memory_that_grows_is_seen() {
    let figures = |first: u64, second: u64, elapsed: Duration| MemoryFigures {
        elapsed,
        gateways: Halves {
            first: first << 20,
            second: second << 20,
        },
        workers: Halves::default(),
    };
    assert_eq!(figures(20, 36, RUN_MIN).wrongs().len(), 0);
    assert_eq!(figures(20, 37, RUN_MIN).wrongs().len(), 1);
    assert_eq!(figures(20, 37, RUN_MIN / 2).wrongs().len(), 0);
}
