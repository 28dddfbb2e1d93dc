//! A request that is not let in: as an HTTP answer, or as a close after the upgrade.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::json;

use super::auth::Unauthorised;
use crate::protocol::CloseCode;

/// Why, in the contract's codes, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: CloseCode,
    pub message: String,
}

impl Refusal {
    pub fn new(code: CloseCode, message: impl Into<String>) -> Refusal {
        Refusal {
            code,
            message: message.into(),
        }
    }

    pub fn bad_request(message: impl Into<String>) -> Refusal {
        Refusal::new(CloseCode::BadRequest, message)
    }

    pub fn try_later(message: impl Into<String>) -> Refusal {
        Refusal::new(CloseCode::TryAgainLater, message)
    }

    /// The answer before an upgrade: `{"code","message"}`.
    pub fn response(&self) -> Response<Full<Bytes>> {
        let status = StatusCode::from_u16(self.code.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json_response(status, self.code.code(), &self.message);
        if matches!(
            status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
        ) {
            let seconds = HeaderValue::from_static("1");
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        response
    }
}

impl From<Unauthorised> for Refusal {
    fn from(error: Unauthorised) -> Refusal {
        Refusal::new(CloseCode::Unauthorised, error.to_string())
    }
}

/// A JSON answer with a code and a message.
pub fn json_response(status: StatusCode, code: u16, message: &str) -> Response<Full<Bytes>> {
    let body = json!({ "code": code, "message": message }).to_string();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
