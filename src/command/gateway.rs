//! `catchup gateway`: one gateway node.

use tracing::info;

use super::process::{self, Process, bind};
use crate::config::{Role, Setting, Settings};

/// Flags of `catchup gateway`.
#[derive(clap::Args)]
pub struct GatewayArguments {
    #[command(flatten)]
    settings: Settings,
}

/// Runs a gateway until it is told to end.
///
/// # Errors
///
/// A wrong configuration; an address that cannot be used; servers that are too old or configured
/// differently; a lease taken by another process.
pub fn run(arguments: &GatewayArguments) -> anyhow::Result<()> {
    let resolved = process::resolve(Role::Gateway, &arguments.settings)?;
    process::run(|shutdown| async move {
        let listener = bind(Setting::Listen, &resolved.listen).await?;
        let process = Process::start("gateway", &resolved, shutdown).await?;
        info!("clients connect to ws://{}/v1/ws", listener.local_addr()?);
        let result: anyhow::Result<()> = Ok(());
        process.finish().await;
        result
    })
}
