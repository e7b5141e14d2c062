//! The record of an artifact: the manifest row, the footer of a body file and the row on the wire are all this.
//!
//! Invariant: fields this binary does not know are kept and written back, so an older binary loses nothing.

use std::collections::BTreeMap;

use crate::core::base::ids::{ArtifactId, BodyNo, Digest, Seq, Sha256Digest, StoreId, Version};

/// What an artifact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Bytes.
    Blob,
    /// An action-cache entry, which may name blobs.
    Action,
    /// A kind of a later version; served as bytes.
    Reserved(u8),
}

/// Where a body lies in one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyPlace {
    /// In the `bodies` column family.
    Inline(BodyNo),
    /// In a file under `bodies/`.
    File(BodyNo),
}

/// The name of an artifact as clients know it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArtifactKey {
    /// Which protocol family made it: `xcode`, `gradle`, `bazel`…
    pub producer: String,
    /// The namespace, empty for tenant-wide.
    pub namespace: String,
    /// The key within the namespace.
    pub key: String,
}

impl ArtifactKey {
    /// The id in the mesh of this tenant.
    pub fn artifact_id(&self, tenant_id: &str) -> ArtifactId {
        ArtifactId::compute(&self.producer, tenant_id, &self.namespace, &self.key)
    }
}

/// Everything known of one artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it is.
    pub kind: Kind,
    /// Bits for later versions; kept as they are.
    pub flags: u64,
    /// Producer, namespace and key.
    pub name: ArtifactKey,
    /// As given by the client, `application/octet-stream` otherwise.
    pub content_type: String,
    /// Small texts that a protocol wants back, such as Turborepo's tag and duration.
    pub attributes: BTreeMap<String, String>,
    /// Bytes of the body as served.
    pub size: u64,
    /// Bytes of the body as stored.
    pub stored_size: u64,
    /// How the stored bytes are encoded; 0 = as served, the only one so far.
    pub encoding: u8,
    /// BLAKE3 of the body as served.
    pub digest: Digest,
    /// SHA-256 of the body as served, where the protocol needs it.
    pub sha256: Option<Sha256Digest>,
    /// Unix milliseconds; see [`Version`].
    pub version_ms: u64,
    /// See [`Version`].
    pub logical: u16,
    /// When the artifact was first made, Unix milliseconds.
    pub created_at_ms: u64,
    /// When this store got it, Unix milliseconds.
    pub received_at_ms: u64,
    /// When it stops being served, if ever.
    pub expires_at_ms: Option<u64>,
    /// The store that accepted the write; zero for seed-era peers.
    pub origin: StoreId,
    /// Where the body lies here; absent on the wire.
    pub body: Option<BodyPlace>,
    /// Its row in this store's log.
    pub seq: Seq,
    /// Fields of later versions: tag and bytes.
    pub unknown: Vec<(u64, Vec<u8>)>,
}

impl Record {
    /// The version by which writes of this artifact are ordered.
    pub fn version(&self) -> Version {
        Version { version_ms: self.version_ms, logical: self.logical, digest: self.digest }
    }
}
