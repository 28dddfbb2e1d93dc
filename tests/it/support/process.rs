//! Child processes that cannot outlive the tests, with their output captured.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::thread;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::{DEADLINE, eventually, eventually_within};

/// How many of a process's last lines are kept.
const LOG_LINES_MAX: usize = 20_000;

/// A running child. Dropping it kills it and whatever is left of its process group with
/// SIGKILL, and waits for its end.
pub struct Process {
    name: String,
    child: Mutex<Child>,
    pid: Pid,
    log: Log,
}

/// What a process wrote to both its outputs, a line each; shared with the readers.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<VecDeque<String>>>);

impl Process {
    /// Starts `command` in its own process group with no input. `name` stands in messages.
    pub fn spawn(name: &str, command: Command, log: Log) -> Process {
        let mut child =
            spawn(command).unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let pid = Pid::from_raw(child.id().try_into().expect("a process id fits"));
        log.capture(name, child.stdout.take().expect("stdout is piped"));
        log.capture(name, child.stderr.take().expect("stderr is piped"));
        Process {
            name: name.to_owned(),
            child: Mutex::new(child),
            pid,
            log,
        }
    }

    pub fn id(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The exit status, if the process ended.
    pub fn status(&self) -> Option<ExitStatus> {
        let mut child = self.child.lock().expect("not poisoned");
        child.try_wait().expect("our own child")
    }

    pub fn is_running(&self) -> bool {
        self.status().is_none()
    }

    /// Sends a signal to this process alone.
    pub fn signal(&self, signal: Signal) {
        if self.is_running() {
            kill(self.pid, signal).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        }
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&self) {
        let mut child = self.child.lock().expect("not poisoned");
        child.kill().expect("our own child");
        child.wait().expect("our own child");
    }

    /// Waits for the process to end by itself; panics after [`DEADLINE`].
    pub async fn exited(&self) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        eventually(what, async || self.status()).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The group first: its number stays taken as long as the child is not waited for.
        let _ = killpg(self.pid, Signal::SIGKILL);
        self.kill();
    }
}

impl Log {
    pub fn lines(&self) -> Vec<String> {
        let lines = self.0.lock().expect("not poisoned");
        lines.iter().cloned().collect()
    }

    pub fn contains(&self, text: &str) -> bool {
        let lines = self.0.lock().expect("not poisoned");
        lines.iter().any(|line| line.contains(text))
    }

    /// Waits for a line that contains `text`, and returns it.
    pub async fn line_with(&self, text: &str) -> String {
        let what = format!("a log line with {text:?}");
        eventually_within(DEADLINE, what, async || {
            let lines = self.0.lock().expect("not poisoned");
            lines.iter().find(|line| line.contains(text)).cloned()
        })
        .await
    }

    /// Reads `output` on a thread of its own until it ends, so that the child never waits.
    fn capture(&self, name: &str, output: impl Read + Send + 'static) {
        let log = self.clone();
        let echo = std::env::var_os("TEST_ECHO").is_some();
        let name = name.to_owned();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n') {
                let Ok(line) = line else { return };
                let line = String::from_utf8_lossy(&line).into_owned();
                if echo {
                    eprintln!("{name} | {line}");
                }
                let mut lines = log.0.lock().expect("not poisoned");
                if lines.len() == LOG_LINES_MAX {
                    lines.pop_front();
                }
                lines.push_back(line);
            }
        });
    }
}

type Order = (Command, Sender<io::Result<Child>>);

/// The thread that starts all children. On Linux a child asks to be killed when the thread
/// that started it ends, so this one lives as long as the test process.
static SPAWNER: LazyLock<Mutex<Sender<Order>>> = LazyLock::new(|| {
    let (orders, inbox) = channel::<Order>();
    thread::spawn(move || {
        for (mut command, answer) in inbox {
            let _ = answer.send(command.spawn());
        }
    });
    Mutex::new(orders)
});

fn spawn(mut command: Command) -> io::Result<Child> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    die_with_parent(&mut command);
    let (answer, result) = channel();
    let orders = SPAWNER.lock().expect("not poisoned");
    orders.send((command, answer)).expect("the spawner lives");
    drop(orders);
    result.recv().expect("the spawner lives")
}

#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut Command) {
    let die = || Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; this is one
    // system call without allocation.
    unsafe { command.pre_exec(die) };
}

/// Elsewhere the children of a test process that is killed have to be ended by hand.
#[cfg(not(target_os = "linux"))]
fn die_with_parent(_command: &mut Command) {}

/// What a process holds, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    pub resident: u64,
    /// The most that was resident at any time.
    pub peak: u64,
}

/// The memory of a running process.
pub fn memory(process_id: u32) -> Memory {
    let path = format!("/proc/{process_id}/status");
    let status = fs::read_to_string(path).expect("a running process");
    let kibibytes = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.expect("a line of it").parse().expect("a number")
    };
    Memory {
        resident: kibibytes("VmRSS:") * 1024,
        peak: kibibytes("VmHWM:") * 1024,
    }
}

/// Allows this process as many open files as the machine does; thousands of sockets need it.
pub fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard limit");
}

/// The folder for everything this test process writes; removed when the process ends,
/// however it ends.
pub fn scratch() -> &'static Path {
    static SCRATCH: OnceLock<PathBuf> = OnceLock::new();
    SCRATCH.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(std::process::id().to_string());
        fs::create_dir_all(&folder).expect("the build's folder is writable");
        // Its input ends with this process; the servers may write a moment longer.
        let script = "cat; for attempt in 1 2 3 4 5; do rm -rf -- \"$0\" && exit; sleep 0.2; done";
        let mut remover = Command::new("sh");
        remover.args(["-c", script]).arg(&folder);
        remover.stdin(Stdio::piped()).stdout(Stdio::null());
        let child = remover.process_group(0).spawn().expect("sh starts");
        // Dropping the child's input would tell it to begin.
        std::mem::forget(child);
        folder
    })
}

/// An empty folder below [`scratch`] for one server or test.
pub fn scratch_folder(name: &str) -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix(&format!("{name}-"))
        .tempdir_in(scratch())
        .expect("the scratch folder is writable")
}
