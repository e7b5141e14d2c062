//! What all parts of one open store share: the index, the head, the counters and why writes are stopped.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::watch;

use super::breaker::Breaker;
use super::charge::SweptRow;
use super::error::StoreError;
use super::eviction::EvictionState;
use super::facade::{StoreOptions, StoreStats};
use super::index::Index;
use super::keys::{META_STATE, Table};
use super::late_sync::LateSync;
use super::metadata_room::MetadataRoom;
use super::metrics::StoreMetrics;
use super::record::Record;
use super::set_digest::SetDigest;
use super::sizes::IndexSizes;
use super::stubs::Stub;
use super::tagged::Row;
use super::thin_tables::Patrol;
use super::trim::DeadBodies;
use super::verified::VerifiedBodies;
use super::visits::Visits;
use crate::core::base::ids::{ArtifactId, Epoch, Seq, StoreId};

/// The row that rides in every batch: the head and the counters.
#[derive(Debug, Clone, Default)]
pub(crate) struct StateRow(Row);

impl StateRow {
    /// Reads the row; an absent one is that of an empty store.
    pub(crate) fn load(index: &Index) -> Result<Self, StoreError> {
        match index.get(Table::Meta, META_STATE)? {
            Some(bytes) => Row::decode(&bytes).map(Self).map_err(|error| corrupt("meta", error)),
            None => Ok(Self::default()),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        self.0.encode()
    }

    pub(crate) fn head(&self) -> Seq {
        Seq(self.0.number(1))
    }

    pub(crate) fn set_head(&mut self, seq: Seq) {
        self.0.set_number(1, seq.0);
    }

    /// The next sequence number, taken.
    pub(crate) fn take_seq(&mut self) -> Seq {
        let next = Seq(self.head().0 + 1);
        self.set_head(next);
        next
    }

    pub(crate) fn artifacts(&self) -> u64 {
        self.0.number(2)
    }

    pub(crate) fn body_bytes(&self) -> u64 {
        self.0.number(3)
    }

    pub(crate) fn evicted_floor_ms(&self) -> u64 {
        self.0.number(4)
    }

    /// Charges of all bodies that came in and did not turn out to be another; see `charge`.
    pub(crate) fn charged_in(&self) -> u64 {
        self.0.number(5)
    }

    pub(crate) fn charge(&mut self, charge: u64) {
        self.0.set_number(5, self.charged_in().saturating_add(charge));
    }

    pub(crate) fn discharge(&mut self, charge: u64) {
        self.0.set_number(5, self.charged_in().saturating_sub(charge));
    }

    /// The epoch whose writer keeps these counters.
    pub(crate) fn counted_under(&self) -> Option<Epoch> {
        self.0.bytes(6).and_then(Epoch::from_slice)
    }

    pub(crate) fn set_counted_under(&mut self, epoch: Epoch) {
        self.0 = std::mem::take(&mut self.0).with_bytes(6, epoch.as_bytes());
    }

    /// Rows in `stubs`.
    pub(crate) fn stubs(&self) -> u64 {
        self.0.number(7)
    }

    pub(crate) fn count_stub(&mut self, is_in: bool) {
        let stubs = if is_in { self.stubs().saturating_add(1) } else { self.stubs().saturating_sub(1) };
        self.0.set_number(7, stubs);
    }

    /// Artifacts evicted in the life of this store.
    pub(crate) fn evictions(&self) -> u64 {
        self.0.number(8)
    }

    pub(crate) fn count_eviction(&mut self) {
        self.0.set_number(8, self.evictions().saturating_add(1));
    }

    /// Artifacts whose time will be over.
    pub(crate) fn expiring(&self) -> u64 {
        self.0.number(9)
    }

    /// Raises it; it never falls.
    pub(crate) fn raise_evicted_floor(&mut self, version_ms: u64) {
        self.0.set_number(4, self.evicted_floor_ms().max(version_ms));
    }

    /// Counts an artifact in.
    pub(crate) fn add(&mut self, record: &Record) {
        self.0.set_number(2, self.artifacts().saturating_add(1));
        self.0.set_number(3, self.body_bytes().saturating_add(record.stored_size));
        if record.expires_at_ms.is_some() {
            self.0.set_number(9, self.expiring().saturating_add(1));
        }
    }

    /// Counts an artifact out.
    pub(crate) fn remove(&mut self, record: &Record) {
        self.0.set_number(2, self.artifacts().saturating_sub(1));
        self.0.set_number(3, self.body_bytes().saturating_sub(record.stored_size));
        if record.expires_at_ms.is_some() {
            self.0.set_number(9, self.expiring().saturating_sub(1));
        }
    }

    /// Takes over what a recount came to.
    pub(crate) fn take_counts(&mut self, counted: &Self) {
        for tag in [2, 3, 5, 7, 9] {
            self.0.set_number(tag, counted.0.number(tag));
        }
    }
}

/// Names the table of a row that does not decode.
pub(crate) fn corrupt(table: &'static str, reason: impl ToString) -> StoreError {
    StoreError::CorruptRow { table, reason: reason.to_string() }
}

/// What all parts of one open store share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) options: StoreOptions,
    pub(crate) store_id: StoreId,
    pub(crate) epoch: Epoch,
    pub(crate) index: Index,
    /// Where the rows of deletes find room on a full volume.
    pub(crate) room: Arc<MetadataRoom>,
    pub(crate) sizes: IndexSizes,
    pub(crate) read_only: bool,
    pub(crate) head: watch::Sender<Seq>,
    pub(crate) artifacts: AtomicU64,
    pub(crate) body_bytes: AtomicU64,
    pub(crate) evicted_floor_ms: AtomicU64,
    /// See `charge`: what came in, what was removed, and whether the two are counted at all.
    pub(crate) charged_in: AtomicU64,
    pub(crate) charged_out: AtomicU64,
    pub(crate) charges_kept: bool,
    /// Held while garbage rows are read and removed.
    pub(crate) swept: Mutex<SweptRow>,
    /// What a file's length is rounded up to.
    pub(crate) block_bytes: u64,
    pub(crate) evictions: AtomicU64,
    pub(crate) stubs: AtomicU64,
    pub(crate) expiring: AtomicU64,
    /// `u64::MAX` = not bounded.
    pub(crate) capacity_bytes: AtomicU64,
    /// Held while wanted rows are read and changed.
    pub(crate) wanted_rows: Mutex<u64>,
    /// What is here at the newest head; absent where a store opened for reading does not say.
    pub(crate) set_digest: Mutex<Option<SetDigest>>,
    /// Held while a cursor is read and replaced: a peer's walk and its feed move the same one.
    pub(crate) cursor_changes: Mutex<()>,
    pub(crate) verified: VerifiedBodies,
    pub(crate) visits: Visits,
    pub(crate) eviction: EvictionState,
    pub(crate) breaker: Breaker,
    pub(crate) late_sync: LateSync,
    /// Inline bodies whose table files may be dropped.
    pub(crate) dead_bodies: DeadBodies,
    /// Where the search for thin table files goes on.
    pub(crate) thin_patrol: Patrol,
    /// Body numbers below this are committed or will never be used.
    pub(crate) bodies_settled_below: AtomicU64,
    pub(crate) write_stopped: Mutex<Option<String>>,
    /// The store is closing: background work ends at its next step.
    pub(crate) closing: AtomicBool,
    /// Absent where nobody asked for figures.
    pub(crate) metrics: OnceLock<StoreMetrics>,
}

