//! What a connection does by the clock: one deadline, the earliest of all.

use std::time::Duration;

use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use super::{Connection, Ending, HEARTBEAT_SECONDS};
use crate::gateway::outbox::NO_PROGRESS;
use crate::protocol::{CloseCode, ServerFrame};
use crate::telemetry::{Limit, ReconcileReason};

/// Least time between two assertions that something unexpected asked for.
const REASSERT_SECONDS_MIN: Duration = Duration::from_secs(1);

impl Connection {
    /// Does what the clock asks for.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.outbox.stalls_at().is_some_and(|at| now >= at)
            || now >= self.last_received + NO_PROGRESS
        {
            self.node.metrics.limit_hit(Limit::NoProgress);
            self.ending = Some(Ending::Stalled);
            return;
        }
        if self.expires.is_some_and(|expires| now >= expires) {
            return self.close(CloseCode::Unauthorised, "the token has expired");
        }
        if self.hold_ends.is_some_and(|ends| now >= ends) {
            self.hold_ends = None;
            let effects = self.session.hold_expired();
            if !effects.is_empty() {
                self.node.metrics.reconcile(ReconcileReason::PlaceGap);
            }
            self.carry_out(effects);
        }
        if self.outbox.is_busy() {
            return;
        }
        let heartbeat = Duration::from_secs(HEARTBEAT_SECONDS);
        if now >= self.outbox.last_written() + heartbeat {
            self.outbox
                .push(&self.node, &ServerFrame::Heartbeat, Vec::new());
        }
        if now >= self.ping_at() {
            self.pinged = now;
            self.outbox.push_message(Message::Ping(bytes::Bytes::new()));
        }
    }

    /// A peer that was silent for a heartbeat is asked whether it is there.
    fn ping_at(&self) -> Instant {
        self.last_received.max(self.pinged) + Duration::from_secs(HEARTBEAT_SECONDS)
    }

    pub(super) fn deadline(&self) -> Instant {
        let mut deadline = self.last_received + NO_PROGRESS;
        let mut consider =
            |at: Option<Instant>| deadline = at.map_or(deadline, |at| at.min(deadline));
        consider(self.outbox.stalls_at());
        consider(self.expires);
        consider(self.hold_ends);
        if self.writing.is_none() {
            consider(self.unstored.map(|(_, due)| due));
        }
        if !self.outbox.is_busy() {
            consider(Some(self.ping_at()));
            let heartbeat = Duration::from_secs(HEARTBEAT_SECONDS);
            consider(Some(self.outbox.last_written() + heartbeat));
            if self.reading.is_none() {
                let due = match self.wanted {
                    Some(_) => self.retry_at,
                    None => self.reassert_at.max(self.retry_at),
                };
                consider(Some(due));
            }
        }
        deadline
    }

    pub(super) fn reassert_soon(&mut self) {
        let soon = (self.reasserted + REASSERT_SECONDS_MIN).max(Instant::now());
        self.reassert_at = self.reassert_at.min(soon);
    }
}
