//! The message as a client sees it, encoded once by the worker and never parsed again.

use serde::Serialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::macros::format_description;

/// One message of a `messages` frame.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    pub id: &'a str,
    pub event_type: &'a str,
    pub key: Option<&'a str>,
    /// When JetStream stored the event, in milliseconds since 1970.
    pub time_ms: u64,
    pub data: &'a RawValue,
    pub high_priority: bool,
}

impl Message<'_> {
    /// The JSON exactly as it goes to the client.
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Fields<'a> {
            id: &'a str,
            r#type: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            key: Option<&'a str>,
            time: String,
            data: &'a RawValue,
            #[serde(skip_serializing_if = "Option::is_none")]
            priority: Option<&'static str>,
        }
        let fields = Fields {
            id: self.id,
            r#type: self.event_type,
            key: self.key,
            time: format_time(self.time_ms),
            data: self.data,
            priority: self.high_priority.then_some("high"),
        };
        serde_json::to_string(&fields).expect("strings and JSON that was already validated")
    }
}

/// RFC 3339 with milliseconds and `Z`. Times past the year 9999 become its end.
pub fn format_time(time_ms: u64) -> String {
    const LAST_MS: u64 = 253_402_300_799_999;
    let nanoseconds = i128::from(time_ms.min(LAST_MS)) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
        .format(format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
        ))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_keeps_its_data_to_the_letter() {
        let data = RawValue::from_string("{\"n\": 1.0e2, \"big\": 12345678901234567890123}".into())
            .unwrap();
        let mut message = Message {
            id: "a\"b",
            event_type: "new_post",
            key: None,
            time_ms: 1_700_000_000_007,
            data: &data,
            high_priority: false,
        };
        assert_eq!(
            message.to_json(),
            "{\"id\":\"a\\\"b\",\"type\":\"new_post\",\"time\":\"2023-11-14T22:13:20.007Z\",\
             \"data\":{\"n\": 1.0e2, \"big\": 12345678901234567890123}}"
        );
        message.key = Some("p1");
        message.high_priority = true;
        assert!(message.to_json().contains("\"key\":\"p1\",\"time\""));
        assert!(message.to_json().ends_with(",\"priority\":\"high\"}"));
    }

    #[test]
    fn a_time_beyond_the_calendar_is_its_end() {
        assert_eq!(format_time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(format_time(u64::MAX), "9999-12-31T23:59:59.999Z");
    }
}
