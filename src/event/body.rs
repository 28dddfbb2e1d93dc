//! The body of an event, read field by field so that every error names its field.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::refusal::Refusal;
use super::targets::{Target, Targets};
use super::text::is_message_id;
use super::{
    Address, Audience, DATA_BYTES_MAX, DATA_DEPTH_MAX, Event, FAN_OUT_BYTES_MAX, Limits, Priority,
    UserId,
};

/// A field of the envelope. What is not listed is refused: a misspelt `targetUserIds` must never
/// turn a private message into one for everyone.
#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Field {
    Data,
    TargetUserIds,
    ExcludeUserId,
    Id,
    Type,
    TtlSeconds,
    Priority,
    CollapseKey,
    Ephemeral,
    Unknown(String),
}

/// The fields as they were sent; `None` means absent.
#[derive(Default)]
struct Fields<'a> {
    data: Option<&'a RawValue>,
    targets: Option<Targets>,
    exclude: Option<Target>,
    id: Option<String>,
    event_type: Option<String>,
    ttl_seconds: Option<u64>,
    priority: Option<String>,
    collapse_key: Option<String>,
    ephemeral: Option<bool>,
}

pub(super) fn parse<'a>(
    address: &Address,
    body: &'a [u8],
    limits: &Limits,
) -> Result<Event<'a>, Refusal> {
    let fields = read(body)?;
    let data = fields
        .data
        .ok_or_else(|| Refusal::new("data", "is required"))?;
    check_data(data.get())?;
    if fields
        .event_type
        .is_some_and(|event_type| event_type != address.event_type)
    {
        return Err(Refusal::new(
            "type",
            "must equal the type in the subject, or be left out",
        ));
    }
    for (name, text) in [("id", &fields.id), ("collapseKey", &fields.collapse_key)] {
        if text.as_ref().is_some_and(|text| !is_message_id(text)) {
            return Err(Refusal::new(name, "must be 1 to 128 printable characters"));
        }
    }
    let exclude = fields.exclude.map(|Target(user)| user);
    let targets = fields
        .targets
        .map_or(Audience::Everyone, |Targets(audience)| audience);
    Ok(Event {
        id: fields.id,
        audience: audience(targets, exclude.as_ref(), data.get().len())?,
        exclude,
        ttl: fields
            .ttl_seconds
            .map(|seconds| ttl(seconds, limits))
            .transpose()?,
        priority: fields
            .priority
            .map_or(Ok(Priority::Normal), |text| priority(&text))?,
        collapse_key: fields.collapse_key,
        ephemeral: fields.ephemeral.unwrap_or(false),
        data,
    })
}

fn read(body: &[u8]) -> Result<Fields<'_>, Refusal> {
    let mut refusal = None;
    let mut json = serde_json::Deserializer::from_slice(body);
    let fields = json.deserialize_map(BodyVisitor {
        refusal: &mut refusal,
    });
    let fields = fields.map_err(|error| refusal.unwrap_or_else(|| Refusal::new("body", error)))?;
    json.end().map_err(|error| Refusal::new("body", error))?;
    Ok(fields)
}

/// Reads the object. A derived reader would also take an array, and would lose the field's name.
struct BodyVisitor<'r> {
    /// Why it failed, where that is known better than by the parser.
    refusal: &'r mut Option<Refusal>,
}

impl<'de> Visitor<'de> for BodyVisitor<'_> {
    type Value = Fields<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        while let Some(field) = map.next_key::<Field>()? {
            if let Err(refusal) = read_field(&field, &mut fields, &mut map) {
                *self.refusal = Some(refusal);
                return Err(A::Error::custom("refused"));
            }
        }
        Ok(fields)
    }
}

fn read_field<'de, A: MapAccess<'de>>(
    field: &Field,
    fields: &mut Fields<'de>,
    map: &mut A,
) -> Result<(), Refusal> {
    match field {
        Field::Data => read_value("data", &mut fields.data, map),
        Field::TargetUserIds => read_value("targetUserIds", &mut fields.targets, map),
        Field::ExcludeUserId => read_value("excludeUserId", &mut fields.exclude, map),
        Field::Id => read_value("id", &mut fields.id, map),
        Field::Type => read_value("type", &mut fields.event_type, map),
        Field::TtlSeconds => read_value("ttlSeconds", &mut fields.ttl_seconds, map),
        Field::Priority => read_value("priority", &mut fields.priority, map),
        Field::CollapseKey => read_value("collapseKey", &mut fields.collapse_key, map),
        Field::Ephemeral => read_value("ephemeral", &mut fields.ephemeral, map),
        Field::Unknown(name) => Err(Refusal::new(name, "is no field of an event")),
    }
}

/// Reads one value. Null is none for any type that does not say so itself, which only `data` and
/// `targetUserIds` do.
fn read_value<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    name: &str,
    value: &mut Option<T>,
    map: &mut A,
) -> Result<(), Refusal> {
    if value.is_some() {
        return Err(Refusal::new(name, "is given more than once"));
    }
    *value = Some(
        map.next_value()
            .map_err(|error| Refusal::new(name, error))?,
    );
    Ok(())
}

fn check_data(data: &str) -> Result<(), Refusal> {
    if data.len() > DATA_BYTES_MAX {
        return Err(Refusal::new("data", "has more than 65536 bytes"));
    }
    if depth(data) > DATA_DEPTH_MAX {
        return Err(Refusal::new("data", "is nested more than 64 deep"));
    }
    Ok(())
}

/// How many arrays and objects of valid JSON lie inside each other.
fn depth(json: &str) -> usize {
    let mut depth = 0_usize;
    let mut depth_max = 0;
    let mut is_in_string = false;
    let mut bytes = json.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => is_in_string = !is_in_string,
            b'\\' => {
                // Only strings hold backslashes, and what follows one is no end of the string.
                bytes.next();
            }
            b'[' | b'{' if !is_in_string => {
                depth += 1;
                depth_max = depth_max.max(depth);
            }
            b']' | b'}' if !is_in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    depth_max
}

fn audience(
    targets: Audience,
    exclude: Option<&UserId>,
    data_bytes: usize,
) -> Result<Audience, Refusal> {
    let Audience::Users(mut users) = targets else {
        return Ok(Audience::Everyone);
    };
    if users.len().saturating_mul(data_bytes) > FAN_OUT_BYTES_MAX {
        return Err(Refusal::new(
            "targetUserIds",
            "times the bytes of data is more than 256 MiB: send several events, or less data",
        ));
    }
    users.retain(|user| Some(user) != exclude);
    Ok(Audience::Users(users))
}

fn ttl(seconds: u64, limits: &Limits) -> Result<Duration, Refusal> {
    let ttl = Duration::from_secs(seconds);
    if seconds == 0 || ttl > limits.ttl_max {
        let seconds_max = limits.ttl_max.as_secs();
        return Err(Refusal::new(
            "ttlSeconds",
            format_args!("must be 1 to {seconds_max}"),
        ));
    }
    Ok(ttl)
}

fn priority(text: &str) -> Result<Priority, Refusal> {
    match text {
        "normal" => Ok(Priority::Normal),
        "high" => Ok(Priority::High),
        _ => Err(Refusal::new("priority", "must be high or normal")),
    }
}
