//! `catchup listen`: a terminal client, and an example of what contract §4 asks of one.
//!
//! | file | what it owns |
//! |---|---|
//! | `target` | where to connect: the URL, its query and the token |
//! | `frame` | what a gateway sends, as far as a client must know it |
//! | `client` | one connection after the other: receive, print, acknowledge |
//! | `end` | how a connection ended, and whether to come back |
//! | `recent` | which ids were seen, so that repeats are dropped |
//! | `backoff` | how long to wait before the next attempt |

mod backoff;
mod client;
mod end;
mod frame;
mod recent;
mod target;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::bail;
use tokio_util::sync::CancellationToken;

use self::backoff::Backoff;
use self::client::Client;
use self::end::End;
use self::target::Target;
use super::{UsageError, one_line, process};
use crate::config::{Role, Settings};

/// A connection that lasted this long is no failed attempt: the next delay is short again.
const STEADY_SECONDS: Duration = Duration::from_secs(5);

const HELP_AFTER: &str = "\
Example: catchup listen --url ws://127.0.0.1:8080 --user ann

Messages go to standard output, one JSON object a line; what happens to the connection goes to
standard error.";

/// Flags of `catchup listen`.
#[derive(clap::Args)]
#[command(after_help = HELP_AFTER)]
pub struct ListenArguments {
    /// Gateway: ws://, wss://, http:// or https:// and host; /v1/ws is added where there is no path
    #[arg(long, value_name = "URL")]
    url: String,
    /// Whose messages
    #[arg(long, value_name = "USER")]
    user: String,
    /// Name of this device: each has its own place in the messages
    #[arg(long, value_name = "DEVICE", default_value = "default")]
    device: String,
    /// Token that the gateway asks for. It can be read in the list of processes
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
}

/// Prints messages until it is told to end, standard output is closed, or coming back would not
/// help.
///
/// # Errors
///
/// A flag that makes no sense, as [`UsageError`]; a connection that was refused for good.
pub fn run(arguments: &ListenArguments) -> anyhow::Result<()> {
    // No setting is used, but a misspelt variable should be told here as everywhere.
    process::resolve(Role::Listen, &Settings::default())?;
    let token = arguments.token.as_deref();
    let target = Target::new(&arguments.url, &arguments.user, &arguments.device, token)
        .map_err(UsageError)?;
    process::run(|shutdown| {
        let client = Client::new(target, Box::new(std::io::stdout()));
        listen(client, shutdown)
    })
}

async fn listen(mut client: Client, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut backoff = Backoff::new();
    loop {
        let started = Instant::now();
        let end = client.connect_and_follow(&shutdown).await;
        if client.take_was_welcome() && started.elapsed() >= STEADY_SECONDS {
            backoff = Backoff::new();
        }
        let (reason, delay) = match end {
            End::Finished => return Ok(()),
            End::Refused(reason) => bail!(reason),
            End::Lost { reason, delay } => (reason, delay),
        };
        let delay = delay.unwrap_or_else(|| backoff.next_delay());
        status(format_args!("{reason}; trying again in {}", seconds(delay)));
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

/// One line on standard error about the connection. It may hold what a gateway sent.
fn status(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{}", one_line(&text.to_string()));
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
