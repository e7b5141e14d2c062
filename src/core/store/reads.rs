//! Reading: looking artifacts up and opening their bodies, and what happens when a body proves bad.
//!
//! Invariants: an inline body is checked on each read; a file on its first read in this process, here up to 16 MiB and
//! by its reader above. A body is withdrawn only when it is absent, short or does not match, while the marker of
//! `bodies` stands and the breaker is closed; an error that says nothing of the body (too many open files, no memory,
//! an I/O error) is passed on as an error.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::body_files::{body_path, is_marked};
use super::committer::Operation;
use super::error::StoreError;
use super::evaluate::number_of;
use super::facade::{FileBody, OpenBody, Wants};
use super::integrity_batch::judge_inline;
use super::keys::{Table, number_key};
use super::open::Writer;
use super::record::{BodyPlace, Record};
use super::state::{Core, is_deleted, is_expired};
use super::version::{self, Here};
use crate::core::base::ids::{ArtifactId, BodyNo, Digest};

/// Files up to this size are hashed before their first byte is served; larger ones while they are.
pub const VERIFY_BEFORE_BYTES_MAX: u64 = 16 << 20;

/// Read at a time while hashing.
const HASH_CHUNK_BYTES: usize = 256 << 10;

/// A body that cannot be served, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BadBody {
    /// It is not there.
    Missing,
    /// It is shorter than its manifest says.
    Short { bytes: u64 },
    /// Its digest is another.
    Corrupt { actual: Digest },
    /// RocksDB's own checksum does not match.
    Unreadable { reason: String },
}

impl std::fmt::Display for BadBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => write!(f, "the body is missing"),
            Self::Short { bytes } => write!(f, "the body is short, it has {bytes} bytes"),
            Self::Corrupt { actual } => write!(f, "the body is corrupt, it has the digest {actual}"),
            Self::Unreadable { reason } => write!(f, "the body is unreadable: {reason}"),
        }
    }
}

impl Core {
    /// The artifact if it is present, not tombstoned and not expired.
    pub(crate) fn lookup(&self, id: &ArtifactId) -> Result<Option<Record>, StoreError> {
        let Some(record) = self.readable_manifest(id)? else { return Ok(None) };
        let gone = is_deleted(&record, self.tombstone(&record.name.namespace)?)
            || is_expired(&record, self.options.clock.now_ms());
        Ok((!gone).then_some(record))
    }

    /// Whether a peer's row is worth fetching.
    pub(crate) fn wants(&self, offered: &Record) -> Result<Wants, StoreError> {
        let id = self.id_of(offered);
        let tombstone = self.tombstone(&offered.name.namespace)?;
        self.wants_over(offered, &id, self.readable_manifest(&id)?, tombstone)
    }

    /// As [`Self::wants`], for a page of rows, with their ids: what they meet here is read together.
    pub(crate) fn wants_all(&self, offered: &[&Record]) -> Result<Vec<(ArtifactId, Wants)>, StoreError> {
        let ids: Vec<ArtifactId> = offered.iter().map(|record| self.id_of(record)).collect();
        let mut sorted = ids.clone();
        sorted.sort_unstable();
        sorted.dedup();
        let mut manifests: HashMap<_, _> = self.readable_manifests(&sorted)?.into_iter().collect();
        let mut tombstones: HashMap<&str, Option<u64>> = HashMap::new();
        let mut wants = Vec::with_capacity(ids.len());
        for (record, id) in offered.iter().zip(ids) {
            // A page may list an artifact twice; the second time it is read by itself.
            let existing = match manifests.remove(&id) {
                Some(existing) => existing,
                None => self.readable_manifest(&id)?,
            };
            let namespace = record.name.namespace.as_str();
            let tombstone = match tombstones.get(namespace) {
                Some(known) => *known,
                None => {
                    let read = self.tombstone(namespace)?;
                    tombstones.insert(namespace, read);
                    read
                }
            };
            wants.push((id, self.wants_over(record, &id, existing, tombstone)?));
        }
        Ok(wants)
    }

    fn wants_over(
        &self,
        offered: &Record,
        id: &ArtifactId,
        existing: Option<Record>,
        tombstone: Option<u64>,
    ) -> Result<Wants, StoreError> {
        let here = Here {
            existing: existing.as_ref(),
            live: None,
            tombstone,
            stub: if existing.is_none() { self.stub(id)? } else { None },
            floor_ms: self.evicted_floor_ms.load(Ordering::Acquire),
            now_ms: self.options.clock.now_ms(),
        };
        Ok(match version::offered(offered.version(), here) {
            // Of what is here in an older version the newer one is wanted in any case.
            Wants::Fetch if existing.is_none() && self.is_beyond_capacity(offered) => Wants::BeyondCapacity,
            wants => wants,
        })
    }

