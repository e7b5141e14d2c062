//! What peers say to each other in JSON: the seed era's contract, and kura's own part of the status.
//!
//! How it works: what this node sends is a plain `Serialize` struct. What it reads is read tolerantly: unknown fields
//! are ignored, and a row that is malformed or of an unknown producer is skipped and counted, never the whole page.
//!
//! Invariants: listings of the seed era name only [`SEED_PRODUCERS`], because a seed-era peer fails a whole page over
//! an unknown one. An artifact's id is recomputed from its name and never believed.

use serde::{Deserialize, Serialize};

use super::readiness::TrafficState;
use crate::core::base::ids::{ArtifactId, Digest, Epoch, InstanceId, Seq, StoreId};
use crate::core::base::limits::{BODY_BYTES_MAX, CONTENT_TYPE_BYTES_MAX, KEY_BYTES_MAX, NAMESPACE_BYTES_MAX};
use crate::core::store::record::{ArtifactKey, Kind, Record};
use crate::core::store::set_digest::{SetBucket, SetDigest};
use crate::core::store::walk::{DigestBucket, Tombstone};

/// The producers that seed-era peers know; listings for them name no other.
pub const SEED_PRODUCERS: [&str; 6] = ["xcode", "gradle", "module", "reapi", "nx", "metro"];

/// The version of the protocol between kura nodes that this binary speaks, and the oldest it understands.
pub const PROTOCOL_MAX: u32 = 1;
/// See [`PROTOCOL_MAX`].
pub const PROTOCOL_MIN: u32 = 1;

/// What this binary can do beyond the base protocol; names are only added.
pub const FEATURES: [&str; 6] = ["backfill", "bulk", "digest", "feed", "holdings", "ranges"];

/// What a peer can do beyond the base protocol, of the things that this node makes use of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerFeatures {
    /// Many bodies to a request.
    pub bulk: bool,
    /// Its listing by version, newest first.
    pub backfill: bool,
    /// Its digest with the head it belongs to.
    pub digest: bool,
}

impl PeerFeatures {
    /// Those that a peer's status names; others are ignored.
    pub fn of(names: &[String]) -> Self {
        let has = |feature: &str| names.iter().any(|name| name == feature);
        Self { bulk: has("bulk"), backfill: has("backfill"), digest: has("digest") }
    }
}

/// Carries the sender's store id on requests between kura nodes, so that a node knows who can reach it.
pub const STORE_ID_HEADER: &str = "x-kura-store-id";

/// Carries the record of an artifact, hex of its wire form, beside the body.
pub const RECORD_HEADER: &str = "x-kura-record";

/// Asks a holder to hold a body against its digest even if it did so before: what it sent was wrong.
pub const VERIFY_HEADER: &str = "x-kura-verify";

/// Carries the BLAKE3 of a JSON answer, hex: a listing has no digest of its own, and a version that was changed on the way
/// would be committed as it came. Absent from seed-era nodes.
pub const PAGE_DIGEST_HEADER: &str = "x-kura-page-digest";

/// Length of the digest's prefixes that a node asks for: up to 4,096 buckets.
pub const DIGEST_PREFIX_LEN: usize = 3;

/// What is used where a client or peer names no content type.
pub const DEFAULT_CONTENT_TYPE: &str = "application/octet-stream";

/// Everything outside the unreserved characters is percent-encoded in query values.
const QUERY_VALUE: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A query value as it travels.
pub fn encode_query(value: &str) -> String {
    percent_encoding::utf8_percent_encode(value, QUERY_VALUE).to_string()
}

/// `GET /_internal/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReply {
    /// The region the node says it is in.
    pub region: String,
    /// The tenant whose artifacts it holds.
    pub tenant_id: String,
    /// The URL it gives itself.
    pub node_url: String,
    /// Absent from seed-era nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kura: Option<KuraStatus>,
}

/// The range of protocol versions a node understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtocolRange {
    /// Oldest.
    pub min: u32,
    /// Newest.
    pub max: u32,
}

