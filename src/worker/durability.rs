//! What has to be sure of a stored event before JetStream is told that it is done, and whether the
//! server can say so.

use std::time::Duration;

use tracing::warn;

use crate::mailbox::{Link, MailboxError, info_field};

/// Redis writes to its disk each second (`appendfsync everysec`) and may be late by another one:
/// what is older than this is on the disk of a server that still runs.
const HOLD: Duration = Duration::from_millis(2_500);
/// A primary counts once a second the replicas that answered within `min-replicas-max-lag`, in whole
/// seconds: the last answer of one that still counts is up to two seconds older than that. And it
/// speaks of what the replica had when it was sent, for which there is one more.
const REPLICA_LAG_MARGIN: Duration = Duration::from_secs(3);

/// When an event is acknowledged to JetStream (`CATCHUP_DURABILITY`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// 2.5 s after the append, where the connection it went over did not break meanwhile and the
    /// server is on the same time line. Where Redis must not write without replicas
    /// (`min-replicas-to-write`), three seconds more than it may be cut off from them.
    #[default]
    Delayed,
    /// When the server says that it is on its disk (`WAITAOF`): Redis 7.2 or Valkey.
    Fsync,
    /// When the server says that a replica has it (`WAIT`). Without a replica nothing is
    /// acknowledged.
    Replica,
    /// At once: a power cut or a fail-over may lose what was stored within the last two seconds.
    None,
}

impl Durability {
    pub const ALL: &'static [Durability] = &[
        Durability::Delayed,
        Durability::Fsync,
        Durability::Replica,
        Durability::None,
    ];

    /// As the setting names it.
    pub fn name(self) -> &'static str {
        match self {
            Durability::Delayed => "delayed",
            Durability::Fsync => "fsync",
            Durability::Replica => "replica",
            Durability::None => "none",
        }
    }
}

/// What holds on one server, where time decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    /// How old an append must be to be safe.
    pub hold: Duration,
    /// How many replicas must have answered the server of late: `min-replicas-to-write`.
    pub replicas_needed: u64,
}

/// What holds on this server.
///
/// # Errors
///
/// [`MailboxError::Unsuitable`] where the server can never confirm what is asked for.
pub(super) async fn inspect(link: &Link, durability: Durability) -> Result<Rule, MailboxError> {
    match durability {
        Durability::Delayed => {
            if setting(link, "appendfsync").await?.as_deref() == Some("no") {
                warn!(
                    "Redis has appendfsync no: it may lose more than the last two seconds, and \
                     acknowledged events with them; set it to everysec"
                );
            }
            let needed = number(link, "min-replicas-to-write").await?;
            let lag = number(link, "min-replicas-max-lag").await?;
            Ok(rule(needed, Duration::from_secs(lag)))
        }
        Durability::Fsync => {
            let info = info(link, "server").await?;
            check_fsync(&info).map_err(MailboxError::Unsuitable)?;
            for (name, bad) in [("appendonly", "no"), ("appendfsync", "no")] {
                if setting(link, name).await?.as_deref() == Some(bad) {
                    return Err(MailboxError::Unsuitable(format!(
                        "CATCHUP_DURABILITY=fsync, and Redis has {name} {bad}: set appendonly yes \
                         and appendfsync everysec or always, or use another durability"
                    )));
                }
            }
            Ok(rule(0, Duration::ZERO))
        }
        Durability::Replica | Durability::None => Ok(rule(0, Duration::ZERO)),
    }
}

fn rule(replicas_needed: u64, lag_max: Duration) -> Rule {
    // Without a limit on the lag the server does not count its replicas.
    match (replicas_needed, lag_max) {
        (0, _) | (_, Duration::ZERO) => Rule {
            hold: HOLD,
            replicas_needed: 0,
        },
        _ => Rule {
            hold: HOLD.max(lag_max + REPLICA_LAG_MARGIN),
            replicas_needed,
        },
    }
}

/// `WAITAOF` came with Redis 7.2; every Valkey has it.
fn check_fsync(info: &str) -> Result<(), String> {
    if info_field(info, "valkey_version").is_some() {
        return Ok(());
    }
    let version = info_field(info, "redis_version").unwrap_or("0");
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    let version_number: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match version_number >= (7, 2) {
        true => Ok(()),
        false => Err(format!(
            "CATCHUP_DURABILITY=fsync needs WAITAOF, and Redis {version} does not have it: use \
             Redis 7.2 or newer, or Valkey, or another durability"
        )),
    }
}

/// A section of the server's `INFO`; two with a space between.
pub(super) async fn info(link: &Link, sections: &str) -> Result<String, MailboxError> {
    let mut command = redis::cmd("INFO");
    for section in sections.split(' ') {
        command.arg(section);
    }
    let info = command.query_async(&mut link.raw()).await;
    info.map_err(|error| link.judge(error))
}

/// One setting of the server; `None` where it does not show it, as managed services may not.
async fn setting(link: &Link, name: &str) -> Result<Option<String>, MailboxError> {
    let mut command = redis::cmd("CONFIG");
    command.arg("GET").arg(name);
    let reply: Result<Vec<String>, _> = command.query_async(&mut link.raw()).await;
    match reply {
        Ok(reply) => Ok(reply.into_iter().nth(1)),
        Err(error) => match link.judge(error) {
            error @ MailboxError::Unreachable(_) => Err(error),
            _ => Ok(None),
        },
    }
}

async fn number(link: &Link, name: &str) -> Result<u64, MailboxError> {
    let setting = setting(link, name).await?;
    Ok(setting.and_then(|text| text.parse().ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fsync_needs_a_server_that_can_say_so() {
        for (info, fits) in [
            ("redis_version:7.0.15\r\n", false),
            ("redis_version:6.2.14\r\n", false),
            ("redis_version:7.2.0\r\n", true),
            ("redis_version:8.0.1\r\n", true),
            ("redis_version:7.2.4\r\nvalkey_version:8.0.0\r\n", true),
            ("", false),
        ] {
            assert_eq!(check_fsync(info).is_ok(), fits, "{info}");
        }
    }

    #[test]
    fn a_primary_that_may_be_cut_off_from_its_replicas_is_waited_for() {
        let lag = Duration::from_secs(10);
        let of = |needed, lag| {
            let rule = rule(needed, lag);
            (rule.hold, rule.replicas_needed)
        };
        assert_eq!(of(0, lag), (HOLD, 0));
        assert_eq!(of(1, lag), (Duration::from_secs(13), 1));
        assert_eq!(of(2, Duration::from_secs(1)), (Duration::from_secs(4), 2));
        assert_eq!(of(1, Duration::ZERO), (HOLD, 0));
    }
}
