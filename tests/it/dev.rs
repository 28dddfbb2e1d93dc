//! `catchup dev`: the whole system in one command, and nothing left of it afterwards.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::command::binary;
use crate::support::ports::free_ports;
use crate::support::process::{Log, Process, scratch_folder};
use crate::support::servers::{nats_program, redis_program};
use crate::support::socket::data_of;
use crate::support::{
    Catchup, NatsServer, RedisServer, SocketRequest, eventually, eventually_within, http,
};

/// From the first gateway's port to the last one that dev uses, with two of each role.
const PORTS: u16 = 24;
/// A first start makes streams and consumers, while other tests use the same cores.
const START_TIME_MAX: Duration = Duration::from_secs(60);

/// A running `catchup dev`, and how to find everything that belongs to it.
struct Dev {
    process: Process,
    port: u16,
    /// Where it makes its temporary folder.
    folder: tempfile::TempDir,
}

impl Dev {
    fn start(arguments: &[&str]) -> Dev {
        let port = free_ports(PORTS);
        let folder = scratch_folder("dev");
        let mut command = dev_command(port);
        command.args(arguments);
        command.env("TMPDIR", folder.path());
        let process = Process::spawn("dev", command, Log::default());
        Dev {
            process,
            port,
            folder,
        }
    }

    async fn ready(&self) {
        eventually_within(START_TIME_MAX, "dev is ready", async || {
            let log = || self.process.log().lines().join("\n");
            assert!(self.process.is_running(), "dev ended:\n{}", log());
            let is_ready = self.process.log().contains("Catchup is ready");
            // The last line it says then.
            (is_ready && self.process.log().contains("Ctrl-C ends")).then_some(())
        })
        .await;
    }

    /// The line with which dev says how to call a subcommand, as a shell would run it.
    fn suggested(&self, subcommand: &str) -> String {
        let lines = self.process.log().lines();
        let wanted = format!("catchup {subcommand} ");
        let line = lines.iter().find(|line| line.contains(&wanted));
        line.expect("a line to copy").trim().to_owned()
    }

    /// Itself and its children.
    fn processes(&self) -> Vec<Running> {
        let own_id = self.process.id().cast_signed();
        let entries = std::fs::read_dir("/proc").expect("Linux");
        let ids = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let running = ids.filter_map(Running::find);
        running
            .filter(|process| process.id == own_id || process.parent == own_id)
            .collect()
    }

    fn process(&self, of_command: &str) -> Running {
        let mut processes = self.processes().into_iter();
        let found = processes.find(|process| process.command.contains(of_command));
        found.unwrap_or_else(|| panic!("no process {of_command}"))
    }

    /// None of these processes runs, and the ports are free.
    async fn assert_nothing_is_left(&self, processes: &[Running]) {
        eventually("no process is left", async || {
            let is_left = |process: &Running| {
                Running::find(process.id).is_some_and(|found| found.start == process.start)
            };
            (!processes.iter().any(is_left)).then_some(())
        })
        .await;
        // A process counts as ended when its first thread has; others may hold it a moment.
        eventually("no port is left", async || {
            let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
            (self.port..self.port + PORTS).all(is_free).then_some(())
        })
        .await;
    }

    fn folder_is_empty(&self) -> bool {
        let mut entries = std::fs::read_dir(self.folder.path()).expect("a folder");
        entries.next().is_none()
    }
}

/// A process as `/proc` shows it.
#[derive(Debug, PartialEq, Eq)]
struct Running {
    id: i32,
    parent: i32,
    /// Tells it from a later one with the same number.
    start: String,
    command: String,
}

impl Running {
    /// None where there is none, or only its remains.
    fn find(id: i32) -> Option<Running> {
        let status = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // Behind the name, which may hold anything: state, parent, …, the start as the 20th.
        let fields: Vec<&str> = status.rsplit_once(") ")?.1.split(' ').collect();
        let command = std::fs::read_to_string(format!("/proc/{id}/cmdline")).ok()?;
        (fields[0] != "Z").then_some(Running {
            id,
            parent: fields[1].parse().ok()?,
            start: fields[19].to_owned(),
            command: command.replace('\0', " "),
        })
    }

    fn kill(&self) {
        kill(Pid::from_raw(self.id), Signal::SIGKILL).expect("a process of ours");
    }
}

fn dev_command(port: u16) -> Command {
    let mut command = binary();
    command.args(["dev", "--port", &port.to_string()]);
    command.arg("--nats-server").arg(nats_program());
    command.arg("--redis-server").arg(redis_program());
    command
}

