//! Tells every connection to compare with its mailbox, because forwards may have been lost.
//!
//! One task a node does it, so that it keeps one rate: who asks while it is at it makes it go round
//! once more, however many ask.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::node::Node;
use super::registry::Signal;
use crate::telemetry::ReconcileReason;

/// Connections told in one go, and the pause after it: 10,000 a second.
const SLICE: usize = 200;
const PAUSE: Duration = Duration::from_millis(20);

/// Why another round is wanted.
#[derive(Default)]
pub struct Wanted {
    /// One bit a reason.
    reasons: AtomicU32,
    asked: Notify,
}

impl Wanted {
    /// Asks for a round that begins after this call.
    pub fn ask(&self, reason: ReconcileReason) {
        self.reasons.fetch_or(bit(reason), Ordering::AcqRel);
        self.asked.notify_one();
    }

    async fn next(&self) -> Vec<ReconcileReason> {
        loop {
            let reasons = self.reasons.swap(0, Ordering::AcqRel);
            if reasons != 0 {
                let all = ReconcileReason::ALL.iter().copied();
                return all.filter(|reason| reasons & bit(*reason) != 0).collect();
            }
            self.asked.notified().await;
        }
    }
}

fn bit(reason: ReconcileReason) -> u32 {
    1 << reason as u32
}

/// Goes round for as long as it is polled.
pub async fn run(node: &Node) {
    loop {
        let reasons = node.reconciles.next().await;
        for (index, handle) in node.registry.handles().into_iter().enumerate() {
            if index % SLICE == SLICE - 1 {
                sleep(PAUSE).await;
            }
            handle.signal(Signal::Reconcile);
            for reason in &reasons {
                node.metrics.reconcile(*reason);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_who_ask_make_one_round() {
        let wanted = Wanted::default();
        for _ in 0..100 {
            wanted.ask(ReconcileReason::LinkHole);
            wanted.ask(ReconcileReason::SlowConsumer);
        }
        let reasons = wanted.next().await;
        assert_eq!(
            reasons,
            [ReconcileReason::LinkHole, ReconcileReason::SlowConsumer]
        );
        let again = tokio::time::timeout(Duration::from_millis(20), wanted.next());
        assert!(again.await.is_err());
        wanted.ask(ReconcileReason::LinkHole);
        assert_eq!(wanted.next().await, [ReconcileReason::LinkHole]);
    }
}
