//! Metro's `HttpStore`: `GET` and `PUT /api/metro/cache/{key}`, write-once. It uploads without a length.

use std::time::Duration;

use axum::Router;
use axum::http::Uri;

use super::problem::Problem;
use super::request::last_segment;
use super::router::{Node, artifact};
use super::rule::{Rule, Target};
use crate::core::server::metrics::Producer;

/// It gives up after 5 s.
const RULE: Rule = Rule { patience: Duration::from_secs(4), ..Rule::new(Producer::Metro) };

pub(super) fn routes() -> Router<Node> {
    Router::new().route("/api/metro/cache/{key}", artifact(RULE, target))
}

fn target(uri: &Uri) -> Result<Target, Problem> {
    RULE.target("metro", last_segment(uri.path())?)
}
