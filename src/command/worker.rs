//! `catchup worker`: one member of the worker fleet.

use super::process::{self, Process, bus, store};
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
            bus: bus(&resolved, "worker"),
            store: store(&resolved),
            node: resolved.node.clone(),
        };
        let result = worker::run(
            config,
            process.metrics.clone(),
            process.health.clone(),
            process.shutdown.clone(),
        );
        let result = result.await;
        process.finish().await;
        Ok(result?)
    })
}
