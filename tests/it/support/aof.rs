//! A Redis that loses its last seconds: its append-only file is cut at a moment in the past.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::process::{scratch, scratch_folder};
use super::servers::{RedisServer, redis_program};
use super::wait_until;

/// What such a server is started with.
pub const ARGUMENTS: [&str; 8] = [
    "--appendonly",
    "yes",
    "--aof-timestamp-enabled",
    "yes",
    "--maxmemory-policy",
    "noeviction",
    // So that the file has one part.
    "--auto-aof-rewrite-percentage",
    "0",
];

impl RedisServer {
    /// One whose file says when each part of it was written.
    pub fn with_timestamps() -> RedisServer {
        RedisServer::start_with(&ARGUMENTS)
    }

    /// Kills the server and starts it again without what it had written in the last `lost`, to the
    /// second. The server must be one of [`RedisServer::with_timestamps`].
    pub fn cut_off(&self, lost: Duration) {
        self.kill_and_cut(lost);
        self.start_again();
    }

    /// The same, and leaves it killed.
    pub fn kill_and_cut(&self, lost: Duration) {
        // Its only part, which begins with its first second.
        let file = (self.folder()).join("appendonlydir/appendonly.aof.1.incr.aof");
        let second = || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            (since.expect("after 1970") - lost).as_secs()
        };
        wait_until("what was written before, and stays", || {
            first_second(&file).is_some_and(|first| first < second())
        });
        let second = second();
        self.kill();
        let mut command = Command::new(checker());
        command
            .arg("--truncate-to-timestamp")
            .arg(second.to_string());
        let output = command.arg(&file).stdin(Stdio::null()).output();
        let output = output.expect("the tool runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}");
    }

    /// True where the program of this server is its own tool for append-only files.
    pub fn has_checker() -> bool {
        // The server itself stops at an option that it does not know.
        let mut command = Command::new(checker());
        command.args(["--truncate-to-timestamp", "1", "/nowhere/nothing.aof"]);
        let output = command.stdin(Stdio::null()).output().expect("a program");
        String::from_utf8_lossy(&output.stdout).contains("Cannot open file")
    }
}

/// The second in which an append-only file was begun.
fn first_second(file: &Path) -> Option<u64> {
    let mut begin = String::new();
    let file = File::open(file).ok()?.take(32);
    BufReader::new(file).read_line(&mut begin).ok()?;
    begin.trim_end().strip_prefix("#TS:")?.parse().ok()
}

/// The server's program acts as this tool when it is called by its name.
fn checker() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = scratch_folder("checker").keep();
        assert!(folder.starts_with(scratch()));
        symlink(redis_program(), folder.join("redis-check-aof")).expect("a link");
        folder
    });
    folder.join("redis-check-aof")
}
