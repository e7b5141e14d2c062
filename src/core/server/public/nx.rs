//! Nx's self-hosted remote cache: `GET` and `PUT /v1/cache/{hash}`, write-once.
//!
//! Nx fails the user's build on any GET answer but 200 and 404, on any PUT answer but 200, 403 and 409, and on a cut
//! connection, so an unwanted body is read to its end. See [`Shape::Nx`]. Its hashes are decimal; none is refused.

use std::time::Duration;

use axum::Router;
use axum::http::Uri;

use super::problem::{Problem, Shape};
use super::request::last_segment;
use super::router::{Node, artifact};
use super::rule::{Rule, Target};
use crate::core::base::limits::BODY_BYTES_MAX;
use crate::core::server::metrics::Producer;

/// Nothing but a miss can be said once its patience ends.
const RULE: Rule = Rule {
    shape: Shape::Nx,
    discard_max: BODY_BYTES_MAX,
    patience: Duration::from_secs(20),
    ..Rule::new(Producer::Nx)
};

pub(super) fn routes() -> Router<Node> {
    Router::new().route("/v1/cache/{hash}", artifact(RULE, target))
}

fn target(uri: &Uri) -> Result<Target, Problem> {
    RULE.target("nx", last_segment(uri.path())?)
}
