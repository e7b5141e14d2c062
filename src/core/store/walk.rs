//! Listing: manifests in id order with digests (the seed era's walk), tombstones, and the change log (the feed).

use super::record::Record;
use crate::core::base::ids::{ArtifactId, Epoch, Seq};

/// What part of the manifests to list, in id order.
#[derive(Debug, Clone)]
pub struct ManifestPageRequest {
    /// Start behind this id.
    pub after: Option<ArtifactId>,
    /// Only ids whose hex form starts with this; lower-case hex digits.
    pub prefix: String,
    /// Most rows.
    pub rows_max: usize,
    /// Only these producers; empty = all.
    pub producers: &'static [&'static str],
}

/// A page of manifests.
#[derive(Debug, Clone)]
pub struct ManifestPage {
    /// The rows, ascending by id.
    pub records: Vec<Record>,
    /// The last id of the page if at least one further row exists.
    pub next_after: Option<ArtifactId>,
}

/// A deleted namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstone {
    /// The namespace.
    pub namespace: String,
    /// Everything at or below this version is deleted.
    pub version_ms: u64,
    /// Its row in the log.
    pub seq: Seq,
}

/// A page of tombstones in byte order of the namespace.
#[derive(Debug, Clone)]
pub struct TombstonePage {
    /// The rows.
    pub tombstones: Vec<Tombstone>,
    /// The last namespace of the page if at least one further row exists.
    pub next_after: Option<String>,
}

/// One bucket of the seed era's digest; see `Store::digest_v1`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DigestBucket {
    /// The first hex digits of the ids in it.
    pub prefix: String,
    /// How many manifests.
    pub count: u64,
    /// SHA-256 over (id as 64 ASCII bytes, version_ms as 8 bytes little-endian) in id order, as hex.
    pub hash: String,
}

/// What part of the change log to read.
#[derive(Debug, Clone, Copy)]
pub struct FeedRequest {
    /// Rows above this sequence number.
    pub after: Seq,
    /// Rows up to this one, if bounded.
    pub up_to: Option<Seq>,
    /// Most rows.
    pub rows_max: usize,
    /// Most bytes of records and inline bodies together; at least one row is given.
    pub bytes_max: u64,
    /// Bodies up to this size ride along.
    pub inline_up_to: u64,
}

/// One row of the change log.
#[derive(Debug, Clone)]
pub enum FeedRow {
    /// An artifact, with its body if it is small enough to ride along.
    Put(Box<Record>, Option<bytes::Bytes>),
    /// A deleted namespace.
    NamespaceDelete(Tombstone),
}

/// A page of the change log, taken from one snapshot.
#[derive(Debug, Clone)]
pub struct FeedPage {
    /// The epoch the sequence numbers belong to.
    pub epoch: Epoch,
    /// The newest row of the store.
    pub head_seq: Seq,
    /// Where the next page starts: the sequence number of the last row looked at.
    pub next: Seq,
    /// The rows, ascending by sequence number.
    pub rows: Vec<FeedRow>,
}

/// Whether a cursor of (epoch, seq) from an earlier page still holds here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CursorCheck {
    /// Go on from here.
    Valid(Seq),
    /// The epoch ended earlier: rows above this one may differ; go on from it.
    Clamped(Seq),
    /// The epoch is unknown: walk again.
    Void,
}
