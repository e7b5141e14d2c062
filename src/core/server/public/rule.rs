//! What an adapter declares: the rule of its route and the artifact a request names.

use std::time::Duration;

use axum::http::StatusCode;

use super::problem::{Problem, Shape};
use crate::core::base::ids::Sha256Digest;
use crate::core::base::limits::{BODY_BYTES_MAX, KEY_BYTES_MAX, NAMESPACE_BYTES_MAX, STORE_OPEN_WAIT};
use crate::core::server::metrics::Producer;
use crate::core::store::committer::PutMode;
use crate::core::store::record::{ArtifactKey, Kind};

/// What is read and thrown away of a body nobody wants before the connection closes; see shared rules on write-once
/// routes. Small enough to be free, large enough that most uploads end well.
pub const DISCARD_BYTES_MAX: u64 = 1 << 20;

/// The rule of one route.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Whose artifact it is.
    pub producer: Producer,
    /// What it is.
    pub kind: Kind,
    /// What a second PUT does.
    pub mode: PutMode,
    /// The longest body, in bytes.
    pub length_max: u64,
    /// The answer to a PUT that stored.
    pub created: StatusCode,
    /// The answer to a PUT of what was there already.
    pub existing: StatusCode,
    /// How trouble looks to this tool.
    pub shape: Shape,
    /// How much of an unwanted body is read and thrown away before the connection closes.
    pub discard_max: u64,
    /// Whether it may name blobs of the same namespace, all of which must be had for it to be a hit.
    pub names_blobs: bool,
    /// How long its client may be kept waiting for a store that is opening, here or at a peer. Less than the time after
    /// which the tool gives up by itself, where that is known.
    pub patience: Duration,
    /// Attributes that are kept from the headers of a PUT and returned as headers of the same name.
    pub returned_attributes: &'static [&'static str],
}

impl Rule {
    /// A write-once blob of at most 2 GiB that answers 200 and JSON errors; adapters change what differs.
    pub const fn new(producer: Producer) -> Self {
        Self {
            producer,
            kind: Kind::Blob,
            mode: PutMode::WriteOnce,
            length_max: BODY_BYTES_MAX,
            created: StatusCode::OK,
            existing: StatusCode::OK,
            shape: Shape::Json,
            discard_max: DISCARD_BYTES_MAX,
            names_blobs: false,
            patience: STORE_OPEN_WAIT,
            returned_attributes: &[],
        }
    }

    /// Names an artifact under this rule.
    ///
    /// # Errors
    /// A namespace or key that is too long, empty where it may not be, or holds a zero byte.
    pub fn target(self, namespace: impl Into<String>, key: impl Into<String>) -> Result<Target, Problem> {
        let (namespace, key) = (namespace.into(), key.into());
        if namespace.len() > NAMESPACE_BYTES_MAX {
            return Err(Problem::bad_request(format!("the namespace is longer than {NAMESPACE_BYTES_MAX} bytes")));
        }
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(Problem::bad_request(format!("the key must have 1 to {KEY_BYTES_MAX} bytes")));
        }
        if namespace.contains('\0') || key.contains('\0') {
            // Zero bytes separate the parts of an artifact id: with one inside, two names could share an id.
            return Err(Problem::bad_request("namespace and key must not contain a zero byte"));
        }
        let producer = self.producer.name().to_owned();
        Ok(Target { rule: self, name: ArtifactKey { producer, namespace, key }, sha256: None })
    }
}

/// One artifact with the rule of the route that named it.
#[derive(Debug, Clone)]
pub struct Target {
    /// The route's rule.
    pub rule: Rule,
    /// Producer, namespace, key.
    pub name: ArtifactKey,
    /// What the SHA-256 of the body must be, where the key says so.
    pub sha256: Option<Sha256Digest>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_free_of_zero_bytes() {
        let rule = Rule::new(Producer::Nx);
        assert!(rule.target("n".repeat(256), "k".repeat(1024)).is_ok());
        for (namespace, key) in [
            ("n".repeat(257), "k".to_owned()),
            (String::new(), "k".repeat(1025)),
            (String::new(), String::new()),
            ("a\0b".to_owned(), "k".to_owned()),
            (String::new(), "a\0b".to_owned()),
        ] {
            assert!(rule.target(namespace, key).is_err());
        }
    }
}