/// A folder for the PATH with only these programs.
fn path_with(programs: &[&Path]) -> tempfile::TempDir {
    let folder = scratch_folder("path");
    for program in programs {
        let name = program.file_name().expect("a program's name");
        std::os::unix::fs::symlink(program, folder.path().join(name)).expect("a link");
    }
    folder
}

async fn end(dev: &Dev, signal: Signal) {
    dev.process.signal(signal);
    let status = dev.process.exited().await;
    assert!(
        status.success(),
        "{status}:\n{}",
        dev.process.log().lines().join("\n")
    );
}

#[tokio::test]
async fn the_lines_it_prints_work_and_ctrl_c_leaves_nothing() {
    let dev = Dev::start(&[]);
    dev.ready().await;
    // dev, two servers, two gateways, two workers.
    let processes = dev.processes();
    assert_eq!(processes.len(), 7, "{processes:?}");

    let mut listen = Command::new("sh");
    listen.args(["-c", &format!("exec {}", dev.suggested("listen"))]);
    let listen = Process::spawn("listen", listen, Log::default());
    let publish = Command::new("sh")
        .args(["-c", &dev.suggested("publish")])
        .output()
        .expect("a shell");
    assert!(publish.status.success(), "{publish:?}");
    listen.log().line_with("hello").await;

    for gateway in [dev.port, dev.port + 1] {
        let page = http::get(gateway, "/").await.unwrap();
        assert_eq!(page.status, 200);
        assert!(page.text().contains("<title>Catchup demo</title>"));
    }
    drop(listen);
    end(&dev, Signal::SIGINT).await;
    dev.assert_nothing_is_left(&processes).await;
    assert!(dev.folder_is_empty());
}

#[tokio::test]
async fn a_role_that_dies_is_started_again_and_a_killed_dev_leaves_no_process() {
    let dev = Dev::start(&["--gateways", "1", "--workers", "1"]);
    dev.ready().await;
    dev.process("catchup worker").kill();
    dev.process.log().line_with("worker-1 ended").await;
    dev.process("catchup gateway").kill();
    dev.process.log().line_with("gateway-1 ended").await;
    for admin_port in [dev.port + 20, dev.port + 21] {
        eventually("gateway and worker are ready again", async || {
            let response = http::get(admin_port, "/readyz").await.ok()?;
            (response.status == 200).then_some(())
        })
        .await;
    }

    let processes = dev.processes();
    assert_eq!(processes.len(), 5, "{processes:?}");
    dev.process.kill();
    dev.assert_nothing_is_left(&processes).await;
}

#[tokio::test]
async fn a_server_that_dies_ends_everything_with_1() {
    let dev = Dev::start(&["--gateways", "1", "--workers", "1"]);
    dev.ready().await;
    let processes = dev.processes();
    dev.process("nats-server --addr").kill();
    let status = dev.process.exited().await;
    assert_eq!(status.code(), Some(1));
    dev.process.log().line_with("catchup: nats ended").await;
    dev.assert_nothing_is_left(&processes).await;
    assert!(dev.folder_is_empty());
}

#[tokio::test]
async fn kept_data_outlives_it() {
    let data = scratch_folder("data");
    let data = data.path().join("kept").display().to_string();
    let arguments = ["--gateways", "1", "--workers", "1", "--data-dir", &data];
    let dev = Dev::start(&arguments);
    dev.ready().await;
    let body =
        json!({"type": "new_post", "key": "1", "event": {"targetUserIds": ["ann"], "data": 7}});
    let headers = [("Content-Type", "application/json")];
    let body = body.to_string();
    let answer = http::send(dev.port, "POST", "/demo/publish", &headers, body.as_bytes()).await;
    let answer = answer.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.json()["sequence"] == 1 && answer.json()["id"].is_string());
    let processes = dev.processes();
    end(&dev, Signal::SIGTERM).await;
    dev.assert_nothing_is_left(&processes).await;
    assert!(dev.folder_is_empty());

    let dev = Dev::start(&arguments);
    dev.ready().await;
    let request = SocketRequest::new(dev.port).user("ann");
    let messages = request.connect().await.until_live().await;
    assert_eq!(data_of(&messages), [json!(7)]);
    end(&dev, Signal::SIGTERM).await;
}

