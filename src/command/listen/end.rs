//! How a connection ended, and whether to come back (the close codes of contract §4).

use std::time::Duration;

use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// How a connection, or the attempt to make one, ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// As it was asked to.
    Finished,
    /// Coming back would not help; the text says why.
    Refused(String),
    /// Come back, after the delay if the gateway gave one.
    Lost {
        reason: String,
        delay: Option<Duration>,
    },
}

impl End {
    pub(super) fn lost(reason: impl Into<String>) -> End {
        End::Lost {
            reason: reason.into(),
            delay: None,
        }
    }

    /// What a close frame means. `fault` and `away` are what the gateway said before it.
    pub(super) fn from_close(
        frame: Option<CloseFrame>,
        fault: Option<String>,
        away: Option<Duration>,
    ) -> End {
        // 1005: a close frame without a code (RFC 6455 §7.4.1).
        let code = frame.as_ref().map_or(1005, |frame| u16::from(frame.code));
        let reason = frame
            .map(|frame| frame.reason.to_string())
            .unwrap_or_default();
        let detail = fault.unwrap_or(reason);
        let detail = if detail.is_empty() {
            detail
        } else {
            format!(": {detail}")
        };
        let text = match code {
            4001 => "unauthorised: give a valid --token",
            4002 => "the gateway did not understand this client",
            4003 => "this origin is not allowed",
            4009 => "another client took over as this device: use another --device to have both",
            _ => {
                return End::Lost {
                    reason: format!("closed by the gateway ({code}){detail}"),
                    delay: away,
                };
            }
        };
        End::Refused(format!("{text} ({code}){detail}"))
    }

    /// What an answer other than an upgrade means.
    pub(super) fn from_refusal(
        status: StatusCode,
        retry_after: Option<Duration>,
        body: &[u8],
    ) -> End {
        let body = serde_json::from_slice::<serde_json::Value>(body).unwrap_or_default();
        let detail = body["message"]
            .as_str()
            .map(|message| format!(": {message}"));
        let detail = detail.unwrap_or_default();
        let number = status.as_u16();
        let text = match number {
            401 => "unauthorised: give a valid --token",
            403 => "not allowed",
            404 => "there is no gateway at this --url",
            408 | 429 | 500.. => {
                return End::Lost {
                    reason: format!("refused for a while ({number}){detail}"),
                    delay: retry_after,
                };
            }
            _ => "refused",
        };
        End::Refused(format!("{text} ({number}){detail}"))
    }
}
