//! As much of an HTTP/1.1 client as the tests need: one request a connection, nothing hidden.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: usize = 64 * 1024;

pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; panics where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.text()))
    }
}

/// `GET path` at `127.0.0.1:port`; an error where nobody answers.
pub async fn get(port: u16, path: &str) -> std::io::Result<Response> {
    let (response, mut stream) =
        request(port, "GET", path, &[("Connection", "close")], b"").await?;
    read_body(response, &mut stream).await
}

/// Any request with a whole body, sent with its length.
pub async fn send(
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Response> {
    let mut headers = headers.to_vec();
    let length = body.len().to_string();
    headers.extend([("Connection", "close"), ("Content-Length", &length)]);
    let (response, mut stream) = request(port, method, path, &headers, body).await?;
    read_body(response, &mut stream).await
}

/// Sends a request and reads the head of its response; what came after the head stands in
/// `body`, and the stream goes on from there.
pub async fn request(
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<(Response, TcpStream)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let response = request_over(&mut stream, port, method, path, headers, body).await?;
    Ok((response, stream))
}

/// Like [`request`], over a connection that stands already.
pub async fn request_over(
    stream: &mut TcpStream,
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Response> {
    let mut head = format!("{method} {path} HTTP/1.1\r\n");
    if !headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("host"))
    {
        head.push_str(&format!("Host: 127.0.0.1:{port}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    timeout(RESPONSE_TIMEOUT, read_head(stream))
        .await
        .map_err(|_| std::io::Error::other(format!("no response to {method} {path}")))?
}

async fn read_head(stream: &mut TcpStream) -> std::io::Result<Response> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await? == 0 || bytes.len() > HEAD_BYTES_MAX {
            return Err(std::io::Error::other("the connection ended in the head"));
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok());
    let headers = lines.filter_map(|line| line.split_once(':'));
    Ok(Response {
        status: status.ok_or_else(|| std::io::Error::other(format!("no status: {status_line}")))?,
        headers: headers
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect(),
        body: bytes[end + 4..].to_vec(),
    })
}

/// Reads the rest of a body: by its length, in chunks, or to the end of the connection.
pub async fn read_body(
    mut response: Response,
    stream: &mut TcpStream,
) -> std::io::Result<Response> {
    let length = response.header("content-length").map(str::parse::<usize>);
    let is_chunked = response.header("transfer-encoding") == Some("chunked");
    let read = async {
        loop {
            let is_whole = match &length {
                Some(Ok(length)) => response.body.len() >= *length,
                Some(Err(_)) => return Err(std::io::Error::other("a junk content-length")),
                None => is_chunked && response.body.ends_with(b"0\r\n\r\n"),
            };
            if is_whole || stream.read_buf(&mut response.body).await? == 0 {
                return Ok(());
            }
        }
    };
    timeout(RESPONSE_TIMEOUT, read)
        .await
        .map_err(|_| std::io::Error::other("the body does not end"))??;
    if is_chunked {
        response.body = join_chunks(&response.body);
    }
    Ok(response)
}

fn join_chunks(mut bytes: &[u8]) -> Vec<u8> {
    let mut joined = Vec::new();
    while let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") {
        let size = std::str::from_utf8(&bytes[..end]).unwrap_or_default();
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        let start = end + 2;
        if size == 0 || bytes.len() < start + size + 2 {
            break;
        }
        joined.extend_from_slice(&bytes[start..start + size]);
        bytes = &bytes[start + size + 2..];
    }
    joined
}
