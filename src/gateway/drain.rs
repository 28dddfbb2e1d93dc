//! Leaving: the sockets are told one after the other, so that their reconnects elsewhere do not
//! come as one peak.
//!
//! In an order by chance and at an even rate, each is sent `away` with a delay, then the close. A
//! node with few sockets is faster than its drain time, and one with so many that other nodes
//! could not take them in within it asks the later ones for longer delays. Nobody is waited for
//! but at the end: a client that does not answer holds nobody else up.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::chance::{once_to_twice, shuffle};
use super::node::Node;
use super::registry::{AWAY_MIN, Signal};

/// A node tells at least so many sockets a second: a few need not be spread over the whole time.
const TOLD_PER_SECOND_MIN: f64 = 10.0;
/// After a stall of this process, late sockets are told at most this much faster than planned.
const CATCH_UP: f64 = 1.25;
/// And at most those of this time at once; the clock is no finer for many sockets anyway.
const SLICE: Duration = Duration::from_millis(50);
/// How long the sockets may take to go once all were told: an answer to the close, and the last
/// acknowledgements.
const GONE_SECONDS_MAX: Duration = Duration::from_secs(8);

/// When each of a number of sockets is told, and when it comes back.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Schedule {
    /// From one socket to the next.
    tell_interval: Duration,
    /// From one reconnect to the next.
    return_interval: Duration,
}

impl Schedule {
    fn new(sockets: usize, over: Duration, connects_per_second: u32) -> Schedule {
        let sockets = sockets.max(1) as f64;
        let tell_seconds = over.as_secs_f64().min(sockets / TOLD_PER_SECOND_MIN);
        let return_seconds = tell_seconds.max(sockets / f64::from(connects_per_second));
        Schedule {
            tell_interval: Duration::from_secs_f64(tell_seconds / sockets),
            return_interval: Duration::from_secs_f64(return_seconds / sockets),
        }
    }

    /// Since the beginning.
    fn told(&self, index: usize) -> Duration {
        self.tell_interval.mul_f64(index as f64)
    }

    /// When its client comes back, since the beginning and without chance. Of a moment, not of a
    /// delay: a socket that is told late loses some of its time away and no more.
    fn returned(&self, index: usize) -> Duration {
        self.return_interval.mul_f64(index as f64)
    }
}

/// Tells every socket to go, over about this time, and waits until all have gone.
pub async fn leave(node: &Node, signal: Signal, over: Duration) {
    node.connections.close();
    let gone = node.connections.wait();
    tokio::pin!(gone);
    tokio::select! {
        // Clients may all leave by themselves before it is their turn.
        () = &mut gone => return,
        () = tell_all(node, signal, over) => {}
    }
    if tokio::time::timeout(GONE_SECONDS_MAX, gone).await.is_err() {
        let left = node.connections.len();
        tracing::warn!("{left} sockets did not go in time; their messages wait for them");
    }
}

async fn tell_all(node: &Node, signal: Signal, over: Duration) {
    let mut handles = node.registry.handles();
    shuffle(&mut handles);
    let schedule = Schedule::new(handles.len(), over, node.limits.connects_per_second);
    tracing::info!(
        sockets = handles.len(),
        seconds = schedule.told(handles.len()).as_secs_f32(),
        "the sockets are told to go"
    );
    let start = Instant::now();
    let interval_min = schedule.tell_interval.div_f64(CATCH_UP);
    let mut earliest = start;
    for (index, handle) in handles.into_iter().enumerate() {
        let at = earliest.max(start + schedule.told(index));
        if at > Instant::now() {
            sleep_until(at).await;
        }
        let slice = Instant::now().checked_sub(SLICE).unwrap_or(at);
        earliest = at.max(slice) + interval_min;
        let return_at = start + schedule.returned(index) + once_to_twice(AWAY_MIN);
        handle.send_away(signal, return_at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(schedule: Schedule, sockets: usize) -> (f64, f64) {
        let told = schedule.told(sockets).as_secs_f64();
        let returned = schedule.returned(sockets).as_secs_f64();
        (
            (told * 10.0).round() / 10.0,
            (returned * 10.0).round() / 10.0,
        )
    }

    #[test]
    fn sockets_are_told_evenly_over_the_drain_time() {
        let drain = Duration::from_secs(30);
        for (sockets, told, returned) in [
            (1, 0.1, 0.1),
            (30, 3.0, 3.0),
            (300, 30.0, 30.0),
            (10_000, 30.0, 30.0),
            // More than others take in within the drain time.
            (50_000, 30.0, 100.0),
        ] {
            let schedule = Schedule::new(sockets, drain, 500);
            assert_eq!(seconds(schedule, sockets), (told, returned), "{sockets}");
        }
    }

    #[test]
    fn without_time_the_delays_alone_spread_the_reconnects() {
        let schedule = Schedule::new(2_000, Duration::ZERO, 500);
        assert_eq!(seconds(schedule, 2_000), (0.0, 4.0));
        assert_eq!(schedule.returned(1_000), Duration::from_secs(2));
    }
}