#[tokio::test]
async fn existing_servers_are_used_and_left_alone() {
    let (nats, redis) = (NatsServer::start(), RedisServer::start());
    let port = free_ports(PORTS);
    let mut command = binary();
    command.args(["dev", "--gateways", "1", "--workers", "1"]);
    command.args(["--port", &port.to_string(), "--nats-url", &nats.url()]);
    command.args(["--redis-url", &redis.url()]);
    let process = Process::spawn("dev", command, Log::default());
    process.log().line_with("Ctrl-C ends").await;
    for unused in [port + 10, port + 11] {
        TcpListener::bind(("127.0.0.1", unused)).expect("no server of dev's own");
    }
    process.signal(Signal::SIGTERM);
    assert!(process.exited().await.success());
    async_nats::connect(nats.url())
        .await
        .expect("NATS still runs");
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let port = free_ports(PORTS);
    for (offset, what) in [
        (0, "gateway-1"),
        (10, "nats"),
        (11, "redis"),
        (23, "worker-2 admin"),
    ] {
        let taken = TcpListener::bind(("127.0.0.1", port + offset)).unwrap();
        let output = dev_command(port).output().unwrap();
        drop(taken);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        let expected = format!("catchup: port {} ({what}) is not free", port + offset);
        assert!(
            error.starts_with(&expected) && error.lines().count() == 1,
            "{error}"
        );
    }
}

/// A folder with a nats-server and a redis-server that say they are too old.
fn old_servers() -> tempfile::TempDir {
    let folder = scratch_folder("old");
    let versions = [
        ("nats-server", "nats-server: v2.9.10"),
        ("redis-server", "Redis server v=6.0.16 x"),
    ];
    for (name, version) in versions {
        let program = folder.path().join(name);
        std::fs::write(&program, format!("#!/bin/sh\necho '{version}'\n")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).unwrap();
    }
    folder
}

#[test]
fn the_script_passes_over_old_servers_on_the_path() {
    let old = old_servers();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(old.path().to_owned()).chain(std::env::split_paths(&path));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/servers");
    let mut command = Command::new(script);
    let output = command
        .env("PATH", std::env::join_paths(folders).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let lines = String::from_utf8(output.stdout).unwrap();
    assert!(
        lines.contains("NATS_SERVER=") && lines.contains("REDIS_SERVER="),
        "{lines}"
    );
    assert!(
        !lines.contains(&old.path().display().to_string()),
        "{lines}"
    );
}

#[tokio::test]
async fn old_servers_on_the_path_are_passed_over() {
    let old = old_servers();
    let recent = path_with(&[&nats_program()]);
    let path = |folders: &[&Path]| {
        let system = [Path::new("/usr/bin"), Path::new("/bin")];
        let folders = folders.iter().chain(&system);
        std::env::join_paths(folders)
            .unwrap()
            .into_string()
            .unwrap()
    };

    let nothing = Catchup::new(["dev"])
        .env("PATH", &path(&[old.path()]))
        .run()
        .await;
    assert_eq!(nothing.code, Some(1));
    for text in [
        "no nats-server 2.10 or newer",
        "2.9",
        "scripts/run",
        "--nats-server",
    ] {
        assert!(nothing.stderr.contains(text), "{}", nothing.stderr);
    }
    // The recent nats-server behind the old one is found; then the store is missing.
    let no_store = Catchup::new(["dev"]).env("PATH", &path(&[old.path(), recent.path()]));
    let no_store = no_store.run().await;
    assert_eq!(no_store.code, Some(1));
    assert!(
        no_store.stderr.contains("no redis-server 7.0"),
        "{}",
        no_store.stderr
    );
}

#[tokio::test]
async fn wrong_usage_ends_with_2() {
    for (arguments, named) in [
        (["dev", "--port", "0"].as_slice(), "--port"),
        (&["dev", "--port", "65530"], "--port"),
        (&["dev", "--gateways", "0"], "--gateways"),
        (&["dev", "--gateways", "11"], "--gateways"),
        (
            &["dev", "--nats-server", "x", "--nats-url", "nats://h:1"],
            "--nats-server",
        ),
        (
            &["dev", "--redis-url", "redis+cluster://h:1/name"],
            "CATCHUP_REDIS_URL",
        ),
        (&["dev", "--listen", "0.0.0.0:80"], "--listen"),
    ] {
        let ended = Catchup::new(arguments.iter().copied()).run().await;
        assert_eq!(ended.code, Some(2), "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains(named), "{arguments:?}: {ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    }
    let ended = Catchup::new(["dev"])
        .env("CATCHUP_COLOUR", "blue")
        .run()
        .await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("CATCHUP_COLOUR"), "{ended:?}");
}
