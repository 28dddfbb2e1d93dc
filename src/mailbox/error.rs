//! What can go wrong with the store, classified where it is declared.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::protocol::Epoch;

/// Why a call on a mailbox failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MailboxError {
    /// No connection, or no reply in time. Whether the call was carried out is unknown.
    #[error("Redis is unreachable: {0}")]
    Unreachable(String),
    /// The server is up and refuses: out of memory, a failing disk, a replica, loading.
    #[error("Redis refuses: {0}")]
    Refusing(String),
    /// The user's slot of the cluster is with another server, on its way there, or nowhere. Nothing
    /// was done.
    #[error("the cluster does not serve this slot here now: {0}")]
    Moved(String),
    /// The server lost what it held, or that is not known yet: nobody uses it before it is whole.
    #[error("Redis is not whole: {0}")]
    Incomplete(String),
    /// The server is on another time line than the one the caller's positions belong to.
    #[error("Redis is on another time line: {current}")]
    EpochChanged { current: Epoch },
    /// The mailbox has another life than the caller's: it was lost and made again, or repaired.
    #[error("the mailbox was made anew")]
    LifeChanged,
    /// A key of the mailbox has the wrong type, or a counter is gone.
    #[error("the mailbox is damaged")]
    Damaged,
    /// The device has no record: register it.
    #[error("the device is not registered")]
    UnknownDevice,
    /// A newer connection of the device is there.
    #[error("a newer connection of the device took over")]
    Replaced,
    /// The call got to Redis, whose clock this is, later than it was allowed to; nothing was done.
    #[error("Redis got the call too late")]
    Late { now_ms: u64 },
    /// All devices a user may have are connected.
    #[error("too many devices are connected")]
    TooManyDevices,
    /// A place that was never given out.
    #[error("a place that was never given out")]
    Ahead,
    /// Not tried, because an earlier entry for the same user failed.
    #[error("not tried after an earlier failure")]
    Skipped,
    /// The server cannot be used: too old, or its configuration would lose messages. Final.
    #[error("{0}")]
    Unsuitable(String),
    /// A reply that no version of the scripts gives.
    #[error("unexpected reply from Redis: {0}")]
    Unexpected(String),
}

impl MailboxError {
    /// True where the same call may succeed later without anybody's doing.
    pub fn is_retryable(&self) -> bool {
        match self {
            MailboxError::Unreachable(_)
            | MailboxError::Refusing(_)
            | MailboxError::Moved(_)
            | MailboxError::Incomplete(_)
            | MailboxError::EpochChanged { .. }
            | MailboxError::Damaged
            | MailboxError::Skipped
            | MailboxError::Late { .. }
            | MailboxError::Unexpected(_) => true,
            MailboxError::LifeChanged
            | MailboxError::UnknownDevice
            | MailboxError::Replaced
            | MailboxError::TooManyDevices
            | MailboxError::Ahead
            | MailboxError::Unsuitable(_) => false,
        }
    }

    /// True where a TCP connection made in `epoch` must not be used again: replies may be lost, or
    /// what follows belongs to another time line.
    pub(super) fn breaks_link(&self, epoch: Epoch) -> bool {
        match self {
            MailboxError::Unreachable(_) => true,
            // A caller may also have come with a position of an earlier time line.
            MailboxError::EpochChanged { current } => *current != epoch,
            MailboxError::Refusing(text) => text.starts_with(READONLY),
            MailboxError::Moved(_)
            | MailboxError::Incomplete(_)
            | MailboxError::LifeChanged
            | MailboxError::Damaged
            | MailboxError::UnknownDevice
            | MailboxError::Replaced
            | MailboxError::TooManyDevices
            | MailboxError::Ahead
            | MailboxError::Skipped
            | MailboxError::Late { .. }
            | MailboxError::Unsuitable(_)
            | MailboxError::Unexpected(_) => false,
        }
    }
}

impl From<RedisError> for MailboxError {
    fn from(error: RedisError) -> MailboxError {
        // A `MULTI` that was refused as a whole says why only for its commands.
        if error.kind() == ErrorKind::Server(ServerErrorKind::ExecAbort)
            && let Some([(_, cause), ..]) = error.clone().into_server_errors().as_deref()
        {
            return refused(cause.code(), cause.details());
        }
        match (error.kind(), error.code()) {
            // A script or a counter that met what it cannot read; `repair` looks closer.
            (ErrorKind::Server(ServerErrorKind::ResponseError), _) | (_, Some("WRONGTYPE")) => {
                tracing::debug!("taken for damage: {error}");
                MailboxError::Damaged
            }
            (ErrorKind::Server(_) | ErrorKind::Extension, Some(code)) => {
                refused(code, error.detail())
            }
            (ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig, _) => {
                MailboxError::Refusing(error.to_string())
            }
            _ => match error.clone().into_server_errors().as_deref() {
                // The server answered each command of a pipeline: the first error says why.
                Some([(_, cause), ..]) if matches!(cause.code(), "ERR" | "WRONGTYPE") => {
                    tracing::debug!("taken for damage: {error}");
                    MailboxError::Damaged
                }
                Some([(_, cause), ..]) => refused(cause.code(), cause.details()),
                // A time-out, a closed connection, a reply that cannot be parsed.
                _ => MailboxError::Unreachable(error.to_string()),
            },
        }
    }
}

/// The code of a server that became a replica.
const READONLY: &str = "READONLY";

fn refused(code: &str, detail: Option<&str>) -> MailboxError {
    let text = match detail {
        Some(detail) => format!("{code} {detail}"),
        None => code.to_owned(),
    };
    match code {
        // What is half here and half there can be used nowhere until it is whole.
        "MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN" => MailboxError::Moved(text),
        _ => MailboxError::Refusing(text),
    }
}

/// The URL of the store cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a usable Redis address: {0}")]
pub struct ConfigError(pub(super) String);
