//! Comparing what two nodes hold, on the wire: digests of narrow ranges, and artifacts with their versions.
//!
//! How it works: the digest of sixteen ranges costs a node nothing. Where two nodes differ in one, they are asked for
//! the digests of its 256 parts, and for the artifacts of the parts that differ. What one of them misses it is then
//! asked to explain.
//!
//! Invariants: asking changes nothing. Pages are bounded.

use serde::{Deserialize, Serialize};

use super::client::{PeerClient, PeerError};
use super::wire::{SetDigestBucket, SetDigestReply, encode_query};
use crate::core::base::ids::{ArtifactId, Version};
use crate::core::store::explain::Explanation;
use crate::core::store::record::Record;
use crate::core::store::set_digest::SetBucket;

/// What a node with these routes says among its features.
pub const FEATURE: &str = "holdings";

/// Digits of the narrow ranges: 4,096 of them, each with a few hundred artifacts in a store of a million.
pub const RANGE_DIGITS: usize = 3;

/// Most artifacts in a page.
pub const HOLDINGS_ROWS_MAX: usize = 1024;

/// An artifact in one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// Which.
    pub id: ArtifactId,
    /// Its version.
    #[serde(flatten)]
    pub version: Version,
    /// Who made it.
    pub producer: String,
    /// Its namespace.
    pub namespace: String,
    /// Its key.
    pub key: String,
    /// Bytes of its body.
    pub size: u64,
}

impl Holding {
    /// What a record says.
    pub fn of(record: &Record, tenant_id: &str) -> Self {
        Self {
            id: record.name.artifact_id(tenant_id),
            version: record.version(),
            producer: record.name.producer.clone(),
            namespace: record.name.namespace.clone(),
            key: record.name.key.clone(),
            size: record.size,
        }
    }
}

/// A page of them, by id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldingsPage {
    /// The rows.
    pub rows: Vec<Holding>,
    /// The last id looked at, if more may follow.
    pub next_after: Option<ArtifactId>,
}

impl SetDigestReply {
    /// The same node's, of the parts of a range.
    #[must_use]
    pub fn with_ranges(self, parts: Vec<(String, SetBucket)>) -> Self {
        let bucket = |(prefix, SetBucket { count, sum })| SetDigestBucket { prefix, count, sum: format!("{sum:032x}") };
        Self { prefix_len: RANGE_DIGITS, buckets: parts.into_iter().map(bucket).collect(), ..self }
    }
}

impl PeerClient {
    /// The digests of a peer's sixteen ranges, or of the parts of one.
    pub async fn ranges(&self, peer: &str, prefix: &str) -> Result<SetDigestReply, PeerError> {
        let path = match prefix {
            "" => "/_internal/digest?prefix_len=1".to_owned(),
            prefix => format!("/_internal/digest?prefix_len={RANGE_DIGITS}&prefix={prefix}"),
        };
        self.get_json(peer, &path).await
    }

    /// A page of the artifacts of one range.
    pub async fn holdings(
        &self,
        peer: &str,
        prefix: &str,
        after: Option<ArtifactId>,
    ) -> Result<HoldingsPage, PeerError> {
        let after = after.map_or_else(String::new, |after| format!("&after={after}"));
        let path = format!("/_internal/holdings?prefix={prefix}&limit={HOLDINGS_ROWS_MAX}{after}");
        self.get_json(peer, &path).await
    }

    /// What a peer knows of an artifact.
    pub async fn explain(&self, peer: &str, id: &ArtifactId, namespace: &str) -> Result<Explanation, PeerError> {
        let path = format!("/_internal/explain/{id}?namespace={}", encode_query(namespace));
        self.get_json(peer, &path).await
    }
}
