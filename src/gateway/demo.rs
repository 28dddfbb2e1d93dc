//! The page of `catchup dev`, and the endpoint its buttons publish by.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::auth::AllowedOrigins;
use super::node::Node;
use super::refusal::json_response;
use crate::event::{Address, Event, Limits};

const PAGE: &str = include_str!("demo/page.html");
/// Longest body of a publish from the page.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// `{"type","key","event"}`: the subject's parts and the envelope.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Publish {
    r#type: String,
    key: Option<String>,
    event: Box<RawValue>,
}

/// Answers everything but the socket.
pub async fn respond(node: &Node, request: Request<Incoming>) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => page(),
        (&Method::POST, "/demo/publish") => match publish(node, request).await {
            Ok(body) => {
                let mut response = Response::new(Full::new(Bytes::from(body)));
                let json = HeaderValue::from_static("application/json");
                response.headers_mut().insert(CONTENT_TYPE, json);
                response
            }
            Err((status, message)) => json_response(status, status.as_u16(), &message),
        },
        _ => json_response(
            StatusCode::NOT_FOUND,
            404,
            "not found: sockets are at /v1/ws",
        ),
    }
}

fn page() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(PAGE.as_bytes())));
    let content_type = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

async fn publish(node: &Node, request: Request<Incoming>) -> Result<String, (StatusCode, String)> {
    let bad = |message: String| (StatusCode::BAD_REQUEST, message);
    let unavailable = |message: String| (StatusCode::SERVICE_UNAVAILABLE, message);
    // Another page's form could publish otherwise: a browser sends such a body without asking.
    let is_json = request
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    if !AllowedOrigins::Same.allow(request.headers()) || !is_json {
        let message = "only this page may publish, as application/json".to_owned();
        return Err((StatusCode::FORBIDDEN, message));
    }
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX);
    let body = (body.collect().await).map_err(|error| bad(error.to_string()))?;
    let publish: Publish =
        serde_json::from_slice(&body.to_bytes()).map_err(|error| bad(error.to_string()))?;
    let address = match &publish.key {
        Some(key) => format!("events.{}.{key}", publish.r#type),
        None => format!("events.{}", publish.r#type),
    };
    let address = Address::parse(&address).map_err(|refusal| bad(refusal.to_string()))?;
    let limits = Limits {
        ttl_max: node.message_ttl,
    };
    Event::parse(&address, publish.event.get().as_bytes(), &limits)
        .map_err(|refusal| bad(refusal.to_string()))?;

    let bus = node
        .bus()
        .ok_or_else(|| unavailable("NATS is not connected".to_owned()))?;
    let subject = bus.names.event(&address.event_type, address.key.as_deref());
    let id = uuid::Uuid::now_v7().to_string();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Msg-Id", id.as_str());
    let payload = Bytes::from(publish.event.get().to_owned());
    let published = async {
        let ack = (bus.jetstream)
            .publish_with_headers(subject, headers, payload)
            .await?;
        ack.await
    };
    let ack = published
        .await
        .map_err(|error| unavailable(format!("not published: {error}")))?;
    Ok(json!({ "id": id, "sequence": ack.sequence }).to_string())
}
