//! `DELETE /api/cache/clean`: deletes a namespace, acknowledged once its tombstone is durable. Peers learn of it from
//! the log. A clean without a namespace deletes the tenant-wide one and no other.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::delete;

use super::problem::{Direction, Problem, Shape};
use super::request::{Query, tuist_namespace};
use super::router::Node;
use crate::core::base::limits::NAMESPACE_BYTES_MAX;
use crate::core::store::committer::{CommitOutcome, Operation};

pub(super) fn routes() -> Router<Node> {
    Router::new().route("/api/cache/clean", delete(clean))
}

async fn clean(State(node): State<Node>, request: Request) -> Response {
    match try_clean(&node, request.uri().query()).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(problem) => problem.respond(Shape::Json, Direction::Write),
    }
}

async fn try_clean(node: &Node, query: Option<&str>) -> Result<(), Problem> {
    let namespace = tuist_namespace(&Query::parse(query)?)?;
    if namespace.len() > NAMESPACE_BYTES_MAX || namespace.contains('\0') {
        return Err(Problem::bad_request(format!(
            "a namespace has at most {NAMESPACE_BYTES_MAX} bytes, none of them zero"
        )));
    }
    match node.store.commit(Operation::DeleteNamespace { namespace, version_ms: None }).await? {
        CommitOutcome::Deleted { .. } | CommitOutcome::DeleteIgnored => Ok(()),
        other => Err(Problem::Internal(format!("a clean came to {other:?}"))),
    }
}
