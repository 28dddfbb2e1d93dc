//! `GET /v1/ws`: who is let in, and the upgrade.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::allowance::Metered;
use super::auth::{Auth, Identified, Unauthorised, token_of};
use super::connection::{self, Admitted};
use super::forwarding;
use super::handshake::accept_key;
use super::limits::{
    ADMISSION_SECONDS_MAX, CLOSE_SECONDS_MAX, QUERY_BYTES_MAX, UPGRADE_SECONDS_MAX,
};
use super::linger::linger;
use super::listener::Origin;
use super::membership::Membership;
use super::node::Node;
use super::operations::{self, Peer};
use super::pacer::Turn;
use super::places::Place;
use super::refusal::Refusal;
use crate::event::UserId;
use crate::mailbox::{ConnectionId, MailboxError};
use crate::protocol::{CLIENT_FRAME_BYTES_MAX, CloseCode, Cursor, Position};
use crate::telemetry::Limit;

const DEVICE_CHARACTERS_MAX: usize = 64;
const DEVICE_DEFAULT: &str = "default";
/// The socket's read buffer. The library's default of 128 KiB is kept by every idle socket.
const READ_BUFFER_BYTES: usize = 1024;
/// What may wait in the socket's write buffer: one frame of the largest kind, and its head.
const WRITE_BUFFER_BYTES_MAX: usize = 1024 * 1024;
/// A client's socket.
pub type Socket = WebSocketStream<Metered>;

/// The query parameters of contract §4, without their escapes. Has a token: never log it.
#[derive(Default, Clone, PartialEq, Eq)]
pub struct Parameters {
    pub user: Option<String>,
    pub token: Option<String>,
    pub device: Option<String>,
    pub cursor: Option<String>,
    pub ack: Option<String>,
    pub refuse: Option<String>,
    /// What is wrong with the query as a whole.
    pub fault: Option<&'static str>,
}

impl Parameters {
    /// The first of a repeated parameter counts; unknown ones are ignored.
    pub fn parse(query: &str) -> Parameters {
        let mut parameters = Parameters::default();
        if query.len() > QUERY_BYTES_MAX {
            parameters.fault = Some("the query is longer than 16384 bytes");
        }
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let slot = match decode(name).as_deref().unwrap_or_default() {
                "user" => &mut parameters.user,
                "token" => &mut parameters.token,
                "device" => &mut parameters.device,
                "cursor" => &mut parameters.cursor,
                "ack" => &mut parameters.ack,
                "refuse" => &mut parameters.refuse,
                _ => continue,
            };
            if slot.is_none() {
                *slot = decode(value);
            }
            if slot.is_none() {
                parameters.fault = Some("the query must be UTF-8 where its escapes are undone");
            }
        }
        parameters
    }

    /// True with `ack=auto`.
    ///
    /// # Errors
    ///
    /// What is wrong with the query, as far as nothing else has to be known.
    fn acknowledges_itself(&self) -> Result<bool, Refusal> {
        if let Some(fault) = self.fault {
            return Err(Refusal::bad_request(fault));
        }
        if !matches!(self.refuse.as_deref(), None | Some("close")) {
            return Err(Refusal::bad_request("refuse must be close, or left out"));
        }
        match self.ack.as_deref() {
            None | Some("client") => Ok(false),
            Some("auto") => Ok(true),
            Some(_) => Err(Refusal::bad_request("ack must be client or auto")),
        }
    }
}

/// Undoes the escapes of a query's value (RFC 3986 §2.1, and `+` for a space as forms have it).
/// `None` where that is no UTF-8: a replacement character would make one user of many.
fn decode(value: &str) -> Option<String> {
    let bytes = value.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while let Some(&byte) = bytes.get(index) {
        let digits = bytes.get(index + 1..index + 3).filter(|_| byte == b'%');
        let escaped = digits.and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)
        });
        decoded.push(escaped.unwrap_or(if byte == b'+' { b' ' } else { byte }));
        index += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8(decoded).ok()
}