    /// Opens a body; the inner error is what is wrong with it.
    pub(crate) fn try_open_body(&self, record: &Record) -> Result<Result<OpenBody, BadBody>, StoreError> {
        match record.body {
            Some(BodyPlace::Inline(body_no)) => self.open_inline(record, body_no),
            Some(BodyPlace::File(body_no)) => self.open_file(record, body_no),
            None => Ok(Err(BadBody::Missing)),
        }
    }

    fn open_inline(&self, record: &Record, body_no: BodyNo) -> Result<Result<OpenBody, BadBody>, StoreError> {
        let bytes = match self.index.get(Table::Bodies, &number_key(body_no.0)) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(Err(BadBody::Missing)),
            Err(StoreError::CorruptRow { reason, .. }) => return Ok(Err(BadBody::Unreadable { reason })),
            Err(error) => return Err(error),
        };
        Ok(match judge_inline(&bytes, record.digest, record.size) {
            None => Ok(OpenBody::Inline(Bytes::copy_from_slice(&bytes))),
            Some(bad) => Err(bad),
        })
    }

    fn open_file(&self, record: &Record, body_no: BodyNo) -> Result<Result<OpenBody, BadBody>, StoreError> {
        let path = body_path(&self.options.layout, body_no);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Err(BadBody::Missing)),
            Err(source) => return Err(StoreError::Io { action: "open", path, source }),
        };
        let measured =
            file.metadata().map_err(|source| StoreError::Io { action: "measure", path: path.clone(), source })?;
        if measured.len() < record.stored_size {
            return Ok(Err(BadBody::Short { bytes: measured.len() }));
        }
        let mut verified = self.verified.contains(body_no);
        if !verified && record.size <= VERIFY_BEFORE_BYTES_MAX {
            let actual =
                hash_file(&file, record.size).map_err(|source| StoreError::Io { action: "read", path, source })?;
            if actual != record.digest {
                return Ok(Err(BadBody::Corrupt { actual }));
            }
            self.verified.insert(body_no);
            verified = true;
        }
        Ok(Ok(OpenBody::File(FileBody { file: Arc::new(file), length: record.size, verified })))
    }

    fn count_refusal(&self) {
        if let Some(metrics) = self.metrics.get() {
            metrics.refused_withdrawal();
        }
    }

    /// Withdraws a bad body unless that cannot be right; waits until it is done.
    pub(crate) fn withdraw(&self, writer: Option<&Writer>, record: &Record, reason: &str) {
        let (Some(writer), Some(body_no)) = (writer, number_of(record)) else { return };
        let id = self.id_of(record);
        tracing::warn!(%id, %body_no, key = record.name.key, reason, "store_body_bad");
        if matches!(record.body, Some(BodyPlace::File(_))) && !is_marked(&self.options.layout) {
            tracing::error!(path = %self.options.layout.bodies_marker().display(), "store_bodies_marker_missing");
            return self.count_refusal();
        }
        // Another body may have taken its place since the record was read: then there is nothing wrong.
        if !self.manifest(&id).is_ok_and(|now| now.is_some_and(|now| number_of(&now) == Some(body_no))) {
            return;
        }
        if !self.breaker.allow(self.options.clock.monotonic(), body_no, reason) {
            return self.count_refusal();
        }
        let operation = Operation::Withdraw { id, body_no, reason: reason.to_owned() };
        if let Err(error) = writer.queue.submit(operation).wait() {
            tracing::warn!(%id, %body_no, %error, "store_withdraw_failed");
        }
    }
}

/// The digest of the first bytes of a file.
pub(crate) fn hash_file(file: &File, length: u64) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    let mut chunk = vec![0_u8; usize::try_from(length).unwrap_or(HASH_CHUNK_BYTES).min(HASH_CHUNK_BYTES)];
    let mut offset = 0;
    while offset < length {
        let want = usize::try_from(length - offset).unwrap_or(HASH_CHUNK_BYTES).min(HASH_CHUNK_BYTES);
        let part = chunk.get_mut(..want).unwrap_or_default();
        let read = file.read_at(part, offset)?;
        if read == 0 {
            break;
        }
        hasher.update(part.get(..read).unwrap_or_default());
        offset += read as u64;
    }
    Ok(Digest(*hasher.finalize().as_bytes()))
}
