//! A page in headless Chromium, driven over its DevTools protocol.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::process::{Log, Process, scratch_folder};
use super::{DEADLINE, eventually, http};

/// One browser with one page; dropping it ends the browser.
pub struct Browser {
    devtools: WebSocketStream<TcpStream>,
    next_id: u64,
    /// What the page complained about: errors, failed loads, uncaught exceptions.
    complaints: Vec<String>,
    _process: Process,
    _profile: TempDir,
}

impl Browser {
    /// Starts the program that `TEST_CHROMIUM` names and opens a page.
    pub async fn open(url: &str) -> Browser {
        let program = std::env::var("TEST_CHROMIUM");
        let program = program.expect("TEST_CHROMIUM names no browser: run scripts/test");
        let profile = scratch_folder("browser");
        let mut command = Command::new(program);
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--remote-debugging-port=0",
        ]);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command.arg("about:blank");
        let process = Process::spawn("browser", command, Log::default());
        let page = page_address(profile.path(), &process).await;
        let stream = TcpStream::connect(&page.0)
            .await
            .expect("the browser listens");
        let (devtools, _) = tokio_tungstenite::client_async(page.1, stream)
            .await
            .expect("the browser speaks DevTools");
        let mut browser = Browser {
            devtools,
            next_id: 0,
            complaints: Vec::new(),
            _process: process,
            _profile: profile,
        };
        browser.call("Runtime.enable", json!({})).await;
        browser.call("Log.enable", json!({})).await;
        browser.call("Page.enable", json!({})).await;
        browser.call("Page.navigate", json!({ "url": url })).await;
        browser.until("document.readyState === 'complete'").await;
        browser
    }

    /// The value of a JavaScript expression, promises awaited.
    pub async fn evaluate(&mut self, expression: &str) -> Value {
        let options = json!({
            "expression": expression,
            "awaitPromise": true,
            "returnByValue": true,
            "userGesture": true,
        });
        let outcome = self.call("Runtime.evaluate", options).await;
        let exception = &outcome["exceptionDetails"];
        assert!(exception.is_null(), "{expression}: {exception}");
        outcome["result"]["value"].clone()
    }

    /// Waits until a JavaScript expression is true.
    pub async fn until(&mut self, condition: &str) {
        let start = std::time::Instant::now();
        while self.evaluate(condition).await != true {
            assert!(start.elapsed() < DEADLINE, "never true: {condition}");
            tokio::time::sleep(super::POLL_INTERVAL).await;
        }
    }

    /// Presses and releases a key, for example `Tab`, `Enter` or ` `, as a keyboard does.
    pub async fn press(&mut self, key: &str) {
        let (code, number, text) = match key {
            "Tab" => ("Tab", 9, ""),
            "Enter" => ("Enter", 13, "\r"),
            " " => ("Space", 32, " "),
            _ => panic!("no such key here: {key}"),
        };
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let event = json!({
                "type": kind, "key": key, "code": code, "text": text,
                "windowsVirtualKeyCode": number,
            });
            self.call("Input.dispatchKeyEvent", event).await;
        }
    }

    /// Sets the window's size in CSS pixels and whether the system is dark.
    pub async fn appear(&mut self, width: u32, height: u32, is_dark: bool) {
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false,
        });
        self.call("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = if is_dark { "dark" } else { "light" };
        let features = json!({
            "features": [{ "name": "prefers-color-scheme", "value": scheme }],
        });
        self.call("Emulation.setEmulatedMedia", features).await;
    }

    /// Writes a PNG of what the window shows.
    pub async fn screenshot(&mut self, file: &Path) {
        let shot = self.call("Page.captureScreenshot", json!({})).await;
        let picture = STANDARD.decode(shot["data"].as_str().expect("a picture"));
        fs::write(file, picture.expect("base64")).expect("a writable file");
    }

    /// What the page complained about so far.
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }

    async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.next_id += 1;
        let id = self.next_id;
        let call = json!({ "id": id, "method": method, "params": parameters });
        let sent = self.devtools.send(Message::text(call.to_string())).await;
        sent.expect("the browser lives");
        loop {
            let message = timeout(DEADLINE, self.devtools.next()).await;
            let message = message.unwrap_or_else(|_| panic!("no answer to {method}"));
            let message = message.expect("the browser lives").expect("a message");
            let Ok(text) = message.to_text() else {
                continue;
            };
            let message: Value = serde_json::from_str(text).unwrap_or_default();
            if message["id"] == id {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
            self.note(&message);
        }
    }

    fn note(&mut self, event: &Value) {
        let parameters = &event["params"];
        let is_complaint = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => parameters["type"] == "error",
            Some("Log.entryAdded") => parameters["entry"]["level"] == "error",
            _ => false,
        };
        if is_complaint {
            self.complaints.push(parameters.to_string());
        }
    }
}

/// The address and the DevTools URL of the browser's first page.
async fn page_address(profile: &Path, process: &Process) -> (String, String) {
    const POLL_SECONDS_MAX: Duration = Duration::from_secs(60);
    let file = profile.join("DevToolsActivePort");
    let port: u16 = super::eventually_within(POLL_SECONDS_MAX, "the browser starts", async || {
        let log = || process.log().lines().join("\n");
        assert!(process.is_running(), "the browser ended:\n{}", log());
        fs::read_to_string(&file).ok()?.lines().next()?.parse().ok()
    })
    .await;
    let url = eventually("the browser has a page", async || {
        let pages = http::get(port, "/json/list").await.ok()?.json();
        let pages = pages.as_array()?.clone();
        let page = pages.into_iter().find(|page| page["type"] == "page")?;
        page["webSocketDebuggerUrl"].as_str().map(str::to_owned)
    })
    .await;
    (format!("127.0.0.1:{port}"), url)
}
