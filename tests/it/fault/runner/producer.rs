//! Services that publish without end, to everybody there is and will be.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::support::chance::Chance;
use crate::support::oracle::{Audience, Event};
use crate::support::{Oracle, System};

/// Few, so that many events are of one key.
const KEYS: [&str; 8] = [
    "key-1", "key-2", "key-3", "key-4", "key-5", "key-6", "key-7", "key-8",
];
/// Most users that one event names.
const TARGETS_MAX: u64 = 5;

pub struct Producer<'a> {
    pub oracle: &'a Oracle,
    /// Its servers are reached without a proxy.
    pub system: &'a System,
    pub users: &'a [String],
    /// Of a hundred events, so many are for everyone.
    pub everyone_percent: u64,
    /// Between two events.
    pub pause: Duration,
    pub chance: Chance,
}

impl Producer<'_> {
    /// Publishes one event after the other, each until it has its PubAck.
    pub async fn run(mut self, ends: &CancellationToken) {
        let mut turns = interval(self.pause);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !ends.is_cancelled() {
            turns.tick().await;
            self.publish().await;
        }
    }

    async fn publish(&mut self) {
        let chance = &mut self.chance;
        let key = *chance.one_of(&KEYS);
        let user = chance.one_of(self.users).as_str();
        if chance.percent(self.everyone_percent) {
            let event = Event {
                key: chance.percent(70).then_some(key),
                audience: match chance.percent(25) {
                    true => Audience::EveryoneBut(user),
                    false => Audience::Everyone,
                },
                is_high: false,
            };
            self.oracle.publish(self.system, event).await;
            return;
        }
        let mut users = vec![user];
        for _ in 0..chance.below(TARGETS_MAX) {
            users.push(chance.one_of(self.users).as_str());
        }
        let (key, users) = match chance.below(10) {
            // Keyless; private, each user with a key of its own; keyed.
            0 | 1 => (None, users.as_slice()),
            2..5 => (Some(user), &users[..1]),
            _ => (Some(key), users.as_slice()),
        };
        let event = Event {
            key,
            audience: Audience::Users(users),
            is_high: chance.percent(15),
        };
        self.oracle.publish(self.system, event).await;
    }
}
