//! One gateway or worker as a process of the binary under test.

use std::process::ExitStatus;
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::command::binary;
use super::http::{self, Response};
use super::metrics::Metrics;
use super::ports::free_port;
use super::process::{Log, Process};
use super::socket::SocketRequest;
use super::{DEADLINE, eventually, eventually_within};

/// The NATS client's reader panics over a header value with a carriage return, which a publisher
/// can write. A worker has to live with that; `strange_bytes.rs` shows that it does.
const LIBRARY_PANIC: &str = "/async-nats-0.51.0/src/header.rs";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Gateway,
    Worker,
}

/// A role of the system. It keeps its ports and settings when it is killed and started again.
pub struct Role {
    kind: Kind,
    name: String,
    /// Flags after the subcommand.
    flags: Vec<String>,
    env: Vec<(String, String)>,
    listen_port: u16,
    admin_port: u16,
    log: Log,
    state: Mutex<State>,
}

enum State {
    /// It should run: an end by itself fails the test.
    Running(Process),
    /// SIGTERM was sent, or the test waits for its end.
    Ending(Process),
    Ended,
}

impl Role {
    /// Starts it and does not wait; `env` wins over what a role gets by default.
    pub fn start(kind: Kind, name: &str, flags: Vec<String>, env: Vec<(String, String)>) -> Role {
        let role = Role {
            kind,
            name: name.to_owned(),
            flags,
            env,
            listen_port: free_port(),
            admin_port: free_port(),
            log: Log::default(),
            state: Mutex::new(State::Ended),
        };
        role.start_again();
        role
    }

    /// Starts it with the ports and settings it had; it must have ended.
    pub fn start_again(&self) {
        let mut state = self.state.lock().expect("not poisoned");
        assert!(matches!(*state, State::Ended), "{} still runs", self.name);
        let mut command = binary();
        command.arg(match self.kind {
            Kind::Gateway => "gateway",
            Kind::Worker => "worker",
        });
        command.args(&self.flags);
        command
            .env("CATCHUP_LISTEN", format!("127.0.0.1:{}", self.listen_port))
            .env(
                "CATCHUP_ADMIN_LISTEN",
                format!("127.0.0.1:{}", self.admin_port),
            )
            .env("CATCHUP_NODE", &self.name)
            .env("CATCHUP_AUTH", "none");
        for (name, value) in &self.env {
            match value.as_str() {
                "" => command.env_remove(name),
                _ => command.env(name, value),
            };
        }
        let process = Process::spawn(&self.name, command, self.log.clone());
        *state = State::Running(process);
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The clients' port (a gateway's).
    pub fn port(&self) -> u16 {
        self.listen_port
    }

    pub fn admin_port(&self) -> u16 {
        self.admin_port
    }

    /// Everything it wrote, over all its lives.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// A connection to this gateway that is about to be made.
    pub fn socket(&self) -> SocketRequest {
        SocketRequest::new(self.listen_port)
    }

    /// `GET path` at the admin port.
    pub async fn admin(&self, path: &str) -> std::io::Result<Response> {
        http::get(self.admin_port, path).await
    }

    /// True where it was started and not told to end.
    pub fn is_running(&self) -> bool {
        matches!(*self.state.lock().expect("not poisoned"), State::Running(_))
    }

    /// Whether `/readyz` says 200 now.
    pub async fn is_ready(&self) -> bool {
        let response = self.admin("/readyz").await;
        response.is_ok_and(|response| response.status == 200)
    }

    /// Waits until `/readyz` says 200; panics with its log where it ends before.
    pub async fn ready(&self) {
        eventually(format!("{} is ready", self.name), async || {
            self.assert_runs();
            let response = self.admin("/readyz").await.ok()?;
            (response.status == 200).then_some(())
        })
        .await;
    }

    /// Waits until `/readyz` says 503, and returns its JSON.
    pub async fn not_ready(&self) -> serde_json::Value {
        eventually(format!("{} is not ready", self.name), async || {
            let response = self.admin("/readyz").await.ok()?;
            (response.status == 503).then(|| response.json())
        })
        .await
    }

    /// What `/metrics` says.
    pub async fn metrics(&self) -> Metrics {
        let response = self
            .admin("/metrics")
            .await
            .expect("the admin port answers");
        assert_eq!(response.status, 200);
        Metrics::parse(response.text())
    }

    /// The process id, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        match &*self.state.lock().expect("not poisoned") {
            State::Running(process) | State::Ending(process) => Some(process.id()),
            State::Ended => None,
        }
    }

    /// The memory it has in use, as the kernel counts it (`VmRSS`), in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let id = self.process_id().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kibibytes = kibibytes.expect("a line VmRSS in kB").trim();
        kibibytes.parse::<u64>().expect("a number") * 1024
    }

    /// `kill -9`.
    pub fn kill(&self) {
        *self.state.lock().expect("not poisoned") = State::Ended;
    }

    /// SIGSTOP: its connections stay open and nothing moves.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// SIGTERM, without waiting.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
        let mut state = self.state.lock().expect("not poisoned");
        *state = match std::mem::replace(&mut *state, State::Ended) {
            State::Running(process) | State::Ending(process) => State::Ending(process),
            State::Ended => State::Ended,
        };
    }

    /// Waits for its end, by SIGTERM or by itself; panics where that takes too long.
    pub async fn ended(&self) -> ExitStatus {
        self.ended_within(DEADLINE).await
    }

    /// The same, for one that has many sockets to send away.
    pub async fn ended_within(&self, within: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        let status = eventually_within(within, what, async || self.status()).await;
        *self.state.lock().expect("not poisoned") = State::Ended;
        status
    }

    /// SIGTERM, and waits for its end, which must be with exit code 0.
    pub async fn stop(&self) {
        self.terminate();
        let status = self.ended().await;
        assert!(status.success(), "{} ended with {status}", self.name);
    }

    /// What is wrong with it at the end of a test, if anything.
    pub fn fault(&self) -> Option<String> {
        let panics = |line: &String| line.contains("panicked at") && !line.contains(LIBRARY_PANIC);
        if let Some(line) = self.log.lines().iter().find(|line| panics(line)) {
            return Some(format!("{} panicked: {line}", self.name));
        }
        match &*self.state.lock().expect("not poisoned") {
            State::Running(process) => process
                .status()
                .map(|status| format!("{} ended by itself with {status}", self.name)),
            State::Ending(_) | State::Ended => None,
        }
    }

    fn assert_runs(&self) {
        if let Some(fault) = self.fault() {
            panic!("{fault}:\n{}", self.log.lines().join("\n"));
        }
    }

    fn status(&self) -> Option<ExitStatus> {
        match &*self.state.lock().expect("not poisoned") {
            State::Running(process) | State::Ending(process) => process.status(),
            State::Ended => panic!("{} was not running", self.name),
        }
    }

    fn signal(&self, signal: Signal) {
        match &*self.state.lock().expect("not poisoned") {
            State::Running(process) | State::Ending(process) => process.signal(signal),
            State::Ended => panic!("{} was not running", self.name),
        }
    }
}
