//! What `catchup dev` starts: names, ports, folders and the environment of its roles.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::config::Setting;

use super::DevArguments;
use super::program::{self, Kind};

/// From the first gateway's port to the servers' and the first admin port.
const NATS_PORT_OFFSET: u16 = 10;
const STORE_PORT_OFFSET: u16 = 11;
const ADMIN_PORT_OFFSET: u16 = 20;

/// The gateways' ports end where the servers' begin.
pub const GATEWAYS_MAX: u16 = NATS_PORT_OFFSET;
pub const WORKERS_MAX: u16 = 32;
/// The highest first port for which every other port exists.
pub const PORT_MAX: u16 = u16::MAX - ADMIN_PORT_OFFSET - GATEWAYS_MAX - WORKERS_MAX;

/// The settings that the roles take from dev's own environment; all others dev decides.
const PASSED_ON: [Setting; 15] = [
    Setting::CaFile,
    Setting::ClientCertificateFile,
    Setting::ClientKeyFile,
    Setting::NatsCredentialsFile,
    Setting::NatsNkeyFile,
    Setting::Replicas,
    Setting::Namespace,
    Setting::MessageTtl,
    Setting::MaxMessages,
    Setting::AllowedOrigins,
    Setting::MaxConnections,
    Setting::MaxConnectionsPerAddress,
    Setting::ConnectsPerSecond,
    Setting::Log,
    Setting::LogFormat,
];

/// Ctrl-C should be quick, and there is no other node whose clients would suffer from a peak.
const DRAIN: &str = "1s";

/// A server that dev starts.
pub struct ServerPlan {
    pub name: &'static str,
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    pub port: u16,
}

/// A gateway or worker.
#[derive(Clone)]
pub struct RolePlan {
    pub name: String,
    /// What follows the program's name.
    pub arguments: &'static [&'static str],
    /// The clients' port; a gateway's only.
    pub port: Option<u16>,
    pub admin_port: u16,
    pub environment: Vec<(String, OsString)>,
}

/// Everything that is to run.
pub struct Plan {
    pub servers: Vec<ServerPlan>,
    pub roles: Vec<RolePlan>,
    /// This binary.
    pub program: PathBuf,
    /// The NATS servers of the roles; may hold a password.
    pub nats_url: String,
    data: DataFolder,
}

/// Where the servers keep their data.
enum DataFolder {
    Temporary(TempDir),
    Kept(PathBuf),
    /// No server is started.
    None,
}

impl Plan {
    /// Lays everything out, and makes the folders.
    ///
    /// # Errors
    ///
    /// Where no server program is new enough, or a folder cannot be made.
    pub fn new(options: &DevArguments) -> anyhow::Result<Plan> {
        // Programs first: nothing was made yet where one is missing.
        let nats = match &options.nats_url {
            Some(_) => None,
            None => Some(program::find(Kind::Nats, options.nats_server.as_deref())?),
        };
        let store = match &options.redis_url {
            Some(_) => None,
            None => Some(program::find(Kind::Store, options.redis_server.as_deref())?),
        };
        let data = DataFolder::make(options, nats.is_some() || store.is_some())?;
        let mut servers = Vec::new();
        if let Some(program) = nats {
            servers.push(nats_plan(program, options, &data.folder("nats")?));
        }
        if let Some(program) = store {
            servers.push(store_plan(program, options, &data.folder("redis")?));
        }
        let local =
            |scheme: &str, offset| format!("{scheme}://127.0.0.1:{}", options.port + offset);
        let nats_url = options.nats_url.clone();
        let nats_url = nats_url.unwrap_or_else(|| local("nats", NATS_PORT_OFFSET));
        let redis_url = options.redis_url.clone();
        let redis_url = redis_url.unwrap_or_else(|| local("redis", STORE_PORT_OFFSET));
        Ok(Plan {
            servers,
            roles: role_plans(options, &nats_url, &redis_url),
            program: std::env::current_exe().context("this program's own path is unknown")?,
            nats_url,
            data,
        })
    }

