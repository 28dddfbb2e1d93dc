//! What the system does under load, in figures: `scripts/bench KIND` runs the large form of each,
//! which is an ignored test with parameters; the small form, with the same checks, is part of the
//! suite.
//!
//! | kind | what it shows |
//! |---|---|
//! | `idle` | the memory that an idle socket costs a gateway |
//! | `storm` | all clients connect at once: all get in at the limit, nobody is lost |
//! | `rolling` | all gateways are restarted one after the other under traffic |
//! | `refused` | a publisher of nothing but refused events |
//! | `abuse` | clients that drop, hold or flood connections: `scripts/abuse KIND` |

mod abuse;
mod idle;
mod refused;
mod rolling;
mod storm;

use std::collections::VecDeque;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::support::process::raise_open_files;

/// Open files of a process besides its sockets.
const OPEN_FILES_BESIDE: u64 = 500;
/// How often [`Lateness`] looks.
const LATENESS_INTERVAL: Duration = Duration::from_millis(5);

/// A parameter of the large form, from the environment.
fn parameter<T: FromStr>(name: &str, default: T) -> T {
    let Ok(text) = std::env::var(name) else {
        return default;
    };
    let value = text.parse().ok();
    value.unwrap_or_else(|| panic!("{name}={text:?} is not a number that fits"))
}

/// Sees to it that this process may have so many sockets; a gateway has the same limit.
fn allow_sockets(sockets: usize) {
    raise_open_files();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    let needed = sockets as u64 + OPEN_FILES_BESIDE;
    assert!(
        hard >= needed,
        "{sockets} sockets need {needed} open files and the hard limit is {hard}: raise it \
         (ulimit -Hn {needed}, as root), or take fewer sockets"
    );
}

/// Watches how late this process is in what it does: on a machine with too much to do, clients
/// come late and together, which is no fault of the gateways'.
struct Lateness {
    most: Arc<Mutex<Duration>>,
    _probe: JoinSet<()>,
}

impl Lateness {
    fn watch() -> Lateness {
        let most = Arc::new(Mutex::new(Duration::ZERO));
        let mut probe = JoinSet::new();
        let noted = Arc::clone(&most);
        probe.spawn(async move {
            loop {
                let due = Instant::now() + LATENESS_INTERVAL;
                // That it ends late is what is measured.
                sleep_until(due).await;
                let mut most = noted.lock().expect("not poisoned");
                *most = due.elapsed().max(*most);
            }
        });
        Lateness {
            most,
            _probe: probe,
        }
    }

    /// The longest delay so far.
    fn most(&self) -> Duration {
        *self.most.lock().expect("not poisoned")
    }
}

/// The most of these moments, in order, that fall into one second.
fn peak_per_second(moments: impl IntoIterator<Item = Instant>) -> usize {
    let (mut window, mut peak) = (VecDeque::new(), 0);
    for moment in moments {
        window.push_back(moment);
        while moment - window[0] >= Duration::from_secs(1) {
            window.pop_front();
        }
        peak = peak.max(window.len());
    }
    peak
}

/// Of sorted values, the one below which `share` of them are.
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let index = (sorted.len() as f64 * share) as usize;
    let value = sorted.get(index.min(sorted.len().saturating_sub(1)));
    value.copied().unwrap_or_default()
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}
