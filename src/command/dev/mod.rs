//! `catchup dev`: the whole system on one machine, and nothing left of it afterwards.
//!
//! Its children are a nats-server, a redis-server or valkey-server, and gateways and workers
//! as processes of this very binary. A role that dies is started again; a server that dies
//! ends everything, since its data is what the system is about.
//!
//! | file | what it owns |
//! |---|---|
//! | `plan` | which ports and names everything gets, and whether they are free |
//! | `program` | finding server programs that are new enough |
//! | `child` | one child process: started so that it cannot outlive this one |
//! | `system` | starting, watching and stopping all children |
//! | `output` | what is printed, a line at a time |
//! | `probe` | whether a port answers, whether a role is ready |

mod child;
mod output;
mod plan;
mod probe;
mod program;
mod system;

use std::path::PathBuf;

use anyhow::Context;
use clap::builder::RangedI64ValueParser;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::UsageError;
use crate::config::{Role, Settings, Surroundings, resolve};

use output::Printer;
use plan::Plan;
use system::System;

/// Flags of `catchup dev`.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct DevArguments {
    /// The first gateway's port
    #[arg(long, value_name = "PORT", default_value_t = 8080, value_parser = up_to(plan::PORT_MAX))]
    port: u16,
    /// How many gateways
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = up_to(plan::GATEWAYS_MAX))]
    gateways: u16,
    /// How many workers
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = up_to(plan::WORKERS_MAX))]
    workers: u16,
    /// Use these NATS servers instead of starting one
    #[arg(long, value_name = "URLS")]
    nats_url: Option<String>,
    /// Use this Redis or Valkey server instead of starting one
    #[arg(long, value_name = "URL")]
    redis_url: Option<String>,
    /// Keep the servers' data in this folder instead of a temporary one
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// The nats-server to start, 2.10 or newer, instead of one from the PATH
    #[arg(long, value_name = "PATH")]
    nats_server: Option<PathBuf>,
    /// The redis-server (7.0 or newer) or valkey-server (8 or newer) to start, instead of one
    /// from the PATH
    #[arg(long, value_name = "PATH")]
    redis_server: Option<PathBuf>,
}

const AFTER_HELP: &str = "\
With --port P, gateways listen on P, P+1, …; NATS on P+10, Redis on P+11, health and metrics from
P+20 (gateways first). Everything listens on 127.0.0.1 only and believes who a client says it is.
The demo page is at http://127.0.0.1:P/. Ctrl-C ends everything and leaves nothing.

Of the settings in the environment, the namespace, the limits, the allowed origins and the log
settings hold here too. Addresses, servers and authentication are dev's own.";

/// 1 to `most`.
fn up_to(most: u16) -> RangedI64ValueParser<u16> {
    RangedI64ValueParser::new().range(1..=i64::from(most))
}

/// Runs until Ctrl-C, SIGTERM or SIGHUP, and ends everything it started.
///
/// # Errors
///
/// A [`UsageError`] or [`crate::config::ConfigError`] for flags and settings that contradict;
/// otherwise what could not be started: a taken port, no server that is new enough, a server
/// that ended.
pub fn run(arguments: DevArguments) -> anyhow::Result<()> {
    arguments.check()?;
    // One thread, this one: the kernel kills the children when the thread that started them
    // ends, so it has to be the main one.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(run_here(&arguments))
}

async fn run_here(arguments: &DevArguments) -> anyhow::Result<()> {
    let mut interruption = Interruption::listen().context("cannot listen for signals")?;
    let settings = Settings {
        nats_url: arguments.nats_url.clone(),
        redis_url: arguments.redis_url.clone(),
        ..Settings::default()
    };
    // What the children would refuse is refused here, in one line.
    resolve(Role::Dev, &settings, &Surroundings::of_process())?;
    let plan = Plan::new(arguments)?;
    plan.check_ports()?;

    let (printer, printing) = Printer::start();
    for variable in plan::ignored_variables() {
        let line = format!("{variable} is set, but dev does not use it: see catchup dev --help");
        printer.say(&line).await;
    }
    let mut system = System::new(&plan, printer);
    let outcome = tokio::select! {
        outcome = system.run() => outcome,
        () = interruption.next() => Ok(()),
    };
    system.stop(&mut interruption).await;
    let closed = plan.close();
    printing.finish().await;
    outcome.and(closed)
}

impl DevArguments {
    fn check(&self) -> Result<(), UsageError> {
        let pairs = [
            ("nats", self.nats_server.is_some(), self.nats_url.is_some()),
            (
                "redis",
                self.redis_server.is_some(),
                self.redis_url.is_some(),
            ),
        ];
        for (name, starts_server, has_server) in pairs {
            if starts_server && has_server {
                return Err(UsageError(format!(
                    "--{name}-server starts a server and --{name}-url uses one: give one of them"
                )));
            }
        }
        Ok(())
    }
}

/// Ctrl-C, SIGTERM, and the end of the terminal.
struct Interruption([Signal; 3]);

impl Interruption {
    fn listen() -> std::io::Result<Interruption> {
        Ok(Interruption([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
