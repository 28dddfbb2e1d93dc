//! A gateway node: clients' sockets, and what workers forward to them.
//!
//! `listener` accepts, `websocket` lets in and upgrades, `connection` runs one socket with the
//! session machine, `registry` knows who is here, `forwarding` hands on what workers send,
//! `broadcasts` follows the events for everyone into the `ring`, `presence` keeps the node's lease
//! and the set of its users, `store_watch` sees whether the store lost anything,
//! `drain` tells the sockets to go when the node leaves. Every limit
//! stands in `limits`.

mod allowance;
mod auth;
mod broadcasts;
mod chance;
mod connection;
mod demo;
mod drain;
mod forwarding;
mod handshake;
mod limits;
mod linger;
mod listener;
mod mark;
mod membership;
mod node;
mod operations;
mod outbox;
mod pacer;
mod places;
mod presence;
mod reconcile;
mod refusal;
mod registry;
mod requests;
mod ring;
mod store_clock;
mod store_watch;
mod websocket;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use auth::{AllowedOrigins, Auth, InvalidKey, InvalidKeySet, InvalidUrl, KEYS_MAX, KeySet};
pub use limits::GatewayLimits;
pub use websocket::Parameters;

use crate::bus::{BusConfig, BusError};
use crate::mailbox::{ConfigError, Store, StoreConfig};
use crate::telemetry::{Health, Metrics};
use node::{Node, Parts};
use presence::PresenceError;
use registry::Signal;

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
    pub limits: GatewayLimits,
    /// Over how long the reconnects of its clients are spread when it leaves.
    pub drain: Duration,
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
        limits: config.limits,
    }));
    // Ends the listener and the tasks below when this function returns.
    let ended = CancellationToken::new();
    let _guard = ended.clone().drop_guard();
    tokio::spawn(listener::serve(Arc::clone(&node), listener, ended.clone()));
    tokio::spawn(beat(Arc::clone(&node), ended.clone()));
    if let Auth::Jwks(source) = &node.auth {
        let keep = Arc::clone(source).keep(node.health.clone(), Arc::clone(&node.metrics));
        tokio::spawn(ended.clone().run_until_cancelled_owned(keep));
    }

    let serving = serve(&node, &config.bus, &ended);
    tokio::pin!(serving);
    let result = tokio::select! {
        result = &mut serving => result,
        () = shutdown.cancelled() => {
            begin_to_leave(&node);
            // Those who are not told yet are served, and the lease is kept.
            tokio::select! {
                result = &mut serving => result,
                () = drain::leave(&node, Signal::Leave, config.drain) => Ok(()),
            }
        }
    };
    begin_to_leave(&node);
    match &result {
        Ok(()) => presence::end(&node).await,
        Err(_) => drain::leave(&node, Signal::NameTaken, Duration::ZERO).await,
    }
    result
}

/// From here on the node is not ready, and lets nobody in.
fn begin_to_leave(node: &Node) {
    node.health.drain();
    node.leaving.cancel();
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
    let seen = store_watch::begin(node, &subscription.bus()).await?;
    let watch = store_watch::keep(Arc::clone(node), seen);
    tokio::spawn(ended.clone().run_until_cancelled_owned(watch));
    let epochs = presence::begin(node).await?;
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
        error = presence::keep(Arc::clone(node), epochs) => Err(error.into()),
        () = reconcile::run(node) => Ok(()),
    }
}

async fn beat(node: Arc<Node>, ended: CancellationToken) {
    while !ended.is_cancelled() {
        node.health.beat();
        tokio::time::sleep(BEAT).await;
    }
}
