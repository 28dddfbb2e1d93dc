//! The binary: parse, match, exit code.

use std::process::ExitCode;

use catchup::command::{self, Command};

fn main() -> ExitCode {
    let command = match Command::parse() {
        Ok(command) => command,
        Err(exit_code) => return exit_code,
    };
    command::install_crypto_provider();
    command::exit_code(match command {
        Command::Dev(arguments) => command::dev::run(arguments),
        Command::Gateway(arguments) => command::gateway::run(&arguments),
        Command::Worker(arguments) => command::worker::run(&arguments),
        Command::Publish(arguments) => command::publish::run(&arguments),
        Command::Listen(arguments) => command::listen::run(&arguments),
    })
}
