//! One artifact, explained: everything the index knows of it, whether or not it is served.
//!
//! How it works: the manifest as it lies there, its namespace's tombstone, the stub, the wanted row and the evicted floor
//! are read by key, and the first that decides becomes the [`State`]. Nothing is walked and no body is opened.
//!
//! Invariants: nothing changes, so a store opened for reading answers as one open for writing does. A row that does not
//! decode is an answer, not an error. The JSON form is read by other versions: fields are only added, and each is
//! optional to the reader.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::body_files::body_path;
use super::error::StoreError;
use super::facade::{Store, Wants};
use super::keys::extent_of;
use super::record::{ArtifactKey, BodyPlace, Kind, Record};
use super::state::{Core, is_deleted, is_expired};
use super::stubs::Reason;
use super::wanted::Wanted;
use crate::core::base::ids::{ArtifactId, BodyNo, Digest, Seq, Sha256Digest, StoreId, Version};

/// What an artifact is to a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It has a manifest and is served.
    Held,
    /// A tombstone of its namespace beats it.
    Deleted,
    /// Its time is over.
    Expired,
    /// Its manifest does not decode: a miss, until a put or a peer's copy replaces it.
    Unreadable,
    /// It is known of, and not here.
    Wanted,
    /// It was evicted to make room.
    Evicted,
    /// Its body was bad and was set aside.
    Withdrawn,
    /// Nothing is known of it, but its namespace was deleted.
    NamespaceDeleted,
    /// Nothing is known of it, but what is old enough was evicted without a trace of its own.
    BelowFloor,
    /// Nothing is known of it.
    Absent,
    /// A state of a later version of this program.
    #[default]
    #[serde(other)]
    Unknown,
}

/// A name as JSON has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NameFacts {
    /// Which protocol family made it.
    pub producer: String,
    /// The namespace, empty for tenant-wide.
    pub namespace: String,
    /// The key.
    pub key: String,
}

impl NameFacts {
    /// The name as the store knows it.
    pub fn key_of(&self) -> ArtifactKey {
        ArtifactKey { producer: self.producer.clone(), namespace: self.namespace.clone(), key: self.key.clone() }
    }
}

impl From<&ArtifactKey> for NameFacts {
    fn from(name: &ArtifactKey) -> Self {
        Self { producer: name.producer.clone(), namespace: name.namespace.clone(), key: name.key.clone() }
    }
}

/// A manifest as JSON has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ManifestFacts {
    /// blob, action, or a number of a later version.
    pub kind: String,
    /// As the client gave it.
    pub content_type: String,
    /// Bytes of the body.
    pub size: u64,
    /// BLAKE3 of the body.
    pub digest: Digest,
    /// SHA-256 of the body, where the protocol needs it.
    pub sha256: Option<Sha256Digest>,
    /// Unix milliseconds; later ones win.
    pub version_ms: u64,
    /// Between versions of one millisecond.
    pub logical: u16,
    /// When it was first made, Unix milliseconds.
    pub created_at_ms: u64,
    /// When that store got it, Unix milliseconds.
    pub received_at_ms: u64,
    /// When it stops being served, if ever.
    pub expires_at_ms: Option<u64>,
    /// The store that accepted the write.
    pub origin: StoreId,
    /// Its row in that store's log.
    pub seq: u64,
    /// Small texts of its protocol.
    pub attributes: BTreeMap<String, String>,
}

impl ManifestFacts {
    /// The version of it.
    pub fn version(&self) -> Version {
        Version { version_ms: self.version_ms, logical: self.logical, digest: self.digest }
    }
}

impl From<&Record> for ManifestFacts {
    fn from(record: &Record) -> Self {
        Self {
            kind: match record.kind {
                Kind::Blob => "blob".to_owned(),
                Kind::Action => "action".to_owned(),
                Kind::Reserved(number) => number.to_string(),
            },
            content_type: record.content_type.clone(),
            size: record.size,
            digest: record.digest,
            sha256: record.sha256,
            version_ms: record.version_ms,
            logical: record.logical,
            created_at_ms: record.created_at_ms,
            received_at_ms: record.received_at_ms,
            expires_at_ms: record.expires_at_ms,
            origin: record.origin,
            seq: record.seq.0,
            attributes: record.attributes.clone(),
        }
    }
}

/// Where a body lies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BodyFacts {
    /// inline (in the index) or file.
    pub place: String,
    /// Its number.
    pub body_no: u64,
    /// The extent it shares with its neighbours in number.
    pub extent: u64,
    /// The file, if it is one.
    pub path: Option<String>,
}

/// What is left of an artifact that went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StubFacts {
    /// evicted or withdrawn.
    pub reason: String,
    /// Up to which version it is not wanted again.
    pub version_ms: u64,
    /// See `version_ms`.
    pub logical: u16,
}

