//! A gateway node: clients' sockets, and what workers forward to them.
//!
//! `listener` accepts, `websocket` lets in and upgrades, `connection` runs one socket with the
//! session machine, `registry` knows who is here, `forwarding` hands on what workers send,
//! `broadcasts` follows the events for everyone into the `ring`, `presence` keeps the node's lease
//! and the set of its users.

mod allowance;
mod auth;
mod broadcasts;
mod connection;
mod demo;
mod forwarding;
mod listener;
mod node;
mod operations;
mod outbox;
mod presence;
mod refusal;
mod registry;
mod ring;
mod store_clock;
mod websocket;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use auth::{AllowedOrigins, Auth, InvalidKey};

use crate::bus::{BusConfig, BusError};
use crate::mailbox::{ConfigError, Store, StoreConfig};
use crate::telemetry::{Health, Metrics};
use node::{Node, Parts};
use presence::PresenceError;
use registry::Signal;

/// How long the sockets may take to be told and to go when the node leaves.
const LEAVE_SECONDS_MAX: Duration = Duration::from_secs(8);
/// The progress that `/healthz` wants to see is noted this often.
const BEAT: Duration = Duration::from_secs(1);

/// What a gateway is told.
pub struct GatewayConfig {
    pub bus: BusConfig,
    pub store: StoreConfig,
    /// `[A-Za-z0-9_-]{1,64}`.
    pub node: String,
    pub auth: Auth,
    pub origins: AllowedOrigins,
    /// Serves the demo page at `/` and its publish endpoint. Only for `catchup dev`.
    pub demo: bool,
}

/// Why a gateway ended.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error(transparent)]
    Store(#[from] ConfigError),
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Presence(#[from] PresenceError),
}

/// Serves clients on `listener` until `shutdown`; then tells them to go elsewhere.
///
/// Requests are answered from the first moment: 503 until NATS, the store and the lease are
/// there, so that a load balancer sees a node that starts and not one that hangs.
pub async fn run(
    config: GatewayConfig,
    listener: TcpListener,
    metrics: Arc<Metrics>,
    health: Health,
    shutdown: CancellationToken,
) -> Result<(), GatewayError> {
    health.set("bus", Err("not connected yet".to_owned()));
    health.set("store", Err("not connected yet".to_owned()));
    let (message_ttl, cap) = (config.store.ttl, config.store.cap);
    let store = Store::open(config.store, Arc::clone(&metrics))?;
    let node = Arc::new(Node::new(Parts {
        name: config.node,
        store,
        metrics,
        health,
        auth: config.auth,
        origins: config.origins,
        is_demo: config.demo,
        message_ttl,
        cap,
    }));
    // Ends the listener and the tasks below when this function returns.
    let ended = CancellationToken::new();
    let _guard = ended.clone().drop_guard();
    tokio::spawn(listener::serve(Arc::clone(&node), listener, ended.clone()));
    tokio::spawn(beat(Arc::clone(&node), ended.clone()));

    let result = tokio::select! {
        result = serve(&node, &config.bus, &ended) => result,
        () = shutdown.cancelled() => Ok(()),
    };
    node.health.drain();
    node.leaving.cancel();
    let signal = match &result {
        Ok(()) => Signal::Leave,
        Err(_) => Signal::NameTaken,
    };
    leave(&node, signal).await;
    if result.is_ok() {
        presence::end(&node).await;
    }
    result
}

/// Everything a node does besides answering requests. Ends only with an error.
async fn serve(
    node: &Arc<Node>,
    bus: &BusConfig,
    ended: &CancellationToken,
) -> Result<(), GatewayError> {
    // The subscription before the lease: once a worker may take this process for alive, forwards
    // to it arrive. Requests are let in once there is a bus, so the lease comes before that.
    let subscription = forwarding::subscribe(node, bus, ended).await?;
    let epoch = presence::begin(node).await?;
    let (loaded, mut is_loaded) = watch::channel(false);
    let follow = broadcasts::follow(Arc::clone(node), bus.clone(), loaded, ended.clone());
    let mut follow = std::pin::pin!(follow);
    // A device that comes back before its ring is there would be told that all is well.
    tokio::select! {
        result = &mut follow => return Ok(result?),
        _ = is_loaded.wait_for(|is_loaded| *is_loaded) => {}
    }
    node.set_bus(Some(subscription.bus()));
    tracing::info!(
        node = &*node.name,
        incarnation = &*node.incarnation,
        "the gateway serves"
    );
    let forwards = forwarding::run(Arc::clone(node), subscription, bus.clone(), ended.clone());
    tokio::select! {
        result = forwards => Ok(result?),
        result = follow => Ok(result?),
        error = presence::keep(Arc::clone(node), epoch) => Err(error.into()),
    }
}

/// Tells every socket to go, and waits for them.
async fn leave(node: &Node, signal: Signal) {
    for handle in node.registry.handles() {
        handle.signal(signal);
    }
    node.connections.close();
    let gone = tokio::time::timeout(LEAVE_SECONDS_MAX, node.connections.wait()).await;
    if gone.is_err() {
        let left = node.connections.len();
        tracing::warn!("{left} sockets did not go in time; their messages wait for them");
    }
}

async fn beat(node: Arc<Node>, ended: CancellationToken) {
    while !ended.is_cancelled() {
        node.health.beat();
        tokio::time::sleep(BEAT).await;
    }
}
