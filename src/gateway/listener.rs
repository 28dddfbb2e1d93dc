//! Accepts TCP connections and answers HTTP on them.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::limits::{HEAD_BYTES_MAX, HEAD_SECONDS_MAX, REQUESTS_SECONDS_MAX};
use super::node::Node;
use super::refusal::json_response;
use super::requests::{Request as Place, Requests};
use super::{demo, websocket};
use crate::telemetry::Limit;

/// Pause after a failed accept, which is usually a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where a request comes from.
#[derive(Clone)]
pub struct Origin {
    pub address: IpAddr,
    /// A place among the requests that are no sockets yet, for as long as a clone is held.
    place: Arc<Place>,
}

/// Serves until `shutdown`.
pub async fn serve(node: Arc<Node>, listener: TcpListener, shutdown: CancellationToken) {
    let requests = Requests::new(Arc::clone(&node.metrics));
    let mut is_failing = false;
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = accept(&listener, &requests) => accepted,
        };
        match accepted {
            Ok((stream, origin)) => {
                is_failing = false;
                let node = Arc::clone(&node);
                let shutdown = shutdown.clone();
                tokio::spawn(async move {
                    let place = Arc::clone(&origin.place);
                    tokio::select! {
                        () = answer(node, stream, origin) => {}
                        () = place.gives_way() => {}
                        () = shutdown.cancelled() => {}
                    }
                });
            }
            Err(error) => {
                node.metrics.limit_hit(Limit::OpenFiles);
                if !is_failing {
                    tracing::warn!("cannot accept connections: {error}");
                }
                is_failing = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept(
    listener: &TcpListener,
    requests: &Arc<Requests>,
) -> std::io::Result<(TcpStream, Origin)> {
    let (stream, address) = listener.accept().await?;
    let place = requests.place().await;
    let origin = Origin {
        address: address.ip(),
        place: Arc::new(place.ok_or_else(|| std::io::Error::other("no place will be free"))?),
    };
    Ok((stream, origin))
}

/// Answers the requests of one connection, until it becomes a socket or ends.
async fn answer(node: Arc<Node>, stream: TcpStream, origin: Origin) {
    // Without it a small frame waits for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let metrics = Arc::clone(&node.metrics);
    let service = service_fn(move |request| {
        let (node, origin) = (Arc::clone(&node), origin.clone());
        async move {
            let place = Arc::clone(&origin.place);
            place.expects_gateway();
            let response = respond(node, request, origin).await;
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                place.expects_client();
            }
            Ok::<_, Infallible>(response)
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_SECONDS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    // Any other error is the client's: it left, or sent something that is no HTTP.
    match timeout(REQUESTS_SECONDS_MAX, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) if !error.is_timeout() => {}
        Ok(Err(_)) | Err(_) => metrics.limit_hit(Limit::Handshake),
    }
}

async fn respond(
    node: Arc<Node>,
    request: Request<Incoming>,
    origin: Origin,
) -> Response<Full<Bytes>> {
    match request.uri().path() {
        "/v1/ws" => websocket::open(node, request, origin).await,
        _ if node.is_demo => demo::respond(&node, request).await,
        _ => json_response(
            StatusCode::NOT_FOUND,
            404,
            "not found: sockets are at /v1/ws",
        ),
    }
}
