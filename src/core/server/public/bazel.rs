//! Bazel's HTTP cache: `/ac/{hash}` and `/cas/{hash}`, at the root or under `/bazel/{instance…}/`.
//!
//! An action-cache entry may be any bytes, and its last writer wins; Bazel writes the same entry again after a blob was
//! lost. One that reads as an action result is a hit only if its blobs can be had, see [`super::closure`].
//! A CAS blob must have the SHA-256 that names it. The empty blob is like any other: Bazel neither sends nor asks for
//! it, other clients may do both.

use std::time::Duration;

use axum::Router;
use axum::http::Uri;

use super::problem::Problem;
use super::request::segments;
use super::router::{Node, artifact};
use super::rule::{Rule, Target};
use crate::core::base::ids::Sha256Digest;
use crate::core::server::metrics::Producer;
use crate::core::store::committer::PutMode;
use crate::core::store::record::Kind;

/// Bazel gives up after 60 s, and runs an action itself whose answer is an error: half of that is what an action is worth.
const CAS: Rule = Rule { patience: Duration::from_secs(30), ..Rule::new(Producer::Bazel) };
const ACTION: Rule =
    Rule { kind: Kind::Action, mode: PutMode::LastWriterWins, length_max: 64 << 20, names_blobs: true, ..CAS };

pub(super) fn routes() -> Router<Node> {
    Router::new()
        .route("/ac/{hash}", artifact(ACTION, root_target))
        .route("/cas/{hash}", artifact(CAS, root_target))
        .route("/bazel/{*entry}", artifact(CAS, instance_target))
}

fn root_target(uri: &Uri) -> Result<Target, Problem> {
    target(&segments(uri.path(), "/")?)
}

fn instance_target(uri: &Uri) -> Result<Target, Problem> {
    target(&segments(uri.path(), "/bazel/")?)
}

fn target(segments: &[String]) -> Result<Target, Problem> {
    let malformed = || Problem::bad_request("expected [{instance}/]ac/{hash} or [{instance}/]cas/{hash}");
    let [instance @ .., store, hash] = segments else { return Err(malformed()) };
    let digest: Sha256Digest =
        hash.parse().map_err(|_| Problem::bad_request("the hash must be a SHA-256 in 64 lower-case hex digits"))?;
    let (rule, sha256) = match store.as_str() {
        "ac" => (ACTION, None),
        "cas" => (CAS, Some(digest)),
        _ => return Err(malformed()),
    };
    let mut target = rule.target(instance.join("/"), format!("{store}/{hash}"))?;
    target.sha256 = sha256;
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_may_have_several_segments_or_none() {
        let hash = "a".repeat(64);
        let name = |path: String| instance_target(&path.parse().unwrap()).map(|target| target.name.namespace);
        assert_eq!(name(format!("/bazel/ac/{hash}")).unwrap(), "");
        assert_eq!(name(format!("/bazel/team/app/cas/{hash}")).unwrap(), "team/app");
        assert!(name(format!("/bazel/team/blobs/{hash}")).is_err());
        assert!(name(format!("/bazel/{hash}")).is_err());
        assert!(name(format!("/bazel/ac/{}", "A".repeat(64))).is_err());
    }

    #[test]
    fn only_cas_blobs_are_bound_to_their_hash() {
        let hash = "0".repeat(64);
        let target = |path: String| root_target(&path.parse().unwrap()).unwrap();
        assert_eq!(target(format!("/cas/{hash}")).sha256, Some(Sha256Digest([0; 32])));
        let action = target(format!("/ac/{hash}"));
        assert_eq!((action.sha256, action.name.key), (None, format!("ac/{hash}")));
        assert_eq!(action.rule.mode, PutMode::LastWriterWins);
    }
}