/// The bounds a node keeps; requests beyond them are refused or served in smaller pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerLimits {
    /// Largest page it gives or takes, in bytes.
    pub page_bytes_max: u64,
    /// Most rows in a page it gives.
    pub page_rows_max: u64,
    /// Largest body.
    pub body_bytes_max: u64,
}

/// kura's own part of the status. Fields are only added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KuraStatus {
    /// The data's name; absent while the store is not open.
    pub store_id: Option<StoreId>,
    /// This run of the process.
    pub instance_id: InstanceId,
    /// The store's current epoch.
    pub epoch: Option<Epoch>,
    /// The newest row of its log.
    pub head_seq: Option<Seq>,
    /// Versions understood.
    pub protocol: ProtocolRange,
    /// What it can do beyond the base protocol.
    #[serde(default)]
    pub features: Vec<String>,
    /// Its bounds.
    pub limits: PeerLimits,
    /// Its wall clock, Unix milliseconds.
    pub now_ms: u64,
    /// The version of its binary, for people.
    #[serde(default)]
    pub version: String,
    /// The seed era's word for its state.
    pub state: TrafficState,
    /// Whether it has everything its peers had when it joined.
    pub complete: bool,
    /// Replicated versions at or below this were evicted there, Unix milliseconds.
    #[serde(default)]
    pub evicted_floor_ms: u64,
    /// Live artifacts.
    #[serde(default)]
    pub artifacts: u64,
    /// Bytes of their bodies.
    #[serde(default)]
    pub body_bytes: u64,
    /// Stores that reached this node lately.
    #[serde(default)]
    pub seen_inbound: Vec<StoreId>,
}

/// A manifest as the seed era writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedManifest {
    /// 64 lower-case hex digits.
    pub artifact_id: String,
    /// One of [`SEED_PRODUCERS`].
    pub producer: String,
    /// Empty for tenant-wide.
    pub namespace_id: String,
    /// The key within the namespace.
    pub key: String,
    /// The content type to serve.
    pub content_type: String,
    /// Whether the sender keeps it inline; only a hint.
    #[serde(default)]
    pub inline: bool,
    /// Bytes of the body.
    pub size: u64,
    /// Unix milliseconds; 0 = `created_at_ms`.
    pub version_ms: u64,
    /// Unix milliseconds.
    pub created_at_ms: u64,
}

impl SeedManifest {
    /// How the seed era sees one of our records. `inline` is our guess at what it would have done.
    pub fn of(record: &Record, tenant_id: &str) -> Self {
        Self {
            artifact_id: record.name.artifact_id(tenant_id).to_string(),
            producer: record.name.producer.clone(),
            namespace_id: record.name.namespace.clone(),
            key: record.name.key.clone(),
            content_type: record.content_type.clone(),
            inline: is_action(&record.name),
            size: record.size,
            version_ms: record.version_ms,
            created_at_ms: record.created_at_ms,
        }
    }

    /// The record this row stands for, with an unknown digest; or why the row is not usable.
    pub fn into_record(self, tenant_id: &str) -> Result<Record, String> {
        if !SEED_PRODUCERS.contains(&self.producer.as_str()) {
            return Err(format!("unknown producer {:?}", self.producer));
        }
        let name = ArtifactKey { producer: self.producer, namespace: self.namespace_id, key: self.key };
        check_name(&name)?;
        if self.size > BODY_BYTES_MAX || self.content_type.len() > CONTENT_TYPE_BYTES_MAX {
            return Err(format!("size {} or content type beyond the limit", self.size));
        }
        let id = name.artifact_id(tenant_id);
        if self.artifact_id != id.to_string() {
            return Err(format!("its name belongs to {id}"));
        }
        let version_ms = if self.version_ms == 0 { self.created_at_ms } else { self.version_ms };
        Ok(unhashed_record(name, self.content_type, self.size, version_ms, self.created_at_ms))
    }
}

