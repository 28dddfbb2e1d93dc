//! A Redis that loses its last seconds: its append-only file is cut at a moment in the past.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::process::{scratch, scratch_folder};
use super::servers::{RedisServer, redis_program};

/// What such a server is started with.
pub const ARGUMENTS: [&str; 6] = [
    "--appendonly",
    "yes",
    "--aof-timestamp-enabled",
    "yes",
    "--maxmemory-policy",
    "noeviction",
];

impl RedisServer {
    /// One whose file says when each part of it was written.
    pub fn with_timestamps() -> RedisServer {
        RedisServer::start_with(&ARGUMENTS)
    }

    /// Kills the server and starts it again without what it had written in the last `lost` before
    /// `until`, to the second. The server must be one of [`RedisServer::with_timestamps`].
    pub fn cut_off(&self, lost: Duration) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let second = (since.expect("after 1970") - lost).as_secs();
        self.kill();
        // Its first and only part: nothing rewrites the file of a short test.
        let file = self
            .folder()
            .join("appendonlydir/appendonly.aof.1.incr.aof");
        let mut command = Command::new(checker());
        command
            .arg("--truncate-to-timestamp")
            .arg(second.to_string());
        let output = command.arg(&file).stdin(Stdio::null()).output();
        let output = output.expect("the tool runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}");
        self.start_again();
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
