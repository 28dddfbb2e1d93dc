//! What a server says of itself (`INFO`).

use crate::protocol::Epoch;

/// A field of an `INFO`.
pub fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

/// The server's time line, from the section `replication`.
pub fn info_epoch(info: &str) -> Option<Epoch> {
    info_field(info, "master_replid").and_then(|hex| Epoch::from_hex(hex).ok())
}
