//! Reads what the scripts return.

use redis::Value;

use super::MailboxError;
use super::link::Connection;
use crate::protocol::Epoch;

/// The elements of a reply, taken one after the other.
pub(super) struct Reply {
    values: std::vec::IntoIter<Value>,
}

impl Reply {
    pub fn new(values: Vec<Value>) -> Reply {
        Reply {
            values: values.into_iter(),
        }
    }

    /// Reads a script's reply `{status, …}`; every status but `ok` is an error.
    pub fn with_status(value: Value) -> Result<Reply, MailboxError> {
        let Value::Array(values) = value else {
            return Err(unexpected(&value));
        };
        let mut reply = Reply::new(values);
        match reply.text()?.as_str() {
            "ok" => Ok(reply),
            "epoch" => {
                let current = Epoch::from_hex(&reply.text()?)
                    .map_err(|error| MailboxError::Unexpected(error.to_string()))?;
                Err(MailboxError::EpochChanged { current })
            }
            "life" => Err(MailboxError::LifeChanged),
            "damaged" => Err(MailboxError::Damaged),
            "unknown" => Err(MailboxError::UnknownDevice),
            "replaced" => Err(MailboxError::Replaced),
            "devices" => Err(MailboxError::TooManyDevices),
            "late" => Err(MailboxError::Late {
                now_ms: reply.number()?,
            }),
            "ahead" => Err(MailboxError::Ahead),
            other => Err(MailboxError::Unexpected(other.to_owned())),
        }
    }

    pub fn value(&mut self) -> Result<Value, MailboxError> {
        self.values
            .next()
            .ok_or_else(|| MailboxError::Unexpected("too few elements".to_owned()))
    }

    pub fn text(&mut self) -> Result<String, MailboxError> {
        text_of(self.value()?)
    }

    /// A count, place or time. Lua numbers arrive as integers.
    pub fn number(&mut self) -> Result<u64, MailboxError> {
        match self.value()? {
            Value::Int(number) => u64::try_from(number)
                .map_err(|_| MailboxError::Unexpected(format!("negative number {number}"))),
            value => text_of(value)?
                .parse()
                .map_err(|_| MailboxError::Unexpected("not a number".to_owned())),
        }
    }

    pub fn array(&mut self) -> Result<Reply, MailboxError> {
        match self.value()? {
            Value::Array(values) => Ok(Reply::new(values)),
            value => Err(unexpected(&value)),
        }
    }

    /// The rest, as texts.
    pub fn texts(self) -> Result<Vec<String>, MailboxError> {
        self.values.map(text_of).collect()
    }
}

/// A string; empty for nil.
pub(super) fn text_of(value: Value) -> Result<String, MailboxError> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes)
            .map_err(|_| MailboxError::Unexpected("text that is not UTF-8".to_owned())),
        Value::SimpleString(text) => Ok(text),
        Value::Nil => Ok(String::new()),
        value => Err(unexpected(&value)),
    }
}

/// The field `connections`: see `scripts/prelude.lua`. What cannot be read is left out: a forward
/// that is not sent delays a message, and nothing else.
pub fn parse_connections(text: &str) -> Vec<Connection> {
    let parse = |text: &str| {
        let mut parts = text.split(' ');
        Some(Connection {
            device: parts.next()?.to_owned(),
            node: parts.next()?.to_owned(),
            incarnation: parts.next()?.to_owned(),
            number: parts.next()?.parse().ok()?,
            order: parts.next()?.parse().ok()?,
        })
    };
    text.split(',').filter_map(parse).collect()
}

fn unexpected(value: &Value) -> MailboxError {
    // The kind only: a value may hold a user's message.
    let kind = match value {
        Value::Int(_) => "an integer",
        Value::Array(_) => "an array",
        Value::Nil => "nil",
        Value::Okay | Value::SimpleString(_) | Value::BulkString(_) => "a text",
        _ => "something else",
    };
    MailboxError::Unexpected(format!("{kind} in a place where it cannot be"))
}
