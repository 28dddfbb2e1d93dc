//! The streams `EVENTS`, `DEAD_LETTERS` and `BROADCASTS`: made where they are missing, else
//! compared with what the server has.
//!
//! Configurations are JSON values here, not the client library's type: a stream is widened by
//! sending back what the server had, with fields the library may not know.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::{info, warn};
use uuid::Uuid;

use super::{Bus, BusError, Names};

/// `EVENTS` keeps messages this much longer than they may wait, so that mailboxes can be rebuilt
/// from it (contract §6).
const EVENTS_AGE_MARGIN: Duration = Duration::from_secs(3600);
/// A publish with a `Nats-Msg-Id` may be repeated for this long (contract §3).
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// A refused event is kept this long, for whoever repairs its publisher.
const DEAD_LETTERS_AGE_MAX: Duration = Duration::from_secs(14 * 24 * 3600);
/// Most messages in `DEAD_LETTERS`; beyond it the oldest goes, so that a publisher of nothing but
/// refused events never stops the workers. A message is as large as NATS takes at most (1 MiB by
/// default). There is no limit in bytes: the server sets those aside at once, and a small one
/// would refuse the stream. An operator may choose other limits, which are left as they are.
const DEAD_LETTERS_MAX: u64 = 1_000_000;

/// Where the stream's metadata has the id that the store filled from it carries as well.
const STORE_ID: &str = "catchup_store";

/// What the workers need to know of `EVENTS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventsStream {
    /// When it was made, in milliseconds since 1970: with a sequence it names an event for good.
    pub creation_ms: u64,
    /// Drawn by whoever made it; `None` in one that an operator made.
    pub store_id: Option<Uuid>,
    /// Of its last message; 0 where it never had one.
    pub last_sequence: u64,
}

impl EventsStream {
    fn of(found: &Found) -> Result<EventsStream, BusError> {
        let id = found.config["metadata"][STORE_ID].as_str();
        Ok(EventsStream {
            creation_ms: found.creation_ms()?,
            store_id: id.and_then(|id| Uuid::parse_str(id).ok()),
            last_sequence: found.state.last_seq,
        })
    }
}

