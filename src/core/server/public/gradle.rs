//! Gradle's build cache, in the form of the Tuist plugin (`/api/cache/gradle/{key}`) and of stock Gradle's
//! `HttpBuildCache` (`/gradle/[{namespace}/]{key}`).
//!
//! Stock Gradle drops the query of its base URL, so there the namespace stands in the path. It switches its remote
//! cache off for the whole build on any error, and it sends a body to its end before it reads the answer: a body that
//! is here already is therefore read to its end, however long.

use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, Uri};

use super::problem::{Problem, Shape};
use super::request::{Query, last_segment, segments, tuist_namespace};
use super::router::{Node, artifact};
use super::rule::{Rule, Target};
use crate::core::base::limits::BODY_BYTES_MAX;
use crate::core::server::metrics::Producer;

/// 201 for a new entry, 200 for one that was there.
const RULE: Rule = Rule {
    created: StatusCode::CREATED,
    existing: StatusCode::OK,
    shape: Shape::HonestMiss,
    discard_max: BODY_BYTES_MAX,
    // It gives up after 30 s, and leaves the cache alone for the rest of the build, as after any error.
    patience: Duration::from_secs(25),
    ..Rule::new(Producer::Gradle)
};

pub(super) fn routes() -> Router<Node> {
    Router::new()
        .route("/api/cache/gradle/{key}", artifact(RULE, plugin_target))
        .route("/gradle/{*entry}", artifact(RULE, stock_target))
}

fn plugin_target(uri: &Uri) -> Result<Target, Problem> {
    let namespace = tuist_namespace(&Query::parse(uri.query())?)?;
    RULE.target(namespace, last_segment(uri.path())?)
}

fn stock_target(uri: &Uri) -> Result<Target, Problem> {
    match segments(uri.path(), "/gradle/")?.as_slice() {
        [key] => RULE.target("", key),
        [namespace, key] => RULE.target(namespace, key),
        _ => Err(Problem::bad_request("expected /gradle/{key} or /gradle/{namespace}/{key}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespace_of_stock_gradle_is_the_optional_first_segment() {
        let name =
            |path: &str| stock_target(&path.parse().unwrap()).map(|target| (target.name.namespace, target.name.key));
        assert_eq!(name("/gradle/abc").unwrap(), (String::new(), "abc".to_owned()));
        assert_eq!(name("/gradle/team/abc?x=1").unwrap(), ("team".to_owned(), "abc".to_owned()));
        assert!(name("/gradle/a/b/c").is_err());
    }
}
