//! One child process, started so that it cannot outlive this one.

#[cfg(target_os = "linux")]
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::output::Printer;

const POLL_INTERVAL: Duration = Duration::from_millis(20);

pub struct Child {
    name: String,
    process: tokio::process::Child,
}

impl Child {
    /// Starts `command`; its output is printed under `name`.
    ///
    /// Must be called on the main thread, see [`super::run`].
    pub fn start(name: &str, mut command: Command, printer: &Printer) -> anyhow::Result<Child> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Out of the terminal's group: Ctrl-C reaches dev alone, which ends the children
            // in their order.
            .process_group(0)
            .kill_on_drop(true);
        die_with_parent(&mut command);
        let mut process = command
            .spawn()
            .with_context(|| format!("{name} does not start"))?;
        if let Some(output) = process.stdout.take() {
            printer.follow(name, output);
        }
        if let Some(output) = process.stderr.take() {
            printer.follow(name, output);
        }
        Ok(Child {
            name: name.to_owned(),
            process,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        // Only a child that is not ours could not be waited for.
        self.process.try_wait().ok().flatten()
    }

    /// Asks it to end.
    pub fn terminate(&mut self) {
        if self.ended().is_some() {
            return;
        }
        if let Some(id) = self.process.id().and_then(|id| i32::try_from(id).ok()) {
            // Not yet waited for, so the number cannot be another process's.
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        }
    }

    /// Waits for its end until `deadline`; true where it ended.
    pub async fn ends_before(&mut self, deadline: Instant) -> bool {
        loop {
            if self.ended().is_some() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// SIGKILL, and waits for the end.
    pub async fn kill(&mut self) {
        let _ = self.process.kill().await;
    }
}

/// Lets the kernel kill the child when this process dies, also by `kill -9`.
///
/// The signal comes when the *thread* that started the child ends, hence the main thread.
#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut Command) {
    let parent = Pid::this();
    let prepare = move || -> io::Result<()> {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // It may have died before the call, and then no signal comes.
        match Pid::parent() == parent {
            true => Ok(()),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed: these are two
    // system calls, and an error made of constants; nothing allocates or takes a lock.
    unsafe { command.pre_exec(prepare) };
}

/// Elsewhere nothing helps against `kill -9`.
#[cfg(not(target_os = "linux"))]
fn die_with_parent(_command: &mut Command) {}
