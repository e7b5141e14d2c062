//! Which path belongs to which adapter, and what every request passes on its way: counting and the drain.
//!
//! Routes are matched on the raw path; adapters decode its segments themselves, strictly. gRPC, TLS and access tokens
//! come as further layers around [`router`]; nothing below needs to know of them.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, Uri};
use axum::middleware;
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, get, on};

use super::problem::{Problem, json};
use super::rule::{Rule, Target};
use super::{bazel, ccache, clean, gradle, keyvalue, metro, module, nx, observe, read, turborepo, upload, xcode};
use crate::core::server::node::NodeContext;
use crate::core::server::probes;

/// What handlers share.
pub type Node = Arc<NodeContext>;

/// How an adapter finds the artifact that a request names.
pub type Naming = fn(&Uri) -> Result<Target, Problem>;

/// The public port: the tools' routes and the probes.
pub fn router(node: Node) -> Router {
    Router::new()
        .merge(xcode::routes())
        .merge(keyvalue::routes())
        .merge(gradle::routes())
        .merge(module::routes())
        .merge(nx::routes())
        .merge(metro::routes())
        .merge(bazel::routes())
        .merge(ccache::routes())
        .merge(turborepo::routes())
        .merge(clean::routes())
        .merge(probes::routes())
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&node), observe::observe))
        // Each route has its own limit, and bodies are never buffered by the framework.
        .layer(DefaultBodyLimit::disable())
        .with_state(node)
}

/// GET, HEAD and PUT of an artifact.
pub fn artifact(rule: Rule, naming: Naming) -> MethodRouter<Node> {
    artifact_by(MethodFilter::PUT, rule, naming)
}

/// GET, HEAD and the given method to store.
pub fn artifact_by(store: MethodFilter, rule: Rule, naming: Naming) -> MethodRouter<Node> {
    readable(rule, naming).on(store, move |State(node): State<Node>, request: Request| async move {
        let (head, body) = request.into_parts();
        match naming(&head.uri) {
            Ok(target) => upload::put(&node, &target, &head.headers, body).await,
            Err(problem) => upload::refuse(&node, &problem, rule, &head.headers, body),
        }
    })
}

/// GET and HEAD of an artifact.
pub fn readable(rule: Rule, naming: Naming) -> MethodRouter<Node> {
    get(move |State(node): State<Node>, request: Request| async move {
        read::get(&node, naming(request.uri()), rule.shape, request.headers()).await
    })
    .merge(on(MethodFilter::HEAD, move |State(node): State<Node>, request: Request| async move {
        read::head(&node, naming(request.uri()), rule.shape, request.headers()).await
    }))
}

async fn unknown_path() -> Response {
    json(StatusCode::NOT_FOUND, "no such route")
}

async fn unknown_method() -> Response {
    json(StatusCode::METHOD_NOT_ALLOWED, "this route does not take that method")
}