impl Core {
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// O(1) figures.
    pub(crate) fn stats(&self) -> StoreStats {
        StoreStats {
            store_id: self.store_id,
            instance_id: self.options.instance_id,
            epoch: self.epoch,
            head_seq: *self.head.borrow(),
            artifacts: self.artifacts.load(Ordering::Acquire),
            body_bytes: self.body_bytes.load(Ordering::Acquire),
            evicted_floor_ms: self.evicted_floor_ms.load(Ordering::Acquire),
            charged_bytes: self.charged_bytes(),
            capacity_bytes: Some(self.capacity_bytes.load(Ordering::Acquire)).filter(|bytes| *bytes != u64::MAX),
            oldest_version_ms: self.oldest_version_ms(),
            evictions: self.evictions.load(Ordering::Acquire),
            write_stopped: self.stop_reason(),
        }
    }

    /// Charges of live bodies and of those that wait to be removed.
    pub(crate) fn charged_bytes(&self) -> u64 {
        self.charged_in.load(Ordering::Acquire).saturating_sub(self.charged_out.load(Ordering::Acquire))
    }

    /// What is here at the newest head.
    pub(crate) fn set_digest(&self) -> Option<SetDigest> {
        self.set_digest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a committed batch known: counters first, then the head, which wakes readers of the log.
    pub(crate) fn publish(&self, state: &StateRow, set_digest: SetDigest) {
        *self.set_digest.lock().unwrap_or_else(PoisonError::into_inner) = Some(set_digest);
        self.artifacts.store(state.artifacts(), Ordering::Release);
        self.body_bytes.store(state.body_bytes(), Ordering::Release);
        self.evicted_floor_ms.store(state.evicted_floor_ms(), Ordering::Release);
        self.charged_in.store(state.charged_in(), Ordering::Release);
        self.evictions.store(state.evictions(), Ordering::Release);
        self.stubs.store(state.stubs(), Ordering::Release);
        self.expiring.store(state.expiring(), Ordering::Release);
        self.head.send_if_modified(|head| std::mem::replace(head, state.head()) != state.head());
    }

    /// Makes durable what was committed without a sync, if there is such.
    pub(crate) fn sync_late(&self) -> Result<(), StoreError> {
        let synced = self.late_sync.sync(|| self.index.sync());
        synced.inspect_err(|error| self.stop_writes(format!("a sync of the log failed: {error}")))
    }

    /// Stops writes for good; the first reason stays.
    pub(crate) fn stop_writes(&self, reason: impl ToString) {
        let mut stopped = self.write_stopped.lock().unwrap_or_else(PoisonError::into_inner);
        if stopped.is_none() {
            let reason = reason.to_string();
            tracing::error!(%reason, see = "kura doctor --explain INDEX_WRITE_STOPPED", "store_write_stopped");
            *stopped = Some(reason);
        }
    }

    /// Why writes are stopped, if they are.
    pub(crate) fn stop_reason(&self) -> Option<String> {
        self.write_stopped.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Refuses where writes are stopped or the store was opened for reading.
    pub(crate) fn check_writable(&self) -> Result<(), StoreError> {
        match self.stop_reason() {
            _ if self.read_only => Err(StoreError::NotOpen),
            Some(reason) => Err(StoreError::WriteStopped { reason }),
            None => Ok(()),
        }
    }

    /// The manifest row as it lies there, tombstoned or not.
    pub(crate) fn manifest(&self, id: &ArtifactId) -> Result<Option<Record>, StoreError> {
        let bytes = self.index.get(Table::Manifests, id.as_bytes())?;
        bytes.map(|bytes| Record::from_bytes(&bytes).map_err(|error| corrupt("manifests", error))).transpose()
    }

    /// The manifest; one that does not decode is reported and as good as absent: a miss that the next put or a peer's
    /// copy heals.
    pub(crate) fn readable_manifest(&self, id: &ArtifactId) -> Result<Option<Record>, StoreError> {
        match self.manifest(id) {
            Err(StoreError::CorruptRow { table, reason }) => {
                tracing::error!(%id, table, %reason, "store_row_corrupt");
                Ok(None)
            }
            other => other,
        }
    }

    /// As [`Self::readable_manifest`], for many ids in ascending order; those that cannot be read are left out.
    pub(crate) fn readable_manifests(
        &self,
        ids: &[ArtifactId],
    ) -> Result<Vec<(ArtifactId, Option<Record>)>, StoreError> {
        let keys: Vec<&[u8]> = ids.iter().map(|id| id.as_bytes().as_slice()).collect();
        let rows = self.index.get_many(Table::Manifests, &keys)?;
        let mut manifests = Vec::with_capacity(ids.len());
        for (id, row) in ids.iter().zip(rows) {
            let Ok(bytes) = row else { continue };
            match bytes.map(|bytes| Record::from_bytes(&bytes)).transpose() {
                Ok(record) => manifests.push((*id, record)),
                Err(reason) => {
                    tracing::error!(%id, table = "manifests", %reason, "store_row_corrupt");
                    manifests.push((*id, None));
                }
            }
        }
        Ok(manifests)
    }

    /// What is left of an artifact that went; one of a later format is none.
    pub(crate) fn stub(&self, id: &ArtifactId) -> Result<Option<Stub>, StoreError> {
        if self.stubs.load(Ordering::Acquire) == 0 {
            return Ok(None);
        }
        Ok(self.index.get(Table::Stubs, id.as_bytes())?.and_then(|bytes| Stub::decode(&bytes)))
    }

    /// The version up to which a namespace is deleted.
    pub(crate) fn tombstone(&self, namespace: &str) -> Result<Option<u64>, StoreError> {
        let bytes = self.index.get(Table::Tombstones, namespace.as_bytes())?;
        bytes.map(|bytes| tombstone_version(&bytes)).transpose()
    }

    /// The artifact's id in this mesh.
    pub(crate) fn id_of(&self, record: &Record) -> ArtifactId {
        record.name.artifact_id(&self.options.tenant_id)
    }

    /// What "no space" is reported with.
    pub(crate) fn storage_full(&self) -> StoreError {
        StoreError::StorageFull { path: self.data_dir() }
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.options.layout.data_dir().to_path_buf()
    }

    /// A failed file operation as a store error.
    pub(crate) fn io_error(
        &self,
        action: &'static str,
        path: impl Into<PathBuf>,
        source: std::io::Error,
    ) -> StoreError {
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => self.storage_full(),
            _ => StoreError::Io { action, path: path.into(), source },
        }
    }
}

/// The version in a tombstone row.
pub(crate) fn tombstone_version(bytes: &[u8]) -> Result<u64, StoreError> {
    Row::decode(bytes).map(|row| row.number(1)).map_err(|error| corrupt("tombstones", error))
}

/// Whether a tombstone beats a record.
pub(crate) fn is_deleted(record: &Record, tombstone: Option<u64>) -> bool {
    tombstone.is_some_and(|version_ms| record.version_ms <= version_ms)
}

/// Whether a record's time is over.
pub(crate) fn is_expired(record: &Record, now_ms: u64) -> bool {
    record.expires_at_ms.is_some_and(|expires_at_ms| expires_at_ms <= now_ms)
}
