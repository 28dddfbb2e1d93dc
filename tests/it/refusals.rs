//! Every rule of the envelope: what breaks it is refused whole and kept in `DEAD_LETTERS`, and
//! never holds up what comes behind it.

use async_nats::HeaderMap;
use serde_json::{Value, json};

use crate::support::socket::{data_of, messages_of};
use crate::support::{System, event, user};

/// A body that must be refused, and what the reason must name. `ANN` stands for a user.
type Case = (&'static str, String);

fn case(names: &'static str, body: impl Into<String>) -> Case {
    (names, body.into())
}

/// With a target and `data`, this field, whose value must be refused.
fn field(name: &'static str, values: &[&str]) -> Vec<Case> {
    let with = |value: &&str| {
        let body = format!(r#"{{"targetUserIds":["ANN"],"data":1,"{name}":{value}}}"#);
        case(name, body)
    };
    values.iter().map(with).collect()
}

/// Publishes every body on `address`, each followed by a good event with the same key; asserts
/// that each has its dead letter as the contract describes it, and that the user gets what is
/// good, all of it, and nothing else.
async fn assert_refused(address: &str, cases: Vec<Case>) {
    let system = System::shared().await;
    let ann = user("ann");
    let mut socket = system.connect(&ann).await;
    socket.until_live().await;
    let mut sent = Vec::new();
    for (index, (names, body)) in cases.into_iter().enumerate() {
        let body = bytes::Bytes::from(body.replace("ANN", &ann));
        let ack = system.publish_with(address, HeaderMap::new(), body.clone());
        let ack = ack.await.expect("a PubAck, good or bad");
        sent.push((ack.sequence, names, body));
        system
            .publish(&format!("fence.{ann}"), event(&[&ann], index))
            .await;
    }
    for index in 0..sent.len() {
        let frame = socket.expect("messages").await;
        assert_eq!(data_of(&messages_of(&frame)), [index], "{frame}");
        socket.ack(&frame).await;
    }
    let mut letters = system.letters().await;
    for (sequence, names, body) in sent {
        let letter = letters.of(sequence).await;
        let about = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
        assert!(
            letter.reason().contains(names),
            "{about}: {}",
            letter.reason()
        );
        // Controls cannot stand in the subject of a dead letter.
        let subject = address.replace(char::is_control, "_");
        assert_eq!(letter.subject, format!("dead_letters.events.{subject}"));
        assert!(letter.body == body, "{about}: the body is another");
    }
    assert!(
        socket
            .frame_within(crate::support::POLL_INTERVAL)
            .await
            .is_none()
    );
}

#[tokio::test]
async fn bodies_that_are_no_object_are_refused() {
    let bodies = [
        "",
        " \n",
        "null",
        "5",
        "\"x\"",
        "[]",
        r#"[1,["ANN"]]"#,
        r#"[["ANN"],1]"#,
        "{",
        r#"{"targetUserIds":["ANN"],"data":1"#,
        r#"{"targetUserIds":["ANN"],"data":1}}"#,
        r#"{"targetUserIds":["ANN"],"data":1} {}"#,
        r#"{"targetUserIds":["ANN"],"data":1,}"#,
        r#"{"targetUserIds":["ANN"] "data":1}"#,
        r#"{targetUserIds:["ANN"],"data":1}"#,
        r#"{'data':1}"#,
        "\u{feff}{\"targetUserIds\":[\"ANN\"],\"data\":1}",
        "// x\n{\"targetUserIds\":[\"ANN\"],\"data\":1}",
    ];
    let cases = bodies.map(|body| case("", body)).to_vec();
    assert_refused("new_post.whole", cases).await;
}

#[tokio::test]
async fn data_is_required_and_limited() {
    let data = |value: &str| {
        case(
            "data",
            format!(r#"{{"targetUserIds":["ANN"],"data":{value}}}"#),
        )
    };
    let long = "x".repeat(65_535);
    let cases = vec![
        case("data", r#"{"targetUserIds":["ANN"]}"#),
        case("data", r#"{"targetUserIds":["ANN"],"data":1,"data":1}"#),
        data("NaN"),
        data("01"),
        data("'x'"),
        data("\"line\nbreak\""),
        data(r#""\x41""#),
        data("[1,]"),
        data("{\"a\"}"),
        // 65,537 bytes with the quotation marks; escapes and white space count as sent.
        data(&format!("\"{long}\"")),
        data(&format!("[{}1]", " ".repeat(65_534))),
        data(&format!("\"{}\"", "\\n".repeat(32_768))),
        data(&format!("{}{}", "[".repeat(65), "]".repeat(65))),
        data(&format!("{}1{}", r#"{"a":"#.repeat(65), "}".repeat(65))),
        data(&format!("{}{}", "[".repeat(30_000), "]".repeat(30_000))),
        data(&"[".repeat(60_000)),
    ];
    assert_refused("new_post.data", cases).await;
}

#[tokio::test]
async fn targets_must_be_user_ids() {
    let longest = format!("[\"{}\"]", "x".repeat(129));
    let wide = format!("[\"{}\"]", "ü".repeat(65));
    let deep = "[".repeat(5_000);
    let values = [
        "\"ANN\"",
        "7",
        "true",
        "{}",
        r#"{"0":"ANN"}"#,
        r#"["ANN",1.5]"#,
        r#"["ANN",1e3]"#,
        r#"["ANN",true]"#,
        r#"["ANN",null]"#,
        r#"["ANN",["ANN"]]"#,
        r#"["ANN",{}]"#,
        r#"["ANN",""]"#,
        r#"["ANN"," "]"#,
        r#"["ANN","a b"]"#,
        r#"["ANN","a\tb"]"#,
        r#"["ANN","a\u0000b"]"#,
        r#"["ANN","a\u007f"]"#,
        r#"["ANN","a\u200b"]"#,
        r#"["ANN","\u00a0"]"#,
        r#"["ANN","{a"]"#,
        r#"["ANN","a}"]"#,
        r#"["ANN","\ud800"]"#,
        &longest,
        &wide,
        &deep,
    ];
    let body = |value: &str| {
        case(
            "targetUserIds",
            format!(r#"{{"data":1,"targetUserIds":{value}}}"#),
        )
    };
    let mut cases: Vec<Case> = values.map(body).to_vec();
    let twice = r#"{"data":1,"targetUserIds":["ANN"],"targetUserIds":["ANN"]}"#;
    cases.push(case("targetUserIds", twice));
    assert_refused("new_post.targets", cases).await;
}

#[tokio::test]
async fn optional_fields_have_their_types_and_ranges() {
    let long_text = format!("\"{}\"", "é".repeat(129));
    let long_user = format!("\"{}\"", "x".repeat(129));
    let texts = [
        "\"\"",
        &long_text,
        "\"\\n\"",
        "\"a\\r\\nb\"",
        "\"\\u0000\"",
        "\"\\u2028\"",
        "5",
        "null",
        "[]",
        "{}",
        "true",
        "\"\\ud800\"",
    ];
    let mut cases = Vec::new();
    cases.extend(field("id", &texts));
    cases.extend(field("collapseKey", &texts));
    let users = [
        "null",
        "1.5",
        "\"\"",
        "\"a b\"",
        "[]",
        "[\"ANN\"]",
        "{}",
        "false",
        "\"{\"",
        &long_user,
    ];
    cases.extend(field("excludeUserId", &users));
    cases.extend(field(
        "type",
        &["\"new_post2\"", "\"\"", "\"New_post\"", "5", "null", "[]"],
    ));
    let seconds = [
        "0",
        "-1",
        "1.5",
        "1.0",
        "1e2",
        "\"60\"",
        "86401",
        "18446744073709551616",
        "null",
        "[]",
        "true",
    ];
    cases.extend(field("ttlSeconds", &seconds));
    cases.extend(field(
        "priority",
        &["\"urgent\"", "\"High\"", "\"\"", "1", "null", "[]", "true"],
    ));
    cases.extend(field("ephemeral", &["\"true\"", "1", "0", "null", "[]"]));
    for name in ["id", "type", "ttlSeconds", "priority", "ephemeral"] {
        let value = match name {
            "type" => "\"new_post\"",
            "ttlSeconds" => "5",
            "priority" => "\"high\"",
            "ephemeral" => "false",
            _ => "\"x\"",
        };
        let twice =
            format!(r#"{{"{name}":{value},"{name}":{value},"targetUserIds":["ANN"],"data":1}}"#);
        cases.push(case(name, twice));
    }
    assert_refused("new_post.optional", cases).await;
}

#[tokio::test]
async fn unknown_fields_are_refused_by_their_name() {
    let names = [
        ("targetUserIDs", "targetUserIDs"),
        ("targetuserids", "targetuserids"),
        ("target_user_ids", "target_user_ids"),
        ("targetUserId", "targetUserId"),
        ("Data", "Data"),
        ("data ", "data"),
        ("key", "key"),
        ("time", "time"),
        ("__proto__", "__proto__"),
        ("", "\"\""),
        // What cannot stand in a header is cleaned: line breaks, quotation marks of any script.
        ("a\\r\\nInjected: yes", "a"),
        ("\\u0000\\n", "?"),
        ("d\\u00e4ta", "d?ta"),
        ("данные", "?"),
    ];
    let mut cases: Vec<Case> = Vec::new();
    for (name, named) in names {
        let body = format!(r#"{{"targetUserIds":["ANN"],"data":1,"{name}":1}}"#);
        cases.push(case(named, body));
        // First, with a value that goes deep, and where it is the only field.
        let deep = format!("{}1{}", "[".repeat(2_000), "]".repeat(2_000));
        cases.push(case(named, format!(r#"{{"{name}":{deep},"data":1}}"#)));
        cases.push(case(named, format!(r#"{{"{name}":null}}"#)));
    }
    let long = "n".repeat(10_000);
    cases.push(case("nnn", format!(r#"{{"{long}":1}}"#)));
    let long = "\\r\\n".repeat(10_000);
    cases.push(case("??", format!(r#"{{"{long}":1}}"#)));
    let long = "é".repeat(10_000);
    cases.push(case(
        "??",
        format!(r#"{{"targetUserIds":[],"{long}":1,"data":1}}"#),
    ));
    assert_refused("new_post.unknown", cases).await;
}

#[tokio::test]
async fn bad_types_and_keys_are_refused_like_bad_bodies() {
    let good = r#"{"targetUserIds":["ANN"],"data":1}"#;
    let long = "t".repeat(65);
    let longest = format!("{long}.1");
    for address in ["New_post", "1a", "_a", "a-b", "новый", "a,b", &long] {
        assert_refused(address, vec![case("type", good)]).await;
    }
    for address in ["New_post.1", "1a.1", "a-b.1", "a:b.c", "é.é", &longest] {
        assert_refused(address, vec![case("type", good)]).await;
    }
    let too_long = format!("new_post.{}", "k".repeat(129));
    for address in [&too_long, "new_post.a\u{1}b", "new_post.\u{200b}"] {
        assert_refused(address, vec![case("key", good)]).await;
    }
    // A bad body under a bad subject names one of the two.
    assert_refused("Bad.1", vec![case("", "{"), case("", "")]).await;
}

#[tokio::test]
async fn dead_letters_beyond_the_limit_replace_the_oldest() {
    let system = System::start().await;
    let jetstream = system.jetstream().await;
    let name = system.stream_name("DEAD_LETTERS");
    let mut stream = jetstream.get_stream(&name).await.expect("the stream");
    let mut config = stream.info().await.expect("its state").config.clone();
    assert_eq!(config.max_messages, 1_000_000);
    // An operator may choose another limit, and a worker that starts leaves it.
    config.max_messages = 5;
    jetstream.update_stream(&config).await.expect("the limit");
    system.worker(0).stop().await;
    system.worker(0).start_again();
    system.worker(0).ready().await;
    let mut refused = Vec::new();
    for number in 0..20 {
        let event = json!({ "targetUserIds": ["ann"], "number": number });
        refused.push(system.publish("new_post.1", event).await);
    }
    system
        .publish("new_post.1", event(&["ann"], "behind them"))
        .await;
    system.until_stored("ann", 1).await;
    system.processed().await;
    let mut kept = Vec::new();
    for (_, headers, _) in system.dead_letters().await {
        let sequence = headers.get("Catchup-Sequence").expect("the sequence");
        kept.push(sequence.as_str().parse().expect("a number"));
    }
    // Those of one batch are put away side by side.
    kept.sort_unstable();
    assert_eq!(kept.len(), 5);
    assert!(kept.iter().all(|sequence: &u64| refused.contains(sequence)));
    assert!(!kept.contains(&refused[0]), "the oldest is kept");
}

#[tokio::test]
async fn subjects_of_another_shape_get_no_acknowledgement() {
    let system = System::shared().await;
    let ann = user("ann");
    let body = event(&[&ann], 1).to_string();
    let mut raw = crate::support::RawNats::connect(system.nats_server().port()).await;
    for subject in [
        "events",
        "events.new_post.1.2",
        "events.5.new_post.1",
        "events.new_post.1.2.3",
        "event.new_post",
        "eventsx.new_post",
    ] {
        let subject = system.subject(subject);
        let answer = raw.publish(subject.as_bytes(), body.as_bytes()).await;
        assert_eq!(answer, None, "{subject}");
    }
    // The one beside it has its PubAck, and it alone arrives.
    let subject = system.subject("events.new_post.1");
    let answer = raw.publish(subject.as_bytes(), body.as_bytes()).await;
    let answer: Value = serde_json::from_str(&answer.expect("a PubAck")).unwrap();
    assert_eq!(answer["stream"], json!(system.stream_name("EVENTS")));
    system.until_stored(&ann, 1).await;
}

#[tokio::test]
async fn what_is_just_allowed_passes() {
    let system = System::shared().await;
    let ann = user("ann");
    let address = format!("new_post.{ann}");
    let text = "é".repeat(128);
    let mut bodies = vec![
        json!({"ttlSeconds": 1}),
        json!({"ttlSeconds": 86_400}),
        json!({"priority": "normal"}),
        json!({"type": "new_post"}),
        json!({"id": text.clone() + "", "collapseKey": text}),
        json!({"collapseKey": " "}),
        json!({"ephemeral": false}),
        json!({"excludeUserId": "x".repeat(128)}),
        json!({"excludeUserId": -7}),
    ];
    for body in &mut bodies {
        body["targetUserIds"] = json!([ann, ann]);
        body["data"] = json!(1);
    }
    let mut texts: Vec<String> = bodies.iter().map(Value::to_string).collect();
    let data = |value: &str| format!(r#"{{"targetUserIds":["{ann}"],"data":{value}}}"#);
    texts.push(data(&format!("\"{}\"", "x".repeat(65_534))));
    texts.push(data(&format!("{}{}", "[".repeat(64), "]".repeat(64))));
    texts.push(data(&format!(
        "{}1{}",
        r#"{"a":"#.repeat(64),
        "}".repeat(64)
    )));
    // Brackets in a text are no depth, white space around a value is no part of it.
    texts.push(data(&format!("\"{}\"", "[{".repeat(100))));
    texts.push(data(&format!(
        "{}1{}",
        " ".repeat(70_000),
        " ".repeat(70_000)
    )));
    texts.push(format!("\r\n\t {} \n", data("1")));
    // The names of fields may be written in any way that JSON allows.
    texts.push(format!(
        r#"{{"target\u0055serIds":["{ann}"],"\u0064ata":1}}"#
    ));
    for body in &texts {
        let ack = system.publish_with(&address, HeaderMap::new(), body.clone());
        ack.await.unwrap();
    }
    system.until_stored(&ann, texts.len() as u64).await;
}
