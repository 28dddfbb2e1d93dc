//! User ids in JSON: strings or integers.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

use super::{Audience, InvalidUserId, TARGETS_MAX, UserId};

/// One user id; the integer 7 and the string "7" are one user.
pub(super) struct Target(pub(super) UserId);

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Target, D::Error> {
        deserializer.deserialize_any(TargetVisitor)
    }
}

struct TargetVisitor;

impl Visitor<'_> for TargetVisitor {
    type Value = Target;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a user id as a string or an integer")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Target, E> {
        UserId::parse(text)
            .map(Target)
            .map_err(|InvalidUserId| E::custom(InvalidUserId))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Target, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Target, E> {
        self.visit_str(&number.to_string())
    }
}

/// `targetUserIds`: null, or distinct ids in their first order.
pub(super) struct Targets(pub(super) Audience);

impl<'de> Deserialize<'de> for Targets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Targets, D::Error> {
        deserializer.deserialize_any(TargetsVisitor)
    }
}

struct TargetsVisitor;

impl<'de> Visitor<'de> for TargetsVisitor {
    type Value = Targets;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("null or an array of user ids")
    }

    fn visit_unit<E: Error>(self) -> Result<Targets, E> {
        Ok(Targets(Audience::Everyone))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Targets, A::Error> {
        let mut seen = HashSet::new();
        let mut users = Vec::new();
        while let Some(Target(user)) = items.next_element()? {
            if seen.insert(user.clone()) {
                users.push(user);
            }
            if users.len() > TARGETS_MAX {
                return Err(A::Error::custom("more than 50000 targets"));
            }
        }
        Ok(Targets(Audience::Users(users)))
    }
}
