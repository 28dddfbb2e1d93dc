//! Every rule of contract §3 and the traps around them.

use serde_json::json;

use super::*;

const LIMITS: Limits = Limits {
    ttl_max: Duration::from_secs(86_400),
};

pub(super) fn parse(body: &[u8]) -> Result<Event<'_>, Refusal> {
    Event::parse(&Address::new("new_post", None).unwrap(), body, &LIMITS)
}

fn reason(body: impl AsRef<[u8]>) -> String {
    let body = body.as_ref();
    let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
    let reason = parse(body).expect_err(&shown).to_string();
    assert!(is_clean(&reason), "{reason:?}");
    reason
}

/// True for one line of short printable ASCII.
pub(super) fn is_clean(reason: &str) -> bool {
    let is_printable = reason.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    is_printable && reason.len() <= REFUSAL_BYTES_MAX && !reason.starts_with(' ')
}

/// Asserts that `"name": value` beside valid fields is refused, naming the field.
fn refuses(name: &str, value: &str) {
    let body = format!("{{\"data\":1,\"targetUserIds\":[\"a\"],\"{name}\":{value}}}");
    let reason = reason(&body);
    assert!(reason.starts_with(&format!("{name}: ")), "{body}: {reason}");
}

fn users(body: &str) -> Vec<String> {
    match parse(body.as_bytes()).unwrap().audience {
        Audience::Users(users) => users.iter().map(UserId::to_string).collect(),
        Audience::Everyone => panic!("{body} is for everyone"),
    }
}

#[test]
fn a_full_event_is_read() {
    let body = br#" {"id":"i 1","type":"new_post","data":{"a": [1, 2]},"targetUserIds":["b",7,"a"],
        "excludeUserId":"a","ttlSeconds":86400,"priority":"high","collapseKey":"c",
        "ephemeral":true} "#;
    let event = parse(body).unwrap();
    assert_eq!(event.id.as_deref(), Some("i 1"));
    assert_eq!(event.data.get(), "{\"a\": [1, 2]}");
    let user = |text| UserId::parse(text).unwrap();
    assert_eq!(event.audience, Audience::Users(vec![user("b"), user("7")]));
    assert_eq!(event.exclude, Some(user("a")));
    assert_eq!(event.ttl, Some(LIMITS.ttl_max));
    assert_eq!(event.priority, Priority::High);
    assert_eq!(event.collapse_key.as_deref(), Some("c"));
    assert!(event.ephemeral);
}

#[test]
fn only_data_is_required() {
    let event = parse(b"{\"data\":null}").unwrap();
    assert_eq!(event.data.get(), "null");
    assert_eq!(event.audience, Audience::Everyone);
    assert_eq!(event.priority, Priority::Normal);
    assert!(event.id.is_none() && event.ttl.is_none() && event.exclude.is_none());
    assert!(event.collapse_key.is_none() && !event.ephemeral);
    assert_eq!(reason("{}"), "data: is required");
    assert_eq!(reason("{\"targetUserIds\":[\"a\"]}"), "data: is required");
}

#[test]
fn a_body_that_is_no_object_is_refused() {
    for body in [
        "",
        " ",
        "null",
        "1",
        "\"a\"",
        "[]",
        "[{\"data\":1}]",
        "[1,[\"a\"]]",
        "{",
        "{\"data\":1",
        "{\"data\":1}}",
        "{\"data\":1} x",
        "{\"data\":1}{\"data\":1}",
        "{data:1}",
        "{'data':1}",
        "{\"data\":1,}",
        "\u{feff}{\"data\":1}",
        "{\"\\ud800\":1}",
    ] {
        assert!(
            reason(body).starts_with("body: "),
            "{body}: {}",
            reason(body)
        );
    }
    assert!(reason("{\"data\":1\0}").starts_with("body: "));
}

#[test]
fn junk_within_a_value_names_the_field() {
    for value in [
        "", "tru", "01", "1.", "\"a", "\"\n\"", "[1,]", "{\"a\"}", "NaN", "\"\\x\"",
    ] {
        assert!(
            reason(format!("{{\"data\":{value}}}")).starts_with("data: "),
            "{value}"
        );
    }
}

#[test]
fn bytes_that_are_no_utf_8_are_refused_everywhere() {
    assert!(reason(b"{\"data\":\"\xff\"}").starts_with("data: "));
    assert!(reason(b"{\"data\":{\"\xc3\x28\":1}}").starts_with("data: "));
    assert!(reason(b"{\"data\":1,\"id\":\"\xed\xa0\x80\"}").starts_with("id: "));
    assert!(reason(b"{\"data\":1,\"targetUserIds\":[\"a\xff\"]}").starts_with("targetUserIds: "));
    assert!(reason(b"{\"data\":1,\"\xff\":1}").starts_with("body: "));
    assert!(reason(b"\xff").starts_with("body: "));
    assert!(reason(b"{\"data\":1}\xff").starts_with("body: "));
}

