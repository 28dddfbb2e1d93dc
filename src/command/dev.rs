//! `catchup dev`: the whole system on one machine.

/// Flags of `catchup dev`.
#[derive(clap::Args)]
pub struct DevArguments {}

/// Runs until Ctrl-C.
///
/// # Errors
///
/// Always: this file is another's to write.
pub fn run(_arguments: DevArguments) -> anyhow::Result<()> {
    anyhow::bail!("`catchup dev` is not part of this build")
}
