//! Whether a server can keep the promise: its version, its role, its settings.

use redis::aio::MultiplexedConnection;

use super::MailboxError;
use super::address::refused;
use super::info::{info_epoch, info_field};
use crate::protocol::Epoch;

/// Reads the epoch and makes sure that the server can keep the promise.
pub(super) async fn inspect(
    connection: &mut MultiplexedConnection,
    is_cluster: bool,
) -> Result<Epoch, MailboxError> {
    let replication: String = redis::cmd("INFO")
        .arg("replication")
        .query_async(connection)
        .await
        .map_err(refused)?;
    if info_field(&replication, "role") != Some("master") {
        return Err(MailboxError::Refusing(
            "READONLY: the address leads to a replica; give the primary's".to_owned(),
        ));
    }
    let epoch = info_epoch(&replication)
        .ok_or_else(|| MailboxError::Unsuitable("the server gives no master_replid".to_owned()))?;

    let server: String = redis::cmd("INFO")
        .arg("server")
        .query_async(connection)
        .await
        .map_err(refused)?;
    check_version(&server)?;
    check_mode(&server, is_cluster)?;

    check_setting(connection, "maxmemory-policy", "noeviction").await?;
    if let Err(error) = check_setting(connection, "appendonly", "yes").await {
        tracing::warn!("{error}: what waits is lost when Redis ends");
    }
    Ok(epoch)
}

/// Compares one setting of the server. A managed service may forbid CONFIG; then the operator has
/// to know it.
async fn check_setting(
    connection: &mut MultiplexedConnection,
    name: &str,
    wanted: &str,
) -> Result<(), MailboxError> {
    let mut command = redis::cmd("CONFIG");
    command.arg("GET").arg(name);
    let reply: Result<Vec<String>, _> = command.query_async(connection).await;
    match reply.as_deref() {
        Ok([_, value]) if value != wanted => Err(MailboxError::Unsuitable(format!(
            "Redis has {name} {value} and may lose messages: set it to {wanted}"
        ))),
        Ok(_) => Ok(()),
        Err(_) => {
            tracing::warn!("Redis does not show its {name}: it must be {wanted}");
            Ok(())
        }
    }
}

/// Redis 7.0 or newer, Valkey 8 or newer (contract §6).
fn check_version(server: &str) -> Result<(), MailboxError> {
    let (name, version, major_min) = match info_field(server, "valkey_version") {
        Some(version) => ("Valkey", version, 8),
        None => (
            "Redis",
            info_field(server, "redis_version").unwrap_or("0"),
            7,
        ),
    };
    let major: u32 = version
        .split('.')
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    if major < major_min {
        return Err(MailboxError::Unsuitable(format!(
            "{name} {version} is too old: use Redis 7.0 or newer, or Valkey 8 or newer"
        )));
    }
    Ok(())
}

/// Over one address of a cluster only a part of the users could be reached.
fn check_mode(server: &str, is_cluster: bool) -> Result<(), MailboxError> {
    // Valkey has its own name for the field.
    let mode = info_field(server, "redis_mode").or_else(|| info_field(server, "server_mode"));
    let is_member = mode == Some("cluster");
    let text = match (is_member, is_cluster) {
        (true, false) => "the server is a member of a cluster: give redis+cluster://HOST:PORT,…",
        (false, true) => "the server is no member of a cluster: give redis://HOST:PORT",
        _ => return Ok(()),
    };
    Err(MailboxError::Unsuitable(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_are_refused() {
        for (info, fits) in [
            ("redis_version:7.0.15\r\n", true),
            ("redis_version:6.2.14\r\n", false),
            (
                "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\n",
                true,
            ),
            (
                "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:7.2.5\r\n",
                false,
            ),
            ("", false),
        ] {
            assert_eq!(check_version(info).is_ok(), fits, "{info}");
        }
    }
}
