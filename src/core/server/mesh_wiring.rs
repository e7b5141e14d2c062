//! Where the mesh is plugged into a running node: the internal plane's router and the workers behind it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio_util::task::TaskTracker;

use super::internal::context::InternalContext;
use super::internal::router::router;
use super::internal::slots::Slots;
use super::node::NodeContext;
use crate::core::bootstrap::follow::{self, Follower};
use crate::core::mesh::readiness::ReadinessSnapshot;

/// How often a joining node looks whether it is ready; it only dates the end of a step.
const JOINING_LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The routes of the internal listener.
pub fn internal_router(node: &Arc<NodeContext>) -> Router {
    router(Arc::new(InternalContext {
        config: Arc::clone(&node.config),
        instance_id: node.instance_id,
        store: node.store.clone(),
        staging: node.staging.clone(),
        readiness: node.readiness.clone(),
        membership: Arc::clone(&node.membership),
        metrics: node.engine.metrics.clone(),
        clock: Arc::clone(&node.seams.clock),
        executor: Arc::clone(&node.seams.executor),
        bulk: Slots::for_bulk(),
        bodies: Slots::for_bodies(),
        shutdown: node.shutdown.clone(),
    }))
}

/// Starts discovery and the workers that follow from it; each ends with the node's shutdown token.
pub fn start(node: &Arc<NodeContext>, workers: &TaskTracker) {
    start_discovery(node, workers);
    start_following(node, workers);
}

/// Looks for peers. Needs no open store: until it is, they answer what is read here.
pub fn start_discovery(node: &Arc<NodeContext>, workers: &TaskTracker) {
    let (membership, shutdown) = (Arc::clone(&node.membership), node.shutdown.clone());
    workers.spawn(async move { membership.run(&shutdown).await });
}

/// Catches up from the peers and follows them, into the open store.
pub fn start_following(node: &Arc<NodeContext>, workers: &TaskTracker) {
    let follower = Follower {
        engine: node.engine.clone(),
        readiness: node.readiness.clone(),
        members: node.membership.watch(),
        passes_max: node.config.bootstrap_max_concurrent_peers,
    };
    workers.spawn(follow::run(follower, node.shutdown.clone()));
    workers.spawn(watch_joining(Arc::clone(node)));
}

/// The last two steps of start-up, which go on behind the running node: they end when readiness says so.
async fn watch_joining(node: Arc<NodeContext>) {
    let joined = async {
        let discovered = until(&node, |now| now.initial_discovery_completed);
        node.startup.step("discover_peers", discovered).await?;
        node.startup.step("catch_up", until(&node, |now| now.ready)).await
    };
    tokio::select! {
        biased;
        _ = joined => {}
        () = node.shutdown.cancelled() => {}
    }
}

async fn until(node: &NodeContext, holds: impl Fn(&ReadinessSnapshot) -> bool) -> Result<(), Infallible> {
    while !holds(&node.readiness.snapshot()) {
        tokio::time::sleep(JOINING_LOOK_INTERVAL).await;
    }
    Ok(())
}
