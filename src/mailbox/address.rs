//! Where the store is: one server, the sentinels that know which server is the primary, or some
//! servers of a cluster.

use std::time::Duration;

use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo,
    IntoConnectionInfo as _, RedisConnectionInfo, TlsCertificates,
};

use super::{ConfigError, MailboxError};
use crate::tls::{self, TlsFiles};

/// Longest wait for a connection.
pub(super) const CONNECT_SECONDS_MAX: u64 = 2;
const SENTINEL_PORT: u16 = 26379;
const SERVER_PORT: u16 = 6379;
const EXPECTED: &str = "expected redis://[USER:PASSWORD@]HOST:PORT[/DATABASE], rediss:// for TLS, \
     redis+sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT/NAME[/DATABASE], \
     or redis+cluster://[USER:PASSWORD@]HOST:PORT,HOST:PORT";

/// A parsed `CATCHUP_REDIS_URL`.
#[derive(Clone)]
pub(super) struct Address {
    /// One server, the sentinels, or servers of a cluster; each with the primary's credentials.
    hosts: Vec<ConnectionInfo>,
    /// The name by which the sentinels know the primary.
    primary_name: Option<String>,
    /// Some servers of a cluster: any of them knows the others.
    pub is_cluster: bool,
}

impl Address {
    /// Reads a URL. User, password and database are the primary's; sentinels are asked without.
    pub fn parse(url: &str) -> Result<Address, ConfigError> {
        let invalid = || ConfigError(EXPECTED.to_owned());
        let (scheme, rest) = url.split_once("://").ok_or_else(invalid)?;
        // The library's text may repeat the URL with its password.
        let info = |url: String| {
            let info = url.into_connection_info().map_err(|_| invalid())?;
            Ok(info.set_tcp_settings(TcpSettings::default().set_nodelay(true)))
        };
        let plain = match scheme {
            "redis" | "rediss" => {
                return Ok(Address {
                    hosts: vec![info(url.to_owned())?],
                    primary_name: None,
                    is_cluster: false,
                });
            }
            "redis+sentinel" | "redis+cluster" => "redis",
            "rediss+sentinel" | "rediss+cluster" => "rediss",
            _ => return Err(invalid()),
        };
        let is_cluster = scheme.ends_with("cluster");
        // Passwords often hold what ought to be escaped.
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, rest)) => (format!("{user}@"), rest),
            None => (String::new(), rest),
        };
        let (hosts, path) = match (rest.split_once('/'), is_cluster) {
            (Some(parts), _) => parts,
            (None, true) => (rest, ""),
            (None, false) => return Err(invalid()),
        };
        let (name, database) = path.split_once('/').unwrap_or((path, ""));
        // A cluster has one database, and needs no name.
        if name.is_empty() != is_cluster || (is_cluster && !database.is_empty()) {
            return Err(invalid());
        }
        let default_port = if is_cluster {
            SERVER_PORT
        } else {
            SENTINEL_PORT
        };
        let hosts = hosts.split(',').map(|host| {
            let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
            let port = match has_port {
                true => String::new(),
                false => format!(":{default_port}"),
            };
            info(format!("{plain}://{user}{host}{port}/{database}"))
        });
        Ok(Address {
            hosts: hosts.collect::<Result<_, _>>()?,
            primary_name: (!is_cluster).then(|| name.to_owned()),
            is_cluster,
        })
    }

    /// The address of each server that is named.
    pub fn servers(&self) -> impl Iterator<Item = Address> {
        self.hosts.iter().map(|info| self.of(info.clone()))
    }

    /// The address of another server of a cluster.
    pub fn server(&self, host: &str, port: u16) -> Address {
        let info = &self.hosts[0];
        self.of(info
            .clone()
            .set_addr(at(info.addr(), host.to_owned(), port)))
    }

    /// Host and port of the first server, as one word.
    pub fn name(&self) -> String {
        self.hosts[0].addr().to_string()
    }

    /// The host of the first server.
    pub fn host(&self) -> &str {
        match self.hosts[0].addr() {
            ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host,
            _ => "",
        }
    }

    fn of(&self, info: ConnectionInfo) -> Address {
        Address {
            hosts: vec![info],
            primary_name: None,
            is_cluster: self.is_cluster,
        }
    }

    /// A client of the primary as it is at this moment.
    ///
    /// # Errors
    ///
    /// Where no sentinel answers, or none knows the name.
    pub async fn primary(&self, files: &TlsFiles) -> Result<Client, MailboxError> {
        let Some(name) = &self.primary_name else {
            return open(&self.hosts[0], files).await;
        };
        let mut failure = MailboxError::Unreachable("no sentinel is named".to_owned());
        for sentinel in &self.hosts {
            match ask(sentinel, name, files).await {
                Ok((host, port)) => {
                    let info = sentinel.clone();
                    let address = at(sentinel.addr(), host, port);
                    return open(&info.set_addr(address), files).await;
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

/// The same kind of address at another place.
fn at(like: &ConnectionAddr, host: String, port: u16) -> ConnectionAddr {
    match like {
        ConnectionAddr::TcpTls { insecure, .. } => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: *insecure,
            tls_params: None,
        },
        _ => ConnectionAddr::Tcp(host, port),
    }
}

/// Asks one sentinel where the primary is.
async fn ask(
    sentinel: &ConnectionInfo,
    name: &str,
    files: &TlsFiles,
) -> Result<(String, u16), MailboxError> {
    let without_user = sentinel
        .clone()
        .set_redis_settings(RedisConnectionInfo::default());
    let client = open(&without_user, files).await?;
    let timeout = Some(Duration::from_secs(CONNECT_SECONDS_MAX));
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(timeout)
        .set_connection_timeout(timeout);
    let mut connection = client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .map_err(refused)?;
    let found: Option<(String, u16)> = redis::cmd("SENTINEL")
        .arg("GET-MASTER-ADDR-BY-NAME")
        .arg(name)
        .query_async(&mut connection)
        .await
        .map_err(refused)?;
    found.ok_or_else(|| {
        MailboxError::Refusing(format!(
            "the sentinel does not know the primary {name:?}: see CATCHUP_REDIS_URL"
        ))
    })
}

async fn open(info: &ConnectionInfo, files: &TlsFiles) -> Result<Client, MailboxError> {
    let client = match info.addr() {
        ConnectionAddr::TcpTls { .. } => {
            Client::build_with_tls(info.clone(), certificates(files).await?)
        }
        _ => Client::open(info.clone()),
    };
    client.map_err(refused)
}

async fn certificates(files: &TlsFiles) -> Result<TlsCertificates, MailboxError> {
    let read = async |path: &std::path::PathBuf| {
        let read = tokio::fs::read(path).await;
        read.map_err(|error| MailboxError::Unreachable(format!("the file {path:?}: {error}")))
    };
    let root_cert = match &files.authorities {
        Some(path) => Some(read(path).await?),
        None => None,
    };
    let client_tls = match &files.client {
        Some(client) => Some(ClientTlsConfig {
            client_cert: read(&client.certificate).await?,
            client_key: read(&client.key).await?,
        }),
        None => None,
    };
    Ok(TlsCertificates {
        client_tls,
        root_cert,
    })
}

/// No mailbox is involved yet, so a plain error is a refusal; one of a handshake is final.
pub(super) fn refused(error: redis::RedisError) -> MailboxError {
    let text = error.to_string();
    if let Some(refusal) = tls::refusal(&text) {
        return MailboxError::Unsuitable(format!("no TLS with Redis: {refusal} ({text})"));
    }
    match MailboxError::from(error) {
        MailboxError::Damaged => MailboxError::Refusing(text),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(url: &str) -> Vec<String> {
        let address = Address::parse(url).unwrap();
        let hosts = address.hosts.iter();
        hosts.map(|info| info.addr().to_string()).collect()
    }

    #[test]
    fn one_server_or_several_sentinels() {
        assert_eq!(shown("redis://:p@a:1/3"), ["a:1"]);
        assert_eq!(shown("rediss://a"), ["a:6379"]);
        let url = "redis+sentinel://ann:p%2Fs@t@a:1,[::1],b/main/2";
        assert_eq!(shown(url), ["a:1", "::1:26379", "b:26379"]);
        let address = Address::parse("redis+sentinel://ann:p%40@a,b:2/main/2").unwrap();
        assert_eq!(address.primary_name.as_deref(), Some("main"));
        let settings = address.hosts[1].redis_settings();
        assert_eq!(settings.username(), Some("ann"));
        assert_eq!(settings.password(), Some("p@"));
        assert_eq!(settings.db(), 2);
    }

    #[test]
    fn some_servers_of_a_cluster() {
        for url in ["redis+cluster://:p@a:1,b", "rediss+cluster://:p@a:1,b/"] {
            let address = Address::parse(url).unwrap();
            assert!(address.is_cluster);
            let names: Vec<String> = address.servers().map(|one| one.name()).collect();
            assert_eq!(names, ["a:1", "b:6379"]);
            let other = address.server("c", 2);
            assert_eq!((other.host(), other.name().as_str()), ("c", "c:2"));
            assert_eq!(other.hosts[0].redis_settings().password(), Some("p"));
        }
    }

    #[test]
    fn an_address_error_never_repeats_the_password() {
        for url in [
            "http://ann:secret@host",
            "redis+sentinel://ann:secret@host",
            "redis+sentinel://ann:secret@host/",
            "redis+sentinel://ann:secret@,/main",
            "redis+cluster://ann:secret@host/name",
            "redis+cluster://ann:secret@host//1",
            "redis://ann:secret@host/x",
            "secret",
        ] {
            let Err(error) = Address::parse(url) else {
                panic!("{url} was accepted");
            };
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
