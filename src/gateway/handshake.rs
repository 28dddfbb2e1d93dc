//! Which requests are WebSocket handshakes.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::body::{Body as _, Incoming};
use hyper::header::{
    CONNECTION, HOST, HeaderName, HeaderValue, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{HeaderMap, Method, Request, Version};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::refusal::Refusal;

/// Checks a handshake (RFC 6455 §4.2.1) and makes its answer, `Sec-WebSocket-Accept`.
///
/// # Errors
///
/// A refusal with 400 that says what is missing. A request with a body is refused as well: what a
/// proxy in front takes for the body would be read as frames here.
pub fn accept_key(request: &Request<Incoming>) -> Result<HeaderValue, Refusal> {
    let headers = request.headers();
    if request.method() != Method::GET
        || !has_token(headers, CONNECTION, "upgrade")
        || !has_token(headers, UPGRADE, "websocket")
    {
        return Err(Refusal::bad_request("expected a WebSocket handshake"));
    }
    if request.version() != Version::HTTP_11 {
        return Err(Refusal::bad_request("expected HTTP/1.1"));
    }
    if only(headers, HOST).is_none() {
        return Err(Refusal::bad_request("expected one Host"));
    }
    if !request.body().is_end_stream() {
        return Err(Refusal::bad_request("a handshake has no body"));
    }
    if only(headers, SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes) != Some(b"13") {
        return Err(Refusal::bad_request("expected Sec-WebSocket-Version: 13"));
    }
    let bad_key = || Refusal::bad_request("expected one Sec-WebSocket-Key of 16 bytes");
    let key = only(headers, SEC_WEBSOCKET_KEY).ok_or_else(bad_key)?;
    if !BASE64_STANDARD.decode(key).is_ok_and(|key| key.len() == 16) {
        return Err(bad_key());
    }
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| bad_key())
}

/// The value of a header that stands once.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// True where a token stands in the lists of a header's lines.
fn has_token(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    (headers.get_all(name).iter())
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case(wanted))
}
