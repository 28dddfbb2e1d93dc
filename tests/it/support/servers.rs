//! A real nats-server and a real Redis or Valkey, each on a free port in a folder of its own.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::ports::free_port;
use super::process::{Log, Process, scratch_folder};
use super::wait_until;

const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Both servers of one test, or of all tests that share them.
pub struct Servers {
    pub nats: NatsServer,
    pub redis: RedisServer,
}

impl Servers {
    pub fn start() -> Servers {
        Servers {
            nats: NatsServer::start(),
            redis: RedisServer::start(),
        }
    }

    /// The servers that tests share as long as any of them runs. Never kill, pause or wipe
    /// these: start your own.
    pub fn shared() -> Arc<Servers> {
        // Started once and kept to the end of the process, when the kernel kills them.
        static SHARED: OnceLock<Arc<Servers>> = OnceLock::new();
        Arc::clone(SHARED.get_or_init(|| Arc::new(Servers::start())))
    }
}

/// A nats-server with JetStream.
pub struct NatsServer {
    server: Server,
    name: String,
}

impl NatsServer {
    pub fn start() -> NatsServer {
        NatsServer::start_program(&nats_program(), &[])
    }

    /// With further arguments or a configuration file.
    pub fn start_with(arguments: &[&str]) -> NatsServer {
        NatsServer::start_program(&nats_program(), arguments)
    }

    pub fn start_program(program: &Path, arguments: &[&str]) -> NatsServer {
        let port = free_port();
        let folder = scratch_folder("nats");
        let mut words = words(&["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"]);
        words.push(folder.path().display().to_string());
        words.extend(arguments.iter().map(|&argument| argument.to_owned()));
        // Another process's server on this port would not answer with this name.
        let name = format!("test-{}-{port}", std::process::id());
        words.extend(["--name".to_owned(), name.clone()]);
        let expected = format!("\"{name}\"");
        let is_ours = move |_: &Process, port| {
            let mut line = String::new();
            let stream = probe_connect(port)?;
            BufReader::new(stream).read_line(&mut line).ok()?;
            Some(line.starts_with("INFO ") && line.contains(&expected))
        };
        let server = Server::start("nats-server", program, words, port, folder, is_ours);
        NatsServer { server, name }
    }

    /// What it calls itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.server.port)
    }

    /// Kills the server and starts it again with one stream as it was at a checkpoint, or a `part`
    /// of it: `msgs` is what it holds, `obs` are its consumers, `""` is all. The others stay.
    pub fn roll_back_stream(&self, checkpoint: &Checkpoint, stream: &str, part: &str) {
        self.kill();
        let path = Path::new("jetstream/$G/streams").join(stream).join(part);
        let folder = self.folder().join(&path);
        empty_folder(&folder);
        copy_folder(&checkpoint.0.path().join(&path), &folder);
        self.start_again();
    }
}

/// A redis-server or valkey-server as Catchup wants it: append-only, `noeviction`.
pub struct RedisServer {
    server: Server,
}

/// A copy of everything a server had written at one moment.
pub struct Checkpoint(TempDir);

impl RedisServer {
    pub fn start() -> RedisServer {
        let good = "--appendonly yes --maxmemory-policy noeviction";
        RedisServer::start_with(&good.split(' ').collect::<Vec<_>>())
    }

    /// With these arguments instead of `--appendonly yes --maxmemory-policy noeviction`.
    pub fn start_with(arguments: &[&str]) -> RedisServer {
        let port = free_port();
        let folder = scratch_folder("redis");
        let mut words = words(&["--port", &port.to_string(), "--bind", "127.0.0.1"]);
        words.extend(["--save".to_owned(), String::new(), "--dir".to_owned()]);
        words.push(folder.path().display().to_string());
        words.extend(arguments.iter().map(|&argument| argument.to_owned()));
        let program = redis_program();
        let server = Server::start("redis-server", &program, words, port, folder, is_redis);
        RedisServer { server }
    }

    /// A sentinel that watches a primary by this name, and alone may promote a replica of it.
    pub fn start_sentinel(name: &str, primary: &RedisServer) -> RedisServer {
        let port = free_port();
        let folder = scratch_folder("sentinel");
        let file = folder.path().join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {name} 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds {name} 500\nsentinel failover-timeout {name} 2000\n",
            folder.path().display(),
            primary.port(),
        );
        fs::write(&file, text).expect("writable");
        let words = vec![file.display().to_string(), "--sentinel".to_owned()];
        let program = redis_program();
        let server = Server::start("sentinel", &program, words, port, folder, is_redis);
        RedisServer { server }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.server.port)
    }
}

/// True where the process itself answers with its number.
fn is_redis(process: &Process, port: u16) -> Option<bool> {
    let mut stream = probe_connect(port)?;
    stream.write_all(b"PING\r\nINFO server\r\n").ok()?;
    let expected = format!("process_id:{}", process.id());
    let mut lines = BufReader::new(stream).lines();
    // While it loads its data it answers INFO, and nothing that clients ask.
    if lines.next()?.ok()? != "+PONG" {
        return None;
    }
    let line = lines
        .by_ref()
        .map_while(Result::ok)
        .find(|line| line.starts_with("process_id:") || line.starts_with('-') || line.is_empty())?;
    Some(line == expected)
}

type IsOurs = Box<dyn Fn(&Process, u16) -> Option<bool> + Send + Sync>;

