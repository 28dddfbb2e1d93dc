//! A request that is not let in: as an HTTP answer, or as a close after the upgrade.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::json;

use super::auth::Unauthorised;
use super::chance::once_to_twice;
use crate::protocol::{CloseCode, ServerFrame};

/// When to try again where nothing says more, and up to twice of it by chance.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// The same where a client has too many of something: that seldom passes soon.
const RETRY_DELAY_TOO_MANY: Duration = Duration::from_secs(5);

/// Why, in the contract's codes, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: CloseCode,
    pub message: String,
    /// When coming back is worth it; `None` where it is not.
    pub retry_delay: Option<Duration>,
}

impl Refusal {
    pub fn new(code: CloseCode, message: impl Into<String>) -> Refusal {
        let retry_delay = match code {
            CloseCode::TryAgainLater | CloseCode::GoingAway | CloseCode::Restarting => {
                Some(once_to_twice(RETRY_DELAY))
            }
            CloseCode::TooMany => Some(once_to_twice(RETRY_DELAY_TOO_MANY)),
            CloseCode::Unauthorised
            | CloseCode::BadRequest
            | CloseCode::OriginNotAllowed
            | CloseCode::NoProgress
            | CloseCode::Replaced
            | CloseCode::NeverSent => None,
        };
        Refusal {
            code,
            message: message.into(),
            retry_delay,
        }
    }

    pub fn bad_request(message: impl Into<String>) -> Refusal {
        Refusal::new(CloseCode::BadRequest, message)
    }

    pub fn too_many(message: impl Into<String>) -> Refusal {
        Refusal::new(CloseCode::TooMany, message)
    }

    pub fn try_later(message: impl Into<String>) -> Refusal {
        Refusal::new(CloseCode::TryAgainLater, message)
    }

    /// Come back after exactly this.
    pub fn try_after(delay: Duration, message: impl Into<String>) -> Refusal {
        Refusal {
            retry_delay: Some(delay),
            ..Refusal::try_later(message)
        }
    }

    /// The answer before an upgrade: `{"code","message"}`. One that asks to come back later ends the
    /// TCP connection, which would hold a place among the requests meanwhile.
    pub fn response(&self) -> Response<Full<Bytes>> {
        let status = StatusCode::from_u16(self.code.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json_response(status, self.code.code(), &self.message);
        let headers = response.headers_mut();
        if let Some(delay) = self.retry_delay {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
            let seconds = delay.as_millis().div_ceil(1_000).max(1) as u64;
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    /// What is sent before the close, after an upgrade.
    pub fn last_frame(&self) -> Option<ServerFrame> {
        if self.code.is_clients_fault() {
            return Some(ServerFrame::Error {
                code: self.code,
                message: self.message.clone(),
            });
        }
        let delay = self.retry_delay?;
        Some(ServerFrame::Away {
            retry_milliseconds: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_told_in_whole_seconds_and_in_milliseconds() {
        let refusal = Refusal::try_after(Duration::from_millis(2_001), "busy");
        let response = refusal.response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[RETRY_AFTER], "3");
        assert_eq!(response.headers()[CONNECTION], "close");
        let away = ServerFrame::Away {
            retry_milliseconds: 2_001,
        };
        assert_eq!(refusal.last_frame(), Some(away));
    }

    #[test]
    fn a_clients_fault_is_told_as_an_error() {
        let refusal = Refusal::too_many("too many");
        assert_eq!(refusal.response().status(), 429);
        assert!(refusal.response().headers().contains_key(RETRY_AFTER));
        assert!(matches!(
            refusal.last_frame(),
            Some(ServerFrame::Error { .. })
        ));
        let refusal = Refusal::bad_request("junk");
        assert!(!refusal.response().headers().contains_key(RETRY_AFTER));
    }
}
