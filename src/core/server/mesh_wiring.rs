//! Where the mesh is plugged into a running node: the internal plane's router and the workers behind it.

use std::sync::Arc;

use axum::Router;
use tokio_util::task::TaskTracker;

use super::internal::context::InternalContext;
use super::internal::router::router;
use super::node::NodeContext;
use crate::core::bootstrap::follow::{self, Follower};

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
        shutdown: node.shutdown.clone(),
    }))
}

/// Starts discovery and the workers that follow from it; each ends with the node's shutdown token.
pub fn start(node: &Arc<NodeContext>, workers: &TaskTracker) {
    let follower = Follower {
        engine: node.engine.clone(),
        readiness: node.readiness.clone(),
        members: node.membership.watch(),
        passes_max: node.config.bootstrap_max_concurrent_peers,
    };
    workers.spawn(follow::run(follower, node.shutdown.clone()));
    let (membership, shutdown) = (Arc::clone(&node.membership), node.shutdown.clone());
    workers.spawn(async move { membership.run(&shutdown).await });
}