#[test]
fn unknown_fields_are_named_however_they_are_spelt() {
    for name in [
        "targetUserIDs",
        "target_user_ids",
        "Data",
        "data ",
        "payload",
        "0",
    ] {
        let reason = reason(format!("{{\"data\":1,\"{name}\":[\"a\"]}}"));
        assert!(reason.contains("is no field of an event"), "{reason}");
        assert!(reason.starts_with(name.trim_end()), "{reason}");
    }
    assert!(reason("{\"data\":1,\"\":1}").starts_with("\"\": "));
    assert!(reason("{\"data\":1,\"a\\r\\nCatchup-Sequence: 1\":1}").starts_with("a??Catchup-Seq"));
    assert!(reason("{\"data\":1,\"é\\u0000\":1}").starts_with("??: "));
    assert!(reason(format!("{{\"{}\":1}}", "n".repeat(10_240))).starts_with("nnn"));
    assert!(reason(format!("{{\"{}\":1}}", "é\\n".repeat(10_240))).starts_with("???"));
}

#[test]
fn a_field_given_twice_is_refused() {
    for field in [
        "\"data\":1",
        "\"data\":null",
        "\"targetUserIds\":null",
        "\"targetUserIds\":[\"a\"]",
        "\"excludeUserId\":\"a\"",
        "\"id\":\"a\"",
        "\"type\":\"new_post\"",
        "\"ttlSeconds\":1",
        "\"priority\":\"high\"",
        "\"collapseKey\":\"a\"",
        "\"ephemeral\":false",
    ] {
        let reason = reason(format!("{{{field},{field},\"data\":1}}"));
        assert!(reason.contains("is given more than once"), "{reason}");
        assert!(
            field.contains(reason.split(':').next().unwrap()),
            "{reason}"
        );
    }
    // However the second one is written.
    assert!(reason("{\"data\":1,\"d\\u0061ta\":2}").starts_with("data: is given"));
}

#[test]
fn null_is_no_value_but_for_targets_and_data() {
    for name in [
        "excludeUserId",
        "id",
        "type",
        "ttlSeconds",
        "priority",
        "collapseKey",
        "ephemeral",
    ] {
        refuses(name, "null");
        refuses(name, "[]");
        refuses(name, "{}");
    }
    let event = parse(b"{\"targetUserIds\":null,\"data\":null}").unwrap();
    assert_eq!(event.audience, Audience::Everyone);
}

#[test]
fn wrong_types_and_values_are_refused() {
    for (name, values) in [
        (
            "excludeUserId",
            vec!["1.0", "1e3", "true", "\"\"", "\"a b\"", "[\"a\"]"],
        ),
        (
            "id",
            vec![
                "1",
                "true",
                "\"\"",
                "\"a\\nb\"",
                "\"\\u0000\"",
                "\"\\ud800\"",
            ],
        ),
        (
            "type",
            vec![
                "1",
                "\"\"",
                "\"post_update\"",
                "\"New_post\"",
                "\"new_post \"",
            ],
        ),
        (
            "ttlSeconds",
            vec![
                "0",
                "-1",
                "1.0",
                "1e2",
                "\"60\"",
                "86401",
                "18446744073709551616",
            ],
        ),
        ("priority", vec!["1", "\"\"", "\"High\"", "\"low\"", "true"]),
        ("collapseKey", vec!["1", "\"\"", "\"\\t\"", "\"\\u2028\""]),
        ("ephemeral", vec!["0", "1", "\"true\"", "\"\""]),
    ] {
        values.iter().for_each(|value| refuses(name, value));
    }
    for name in ["id", "collapseKey"] {
        refuses(name, &format!("\"{}\"", "é".repeat(129)));
        let longest = format!("{{\"data\":1,\"{name}\":\"{}\"}}", "é".repeat(128));
        assert!(parse(longest.as_bytes()).is_ok());
    }
    assert!(parse(b"{\"data\":1,\"ttlSeconds\":1,\"priority\":\"normal\"}").is_ok());
}