    /// # Errors
    ///
    /// The first port that somebody listens on.
    pub fn check_ports(&self) -> anyhow::Result<()> {
        let servers = self
            .servers
            .iter()
            .map(|server| (server.port, server.name.to_owned()));
        let gateways = self
            .roles
            .iter()
            .filter_map(|role| Some((role.port?, role.name.clone())));
        let admins = self
            .roles
            .iter()
            .map(|role| (role.admin_port, format!("{} admin", role.name)));
        for (port, what) in gateways.chain(servers).chain(admins) {
            if let Err(error) = TcpListener::bind(("127.0.0.1", port)) {
                bail!(
                    "port {port} ({what}) is not free ({error}): end what listens there, or \
                     choose other ports with --port"
                );
            }
        }
        Ok(())
    }

    /// The folder of the servers' data, and whether it stays.
    pub fn data_folder(&self) -> Option<(&Path, bool)> {
        match &self.data {
            DataFolder::Temporary(folder) => Some((folder.path(), false)),
            DataFolder::Kept(folder) => Some((folder, true)),
            DataFolder::None => None,
        }
    }

    /// Removes the temporary folder.
    pub fn close(mut self) -> anyhow::Result<()> {
        match std::mem::replace(&mut self.data, DataFolder::None) {
            DataFolder::Temporary(folder) => {
                let path = folder.path().display().to_string();
                folder
                    .close()
                    .with_context(|| format!("cannot remove {path}"))
            }
            DataFolder::Kept(_) | DataFolder::None => Ok(()),
        }
    }
}

impl DataFolder {
    fn make(options: &DevArguments, is_needed: bool) -> anyhow::Result<DataFolder> {
        if !is_needed {
            return Ok(DataFolder::None);
        }
        match &options.data_dir {
            Some(folder) => {
                let path = std::path::absolute(folder).context("--data-dir")?;
                Ok(DataFolder::Kept(path))
            }
            None => {
                let folder = tempfile::Builder::new().prefix("catchup-dev-").tempdir();
                Ok(DataFolder::Temporary(
                    folder.context("cannot make a temporary folder")?,
                ))
            }
        }
    }

    /// A folder inside, made where it is not there.
    fn folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let folder = match self {
            DataFolder::Temporary(folder) => folder.path().join(name),
            DataFolder::Kept(folder) => folder.join(name),
            DataFolder::None => bail!("no server is to be started"),
        };
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        Ok(folder)
    }
}

fn nats_plan(program: PathBuf, options: &DevArguments, folder: &Path) -> ServerPlan {
    let port = options.port + NATS_PORT_OFFSET;
    let mut arguments = words(&["--addr", "127.0.0.1", "--port", &port.to_string()]);
    arguments.extend(words(&["--jetstream", "--store_dir"]));
    arguments.push(folder.into());
    ServerPlan {
        name: "nats",
        program,
        arguments,
        port,
    }
}