/// Whether an artifact of the seed era is an action-cache entry, which that era keeps inline.
pub fn is_action(name: &ArtifactKey) -> bool {
    matches!(name.producer.as_str(), "xcode" | "reapi") && name.key.starts_with("action_cache/")
}

/// A record of a body whose digest is not known yet.
pub fn unhashed_record(
    name: ArtifactKey,
    content_type: String,
    size: u64,
    version_ms: u64,
    created_at_ms: u64,
) -> Record {
    let kind = if is_action(&name) { Kind::Action } else { Kind::Blob };
    let content_type = if content_type.is_empty() { DEFAULT_CONTENT_TYPE.to_owned() } else { content_type };
    Record {
        kind,
        flags: 0,
        name,
        content_type,
        attributes: std::collections::BTreeMap::new(),
        size,
        stored_size: size,
        encoding: 0,
        digest: Digest::default(),
        sha256: None,
        version_ms,
        logical: 0,
        created_at_ms,
        received_at_ms: 0,
        expires_at_ms: None,
        origin: StoreId::default(),
        body: None,
        seq: Seq::default(),
        unknown: Vec::new(),
    }
}

/// Why a name from a peer is refused, if it is.
pub fn check_name(name: &ArtifactKey) -> Result<(), String> {
    if name.namespace.len() > NAMESPACE_BYTES_MAX || name.key.len() > KEY_BYTES_MAX {
        return Err("namespace or key beyond the limit".to_owned());
    }
    if name.namespace.contains('\0') || name.key.contains('\0') {
        return Err("a zero byte in namespace or key".to_owned());
    }
    Ok(())
}

/// `GET /_internal/bootstrap/manifests`, as sent.
#[derive(Debug, Serialize)]
pub struct SeedManifestPage {
    /// The rows, ascending by id.
    pub manifests: Vec<SeedManifest>,
    /// The last id if more rows follow.
    pub next_after: Option<String>,
}

/// A manifest page as read: good rows, skipped rows and the cursor.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ManifestListing {
    /// The usable rows.
    pub records: Vec<Record>,
    /// Rows that were not usable, with the reason.
    pub skipped: Vec<String>,
    /// Where the next page starts.
    pub next_after: Option<String>,
}

#[derive(Deserialize)]
struct RawManifestPage {
    manifests: Vec<serde_json::Value>,
    #[serde(default)]
    next_after: Option<String>,
}

/// Reads a manifest page row by row.
pub fn read_manifest_page(json: &[u8], tenant_id: &str) -> Result<ManifestListing, serde_json::Error> {
    let page: RawManifestPage = serde_json::from_slice(json)?;
    let mut listing = ManifestListing { next_after: page.next_after, ..ManifestListing::default() };
    for row in page.manifests {
        let id = row.get("artifact_id").and_then(|id| id.as_str()).unwrap_or("?").to_owned();
        let read = serde_json::from_value::<SeedManifest>(row).map_err(|error| error.to_string());
        match read.and_then(|manifest| manifest.into_record(tenant_id)) {
            Ok(record) => listing.records.push(record),
            Err(reason) => listing.skipped.push(format!("{id}: {reason}")),
        }
    }
    Ok(listing)
}

/// One row of a tombstone page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedTombstone {
    /// Empty for tenant-wide.
    pub namespace_id: String,
    /// Everything at or below this version is deleted.
    pub version_ms: u64,
}

impl From<Tombstone> for SeedTombstone {
    fn from(tombstone: Tombstone) -> Self {
        Self { namespace_id: tombstone.namespace, version_ms: tombstone.version_ms }
    }
}

/// `GET /_internal/bootstrap/namespace_tombstones`, as sent.
#[derive(Debug, Serialize)]
pub struct SeedTombstonePage {
    /// The rows in byte order of the namespace.
    pub tombstones: Vec<SeedTombstone>,
    /// The last namespace if more rows follow.
    pub next_after: Option<String>,
}

/// A tombstone page as read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TombstoneListing {
    /// The usable rows.
    pub tombstones: Vec<SeedTombstone>,
    /// Rows that were not usable, with the reason.
    pub skipped: Vec<String>,
    /// Where the next page starts.
    pub next_after: Option<String>,
}