/// What `EVENTS` is, if it is there. Makes nothing.
///
/// # Errors
///
/// Where NATS does not answer.
pub async fn find_events(bus: &Bus) -> Result<Option<EventsStream>, BusError> {
    match call(bus, "INFO", &bus.names.events_stream(), &json!({})).await {
        Ok(found) => Ok(Some(EventsStream::of(&found)?)),
        Err(BusError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Gives an id to a stream that has none.
///
/// # Errors
///
/// Those of [`assert_streams`].
pub async fn write_store_id(bus: &Bus, ttl: Duration, id: Uuid) -> Result<(), BusError> {
    let wanted = wanted_events(&bus.names, ttl);
    let mut config = wanted.made(bus).await?.config;
    if !config["metadata"].is_object() {
        config["metadata"] = json!({});
    }
    config["metadata"][STORE_ID] = json!(id.simple().to_string());
    wanted.update(bus, &config).await?;
    Ok(())
}

fn wanted_events(names: &Names, ttl: Duration) -> Wanted {
    let [transform_source, transform_destination] = names.partition_transform();
    Wanted {
        name: names.events_stream(),
        age: ttl.saturating_add(EVENTS_AGE_MARGIN),
        config: json!({
            "subjects": names.events_subjects(),
            "subject_transform": { "src": transform_source, "dest": transform_destination },
            "duplicate_window": nanoseconds(DUPLICATE_WINDOW),
            "deny_delete": false,
            "no_ack": false,
        }),
        only_when_made: json!({
            "metadata": { STORE_ID: Uuid::now_v7().simple().to_string() },
        }),
    }
}

/// Sees to it that all streams exist as the contract asks; `ttl` is how long messages wait.
///
/// # Errors
///
/// [`BusError::Unsuitable`] where a stream exists and differs in what cannot be changed.
pub async fn assert_streams(bus: &Bus, ttl: Duration) -> Result<EventsStream, BusError> {
    let names = &bus.names;
    let events = wanted_events(names, ttl);
    let dead_letters = Wanted {
        name: names.dead_letters_stream(),
        age: DEAD_LETTERS_AGE_MAX,
        config: json!({ "subjects": [names.dead_letters_subjects()], "no_ack": false }),
        only_when_made: json!({
            "max_msgs": DEAD_LETTERS_MAX,
            "duplicate_window": nanoseconds(DUPLICATE_WINDOW),
        }),
    };
    dead_letters.make_or_compare(bus).await?;
    let broadcasts = wanted_broadcasts(names, ttl);
    let found = broadcasts.made(bus).await?;
    for limit in limits_of(&found.config) {
        warn!(
            stream = broadcasts.name,
            limit, "the stream may drop events before every gateway has them: remove the limit"
        );
    }
    let found = events.made(bus).await?;
    for limit in limits_of(&found.config) {
        warn!(
            stream = events.name,
            limit, "the stream may drop events before they are routed: remove the limit"
        );
    }
    EventsStream::of(&found)
}

/// The limits by which a stream drops messages before their time; none is asked for.
fn limits_of(config: &Value) -> impl Iterator<Item = &'static str> {
    let limits = ["max_msgs", "max_bytes", "max_msgs_per_subject"];
    (limits.into_iter()).filter(|limit| config[limit].as_i64().unwrap_or(-1) > 0)
}

/// `BROADCASTS`, which the workers fill and the gateways follow; either makes it.
pub(super) fn wanted_broadcasts(names: &Names, ttl: Duration) -> Wanted {
    Wanted {
        name: names.broadcasts_stream(),
        age: ttl.saturating_add(EVENTS_AGE_MARGIN),
        config: json!({
            "subjects": [names.broadcasts_subjects()],
            "duplicate_window": nanoseconds(DUPLICATE_WINDOW),
            "no_ack": false,
        }),
        only_when_made: json!({}),
    }
}

/// A stream as it is asked for.
pub(super) struct Wanted {
    name: String,
    age: Duration,
    /// Fields that must be as they are here, also in a stream that an operator made.
    config: Value,
    only_when_made: Value,
}

/// A stream as the server has it.
#[derive(Deserialize)]
pub(super) struct Found {
    pub config: Value,
    /// RFC 3339.
    created: String,
    #[serde(default)]
    pub state: FoundState,
}

#[derive(Deserialize, Default)]
pub(super) struct FoundState {
    #[serde(default)]
    pub first_seq: u64,
    #[serde(default)]
    pub last_seq: u64,
}

impl Found {
    /// Milliseconds since 1970.
    pub fn creation_ms(&self) -> Result<u64, BusError> {
        milliseconds_of(&self.created)
    }
}

/// Milliseconds since 1970 of a time in an answer (RFC 3339).
pub(super) fn milliseconds_of(time: &str) -> Result<u64, BusError> {
    let time = OffsetDateTime::parse(time, &Rfc3339)
        .map_err(|error| BusError::Unreachable(format!("a time in an answer: {error}")))?;
    Ok(u64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(0))
}

impl Wanted {
    /// Makes the stream or compares it, and widens its age.
    pub async fn made(&self, bus: &Bus) -> Result<Found, BusError> {
        let found = self.make_or_compare(bus).await?;
        self.widen(bus, found).await
    }

    /// Sends back the configuration that the server had, with something in it changed.
    pub async fn update(&self, bus: &Bus, config: &Value) -> Result<Found, BusError> {
        let found = call(bus, "UPDATE", &self.name, config).await?;
        self.compare(&found.config)?;
        Ok(found)
    }

    async fn make_or_compare(&self, bus: &Bus) -> Result<Found, BusError> {
        let found = match call(bus, "INFO", &self.name, &json!({})).await {
            Err(BusError::NotFound(_)) => self.make(bus).await?,
            found => found?,
        };
        self.compare(&found.config)?;
        Ok(found)
    }

    async fn make(&self, bus: &Bus) -> Result<Found, BusError> {
        let mut config = json!({
            "name": self.name,
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "num_replicas": bus.replicas,
            "max_age": nanoseconds(self.age),
            "max_consumers": -1,
            "max_msgs": -1,
            "max_bytes": -1,
        });
        for part in [&self.config, &self.only_when_made] {
            if let (Some(config), Some(part)) = (config.as_object_mut(), part.as_object()) {
                config.extend(part.clone());
            }
        }
        match call(bus, "CREATE", &self.name, &config).await {
            Ok(found) => {
                info!(stream = self.name, "made the stream");
                Ok(found)
            }
            // Another process may have made it at the same moment, with another age.
            Err(error) => match call(bus, "INFO", &self.name, &json!({})).await {
                Ok(found) => Ok(found),
                Err(_) => Err(error),
            },
        }
    }

    /// Servers drop what they do not know in silence, so the answer is compared field by field.
    fn compare(&self, found: &Value) -> Result<(), BusError> {
        let retention = json!({ "retention": "limits" });
        for wanted in [&self.config, &retention] {
            for (field, wanted) in wanted.as_object().into_iter().flatten() {
                let found = &found[field];
                if !is_same(field, wanted, found) {
                    return Err(BusError::Unsuitable(format!(
                        "the NATS stream {} has {field} = {found}, expected {wanted}: change or \
                         remove the stream, or use another CATCHUP_NAMESPACE",
                        self.name
                    )));
                }
            }
        }
        Ok(())
    }

    /// Lets messages live at least as long as asked; never shortens what an operator chose.
    async fn widen(&self, bus: &Bus, found: Found) -> Result<Found, BusError> {
        let wanted = nanoseconds(self.age);
        let is_enough = |config: &Value| {
            let age = config["max_age"].as_u64().unwrap_or(0);
            age == 0 || age >= wanted
        };
        if is_enough(&found.config) {
            return Ok(found);
        }
        let mut config = found.config;
        config["max_age"] = json!(wanted);
        let found = self.update(bus, &config).await?;
        if !is_enough(&found.config) {
            return Err(BusError::Unsuitable(format!(
                "the NATS stream {} has max_age = {}, expected at least {wanted} (nanoseconds)",
                self.name, found.config["max_age"]
            )));
        }
        info!(stream = self.name, "widened the age of the stream");
        Ok(found)
    }
}

fn is_same(field: &str, wanted: &Value, found: &Value) -> bool {
    match field {
        "subjects" => {
            let set = |value: &Value| -> BTreeSet<String> {
                let subjects = value.as_array().into_iter().flatten();
                subjects
                    .filter_map(|subject| subject.as_str().map(str::to_owned))
                    .collect()
            };
            set(wanted) == set(found)
        }
        // A longer window only remembers more.
        "duplicate_window" => found.as_u64() >= wanted.as_u64(),
        // Servers leave out what is off.
        _ => wanted == found || (wanted == &json!(false) && found.is_null()),
    }
}

async fn call(bus: &Bus, verb: &str, stream: &str, payload: &Value) -> Result<Found, BusError> {
    let subject = format!("STREAM.{verb}.{stream}");
    let response: Response<Found> = bus.jetstream.request(subject.clone(), payload).await?;
    match response {
        Response::Ok(found) => Ok(found),
        Response::Err { error } => Err(BusError::from_api(&subject, &error)),
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(i64::MAX as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            name: "EVENTS".into(),
            age: Duration::from_secs(1),
            config: json!({
                "subjects": ["a", "b"],
                "subject_transform": { "src": "x", "dest": "y" },
                "duplicate_window": 5,
                "no_ack": false,
            }),
            only_when_made: json!({}),
        }
    }

    #[test]
    fn limits_that_an_operator_set_are_found() {
        let found = json!({ "max_msgs": 5, "max_bytes": -1, "max_msgs_per_subject": 0 });
        assert_eq!(limits_of(&found).collect::<Vec<_>>(), ["max_msgs"]);
        let found = json!({ "max_bytes": 1, "max_msgs_per_subject": 2 });
        let limits: Vec<_> = limits_of(&found).collect();
        assert_eq!(limits, ["max_bytes", "max_msgs_per_subject"]);
    }

    #[test]
    fn what_comes_back_as_asked_passes() {
        let mut found = json!({
            "subjects": ["b", "a"],
            "subject_transform": { "src": "x", "dest": "y" },
            "duplicate_window": 9,
            "retention": "limits",
            "num_replicas": 3,
        });
        assert_eq!(wanted().compare(&found), Ok(()));
        found["no_ack"] = json!(true);
        assert!(wanted().compare(&found).is_err());
    }

    #[test]
    fn a_dropped_transform_or_other_retention_is_told() {
        let found = json!({ "subjects": ["a", "b"], "duplicate_window": 5, "retention": "limits" });
        let error = wanted().compare(&found).unwrap_err();
        assert!(error.to_string().contains("subject_transform"), "{error}");
        let mut found = found;
        found["subject_transform"] = json!({ "src": "x", "dest": "y" });
        found["retention"] = json!("workqueue");
        let error = wanted().compare(&found).unwrap_err();
        assert!(error.to_string().contains("retention"), "{error}");
    }
}
