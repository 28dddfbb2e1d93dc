//! `catchup worker`: one member of the worker fleet.

use super::process::{self, Process, bus_config, store_config};
use crate::config::{Role, Settings};
use crate::worker::{self, WorkerConfig};

/// Flags of `catchup worker`.
#[derive(clap::Args)]
pub struct WorkerArguments {
    #[command(flatten)]
    settings: Settings,
}

/// Runs a worker until it is told to end.
///
/// # Errors
///
/// A wrong configuration; an admin address that cannot be used; servers that are too old or
/// configured differently.
pub fn run(arguments: &WorkerArguments) -> anyhow::Result<()> {
    let resolved = process::resolve(Role::Worker, &arguments.settings)?;
    process::run(|shutdown| async move {
        let process = Process::start("worker", &resolved, shutdown).await?;
        let config = WorkerConfig {
            bus: bus_config("worker", &resolved),
            store: store_config(&resolved),
            durability: resolved.durability,
            node: resolved.node.clone(),
        };
        let (metrics, health, shutdown) = process.shared();
        let result = worker::run(config, metrics, health, shutdown).await;
        process.finish().await;
        Ok(result?)
    })
}