fn store_plan(program: PathBuf, options: &DevArguments, folder: &Path) -> ServerPlan {
    let port = options.port + STORE_PORT_OFFSET;
    let mut arguments = words(&["--bind", "127.0.0.1", "--port", &port.to_string()]);
    // Nothing may be evicted, and a restart must lose nothing that was acknowledged.
    arguments.extend(words(&["--appendonly", "yes", "--save", ""]));
    arguments.extend(words(&["--maxmemory-policy", "noeviction", "--dir"]));
    arguments.push(folder.into());
    ServerPlan {
        name: "redis",
        program,
        arguments,
        port,
    }
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn role_plans(options: &DevArguments, nats_url: &str, redis_url: &str) -> Vec<RolePlan> {
    let admin_port = options.port + ADMIN_PORT_OFFSET;
    let environment = |name: &str, port: Option<u16>, admin_port: u16| {
        let local = |port| format!("127.0.0.1:{port}");
        let mut own = vec![
            (Setting::NatsUrl, nats_url.to_owned()),
            (Setting::RedisUrl, redis_url.to_owned()),
            (Setting::Node, name.to_owned()),
            (Setting::Auth, "none".to_owned()),
            (Setting::Drain, DRAIN.to_owned()),
            (Setting::AdminListen, local(admin_port)),
        ];
        own.extend(port.map(|port| (Setting::Listen, local(port))));
        let own = own
            .into_iter()
            .map(|(setting, value)| (setting.variable(), value.into()));
        let passed_on = PASSED_ON.iter().filter_map(|setting| {
            let variable = setting.variable();
            let value = std::env::var_os(&variable)?;
            Some((variable, value))
        });
        own.chain(passed_on).collect()
    };
    let gateways = (0..options.gateways).map(|index| {
        let name = format!("gateway-{}", index + 1);
        let (port, admin_port) = (options.port + index, admin_port + index);
        RolePlan {
            environment: environment(&name, Some(port), admin_port),
            arguments: &["gateway", "--demo"],
            port: Some(port),
            admin_port,
            name,
        }
    });
    let workers = (0..options.workers).map(|index| {
        let name = format!("worker-{}", index + 1);
        let admin_port = admin_port + options.gateways + index;
        RolePlan {
            environment: environment(&name, None, admin_port),
            arguments: &["worker"],
            port: None,
            admin_port,
            name,
        }
    });
    gateways.chain(workers).collect()
}

/// The settings in the environment that have no effect here.
pub fn ignored_variables() -> Vec<String> {
    let ignored = Setting::ALL
        .iter()
        .filter(|setting| !PASSED_ON.contains(setting));
    let variables = ignored.map(|setting| setting.variable());
    variables
        .filter(|variable| std::env::var_os(variable).is_some())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(port: u16) -> DevArguments {
        DevArguments {
            port,
            gateways: 2,
            workers: 2,
            nats_url: Some("nats://n:1".to_owned()),
            redis_url: Some("redis://r:1".to_owned()),
            data_dir: None,
            nats_server: None,
            redis_server: None,
        }
    }

    #[test]
    fn ports_are_where_the_contract_has_them() {
        let plan = Plan::new(&options(8080)).unwrap();
        let ports: Vec<_> = plan
            .roles
            .iter()
            .map(|role| (role.port, role.admin_port))
            .collect();
        let expected = [
            (Some(8080), 8100),
            (Some(8081), 8101),
            (None, 8102),
            (None, 8103),
        ];
        assert_eq!(ports, expected);
        let folder = Path::new("/data");
        let nats = nats_plan("nats-server".into(), &options(8080), folder);
        let store = store_plan("redis-server".into(), &options(8080), folder);
        assert_eq!((nats.port, store.port), (8090, 8091));
        assert!(
            nats.arguments
                .ends_with(&["--store_dir".into(), "/data".into()])
        );
        assert!(store.arguments.ends_with(&["--dir".into(), "/data".into()]));
    }

    #[test]
    fn the_highest_port_leaves_room_for_all_others() {
        let mut options = options(PORT_MAX);
        (options.gateways, options.workers) = (GATEWAYS_MAX, WORKERS_MAX);
        let plan = Plan::new(&options).unwrap();
        let last = plan.roles.last().unwrap().admin_port;
        assert_eq!(last, u16::MAX - 1);
    }

    #[test]
    fn existing_servers_need_no_folder_and_reach_the_roles() {
        let plan = Plan::new(&options(8080)).unwrap();
        assert!(plan.servers.is_empty() && plan.data_folder().is_none());
        for role in &plan.roles {
            let value = |name: &str| {
                let mut variables = role.environment.iter();
                variables
                    .find(|(variable, _)| variable == name)
                    .map(|(_, value)| value.clone())
            };
            assert_eq!(value("CATCHUP_NATS_URL").unwrap(), "nats://n:1");
            assert_eq!(value("CATCHUP_REDIS_URL").unwrap(), "redis://r:1");
            assert_eq!(value("CATCHUP_AUTH").unwrap(), "none");
            assert!(
                value("CATCHUP_ADMIN_LISTEN")
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .starts_with("127.")
            );
        }
    }

    #[test]
    fn a_taken_port_is_named() {
        // A run of ports whose first is taken by this test.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        if port > PORT_MAX {
            return;
        }
        let plan = Plan::new(&options(port)).unwrap();
        let error = plan.check_ports().unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("port {port} (gateway-1) is not free")),
            "{error}"
        );
    }
}
