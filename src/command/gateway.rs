//! `catchup gateway`: one gateway node.

use tracing::{info, warn};

use super::UsageError;
use super::process::{self, Process, bind, bus_config, store_config};
use crate::config::{AuthSettings, Origins, Resolved, Role, Setting, Settings};
use crate::gateway::{self, AllowedOrigins, Auth, GatewayConfig, GatewayLimits};

/// Open files that a gateway needs besides its sockets, for requests that are none yet.
const OPEN_FILES_BESIDE: u64 = 5_000;

/// Flags of `catchup gateway`.
#[derive(clap::Args)]
pub struct GatewayArguments {
    #[command(flatten)]
    settings: Settings,
    /// Serve the demo page, as `catchup dev` does
    #[arg(long, hide = true)]
    demo: bool,
}

/// Runs a gateway until it is told to end.
///
/// # Errors
///
/// A wrong configuration; an address that cannot be used; servers that are too old or configured
/// differently; a lease taken by another process.
pub fn run(arguments: &GatewayArguments) -> anyhow::Result<()> {
    let resolved = process::resolve(Role::Gateway, &arguments.settings)?;
    let config = config(&resolved, arguments.demo)?;
    process::run(|shutdown| async move {
        let listener = bind(Setting::Listen, &resolved.listen).await?;
        let process = Process::start("gateway", &resolved, shutdown).await?;
        info!("clients connect to ws://{}/v1/ws", listener.local_addr()?);
        warn_of_weakness(&resolved);
        check_open_files(resolved.max_connections);
        let (metrics, health, shutdown) = process.shared();
        let result = gateway::run(config, listener, metrics, health, shutdown).await;
        process.finish().await;
        Ok(result?)
    })
}

fn config(resolved: &Resolved, demo: bool) -> Result<GatewayConfig, UsageError> {
    let auth = auth(resolved)?;
    if demo && !matches!(auth, Auth::None) {
        return Err(UsageError("--demo needs CATCHUP_AUTH=none".to_owned()));
    }
    Ok(GatewayConfig {
        bus: bus_config("gateway", resolved),
        store: store_config(resolved),
        node: resolved.node.clone(),
        auth,
        origins: match resolved.allowed_origins.clone() {
            Origins::Same => AllowedOrigins::Same,
            Origins::Any => AllowedOrigins::Any,
            Origins::Listed(list) => AllowedOrigins::Listed(list),
        },
        limits: GatewayLimits {
            connections_max: resolved.max_connections,
            address_connections_max: resolved.max_connections_per_address,
            connects_per_second: resolved.connects_per_second,
        },
        drain: resolved.drain,
        demo,
    })
}

fn auth(resolved: &Resolved) -> Result<Auth, UsageError> {
    match &resolved.auth {
        // The settings of a gateway say it; a default here would let everybody in.
        None => Err(UsageError("CATCHUP_AUTH: set it to jwt or none".to_owned())),
        Some(AuthSettings::None) => Ok(Auth::None),
        Some(AuthSettings::JwtSecret(secret)) => Ok(Auth::with_secret(secret.reveal())),
        Some(AuthSettings::JwtPublicKey { file, pem }) => {
            Auth::with_public_key(pem).map_err(|error| {
                UsageError(format!(
                    "CATCHUP_JWT_PUBLIC_KEY_FILE: the file {file:?}: {error}"
                ))
            })
        }
        Some(AuthSettings::Jwks { url }) => Auth::with_key_set(url.reveal())
            .map_err(|error| UsageError(format!("CATCHUP_JWKS_URL: {error}"))),
    }
}

/// Each socket is an open file. Beyond their limit connections are not accepted, instead of being
/// refused with a reason.
fn check_open_files(connections_max: u32) {
    let open_files_max = process::raise_open_files();
    if open_files_max < u64::from(connections_max) + OPEN_FILES_BESIDE {
        warn!(
            open_files_max,
            "the limit of open files is too low for CATCHUP_MAX_CONNECTIONS={connections_max}: \
             raise it (ulimit -n), or lower the setting"
        );
    }
}

/// Says what is allowed but should not stay so.
fn warn_of_weakness(resolved: &Resolved) {
    match &resolved.auth {
        Some(AuthSettings::None) => {
            warn!("CATCHUP_AUTH=none: everybody is who they say, which is for development only");
        }
        // RFC 7518 §3.2 asks for a key as long as the hash.
        Some(AuthSettings::JwtSecret(secret)) if secret.reveal().len() < 32 => {
            warn!("CATCHUP_JWT_SECRET is shorter than 32 bytes: it can be guessed");
        }
        Some(AuthSettings::Jwks { url }) if url.reveal().starts_with("http:") => {
            warn!("CATCHUP_JWKS_URL is not https: whoever sits on the way can choose the keys");
        }
        _ => {}
    }
}
