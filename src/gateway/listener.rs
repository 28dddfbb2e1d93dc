//! Accepts TCP connections and answers HTTP on them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::node::{CONNECTIONS_MAX, Node};
use super::refusal::json_response;
use super::{demo, websocket};

/// A client that takes longer over the head of a request loses its connection.
const HEAD_SECONDS_MAX: Duration = Duration::from_secs(10);
/// Longest head of a request; a token may be 8 KiB of it.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Most requests that are not sockets yet, at one time; more wait in the listener's queue.
const REQUESTS_MAX: usize = 4_096;
/// Pause after a failed accept, which is usually a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const _: () = assert!(REQUESTS_MAX < CONNECTIONS_MAX);

/// Serves until `shutdown`.
pub async fn serve(node: Arc<Node>, listener: TcpListener, shutdown: CancellationToken) {
    let places = Arc::new(Semaphore::new(REQUESTS_MAX));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = async {
                // The semaphore is never closed.
                let place = Arc::clone(&places).acquire_owned().await.ok();
                (listener.accept().await, place)
            } => accepted,
        };
        match accepted {
            (Ok((stream, _)), place) => {
                let node = Arc::clone(&node);
                let shutdown = shutdown.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = answer(node, stream) => {}
                        () = shutdown.cancelled() => {}
                    }
                    drop(place);
                });
            }
            (Err(error), _) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers the requests of one connection, until it becomes a socket or ends.
async fn answer(node: Arc<Node>, stream: TcpStream) {
    // Without it a small frame waits for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let node = Arc::clone(&node);
        async move { Ok::<_, Infallible>(respond(node, request).await) }
    });
    // An error is the client's: it left, or sent something that is no HTTP.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_SECONDS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}

async fn respond(node: Arc<Node>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    match request.uri().path() {
        "/v1/ws" => websocket::open(node, request).await,
        _ if node.is_demo => demo::respond(&node, request).await,
        _ => json_response(
            StatusCode::NOT_FOUND,
            404,
            "not found: sockets are at /v1/ws",
        ),
    }
}