/// Everything a store knows of an artifact.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Explanation {
    /// Which artifact.
    pub artifact_id: ArtifactId,
    /// Whose words these are.
    pub store_id: StoreId,
    /// What it comes to.
    pub state: State,
    /// Its name, as far as that store knows it.
    pub name: Option<NameFacts>,
    /// Its manifest, served or not.
    pub manifest: Option<ManifestFacts>,
    /// Why the manifest does not decode.
    pub error: Option<String>,
    /// Where its body should be.
    pub body: Option<BodyFacts>,
    /// Up to which version its namespace is deleted.
    pub tombstone_version_ms: Option<u64>,
    /// What is left of it, if it went.
    pub stub: Option<StubFacts>,
    /// The row of what is wanted and not here.
    pub wanted: Option<Wanted>,
    /// Versions up to here count as evicted where nothing else is known of them.
    pub evicted_floor_ms: u64,
}

impl Store {
    /// Everything known of an artifact. The namespace is used where neither manifest nor wanted row tells it.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub fn explain(&self, id: &ArtifactId, namespace: Option<&str>) -> Result<Explanation, StoreError> {
        explain(self.core(), id, namespace)
    }

    /// What this store would do with a version that a peer has.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub fn would_take(&self, name: &ArtifactKey, version: Version, size: u64) -> Result<Wants, StoreError> {
        self.wants(&offered(name, version, size))
    }
}

fn explain(core: &Core, id: &ArtifactId, namespace: Option<&str>) -> Result<Explanation, StoreError> {
    let (record, error) = match core.manifest(id) {
        Ok(record) => (record, None),
        Err(StoreError::CorruptRow { reason, .. }) => (None, Some(reason)),
        Err(error) => return Err(error),
    };
    let wanted = core.wanted(id)?;
    let wanted_name = wanted.as_ref().map(|wanted| {
        let (producer, namespace, key) = wanted.name.clone();
        NameFacts { producer, namespace, key }
    });
    let name = record.as_ref().map(|record| NameFacts::from(&record.name)).or(wanted_name);
    let namespace = name.as_ref().map(|name| name.namespace.as_str()).or(namespace);
    let mut told = Explanation {
        artifact_id: *id,
        store_id: core.store_id,
        state: State::Unknown,
        manifest: record.as_ref().map(ManifestFacts::from),
        error,
        body: record.as_ref().and_then(|record| body_of(core, record)),
        tombstone_version_ms: namespace.map(|namespace| core.tombstone(namespace)).transpose()?.flatten(),
        stub: core.stub(id)?.map(|stub| {
            let (version_ms, logical) = stub.version();
            let reason = if stub.reason() == Reason::Evicted { "evicted" } else { "withdrawn" };
            StubFacts { reason: reason.to_owned(), version_ms, logical }
        }),
        wanted,
        evicted_floor_ms: core.stats().evicted_floor_ms,
        name,
    };
    told.state = state(core, &told, record.as_ref());
    Ok(told)
}

fn state(core: &Core, told: &Explanation, record: Option<&Record>) -> State {
    match (record, &told.stub) {
        (Some(record), _) if is_deleted(record, told.tombstone_version_ms) => State::Deleted,
        (Some(record), _) if is_expired(record, core.options.clock.now_ms()) => State::Expired,
        (Some(_), _) => State::Held,
        (None, _) if told.error.is_some() => State::Unreadable,
        (None, Some(stub)) if stub.reason == "withdrawn" => State::Withdrawn,
        (None, _) if told.wanted.is_some() => State::Wanted,
        (None, Some(_)) => State::Evicted,
        (None, None) if told.tombstone_version_ms.is_some() => State::NamespaceDeleted,
        (None, None) if told.evicted_floor_ms > 0 => State::BelowFloor,
        (None, None) => State::Absent,
    }
}

fn body_of(core: &Core, record: &Record) -> Option<BodyFacts> {
    let facts = |place: &str, body_no: BodyNo, path| BodyFacts {
        place: place.to_owned(),
        body_no: body_no.0,
        extent: extent_of(body_no),
        path,
    };
    match record.body? {
        BodyPlace::Inline(body_no) => Some(facts("inline", body_no, None)),
        BodyPlace::File(body_no) => {
            let path = body_path(&core.options.layout, body_no).to_string_lossy().into_owned();
            Some(facts("file", body_no, Some(path)))
        }
    }
}

/// A row as a peer would list it, with what decides on it and nothing else.
fn offered(name: &ArtifactKey, version: Version, size: u64) -> Record {
    Record {
        kind: Kind::Blob,
        flags: 0,
        name: name.clone(),
        content_type: String::new(),
        attributes: BTreeMap::new(),
        size,
        stored_size: size,
        encoding: 0,
        digest: version.digest,
        sha256: None,
        version_ms: version.version_ms,
        logical: version.logical,
        created_at_ms: 0,
        received_at_ms: 0,
        expires_at_ms: None,
        origin: StoreId::default(),
        body: None,
        seq: Seq(0),
        unknown: Vec::new(),
    }
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
