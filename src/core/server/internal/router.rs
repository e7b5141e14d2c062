//! The routes of the internal plane, and the status.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{delete, get, post, put};
use http::StatusCode;

use super::context::InternalContext;
use super::reply::{Refused, json};
use super::{artifact, bulk, explain, feed, holdings, listing, replicate};
use crate::core::base::limits::{BODY_BYTES_MAX, PEER_PAGE_BYTES_MAX};
use crate::core::mesh::bulk_frames::BULK_REQUEST_BYTES_MAX;
use crate::core::mesh::wire::{
    FEATURES, KuraStatus, PROTOCOL_MAX, PROTOCOL_MIN, PeerLimits, ProtocolRange, STORE_ID_HEADER, StatusReply,
};

/// What handlers share.
pub(super) type Shared = State<Arc<InternalContext>>;

/// The internal plane of a node.
pub fn router(context: Arc<InternalContext>) -> Router {
    Router::new()
        .route("/_internal/status", get(status))
        .route("/_internal/feed", get(feed::feed))
        .route("/_internal/digest", get(feed::digest))
        .route("/_internal/holdings", get(holdings::holdings))
        .route("/_internal/bulk", post(bulk::bulk).layer(DefaultBodyLimit::max(BULK_REQUEST_BYTES_MAX)))
        .route("/_internal/explain/{id}", get(explain::get))
        .route("/_internal/bootstrap/manifests", get(listing::manifests))
        .route("/_internal/bootstrap/digest", get(listing::digest))
        .route("/_internal/bootstrap/namespace_tombstones", get(listing::tombstones))
        .route("/_internal/bootstrap/artifacts/{id}", get(artifact::get))
        .route("/_internal/replicate/artifact", put(replicate::artifact))
        .route("/_internal/replicate/namespace", delete(replicate::namespace))
        .fallback(async || {
            let message = "no such route".to_owned();
            Response::from(Refused { status: StatusCode::NOT_FOUND, code: "no_such_route", message })
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&context), note_sender))
        .with_state(context)
}

/// A request from another store shows that it can reach this node.
async fn note_sender(State(context): Shared, request: Request, next: Next) -> Response {
    let sender = request.headers().get(STORE_ID_HEADER).and_then(|value| value.to_str().ok());
    if let Some(store_id) = sender.and_then(|text| text.parse().ok()) {
        context.membership.note_inbound(store_id);
    }
    next.run(request).await
}

/// Answers from memory, whether or not a store is open.
async fn status(State(context): Shared) -> Response {
    let stats = context.store.current().map(|store| store.stats());
    let readiness = context.readiness.snapshot();
    let kura = KuraStatus {
        store_id: stats.as_ref().map(|stats| stats.store_id),
        instance_id: context.instance_id,
        epoch: stats.as_ref().map(|stats| stats.epoch),
        head_seq: stats.as_ref().map(|stats| stats.head_seq),
        protocol: ProtocolRange { min: PROTOCOL_MIN, max: PROTOCOL_MAX },
        features: FEATURES.map(str::to_owned).to_vec(),
        limits: PeerLimits {
            page_bytes_max: PEER_PAGE_BYTES_MAX,
            page_rows_max: listing::PAGE_ROWS_MAX as u64,
            body_bytes_max: BODY_BYTES_MAX,
        },
        now_ms: context.clock.now_ms(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state: readiness.state,
        complete: readiness.complete,
        evicted_floor_ms: stats.as_ref().map_or(0, |stats| stats.evicted_floor_ms),
        artifacts: stats.as_ref().map_or(0, |stats| stats.artifacts),
        body_bytes: stats.as_ref().map_or(0, |stats| stats.body_bytes),
        seen_inbound: context.membership.seen_inbound(),
    };
    let reply = StatusReply {
        region: context.config.region.clone(),
        tenant_id: context.config.tenant_id.clone(),
        node_url: context.config.node_url.clone(),
        kura: Some(kura),
    };
    json(StatusCode::OK, &reply)
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
