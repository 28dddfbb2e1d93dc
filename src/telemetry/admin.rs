//! The admin server of every role: `/healthz`, `/readyz` and `/metrics`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Health, Metrics};

/// Admin connections at one time; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 64;
/// A client that takes longer over the head of a request loses its connection.
const HEAD_SECONDS_MAX: Duration = Duration::from_secs(10);
/// How long answers under way may take once the server is told to end.
const DRAIN_SECONDS_MAX: Duration = Duration::from_secs(2);
/// Pause after a failed accept, which is usually a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TYPE_JSON: &str = "application/json";
const TYPE_METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves until `shutdown`, which should come after the role itself has ended, so that `/readyz`
/// can say that it drains.
pub async fn serve(
    listener: TcpListener,
    health: Health,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = async {
                // The semaphore is never closed.
                let place = places.clone().acquire_owned().await.ok();
                (listener.accept().await, place)
            } => accepted,
        };
        match accepted {
            (Ok((stream, _)), place) => {
                let connection = connection(stream, health.clone(), metrics.clone());
                let shutdown = shutdown.clone();
                connections.spawn(async move {
                    tokio::select! {
                        () = connection => {}
                        () = shutdown.cancelled() => {}
                    }
                    drop(place);
                });
            }
            (Err(_), _) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
    connections.close();
    let _ = tokio::time::timeout(DRAIN_SECONDS_MAX, connections.wait()).await;
}

async fn connection(stream: TcpStream, health: Health, metrics: Arc<Metrics>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(request.method(), request.uri().path(), &health, &metrics);
        async move { Ok::<_, Infallible>(response) }
    });
    // An error is the client's: it left, or sent something that is no HTTP.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_SECONDS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn respond(
    method: &Method,
    path: &str,
    health: &Health,
    metrics: &Metrics,
) -> Response<Full<Bytes>> {
    let known = matches!(path, "/healthz" | "/readyz" | "/metrics");
    if known && method != Method::GET && method != Method::HEAD {
        let body = json!({ "status": "method not allowed" }).to_string();
        let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, TYPE_JSON, body);
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/healthz" if health.is_alive() => answer(
            StatusCode::OK,
            TYPE_JSON,
            json!({ "status": "alive" }).to_string(),
        ),
        "/healthz" => {
            let seconds = health.beat_age().as_secs();
            let body = json!({ "status": "stuck", "secondsWithoutProgress": seconds });
            answer(StatusCode::SERVICE_UNAVAILABLE, TYPE_JSON, body.to_string())
        }
        "/readyz" => match health.readiness() {
            Ok(()) => answer(
                StatusCode::OK,
                TYPE_JSON,
                json!({ "status": "ready" }).to_string(),
            ),
            Err(reasons) => {
                let body = json!({ "status": "not ready", "reasons": reasons });
                answer(StatusCode::SERVICE_UNAVAILABLE, TYPE_JSON, body.to_string())
            }
        },
        "/metrics" => answer(StatusCode::OK, TYPE_METRICS, metrics.encode()),
        _ => answer(
            StatusCode::NOT_FOUND,
            TYPE_JSON,
            json!({ "status": "not found" }).to_string(),
        ),
    }
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Asks once and returns the whole answer as text.
    async fn ask(address: std::net::SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{request} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_three_pages_are_served() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let health = Health::new();
        let shutdown = CancellationToken::new();
        let metrics = Arc::new(Metrics::new());
        let server = tokio::spawn(serve(listener, health.clone(), metrics, shutdown.clone()));

        assert!(
            ask(address, "GET /healthz")
                .await
                .starts_with("HTTP/1.1 200 ")
        );
        health.set("bus", Err("no NATS server answers".to_owned()));
        let answer = ask(address, "GET /readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503 "));
        let body = r#"{"reasons":{"bus":"no NATS server answers"},"status":"not ready"}"#;
        assert!(answer.contains("content-type: application/json") && answer.ends_with(body));
        health.set("bus", Ok(()));
        let answer = ask(address, "GET /readyz?verbose").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(r#"{"status":"ready"}"#));

        let answer = ask(address, "GET /metrics").await;
        assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8"));
        assert!(answer.contains("\ncatchup_connections 0\n"));
        let answer = ask(address, "HEAD /metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n"));
        let answer = ask(address, "POST /metrics").await;
        assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, HEAD"));
        assert!(ask(address, "GET /").await.starts_with("HTTP/1.1 404 "));

        shutdown.cancel();
        server.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}
