//! Whether a process makes progress and can serve (contract §7).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Without a beat for this long the process counts as stuck and `/healthz` answers 503.
pub const BEAT_AGE_MAX: Duration = Duration::from_secs(10);

/// What a process reports about itself. Clones share one state.
///
/// A role names all its components before it waits for the first of them; until then it is not
/// ready. Its main loop calls [`Health::beat`] at least every few seconds.
#[derive(Clone)]
pub struct Health {
    shared: Arc<Shared>,
}

struct Shared {
    components: Mutex<BTreeMap<&'static str, Result<(), String>>>,
    draining: AtomicBool,
    started: Instant,
    /// Milliseconds from `started` to the last beat.
    last_beat_ms: AtomicU64,
}

/// Why a process is not ready: one reason a component.
pub type NotReady = BTreeMap<&'static str, String>;

impl Default for Health {
    fn default() -> Health {
        Health::new()
    }
}

impl Health {
    pub fn new() -> Health {
        Health {
            shared: Arc::new(Shared {
                components: Mutex::default(),
                draining: AtomicBool::new(false),
                started: Instant::now(),
                last_beat_ms: AtomicU64::new(0),
            }),
        }
    }

    /// Says how a component is. The reason is shown to whoever asks `/readyz`: no secrets.
    pub fn set(&self, component: &'static str, state: Result<(), String>) {
        let mut components = self.components();
        components.insert(component, state);
    }

    /// Whether a component was last said to be well.
    pub fn is_well(&self, component: &'static str) -> bool {
        matches!(self.components().get(component), Some(Ok(())))
    }

    /// The process ends: it is not ready from here on.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
    }

    /// The role's main loop came round.
    pub fn beat(&self) {
        let elapsed_ms = millis(self.shared.started.elapsed());
        self.shared
            .last_beat_ms
            .store(elapsed_ms, Ordering::Relaxed);
    }

    /// `Err` with the reasons where the process cannot serve.
    pub fn readiness(&self) -> Result<(), NotReady> {
        let mut reasons = NotReady::new();
        if self.shared.draining.load(Ordering::Relaxed) {
            reasons.insert("process", "draining".to_owned());
        }
        let components = self.components();
        if components.is_empty() {
            reasons.insert("process", "starting".to_owned());
        }
        for (component, state) in components.iter() {
            if let Err(reason) = state {
                reasons.insert(component, reason.clone());
            }
        }
        if reasons.is_empty() {
            Ok(())
        } else {
            Err(reasons)
        }
    }

    /// True while the last beat is younger than [`BEAT_AGE_MAX`].
    pub fn is_alive(&self) -> bool {
        self.beat_age() < BEAT_AGE_MAX
    }

    /// The time since the last beat, or since the start.
    pub fn beat_age(&self) -> Duration {
        let last_beat = Duration::from_millis(self.shared.last_beat_ms.load(Ordering::Relaxed));
        self.shared.started.elapsed().saturating_sub(last_beat)
    }

    fn components(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Result<(), String>>> {
        self.shared
            .components
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_every_component_is_and_not_while_draining() {
        let health = Health::new();
        assert_eq!(
            health.readiness(),
            Err(NotReady::from([("process", "starting".into())]))
        );
        health.set("bus", Ok(()));
        health.set("store", Err("no answer".into()));
        assert_eq!(
            health.readiness(),
            Err(NotReady::from([("store", "no answer".into())]))
        );
        health.clone().set("store", Ok(()));
        assert_eq!(health.readiness(), Ok(()));
        health.drain();
        assert_eq!(
            health.readiness(),
            Err(NotReady::from([("process", "draining".into())]))
        );
    }

    #[test]
    fn a_beat_keeps_it_alive() {
        let health = Health::new();
        assert!(health.is_alive());
        health.beat();
        assert!(health.beat_age() < BEAT_AGE_MAX);
    }
}
