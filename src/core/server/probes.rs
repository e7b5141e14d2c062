//! The probes: `/up`, `/ready`, `/status/rollout` and `/metrics`, on the public port and never gated.
//!
//! How it works: everything comes from values in memory: the readiness snapshot, the drain's count, O(1) figures of
//! the store. They answer before the store is open and while the disk hangs.
//!
//! Invariant: the keys of the seed era keep their names and types, since gate scripts read them by text; kura's own
//! keys stand beside them.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::public::router::Node;
use crate::core::mesh::readiness::ReadinessSnapshot;

const UP: &str = "/up";
const READY: &str = "/ready";
const ROLLOUT: &str = "/status/rollout";
const METRICS: &str = "/metrics";

/// The probes' routes.
pub fn routes() -> Router<Node> {
    Router::new().route(UP, get(up)).route(READY, get(ready)).route(ROLLOUT, get(rollout)).route(METRICS, get(metrics))
}

/// Whether a path is one of the probes.
pub fn is_probe(path: &str) -> bool {
    [UP, READY, ROLLOUT, METRICS].contains(&path)
}

async fn up(State(node): State<Node>) -> Json<Value> {
    let snapshot = node.readiness.snapshot();
    let config = &node.config;
    let mut members = snapshot.known_peers.clone();
    members.push(config.node_url.clone());
    members.sort();
    let mut regions: Vec<&str> = snapshot.peers.iter().filter_map(|peer| peer.region.as_deref()).collect();
    regions.push(&config.region);
    regions.sort_unstable();
    regions.dedup();
    Json(json!({
        "status": "ok",
        "generation": snapshot.generation,
        "tenant_id": config.tenant_id,
        "region": config.region,
        "node": config.region,
        "node_url": config.node_url,
        "connected_nodes": snapshot.known_peers,
        "ring_members": ring_members(&snapshot),
        "members": members,
        "nodes": members,
        "regions": regions,
        "version": env!("CARGO_PKG_VERSION"),
    }))
}

async fn ready(State(node): State<Node>) -> Response {
    let snapshot = node.readiness.snapshot();
    let status = if snapshot.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "status": if snapshot.ready { "ok" } else { "not_ready" },
        "generation": snapshot.generation,
        "state": snapshot.state,
        "ready": snapshot.ready,
        "draining": snapshot.draining,
        "writer_lock_owned": snapshot.writer_lock_owned,
        "initial_discovery_completed": snapshot.initial_discovery_completed,
        "known_peers": snapshot.known_peers,
        "bootstrapped_peers": snapshot.bootstrapped_peers,
        "bootstrap_inflight_peers": snapshot.bootstrap_inflight_peers,
        "http_inflight_requests": node.drain.inflight(),
        "grpc_inflight_requests": 0,
        "reasons": snapshot.reasons,
        "gates": snapshot.gates,
        "readiness": snapshot.readiness,
        "complete": snapshot.complete,
        "store_open": snapshot.store_open,
        "peers": snapshot.peers,
        "startup": node.startup.steps(),
    });
    (status, Json(body)).into_response()
}

async fn rollout(State(node): State<Node>) -> Json<Value> {
    let snapshot = node.readiness.snapshot();
    Json(json!({
        "generation": snapshot.generation,
        "ready": snapshot.ready,
        "state": snapshot.state,
        "ring_members": ring_members(&snapshot),
        "initial_discovery_completed": snapshot.initial_discovery_completed,
        "writer_lock_owned": snapshot.writer_lock_owned,
        "bootstrap_known_peers": snapshot.known_peers.len(),
        "bootstrap_completed_peers": snapshot.bootstrapped_peers.len(),
        "bootstrap_inflight_peers": snapshot.bootstrap_inflight_peers.len(),
        "http_inflight_requests": node.drain.inflight(),
        "grpc_inflight_requests": 0,
        // There is no outbox, and neither memory nor descriptors are sampled yet: the seed era's keys stay at rest.
        "outbox_messages": 0,
        "memory_pressure_state": 0,
        "fd_timeout_count": 0,
        "readiness": snapshot.readiness,
        // A gate script compares these between two looks: what moves is under way, whatever its level.
        "progress": snapshot.progress(),
        "reasons": snapshot.reasons,
    }))
}

async fn metrics(State(node): State<Node>) -> Response {
    refresh_gauges(&node);
    match node.metrics.encode() {
        Ok(text) => {
            let content_type = HeaderValue::from_static("text/plain; version=0.0.4");
            ([(header::CONTENT_TYPE, content_type)], text).into_response()
        }
        Err(error) => super::public::problem::json(
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!("failed to encode metrics: {error}"),
        ),
    }
}

/// Gauges that mirror a state are set when somebody looks.
fn refresh_gauges(node: &Node) {
    node.live_metrics.observe(node, &node.readiness.snapshot());
    node.server_metrics.process.refresh();
    if let Some(status) = node.space.status() {
        node.server_metrics.space.observe(&status);
    }
}

fn ring_members(snapshot: &ReadinessSnapshot) -> usize {
    snapshot.known_peers.len().saturating_add(1)
}