/// Answers a request for a socket.
pub async fn open(
    node: Arc<Node>,
    mut request: Request<Incoming>,
    origin: Origin,
) -> Response<Full<Bytes>> {
    let accept = match accept_key(&request) {
        Ok(accept) => accept,
        Err(refusal) => {
            let mut response = refusal.response();
            let version = HeaderValue::from_static("13");
            response
                .headers_mut()
                .insert(SEC_WEBSOCKET_VERSION, version);
            return response;
        }
    };
    let query = request.uri().query().unwrap_or_default();
    let parameters = Parameters::parse(query);
    let refuses_by_close = parameters.refuse.as_deref() == Some("close");
    let admitting = admit(&node, request.headers(), parameters, origin.address);
    let admitted = timeout(ADMISSION_SECONDS_MAX, admitting).await;
    let admitted = admitted.unwrap_or_else(|_| {
        node.metrics.limit_hit(Limit::Handshake);
        Err(Refusal::try_later("the node is too busy: try again"))
    });
    let upgrade = hyper::upgrade::on(&mut request);
    match admitted {
        Ok(admitted) => {
            node.connections.spawn(serve(admitted, upgrade));
        }
        Err(refusal) if refuses_by_close => {
            tokio::spawn(refuse(refusal, upgrade, origin));
        }
        Err(refusal) => return refusal.response(),
    }
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

async fn admit(
    node: &Arc<Node>,
    headers: &HeaderMap,
    parameters: Parameters,
    address: IpAddr,
) -> Result<Admitted, Refusal> {
    check_leaving(node)?;
    if node.bus().is_none() || !node.auth.is_ready() {
        return Err(Refusal::try_later("the node is not ready: try again"));
    }
    if !node.origins.allow(headers) {
        let message = "the page's origin is not in CATCHUP_ALLOWED_ORIGINS";
        return Err(Refusal::new(CloseCode::OriginNotAllowed, message));
    }
    let acknowledges_itself = parameters.acknowledges_itself()?;
    let device = device(parameters.device)?;
    let identified = identify(&node.auth, headers, parameters.user, parameters.token).await?;
    let place = take_place(node, address)?;
    let user = identified.user.clone();
    let cursor = position(parameters.cursor.as_deref(), &user, &device);
    let peer = Peer {
        user,
        device,
        id: ConnectionId {
            node: Arc::clone(&node.name),
            incarnation: Arc::clone(&node.incarnation),
            number: node.next_number(),
        },
    };
    take_turn(node).await?;
    // Reachable first, registered second: a forward that comes between waits in the queue.
    let Some((mut membership, inbox)) = Membership::begin(node, &peer) else {
        node.metrics.limit_hit(Limit::UserConnections);
        return Err(Refusal::too_many("the user has too many connections"));
    };
    // Once more: a node that began to leave before it could see this one does not tell it to go.
    check_leaving(node)?;
    membership.note_registering();
    let registered = match operations::register_first(node, &peer, cursor).await {
        Ok(registered) => registered,
        Err(error) => {
            membership.unregister().await;
            return Err(refusal_of(node, &error));
        }
    };
    if let Some(older) = &registered.replaced {
        forwarding::replace(node, &peer, older).await;
    }
    Ok(Admitted {
        node: Arc::clone(node),
        peer,
        identified,
        acknowledges_itself,
        registered,
        inbox,
        membership,
        place,
    })
}

fn check_leaving(node: &Node) -> Result<(), Refusal> {
    match node.leaving.is_cancelled() {
        true => Err(Refusal::try_later("the node goes away: connect to another")),
        false => Ok(()),
    }
}

fn take_place(node: &Node, address: IpAddr) -> Result<Place, Refusal> {
    node.places.take(address).map_err(|limit| {
        node.metrics.limit_hit(limit);
        Refusal::too_many(match limit {
            Limit::AddressConnections => "too many connections from this address",
            _ => "the node has no free place",
        })
    })
}

/// Waits until it is this client's turn.
async fn take_turn(node: &Node) -> Result<(), Refusal> {
    match node.pacer.turn(Instant::now()) {
        Turn::At(at) => {
            sleep_until(at).await;
            Ok(())
        }
        Turn::Refused(delay) => {
            node.metrics.limit_hit(Limit::AcceptRate);
            let message = "too many clients connect at this moment: come back later";
            Err(Refusal::try_after(delay, message))
        }
    }
}

fn device(given: Option<String>) -> Result<Arc<str>, Refusal> {
    let device = given.unwrap_or_else(|| DEVICE_DEFAULT.to_owned());
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=DEVICE_CHARACTERS_MAX).contains(&device.len()) && device.bytes().all(is_allowed) {
        return Ok(device.into());
    }
    Err(Refusal::bad_request(
        "device must be 1 to 64 of the characters A-Z a-z 0-9 . _ -",
    ))
}

