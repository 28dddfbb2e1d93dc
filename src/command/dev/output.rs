//! What dev prints: its children's lines with their names, and its own.
//!
//! A thread of its own writes, so that a terminal which stands still (Ctrl-S) holds up the
//! children at most, never the end of the system. A closed output is no error.

use std::io::Write;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::{mpsc, oneshot};

/// How many lines may wait for the terminal.
const LINES_WAITING_MAX: usize = 1_024;
/// How long one of dev's own lines waits for its turn.
const SAY_SECONDS: u64 = 1;
/// How long the end waits for the last lines to be written.
const FINISH_SECONDS: u64 = 2;

/// Takes lines; clones share the output.
#[derive(Clone)]
pub struct Printer {
    lines: mpsc::Sender<String>,
}

/// The writing thread.
pub struct Printing {
    done: oneshot::Receiver<()>,
}

impl Printer {
    pub fn start() -> (Printer, Printing) {
        let (lines, mut waiting) = mpsc::channel::<String>(LINES_WAITING_MAX);
        let (end, done) = oneshot::channel();
        std::thread::spawn(move || {
            let mut output = std::io::stdout();
            while let Some(mut line) = waiting.blocking_recv() {
                line.push('\n');
                // Nobody reads any more: the children's lines are still taken from them.
                let _ = output.write_all(line.as_bytes());
                let _ = output.flush();
            }
            let _ = end.send(());
        });
        (Printer { lines }, Printing { done })
    }

    /// One of dev's own lines; dropped where the terminal stands still.
    pub async fn say(&self, line: &str) {
        let patience = Duration::from_secs(SAY_SECONDS);
        let _ = self.lines.send_timeout(line.to_owned(), patience).await;
    }

    /// Prints every line of `output` as `name | line` until it ends.
    pub fn follow(&self, name: &str, output: impl AsyncRead + Unpin + Send + 'static) {
        let (lines, name) = (self.lines.clone(), name.to_owned());
        tokio::spawn(async move {
            let mut output = BufReader::new(output).split(b'\n');
            while let Ok(Some(line)) = output.next_segment().await {
                let line = String::from_utf8_lossy(&line);
                if lines.send(format!("{name:<9} | {line}")).await.is_err() {
                    return;
                }
            }
        });
    }
}

impl Printing {
    /// Waits a moment until everything is written; all printers must be dropped.
    pub async fn finish(self) {
        let _ = tokio::time::timeout(Duration::from_secs(FINISH_SECONDS), self.done).await;
    }
}
