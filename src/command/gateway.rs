//! `catchup gateway`: one gateway node.

use tracing::info;

use super::UsageError;
use super::process::{self, Process, bind, bus, store};
use crate::config::{AuthSettings, Origins, Resolved, Role, Setting, Settings};
use crate::gateway::{self, AllowedOrigins, Auth, GatewayConfig};

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
    let config = GatewayConfig {
        demo: arguments.demo,
        ..config(&resolved)?
    };
    process::run(|shutdown| async move {
        let listener = bind(Setting::Listen, &resolved.listen).await?;
        let process = Process::start("gateway", &resolved, shutdown).await?;
        info!("clients connect to ws://{}/v1/ws", listener.local_addr()?);
        let result = gateway::run(
            config,
            listener,
            process.metrics.clone(),
            process.health.clone(),
            process.shutdown.clone(),
        );
        let result = result.await;
        process.finish().await;
        Ok(result?)
    })
}

fn config(resolved: &Resolved) -> anyhow::Result<GatewayConfig> {
    Ok(GatewayConfig {
        bus: bus(resolved, "gateway"),
        store: store(resolved),
        node: resolved.node.clone(),
        auth: auth(resolved)?,
        origins: match resolved.allowed_origins.clone() {
            Origins::Same => AllowedOrigins::Same,
            Origins::Any => AllowedOrigins::Any,
            Origins::Listed(list) => AllowedOrigins::Listed(list),
        },
        demo: false,
    })
}

fn auth(resolved: &Resolved) -> anyhow::Result<Auth> {
    match &resolved.auth {
        None => Err(UsageError("CATCHUP_AUTH: set it to jwt or none".to_owned()).into()),
        Some(AuthSettings::None) => Ok(Auth::None),
        Some(AuthSettings::JwtSecret(secret)) => Ok(Auth::with_secret(secret.reveal())),
        Some(AuthSettings::JwtPublicKey { file, pem }) => {
            let usage = |error| UsageError(format!("CATCHUP_JWT_PUBLIC_KEY_FILE {file}: {error}"));
            Auth::with_public_key(pem).map_err(|error| usage(error).into())
        }
    }
}
