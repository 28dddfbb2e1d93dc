//! What can go wrong on the bus, and what to do about it.

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::RequestError;

/// Why something on the bus did not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The server is too old or set up differently: only an operator can help. The text says how.
    #[error("{0}")]
    Unsuitable(String),
    /// No answer, or an error that passes: try again.
    #[error("NATS: {0}")]
    Unreachable(String),
    /// What was asked for does not exist in JetStream.
    #[error("NATS: not found: {0}")]
    NotFound(String),
    /// The process is ending.
    #[error("shutting down")]
    ShuttingDown,
}

impl BusError {
    /// True where the same call may work later.
    pub fn is_retryable(&self) -> bool {
        match self {
            BusError::Unreachable(_) | BusError::NotFound(_) => true,
            BusError::Unsuitable(_) | BusError::ShuttingDown => false,
        }
    }

    /// Classifies an error of the JetStream API about `subject`, which is named in the text.
    pub(super) fn from_api(subject: &str, error: &async_nats::jetstream::Error) -> BusError {
        let text = format!("{subject}: {error}");
        match error.error_code() {
            ErrorCode::STREAM_NOT_FOUND
            | ErrorCode::CONSUMER_NOT_FOUND
            | ErrorCode::NO_MESSAGE_FOUND => BusError::NotFound(text),
            ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => {
                BusError::Unsuitable(format!(
                    "NATS has JetStream off: start nats-server with -js, or enable it for the \
                     account ({error})"
                ))
            }
            ErrorCode::STREAM_SUBJECT_OVERLAP => BusError::Unsuitable(format!(
                "NATS: another stream takes the subjects asked for: remove it, or use another \
                 CATCHUP_NAMESPACE ({text})"
            )),
            // Another process made it at the same moment, or is about to have made it: the next look
            // at it says whether it is as it should be.
            ErrorCode::STREAM_NAME_EXIST => BusError::Unreachable(text),
            // What is asked for cannot be had: asking again would not help.
            _ if error.code() == 400 => BusError::Unsuitable(format!("NATS refuses {text}")),
            _ => BusError::Unreachable(text),
        }
    }
}

impl From<RequestError> for BusError {
    fn from(error: RequestError) -> BusError {
        BusError::Unreachable(error.to_string())
    }
}

impl From<async_nats::PublishError> for BusError {
    fn from(error: async_nats::PublishError) -> BusError {
        BusError::Unreachable(error.to_string())
    }
}

impl From<async_nats::SubscribeError> for BusError {
    fn from(error: async_nats::SubscribeError) -> BusError {
        BusError::Unreachable(error.to_string())
    }
}
