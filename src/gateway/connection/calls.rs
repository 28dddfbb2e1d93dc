//! Which calls on the mailbox are due, and what their results mean.

use std::time::Duration;

use tokio::time::Instant;

use super::{Connection, REASSERT_SECONDS, Wanted};
use crate::gateway::chance::once_to_twice;
use crate::gateway::operations::{self, Answer, registration};
use crate::mailbox::MailboxError;
use crate::protocol::CloseCode;
use crate::telemetry::Limit;

/// Pause after a failed call on the mailbox, and up to twice of it by chance.
const RETRY_MILLISECONDS: u64 = 250;

impl Connection {
    /// Starts the calls that are due, at most one read and one write at a time.
    pub(super) fn start_calls(&mut self) {
        let now = Instant::now();
        let (node, peer) = (&self.node, &self.peer);
        if self.reading.is_none() && now >= self.retry_at && !self.outbox.is_busy() {
            if let Some(wanted) = self.wanted {
                let (node, peer) = (node.clone(), peer.clone());
                self.reading = Some(match wanted {
                    Wanted::Register { again } => {
                        let cursor = self.session.acknowledged();
                        operations::register_again(node, peer, self.order, again, cursor)
                    }
                    Wanted::Page {
                        number,
                        after,
                        messages_max,
                    } => operations::read_page(node, peer, number, after, messages_max),
                });
            } else if let (true, Some(position)) =
                (now >= self.reassert_at, self.session.acknowledged())
            {
                self.reasserted = now;
                self.reassert_at = now + once_to_twice(Duration::from_secs(REASSERT_SECONDS));
                self.reading = Some(operations::reassert(
                    node.clone(),
                    peer.clone(),
                    self.order,
                    position,
                ));
            }
        }
        if let (true, Some((position, due))) = (self.writing.is_none(), self.unstored)
            && now >= due
        {
            self.unstored = None;
            self.writing = Some(operations::acknowledge(
                node.clone(),
                peer.clone(),
                position,
            ));
        }
    }

    pub(super) fn take_answer(&mut self, answer: Result<Answer, MailboxError>) {
        let effects = match answer {
            Ok(Answer::Registered(registered)) => {
                self.wanted = None;
                (self.session).registered(registration(&self.node, &self.peer, registered))
            }
            Ok(Answer::Page { number, read }) => {
                self.wanted = None;
                self.session.page_read(number, read)
            }
            Ok(Answer::Counted(last)) => self.session.counted(last),
            Err(error) => return self.take_error(&error),
        };
        self.carry_out(effects);
    }

    fn take_error(&mut self, error: &MailboxError) {
        match error {
            MailboxError::EpochChanged { .. }
            | MailboxError::LifeChanged
            | MailboxError::UnknownDevice => {
                let effects = self.session.register_again();
                let is_registering = matches!(self.wanted, Some(Wanted::Register { .. }));
                if effects.is_empty() && is_registering {
                    self.retry_at = Instant::now() + retry_pause();
                }
                self.carry_out(effects);
            }
            MailboxError::Replaced => {
                self.close(CloseCode::Replaced, "a newer connection of this device");
            }
            MailboxError::TooManyDevices => {
                self.node.metrics.limit_hit(Limit::Devices);
                self.close(CloseCode::TooMany, "too many devices are connected");
            }
            MailboxError::Unreachable(_)
            | MailboxError::Refusing(_)
            | MailboxError::Moved(_)
            | MailboxError::Incomplete(_)
            | MailboxError::Damaged
            | MailboxError::Ahead
            | MailboxError::Skipped
            | MailboxError::Late { .. }
            | MailboxError::Unsuitable(_)
            | MailboxError::Unexpected(_) => {
                tracing::debug!(
                    user = self.peer.user.as_str(),
                    "mailbox call failed: {error}"
                );
                self.retry_at = Instant::now() + retry_pause();
                if self.wanted.is_none() {
                    self.reassert_soon();
                }
            }
        }
    }

    pub(super) fn take_stored(&mut self, stored: Result<(), MailboxError>) {
        match stored {
            Ok(()) => {}
            Err(error) if error.is_retryable() => {
                // Cursors only move forward, so the newest stands for all before it.
                if let (None, Some(position)) = (self.unstored, self.session.acknowledged()) {
                    self.unstored = Some((position, Instant::now() + retry_pause()));
                }
                if matches!(error, MailboxError::EpochChanged { .. }) {
                    self.unstored = None;
                    self.take_error(&error);
                }
            }
            Err(error) => self.take_error(&error),
        }
    }
}

fn retry_pause() -> Duration {
    once_to_twice(Duration::from_millis(RETRY_MILLISECONDS))
}
