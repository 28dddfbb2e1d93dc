//! A gateway's lease on its name: the key `node:<node>` holds the incarnation that owns it.

use redis::Script;
use std::sync::LazyLock;

use crate::mailbox::{Link, MailboxError};

/// A lease that is not renewed ends after this long; then the node counts as dead. The contract
/// (§5) gives 10 s from the death, and a renewal may be under way then.
pub const LEASE_MILLISECONDS: u64 = 9_500;
/// Renewed this often, so that two renewals may fail.
pub const RENEWAL_MILLISECONDS: u64 = 3_000;

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lease.lua")));

/// What became of an attempt to hold the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// It was ours and is renewed, or was taken over from an older process.
    Yes,
    /// It had run out and is ours again: others may have taken this node for dead meanwhile.
    Lapsed,
    /// Another process of the same name holds it: this one has to end.
    TakenByAnother,
}

/// Takes the lease, whoever holds it: a new process takes over its name at once.
pub async fn take(link: &Link, node: &str, incarnation: &str) -> Result<(), MailboxError> {
    run(link, node, incarnation, true).await?;
    Ok(())
}

/// Renews the lease.
pub async fn renew(link: &Link, node: &str, incarnation: &str) -> Result<Held, MailboxError> {
    run(link, node, incarnation, false).await
}

/// Gives the lease back where it is still ours.
pub async fn release(link: &Link, node: &str, incarnation: &str) -> Result<(), MailboxError> {
    let mut invocation = SCRIPT.key(link.keys().node(node));
    invocation.arg(incarnation).arg(0).arg("release");
    let _: String =
        (invocation.invoke_async(&mut link.raw()).await).map_err(|error| link.judge(error))?;
    Ok(())
}

async fn run(link: &Link, node: &str, incarnation: &str, take: bool) -> Result<Held, MailboxError> {
    let mut invocation = SCRIPT.key(link.keys().node(node));
    invocation
        .arg(incarnation)
        .arg(LEASE_MILLISECONDS)
        .arg(if take { "take" } else { "renew" });
    let outcome: String =
        (invocation.invoke_async(&mut link.raw()).await).map_err(|error| link.judge(error))?;
    match outcome.as_str() {
        "held" => Ok(Held::Yes),
        "lapsed" => Ok(Held::Lapsed),
        "taken" => Ok(Held::TakenByAnother),
        other => Err(MailboxError::Unexpected(other.to_owned())),
    }
}
