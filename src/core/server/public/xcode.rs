//! Xcode's content-addressed store: `POST` and `GET /api/cache/cas/{id}`, write-once.

use axum::Router;
use axum::http::{StatusCode, Uri};
use axum::routing::MethodFilter;

use super::problem::Problem;
use super::request::{Query, last_segment, tuist_namespace};
use super::router::{Node, artifact_by};
use super::rule::{Rule, Target};
use crate::core::server::metrics::Producer;

/// Both a new and an existing blob answer 204; at most 256 MiB.
const RULE: Rule = Rule {
    length_max: 256 << 20,
    created: StatusCode::NO_CONTENT,
    existing: StatusCode::NO_CONTENT,
    ..Rule::new(Producer::Xcode)
};

pub(super) fn routes() -> Router<Node> {
    Router::new().route("/api/cache/cas/{id}", artifact_by(MethodFilter::POST, RULE, target))
}

fn target(uri: &Uri) -> Result<Target, Problem> {
    let namespace = tuist_namespace(&Query::parse(uri.query())?)?;
    RULE.target(namespace, format!("blob/{}", last_segment(uri.path())?))
}
