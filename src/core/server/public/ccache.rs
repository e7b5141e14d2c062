//! ccache's HTTP storage under `/ccache/[{namespace}/]`, in its three layouts: `subdirs` (`{2}/{31}`), `flat`
//! (`{33}`) and `bazel` (`ac/{64}`).
//!
//! The first two spell the same key and share it here. ccache rewrites manifests under one key, so the last writer
//! wins. It drops its remote for a call on any error but a miss.

use std::time::Duration;

use axum::Router;
use axum::http::Uri;

use super::problem::{Problem, Shape};
use super::request::segments;
use super::router::{Node, artifact};
use super::rule::{Rule, Target};
use crate::core::server::metrics::Producer;
use crate::core::store::committer::PutMode;

/// It gives up after 10 s.
const RULE: Rule = Rule {
    mode: PutMode::LastWriterWins,
    shape: Shape::HonestMiss,
    patience: Duration::from_secs(8),
    ..Rule::new(Producer::Ccache)
};

pub(super) fn routes() -> Router<Node> {
    Router::new().route("/ccache/{*entry}", artifact(RULE, target))
}

fn target(uri: &Uri) -> Result<Target, Problem> {
    let segments = segments(uri.path(), "/ccache/")?;
    let found = match segments.as_slice() {
        [key] => joined("", key).map(|key| ("", key)),
        [first, second] => {
            joined(first, second).map(|key| ("", key)).or_else(|| joined("", second).map(|key| (first.as_str(), key)))
        }
        [namespace, first, second] => joined(first, second).map(|key| (namespace.as_str(), key)),
        _ => None,
    };
    let malformed = || Problem::bad_request("expected /ccache/[{namespace}/] and {2}/{31}, {33} or ac/{64} characters");
    let (namespace, key) = found.ok_or_else(malformed)?;
    RULE.target(namespace, key)
}

/// The key of `first/second`, or of `second` alone when `first` is empty.
fn joined(first: &str, second: &str) -> Option<String> {
    let base32 = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'v'));
    let hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    match (first.len(), second.len()) {
        (0, 33) | (2, 31) if base32(first) && base32(second) => Some(format!("{first}{second}")),
        (2, 64) if first == "ac" && hex(second) => Some(format!("ac/{second}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(path: &str) -> Option<(String, String)> {
        target(&path.parse().unwrap()).ok().map(|target| (target.name.namespace, target.name.key))
    }

    #[test]
    fn the_layouts_subdirs_and_flat_share_their_keys() {
        let key = "a7750f919mrb75p5n9390jr6hcfrtmdkg";
        let flat = name(&format!("/ccache/{key}")).unwrap();
        assert_eq!(flat, (String::new(), key.to_owned()));
        assert_eq!(name("/ccache/a7/750f919mrb75p5n9390jr6hcfrtmdkg").unwrap(), flat);
        assert_eq!(name(&format!("/ccache/team/{key}")).unwrap().0, "team");
        assert_eq!(name("/ccache/team/a7/750f919mrb75p5n9390jr6hcfrtmdkg").unwrap(), ("team".to_owned(), flat.1));
        let action = name(&format!("/ccache/team/ac/{}", "0".repeat(64))).unwrap();
        assert_eq!(action, ("team".to_owned(), format!("ac/{}", "0".repeat(64))));
    }

    #[test]
    fn other_shapes_are_refused() {
        for path in ["/ccache/short", "/ccache/a/b/c/d", "/ccache/zz/750f919mrb75p5n9390jr6hcfrtmdkg", "/ccache/ac/xyz"]
        {
            assert_eq!(name(path), None, "{path}");
        }
    }
}
