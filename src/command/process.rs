//! What every long-running command does around its own work: runtime, signals, log, admin server.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::bus::{BusConfig, BusCredentials};
use crate::config::{self, NatsCredentials, Resolved, Role, Setting, Settings, Surroundings};
use crate::mailbox::StoreConfig;
use crate::telemetry::{Health, Metrics, admin, logging};

/// Most connections that the kernel holds until they are accepted; it may have a lower limit of
/// its own (`net.core.somaxconn`).
const UNACCEPTED_MAX: u32 = 4_096;
/// How long tasks that do not end by themselves keep the process.
const RUNTIME_END_SECONDS_MAX: Duration = Duration::from_secs(1);

/// The settings of a role, from the flags and this process's surroundings.
pub(super) fn resolve(role: Role, flags: &Settings) -> anyhow::Result<Resolved> {
    Ok(config::resolve(role, flags, &Surroundings::of_process())?)
}

/// Runs `work` until it ends. It is told to end by its token, at the first SIGTERM or SIGINT; the
/// second one ends the process at once.
pub(super) fn run<Work>(work: impl FnOnce(CancellationToken) -> Work) -> anyhow::Result<()>
where
    Work: Future<Output = anyhow::Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        follow_signals(shutdown.clone()).context("cannot listen for signals")?;
        work(shutdown).await
    });
    runtime.shutdown_timeout(RUNTIME_END_SECONDS_MAX);
    result
}

fn follow_signals(shutdown: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        for is_first in [true, false] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if is_first {
                shutdown.cancel();
            }
        }
        std::process::exit(1);
    });
    Ok(())
}

/// A role's process: what its work is given, and the admin server beside it.
pub(super) struct Process {
    metrics: Arc<Metrics>,
    health: Health,
    /// Cancelled by the first signal; from then on the process is not ready.
    shutdown: CancellationToken,
    admin: JoinHandle<()>,
    admin_shutdown: CancellationToken,
}

impl Process {
    /// Starts the log and the admin server.
    ///
    /// # Errors
    ///
    /// An admin address that cannot be used.
    pub(super) async fn start(
        role: &str,
        resolved: &Resolved,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Process> {
        let listener = bind(Setting::AdminListen, &resolved.admin_listen).await?;
        logging::init(&resolved.log, resolved.log_format).map_err(|error| anyhow!(error))?;
        let address = listener.local_addr()?;
        info!(
            "{role} {} starts; health and metrics on http://{address}",
            resolved.node
        );
        let metrics = Arc::new(Metrics::new());
        let health = Health::new();
        let admin_shutdown = CancellationToken::new();
        let server = admin::serve(
            listener,
            health.clone(),
            metrics.clone(),
            admin_shutdown.clone(),
        );
        let draining = health.clone();
        let signal = shutdown.clone();
        tokio::spawn(async move {
            signal.cancelled().await;
            draining.drain();
            info!("told to end: draining");
        });
        Ok(Process {
            metrics,
            health,
            shutdown,
            admin: tokio::spawn(server),
            admin_shutdown,
        })
    }

    /// What the role's work is given.
    pub(super) fn shared(&self) -> (Arc<Metrics>, Health, CancellationToken) {
        (
            self.metrics.clone(),
            self.health.clone(),
            self.shutdown.clone(),
        )
    }

    /// Ends the admin server, after the role's work. Its own time limit is short.
    pub(super) async fn finish(self) {
        self.admin_shutdown.cancel();
        let _ = self.admin.await;
        info!("ended");
    }
}

/// How a role reaches NATS.
pub(super) fn bus_config(role: &str, resolved: &Resolved) -> BusConfig {
    BusConfig {
        urls: resolved.nats_urls.clone(),
        tls: resolved.tls.clone(),
        credentials: resolved
            .nats_credentials
            .as_ref()
            .map(|credentials| match credentials {
                NatsCredentials::Credentials(text) => {
                    BusCredentials::File(text.reveal().to_owned())
                }
                NatsCredentials::Nkey(seed) => BusCredentials::Nkey(seed.reveal().to_owned()),
            }),
        replicas: resolved.replicas,
        namespace: resolved.namespace.clone(),
        name: format!("catchup {role} {}", resolved.node),
    }
}

/// How a role reaches Redis.
pub(super) fn store_config(resolved: &Resolved) -> StoreConfig {
    StoreConfig {
        namespace: resolved.namespace.clone(),
        ttl: resolved.message_ttl,
        cap: resolved.max_messages,
        tls: resolved.tls.clone(),
        ..StoreConfig::new(&resolved.redis_url)
    }
}

/// Listens on the address of a setting.
///
/// # Errors
///
/// An address that is taken, not this machine's, or not allowed; the text names the setting.
pub(super) async fn bind(setting: Setting, address: &str) -> anyhow::Result<TcpListener> {
    listen(address).await.map_err(|error| {
        let variable = setting.variable();
        anyhow!("{variable}: cannot listen on {address}: {error}; choose another address")
    })
}

/// The first of the name's addresses that can be listened on.
async fn listen(address: &str) -> io::Result<TcpListener> {
    let mut result = Err(io::Error::other("the name has no address"));
    for address in tokio::net::lookup_host(address).await? {
        let socket = match address.is_ipv4() {
            true => TcpSocket::new_v4()?,
            false => TcpSocket::new_v6()?,
        };
        // A process that starts again must not wait for the last one's connections.
        socket.set_reuseaddr(true)?;
        result = socket
            .bind(address)
            .and_then(|()| socket.listen(UNACCEPTED_MAX));
        if result.is_ok() {
            break;
        }
    }
    result
}

/// Allows this process as many open files as the machine does, and returns that number.
pub(super) fn raise_open_files() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return u64::MAX;
    };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}