/// What both servers have in common: a process on a port with a folder.
struct Server {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    port: u16,
    folder: TempDir,
    log: Log,
    /// None while killed.
    process: Mutex<Option<Process>>,
    /// Some(true): this very process answers on the port.
    is_ours: IsOurs,
}

impl Server {
    fn start(
        name: &'static str,
        program: &Path,
        arguments: Vec<String>,
        port: u16,
        folder: TempDir,
        is_ours: impl Fn(&Process, u16) -> Option<bool> + Send + Sync + 'static,
    ) -> Server {
        let server = Server {
            name,
            program: program.to_owned(),
            arguments,
            port,
            folder,
            log: Log::default(),
            process: Mutex::new(None),
            is_ours: Box::new(is_ours),
        };
        server.start_again();
        server
    }

    /// Starts it on its port with its data; it must have been killed.
    fn start_again(&self) {
        let mut running = self.process.lock().expect("not poisoned");
        assert!(running.is_none(), "{} still runs", self.name);
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        let process = Process::spawn(self.name, command, self.log.clone());
        wait_until(format!("{} on port {}", self.name, self.port), || {
            let log = || self.log.lines().join("\n");
            assert!(process.is_running(), "{} ended:\n{}", self.name, log());
            (self.is_ours)(&process, self.port) == Some(true)
        });
        *running = Some(process);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.lock().expect("not poisoned");
        process.as_ref().expect("it runs").signal(signal);
    }

    fn stop(&self) {
        let running = self.process.lock().expect("not poisoned").take();
        let process = running.expect("it runs");
        process.signal(Signal::SIGTERM);
        wait_until(format!("the end of {}", self.name), || {
            !process.is_running()
        });
    }
}

/// What a test may do with either server.
macro_rules! control {
    ($server:ty) => {
        impl $server {
            pub fn port(&self) -> u16 {
                self.server.port
            }

            /// `127.0.0.1:PORT`.
            pub fn address(&self) -> String {
                format!("127.0.0.1:{}", self.server.port)
            }

            pub fn log(&self) -> &Log {
                &self.server.log
            }

            /// Where it keeps its data.
            pub fn folder(&self) -> &Path {
                self.server.folder.path()
            }

            /// `kill -9`.
            pub fn kill(&self) {
                *self.server.process.lock().expect("not poisoned") = None;
            }

            /// SIGTERM, and waits for the end.
            pub fn stop(&self) {
                self.server.stop();
            }

            /// After [`Self::kill`] or [`Self::stop`]: the same port, the same data.
            pub fn start_again(&self) {
                self.server.start_again();
            }

            /// A copy of the data as it is now, for [`Self::roll_back`]. A nats-server has to be
            /// killed before.
            pub fn checkpoint(&self) -> Checkpoint {
                let copy = scratch_folder("checkpoint");
                copy_folder(self.server.folder.path(), copy.path());
                Checkpoint(copy)
            }

            /// Kills the server and starts it again with the data of a checkpoint: what was
            /// written since is lost.
            pub fn roll_back(&self, checkpoint: &Checkpoint) {
                self.kill();
                empty_folder(self.server.folder.path());
                copy_folder(checkpoint.0.path(), self.server.folder.path());
                self.start_again();
            }

            /// Kills the server and starts it again with nothing.
            pub fn wipe(&self) {
                self.kill_and_empty();
                self.start_again();
            }

            /// The same, and leaves it killed.
            pub fn kill_and_empty(&self) {
                self.kill();
                empty_folder(self.server.folder.path());
            }

            /// SIGSTOP: its connections stay open and answer nothing.
            pub fn pause(&self) {
                self.server.signal(Signal::SIGSTOP);
            }

            /// SIGCONT.
            pub fn resume(&self) {
                self.server.signal(Signal::SIGCONT);
            }
        }
    };
}

control!(NatsServer);
control!(RedisServer);

fn probe_connect(port: u16) -> Option<TcpStream> {
    let address = ([127, 0, 0, 1], port).into();
    let stream = TcpStream::connect_timeout(&address, PROBE_TIMEOUT).ok()?;
    stream.set_read_timeout(Some(PROBE_TIMEOUT)).ok()?;
    Some(stream)
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// The nats-server that tests use.
pub fn nats_program() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM
        .get_or_init(|| program("TEST_NATS_SERVER", "nats-2"))
        .clone()
}

/// The redis-server or valkey-server that tests use.
pub fn redis_program() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM
        .get_or_init(|| program("TEST_REDIS_SERVER", "valkey-9"))
        .clone()
}

/// The path in `variable`, else what `scripts/servers NAME` finds or fetches.
fn program(variable: &str, name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        assert!(
            Path::new(&path).is_file(),
            "{variable} names no file: {path:?}; run scripts/test, which sets it"
        );
        return path.into();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/servers");
    let output = Command::new(script).arg(name).output();
    match output {
        Ok(output) if output.status.success() => {
            let path = String::from_utf8(output.stdout).expect("a path in UTF-8");
            path.trim().into()
        }
        Ok(output) => panic!(
            "no server to test with, run scripts/test: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ),
        Err(error) => panic!("scripts/servers does not run, run scripts/test: {error}"),
    }
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir_all(&target).expect("writable");
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("a file to copy");
        }
    }
}

fn empty_folder(folder: &Path) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        let removed = match path.is_dir() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        removed.expect("it can be removed");
    }
}
