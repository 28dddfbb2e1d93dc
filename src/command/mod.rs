//! The subcommands, one file each: the only place that wires things together.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or configuration. An error is one line on standard
//! error that says what to do.

pub mod dev;
pub mod gateway;
pub mod listen;
mod process;
pub mod publish;
mod usage;
pub mod worker;

use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use crate::config::ConfigError;
pub use usage::UsageError;

const EXIT_FAILED: u8 = 1;
const EXIT_USAGE: u8 = 2;

/// Realtime delivery that never misses a user who is away.
#[derive(clap::Parser)]
#[command(name = "catchup", version, max_term_width = 100)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

/// A command with its flags.
#[expect(clippy::large_enum_variant, reason = "one is made in a process")]
#[derive(clap::Subcommand)]
pub enum Command {
    /// Run the whole system on this machine, for development
    Dev(dev::DevArguments),
    /// Run one gateway node: clients' sockets
    Gateway(gateway::GatewayArguments),
    /// Run one member of the worker fleet
    Worker(worker::WorkerArguments),
    /// Publish one event and wait until it is stored
    Publish(publish::PublishArguments),
    /// Print one user's messages as they come, and those that waited
    Listen(listen::ListenArguments),
}

impl Command {
    /// Reads the command line.
    ///
    /// # Errors
    ///
    /// The exit code, once the help or what is wrong has been printed.
    pub fn parse() -> Result<Command, ExitCode> {
        match CommandLine::try_parse() {
            Ok(line) => Ok(line.command),
            // `--help` and `--version` come as errors, too.
            Err(error) if !error.use_stderr() => {
                let _ = error.print();
                Err(ExitCode::SUCCESS)
            }
            Err(error) => {
                let name = std::env::args().nth(1).unwrap_or_default();
                let command_line = CommandLine::command();
                let command = command_line
                    .find_subcommand(&name)
                    .map(clap::Command::get_name);
                report(usage::describe(&error, command));
                Err(ExitCode::from(EXIT_USAGE))
            }
        }
    }
}

/// Makes aws-lc the cryptography of every TLS connection of this process.
pub fn install_crypto_provider() {
    // An error means that there is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Prints the error, if there is one, and chooses the exit code.
pub fn exit_code(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    report(format!("{error:#}"));
    let is_usage = error
        .chain()
        .any(|cause| cause.is::<UsageError>() || cause.is::<ConfigError>());
    ExitCode::from(if is_usage { EXIT_USAGE } else { EXIT_FAILED })
}

/// Prints one line to standard error, whatever characters the text has.
fn report(text: impl Display) {
    // A closed standard error is no reason to fail in another way.
    let _ = writeln!(
        std::io::stderr(),
        "catchup: {}",
        one_line(&text.to_string())
    );
}

/// Control characters become spaces, so that text from elsewhere can neither break the line nor
/// command the terminal.
fn one_line(text: &str) -> String {
    let clean = |character: char| {
        if character.is_control() {
            ' '
        } else {
            character
        }
    };
    text.trim().chars().map(clean).collect()
}
