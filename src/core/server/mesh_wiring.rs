//! Where the mesh is plugged into a running node: the internal plane's router and the workers behind it.

use std::sync::Arc;

use axum::Router;
use tokio_util::task::TaskTracker;

use super::node::NodeContext;
use super::public::problem::json;
use crate::core::bootstrap::follow::{self, Follower};

/// The routes of the internal listener.
pub fn internal_router(node: &Arc<NodeContext>) -> Router {
    let _ = node;
    Router::new().fallback(async || json(axum::http::StatusCode::NOT_FOUND, "no such route"))
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
