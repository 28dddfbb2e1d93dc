//! The worker's operations: appends, redeliveries, forwards.

use catchup::mailbox::{Append, Appended, MailboxError};
use catchup::protocol::Lane;

use super::model::UNIT;
use super::operation::Operation;
use super::world::{Checked, Event, World, check, same};

/// A redelivered event is one of the newest.
const REDELIVERED_MAX: usize = 40;

impl World {
    pub async fn append(&mut self, operation: &Operation) -> Checked<u64> {
        let Operation::Append {
            lane,
            count,
            lifetime,
            jitter,
            is_repeated,
            lost_forward,
        } = *operation
        else {
            return Ok(0);
        };
        let batch: Vec<Event> = (0..count)
            .map(|_| self.invent(Lane::ALL[lane], lifetime, jitter))
            .collect();
        let appends = self.appends(&batch);
        let mut outcomes = collect(self.link.append(&appends).await)?;
        let messages: Vec<_> = batch
            .iter()
            .map(|event| (event.key, event.expires))
            .collect();
        let (places, evicted) = self.model.append(lane, &messages);
        let real: Vec<u64> = outcomes.iter().map(|one| one.place).collect();
        same("places", real, places)?;
        let real: u64 = outcomes.iter().map(|one| one.evicted).sum();
        same("evicted", real, evicted)?;
        let mut evicted_all = evicted;
        if is_repeated {
            // The replies were lost, so nothing of them can be forwarded.
            outcomes = collect(self.link.append_once(&appends).await)?;
            for (event, outcome) in batch.iter().zip(&outcomes) {
                evicted_all += self.check_once(event, outcome)?;
                check!(outcome.repeated, "{} was stored twice", event.key);
            }
        }
        for (index, (event, outcome)) in batch.iter().zip(&outcomes).enumerate() {
            self.check_presence(outcome)?;
            if index != lost_forward {
                self.forward(event, outcome);
            }
        }
        Ok(evicted_all)
    }

    /// Delivers an event again that the store lost, or one that it still knows.
    pub async fn redeliver(&mut self, which: usize) -> Checked<u64> {
        let mut pending = self.ledger.pending.iter().copied();
        let key = match self.ledger.pending.is_empty() {
            true => {
                let newest = self.events.iter().rev().take(REDELIVERED_MAX);
                let count = newest.len();
                newest.map(|event| event.key).nth(which % count.max(1))
            }
            false => pending.nth(which % self.ledger.pending.len()),
        };
        let found = self.events.iter().find(|event| Some(event.key) == key);
        let Some(event) = found.copied() else {
            return Ok(0);
        };
        let appends = self.appends(&[event]);
        if let Some(stale) = self.stale.take() {
            let current = self.link.epoch();
            let refused = vec![Err(MailboxError::EpochChanged { current })];
            same("a stale append", stale.append_once(&appends).await, refused)?;
        }
        let outcomes = collect(self.link.append_once(&appends).await)?;
        let evicted = self.check_once(&event, &outcomes[0])?;
        self.ledger.pending.remove(&event.key);
        self.check_presence(&outcomes[0])?;
        self.forward(&event, &outcomes[0]);
        Ok(evicted)
    }

    /// An event that nobody has published yet; workers finish out of order.
    fn invent(&mut self, lane: Lane, lifetime: i64, jitter: u64) -> Event {
        let mut key = 100 + 8 * self.events.len() as u64 + jitter;
        while self.ledger.appended.contains(&key) {
            key += 1;
        }
        let now = self.model.now;
        // No message waits longer than the time to live of its mailbox.
        let lifetime = lifetime.min((self.model.ttl / UNIT) as i64 - 1);
        let expires = now.saturating_add_signed(lifetime * UNIT as i64) + UNIT / 2;
        let event = Event { lane, key, expires };
        self.events.push(event);
        self.ledger.append(key);
        event
    }

    fn appends(&self, batch: &[Event]) -> Vec<Append> {
        let append = |event| Append {
            user: self.user.clone(),
            lane: Event::lane(event),
            entry: self.entry(event),
        };
        batch.iter().map(append).collect()
    }

    fn check_once(&mut self, event: &Event, outcome: &Appended) -> Checked<u64> {
        let lane = event.lane.index();
        let (place, is_repeated, evicted) =
            (self.model).append_once(lane, event.key, event.expires);
        same("place", outcome.place, place)?;
        same("repeated", outcome.repeated, is_repeated)?;
        same("evicted", outcome.evicted, evicted)?;
        Ok(evicted)
    }

    /// What an append says of the user is what the mailbox holds at that moment.
    fn check_presence(&self, outcome: &Appended) -> Checked {
        same("life", outcome.life.map(|life| life.0), self.model.life)?;
        let real: Vec<(&str, u64, u64)> = (outcome.connections.iter())
            .map(|one| (one.device.as_str(), one.number, one.order))
            .collect();
        let model: Vec<(&str, u64, u64)> = (self.model.connections.iter())
            .map(|one| (one.device.as_str(), one.id.number, one.order))
            .collect();
        same("connections", real, model)
    }

    /// A live session sends a forward that continues what it sent.
    fn forward(&mut self, event: &Event, outcome: &Appended) {
        let lane = event.lane.index();
        for connection in &outcome.connections {
            let place =
                (self.sessions.iter()).position(|session| session.id.number == connection.number);
            let Some(index) = place else { continue };
            let session = &self.sessions[index];
            let own = session.position.places.own;
            let is_live = self.is_current(&session.position)
                && Some(session.position.life) == outcome.life
                && own[lane] + 1 == outcome.place
                && own[1 - lane] == self.model.lanes[1 - lane].last();
            if is_live {
                if !session.is_deaf {
                    let device = session.device.clone();
                    self.ledger.receive(&device, event.key);
                }
                self.sessions[index].tallies[lane]
                    .sent
                    .insert(outcome.place);
                self.figures.sent += 1;
                self.send(index, lane, outcome.place, event.key);
            }
        }
    }
}

impl Event {
    fn lane(event: &Event) -> Lane {
        event.lane
    }
}

fn collect(outcomes: Vec<Result<Appended, MailboxError>>) -> Checked<Vec<Appended>> {
    let outcomes: Result<Vec<Appended>, MailboxError> = outcomes.into_iter().collect();
    outcomes.map_err(|error| format!("append: {error}"))
}