#[test]
fn targets_are_distinct_strings_or_integers() {
    assert_eq!(users(r#"{"data":1,"targetUserIds":[]}"#), [""; 0]);
    let body = r#"{"data":1,"targetUserIds":["b",1,"1","a","b",-5,18446744073709551615]}"#;
    assert_eq!(users(body), ["b", "1", "a", "-5", "18446744073709551615"]);
    let body = r#"{"targetUserIds":["a","7","b"],"data":1,"excludeUserId":7}"#;
    assert_eq!(users(body), ["a", "b"]);
    assert_eq!(
        users(r#"{"data":1,"targetUserIds":["a"],"excludeUserId":"a"}"#),
        [""; 0]
    );
    for targets in [
        "\"a\"",
        "1",
        "{}",
        "true",
        "false",
        "[null]",
        "[true]",
        "[1.5]",
        "[1.0]",
        "[1e3]",
        "[\"\"]",
        "[[\"a\"]]",
        "[{}]",
        "[18446744073709551616]",
        "[\"a b\"]",
        "[\"{a}\"]",
        "[\"a\",\"\\n\"]",
        "[\"\\ud800\"]",
        "[\"\\u0000\"]",
        "[\"\\u200b\"]",
    ] {
        let reason = reason(format!("{{\"data\":1,\"targetUserIds\":{targets}}}"));
        assert!(reason.starts_with("targetUserIds: "), "{targets}: {reason}");
    }
    let long = format!("{{\"data\":1,\"targetUserIds\":[\"{}\"]}}", "é".repeat(65));
    assert!(reason(long).starts_with("targetUserIds: "));
}

#[test]
fn targets_are_limited_after_repetitions_are_left_out() {
    let list = |count: usize| {
        let ids: Vec<usize> = (0..count).collect();
        json!({ "data": 1, "targetUserIds": ids }).to_string()
    };
    assert_eq!(users(&list(TARGETS_MAX)).len(), TARGETS_MAX);
    assert!(reason(list(TARGETS_MAX + 1)).starts_with("targetUserIds: more than 50000"));
    let repeated = vec!["a"; TARGETS_MAX + 10];
    let body = json!({ "data": 1, "targetUserIds": repeated }).to_string();
    assert_eq!(users(&body), ["a"]);
}

#[test]
fn targets_times_data_are_limited() {
    let body = |count: usize| {
        let ids: Vec<usize> = (0..count).collect();
        let data = "x".repeat(DATA_BYTES_MAX - 2);
        json!({ "data": data, "targetUserIds": ids }).to_string()
    };
    let count_max = FAN_OUT_BYTES_MAX / DATA_BYTES_MAX;
    assert_eq!(users(&body(count_max)).len(), count_max);
    assert!(reason(body(count_max + 1)).starts_with("targetUserIds: "));
}

#[test]
fn data_is_limited_as_sent() {
    let body = |data: &str| format!("{{\"data\": {data} }}");
    let spaced = |bytes: usize| format!("[{}]", " ".repeat(bytes - 2));
    let escaped = |bytes: usize| format!("\"{}\"", "\\n".repeat((bytes - 2) / 2));
    for make in [spaced, escaped] {
        let largest = make(DATA_BYTES_MAX);
        assert_eq!(
            parse(body(&largest).as_bytes()).unwrap().data.get(),
            largest
        );
        assert!(reason(body(&make(DATA_BYTES_MAX + 2))).starts_with("data: "));
    }
}

#[test]
fn data_is_limited_in_depth_without_recursion() {
    let nested = |open: &str, close: &str, depth: usize| {
        format!(
            "{{\"data\":{}1{}}}",
            open.repeat(depth),
            close.repeat(depth)
        )
    };
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        assert!(parse(nested(open, close, DATA_DEPTH_MAX).as_bytes()).is_ok());
        let reason = reason(nested(open, close, DATA_DEPTH_MAX + 1));
        assert!(reason.starts_with("data: is nested"), "{reason}");
    }
    assert!(reason(nested("[", "]", 500_000)).starts_with("data: "));
    assert!(reason(format!("{{\"data\":{}", "[".repeat(500_000))).starts_with("data: "));
    let deep_targets = format!("{{\"data\":1,\"targetUserIds\":{}", "[".repeat(500_000));
    assert!(reason(deep_targets).starts_with("targetUserIds: "));
    let brackets = format!(
        "{{\"data\":\"{}\\\"{}\"}}",
        "[".repeat(100),
        "{".repeat(100)
    );
    assert!(parse(brackets.as_bytes()).is_ok());
    // Depth is what lies inside each other, not how much there is.
    let flat = format!("{{\"data\":[{}[]]}}", "[],".repeat(1_000));
    assert!(parse(flat.as_bytes()).is_ok());
}

#[test]
fn data_is_kept_to_the_letter() {
    for data in [
        "123456789012345678901234567890.10e-3",
        "\"\\ud800\"",
        "{ \"a\" :\t1, \"a\": 2 }",
        "-0",
        "\"\\u0000\\/\"",
        "1e999",
        "\"😀\"",
    ] {
        let body = format!("{{\"data\":\n{data}\n}}");
        assert_eq!(parse(body.as_bytes()).unwrap().data.get(), data);
    }
}
