//! Why a connection ends or is not made (contract §4, the table of close codes).

/// A WebSocket close code (RFC 6455 §7.4; 4000 and up are the application's own).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// The node is going away: come back after the delay.
    GoingAway,
    /// The node restarts or lost its name: come back after the delay.
    Restarting,
    /// Draining, or no store: only after an upgrade with `refuse=close`.
    TryAgainLater,
    /// No token, an invalid or expired one, or the token of another user.
    Unauthorised,
    /// A request or frame that breaks the contract.
    BadRequest,
    /// The browser's origin is not allowed.
    OriginNotAllowed,
    /// The peer neither read nor answered for 30 s.
    NoProgress,
    /// A newer connection of the same device took over: do not come back by yourself.
    Replaced,
    /// An acknowledgement of something that was never sent.
    NeverSent,
    /// Too many connections, devices or messages.
    TooMany,
}

impl CloseCode {
    pub fn code(self) -> u16 {
        match self {
            CloseCode::GoingAway => 1001,
            CloseCode::Restarting => 1012,
            CloseCode::TryAgainLater => 1013,
            CloseCode::Unauthorised => 4001,
            CloseCode::BadRequest => 4002,
            CloseCode::OriginNotAllowed => 4003,
            CloseCode::NoProgress => 4008,
            CloseCode::Replaced => 4009,
            CloseCode::NeverSent => 4010,
            CloseCode::TooMany => 4029,
        }
    }

    /// The HTTP status of a refusal before the upgrade.
    pub fn http_status(self) -> u16 {
        match self {
            CloseCode::GoingAway | CloseCode::Restarting | CloseCode::TryAgainLater => 503,
            CloseCode::Unauthorised => 401,
            CloseCode::OriginNotAllowed => 403,
            CloseCode::TooMany => 429,
            CloseCode::BadRequest
            | CloseCode::NoProgress
            | CloseCode::Replaced
            | CloseCode::NeverSent => 400,
        }
    }

    /// True where an `error` frame goes before the close, because the client is at fault.
    pub fn is_clients_fault(self) -> bool {
        match self {
            CloseCode::Unauthorised
            | CloseCode::BadRequest
            | CloseCode::OriginNotAllowed
            | CloseCode::NeverSent
            | CloseCode::TooMany => true,
            CloseCode::GoingAway
            | CloseCode::Restarting
            | CloseCode::TryAgainLater
            | CloseCode::NoProgress
            | CloseCode::Replaced => false,
        }
    }
}
