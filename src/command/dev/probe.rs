//! Whether a port answers, and whether a role is ready.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
const ANSWER_BYTES_MAX: u64 = 16 * 1024;

/// True where somebody accepts connections.
pub async fn accepts(port: u16) -> bool {
    let connect = TcpStream::connect(("127.0.0.1", port));
    matches!(timeout(PROBE_TIMEOUT, connect).await, Ok(Ok(_)))
}

/// Asks an admin port for `/readyz`.
///
/// # Errors
///
/// Why it is not ready: the body of the answer, or that there is none.
pub async fn ready(admin_port: u16) -> Result<(), String> {
    let answer = timeout(PROBE_TIMEOUT, get_readyz(admin_port)).await;
    let answer = match answer {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("no answer".to_owned()),
    };
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ => Err(body.trim().to_owned()),
    }
}

async fn get_readyz(admin_port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", admin_port)).await?;
    stream
        .write_all(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut answer)
        .await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