#[derive(Deserialize)]
struct RawTombstonePage {
    tombstones: Vec<serde_json::Value>,
    #[serde(default)]
    next_after: Option<String>,
}

/// Reads a tombstone page row by row.
pub fn read_tombstone_page(json: &[u8]) -> Result<TombstoneListing, serde_json::Error> {
    let page: RawTombstonePage = serde_json::from_slice(json)?;
    let mut listing = TombstoneListing { next_after: page.next_after, ..TombstoneListing::default() };
    for row in page.tombstones {
        match serde_json::from_value::<SeedTombstone>(row) {
            Ok(tombstone) if tombstone.namespace_id.contains('\0') => {
                listing.skipped.push(format!("{:?}: a zero byte", tombstone.namespace_id));
            }
            Ok(tombstone) if tombstone.namespace_id.len() > NAMESPACE_BYTES_MAX => {
                listing.skipped.push("a namespace beyond the limit".to_owned());
            }
            Ok(tombstone) => listing.tombstones.push(tombstone),
            Err(error) => listing.skipped.push(error.to_string()),
        }
    }
    Ok(listing)
}

/// `GET /_internal/bootstrap/digest`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestReply {
    /// Hex digits that the ids of a bucket share.
    pub prefix_len: usize,
    /// The buckets that hold something, ascending.
    pub buckets: Vec<DigestBucket>,
}

/// `GET /_internal/digest`: what a kura node holds at one of its heads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetDigestReply {
    /// Whose.
    pub store_id: StoreId,
    /// The epoch the head belongs to.
    pub epoch: Epoch,
    /// The newest row at that time.
    pub head_seq: Seq,
    /// Hex digits that the ids of a bucket share.
    pub prefix_len: usize,
    /// What was evicted there is not in the buckets; so much is known of it.
    #[serde(default)]
    pub stubs: u64,
    /// The buckets, ascending by prefix, empty ones left out.
    pub buckets: Vec<SetDigestBucket>,
}

/// One bucket of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetDigestBucket {
    /// The first hex digits of the ids in it.
    pub prefix: String,
    /// How many artifacts.
    pub count: u64,
    /// The sum of what they stand for, 32 hex digits.
    pub sum: String,
}

impl SetDigestReply {
    /// The digest at this length of prefixes, 0 or 1.
    pub fn of(digest: &SetDigest, (store_id, epoch): (StoreId, Epoch), prefix_len: usize, stubs: u64) -> Self {
        let buckets: Vec<(String, SetBucket)> = match prefix_len {
            0 => vec![(String::new(), digest.whole())],
            _ => (0..).zip(digest.buckets).map(|(digit, bucket): (u8, _)| (format!("{digit:x}"), bucket)).collect(),
        };
        let bucket = |(prefix, SetBucket { count, sum })| SetDigestBucket { prefix, count, sum: format!("{sum:032x}") };
        let is_filled = |(_, bucket): &(String, SetBucket)| *bucket != SetBucket::default();
        let buckets = buckets.into_iter().filter(is_filled).map(bucket).collect();
        Self { store_id, epoch, head_seq: digest.head, prefix_len, stubs, buckets }
    }
}

/// An error between peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerErrorBody {
    /// What kind, a stable word.
    #[serde(default)]
    pub code: String,
    /// For people.
    pub message: String,
    /// When to come back, if it helps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// The SHA-256 that a body must have because its key says so, if it does.
pub fn keyed_sha256(name: &ArtifactKey) -> Option<crate::core::base::ids::Sha256Digest> {
    let hash = match name.producer.as_str() {
        "reapi" => name.key.strip_prefix("blob/")?.split('/').next()?,
        "bazel" => name.key.strip_prefix("cas/")?,
        _ => return None,
    };
    hash.parse().ok()
}

/// The id as a cursor of the seed era's walk, if it is one.
pub fn parse_cursor(after: &str) -> Option<ArtifactId> {
    after.parse().ok()
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