async fn identify(
    auth: &Auth,
    headers: &HeaderMap,
    user: Option<String>,
    token: Option<String>,
) -> Result<Identified, Refusal> {
    match auth {
        Auth::None => {
            let user = user.ok_or_else(|| {
                Refusal::new(CloseCode::Unauthorised, "say who you are: ?user=USER")
            })?;
            let user =
                UserId::parse(&user).map_err(|error| Refusal::bad_request(error.to_string()))?;
            Ok(Identified {
                user,
                expires: None,
            })
        }
        Auth::Jwt(_) | Auth::Jwks(_) => {
            let token = token_of(headers, token.as_deref()).ok_or(Unauthorised::Missing)?;
            Ok(auth.check(token).await?)
        }
    }
}

/// The client's cursor; anything else than one of this user and device is ignored (contract §4).
fn position(cursor: Option<&str>, user: &UserId, device: &str) -> Option<Position> {
    let cursor = Cursor::decode(cursor?).ok()?;
    cursor
        .belongs_to(user.as_str(), device)
        .then_some(cursor.position)
}

fn refusal_of(node: &Node, error: &MailboxError) -> Refusal {
    match error {
        MailboxError::TooManyDevices => {
            node.metrics.limit_hit(Limit::Devices);
            Refusal::too_many("16 devices of the user are connected")
        }
        error => {
            tracing::debug!("a connection could not be registered: {error}");
            Refusal::try_later("the store does not answer: try again")
        }
    }
}

/// A task of its own runs the connection: this one has held much that is not needed any more.
async fn serve(admitted: Admitted, upgrade: OnUpgrade) {
    match timeout(UPGRADE_SECONDS_MAX, upgraded(upgrade)).await {
        Ok(Some(socket)) => {
            let connections = admitted.node.connections.clone();
            connections.spawn(connection::run(admitted, socket));
        }
        Ok(None) => {}
        Err(_) => admitted.node.metrics.limit_hit(Limit::Handshake),
    }
}

/// Says by a close what an HTTP answer would say. Keeps its place among the requests meanwhile.
async fn refuse(refusal: Refusal, upgrade: OnUpgrade, _origin: Origin) {
    let until = Instant::now() + CLOSE_SECONDS_MAX;
    let close = async {
        let mut socket = upgraded(upgrade).await?;
        if let Some(frame) = refusal.last_frame() {
            socket.send(Message::text(frame.encode())).await.ok()?;
        }
        let frame = CloseFrame {
            code: refusal.code.code().into(),
            reason: refusal.message.into(),
        };
        socket.send(Message::Close(Some(frame))).await.ok()?;
        // The client's answer, so that its socket sees the code and not a reset.
        while let Some(Ok(_)) = socket.next().await {}
        linger(socket, until).await;
        Some(())
    };
    let _ = timeout_at(until, close).await;
}

/// The plain socket below the HTTP connection, with what the client already sent on it.
async fn upgraded(upgrade: OnUpgrade) -> Option<Socket> {
    let upgraded: Upgraded = upgrade.await.ok()?;
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().ok()?;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .max_message_size(Some(CLIENT_FRAME_BYTES_MAX))
        .max_frame_size(Some(CLIENT_FRAME_BYTES_MAX));
    let socket = WebSocketStream::from_partially_read(
        Metered::new(parts.io.into_inner()),
        parts.read_buf.to_vec(),
        Role::Server,
        Some(config),
    );
    Some(socket.await)
}
