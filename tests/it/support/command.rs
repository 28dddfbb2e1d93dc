//! Any subcommand of the binary under test, run to its end.

use std::process::{Command, Output, Stdio};

use super::DEADLINE;

/// The path of the binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_catchup");

/// A call of the binary with a clean environment.
pub struct Catchup {
    command: Command,
}

/// How a call ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Catchup {
    pub fn new<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Catchup {
        let mut command = binary();
        command.args(arguments).stdin(Stdio::null());
        Catchup { command }
    }

    pub fn env(mut self, name: &str, value: &str) -> Catchup {
        self.command.env(name, value);
        self
    }

    /// Runs it; panics where it takes longer than [`DEADLINE`].
    pub async fn run(self) -> Ended {
        let description = format!("{:?}", self.command);
        let mut command = tokio::process::Command::from(self.command);
        let output = tokio::time::timeout(DEADLINE, command.kill_on_drop(true).output()).await;
        let output = output.unwrap_or_else(|_| panic!("{description} does not end"));
        Ended::from(output.expect("the binary runs"))
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Ended {
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }
}

/// The binary under test without any `CATCHUP_` variable of whoever runs the tests.
pub fn binary() -> Command {
    let mut command = Command::new(BINARY);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CATCHUP_") {
            command.env_remove(name);
        }
    }
    command
}
