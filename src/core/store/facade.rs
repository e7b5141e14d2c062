//! One open store. All methods block; async callers go through [`super::store_handle::StoreHandle`].

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;

use super::committer::{CommitTicket, Operation};
use super::cursor::Cursor;
use super::error::StoreError;
use super::record::Record;
use super::walk::{CursorCheck, DigestBucket, FeedPage, FeedRequest, ManifestPage, ManifestPageRequest, TombstonePage};
use super::wanted::Wanted;
use crate::core::base::clock::Clock;
use crate::core::base::disk::Disk;
use crate::core::base::executor::StoreExecutor;
use crate::core::base::ids::{ArtifactId, Epoch, InstanceId, Seq, StoreId};
use crate::core::base::rng::Rng;
use crate::core::config::Durability;
use crate::core::data_dir::layout::Layout;

/// How a store is opened. The caller holds the data-dir lock.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Where.
    pub layout: Layout,
    /// The node's tenant; a data dir of another one is refused.
    pub tenant_id: String,
    /// This process.
    pub instance_id: InstanceId,
    /// What an acknowledged write survives.
    pub durability: Durability,
    /// Bodies up to this size lie in the index.
    pub inline_max_bytes: u64,
    /// RocksDB's block cache.
    pub read_cache_bytes: u64,
    /// RocksDB's open files, -1 for no bound.
    pub open_files_max: i32,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub rng: Arc<dyn Rng>,
    /// The volume.
    pub disk: Arc<dyn Disk>,
    /// Where the committer and blocking work run.
    pub executor: Arc<dyn StoreExecutor>,
}

/// What opening found and did.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct OpenReport {
    /// The data dir was new.
    pub created: bool,
    /// The last writer did not close it.
    pub unclean: bool,
    /// Body files no manifest names, removed.
    pub orphan_bodies_removed: u64,
    /// Bytes of them.
    pub orphan_bytes_removed: u64,
}

/// O(1) figures of an open store.
#[derive(Debug, Clone, serde::Serialize)]
pub struct StoreStats {
    /// The data's name.
    pub store_id: StoreId,
    /// This process's name.
    pub instance_id: InstanceId,
    /// The current epoch.
    pub epoch: Epoch,
    /// The newest row.
    pub head_seq: Seq,
    /// Live artifacts.
    pub artifacts: u64,
    /// Bytes of their bodies.
    pub body_bytes: u64,
    /// Replicated versions at or below this were evicted in bulk.
    pub evicted_floor_ms: u64,
    /// Why writes are stopped, if they are.
    pub write_stopped: Option<String>,
}

/// A body opened for reading.
#[derive(Debug)]
pub enum OpenBody {
    /// Small, in memory, digest checked just now.
    Inline(Bytes),
    /// A file.
    File(FileBody),
}

/// A body file opened for reading.
#[derive(Debug)]
pub struct FileBody {
    /// The open file; the body is its first `length` bytes.
    pub file: Arc<File>,
    /// Bytes of the body.
    pub length: u64,
    /// Whether the digest was checked in this process; if not, the reader checks it while reading and holds back the
    /// last chunk until it has, then tells [`Store::note_verified`] or [`Store::report_bad_body`].
    pub verified: bool,
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    _options: StoreOptions,
}

#[expect(clippy::missing_errors_doc, reason = "every method fails as StoreError says")]
impl Store {
    /// Opens for writing: identity, epoch, unclean-stop checks, committer.
    pub fn open(options: StoreOptions) -> Result<(Self, OpenReport), StoreError> {
        let _ = options;
        todo!()
    }

    /// Opens for reading only, changing nothing on disk; works on a full or read-only volume and beside a writer.
    pub fn open_read_only(options: StoreOptions) -> Result<Self, StoreError> {
        let _ = options;
        todo!()
    }

    /// Waits for the committer, flushes and marks the stop as clean.
    pub fn close(&self) -> Result<(), StoreError> {
        todo!()
    }

    /// O(1) figures.
    pub fn stats(&self) -> StoreStats {
        todo!()
    }

    /// The newest visible row; changes wake the receiver.
    pub fn head(&self) -> tokio::sync::watch::Receiver<Seq> {
        todo!()
    }

    /// The artifact if it is live: present, not tombstoned, not expired.
    pub fn lookup(&self, id: &ArtifactId) -> Result<Option<Record>, StoreError> {
        let _ = id;
        todo!()
    }

    /// Opens the body of a record. Inline bodies and files up to 16 MiB on their first read are verified here.
    /// `None`: the body was missing, short or corrupt; it has been withdrawn, and the artifact is a miss.
    pub fn open_body(&self, record: &Record) -> Result<Option<OpenBody>, StoreError> {
        let _ = record;
        todo!()
    }

    /// The reader checked the whole body of this record and it is good.
    pub fn note_verified(&self, record: &Record) {
        let _ = record;
        todo!()
    }

    /// The reader found this record's body bad: withdraw it (once) and want it back.
    pub fn report_bad_body(&self, record: &Record, reason: &str) {
        let _ = (record, reason);
        todo!()
    }

    /// Hands a change to the committer. Bounded: waits for room in its queue.
    pub fn submit(&self, operation: Operation) -> CommitTicket {
        let _ = operation;
        todo!()
    }

    /// Whether a peer's version of an artifact is worth fetching: none here, no newer one, no tombstone, not evicted.
    pub fn wants(&self, record: &Record) -> Result<Wants, StoreError> {
        let _ = record;
        todo!()
    }

    /// A page of live manifests in id order.
    pub fn manifest_page(&self, request: &ManifestPageRequest) -> Result<ManifestPage, StoreError> {
        let _ = request;
        todo!()
    }

    /// The seed era's digest over the given producers.
    pub fn digest_v1(&self, prefix_len: usize, producers: &[&str]) -> Result<Vec<DigestBucket>, StoreError> {
        let _ = (prefix_len, producers);
        todo!()
    }

    /// A page of tombstones.
    pub fn tombstone_page(&self, after: Option<&str>, rows_max: usize) -> Result<TombstonePage, StoreError> {
        let _ = (after, rows_max);
        todo!()
    }

    /// A page of the change log.
    pub fn feed_page(&self, request: &FeedRequest) -> Result<FeedPage, StoreError> {
        let _ = request;
        todo!()
    }

    /// Whether a cursor handed out earlier still holds.
    pub fn check_cursor(&self, epoch: Epoch, seq: Seq) -> Result<CursorCheck, StoreError> {
        let _ = (epoch, seq);
        todo!()
    }

    /// The cursor of a peer, by the peer's key (its store id, or its URL for seed-era peers).
    pub fn cursor(&self, peer: &str) -> Result<Option<Cursor>, StoreError> {
        let _ = peer;
        todo!()
    }

    /// All cursors.
    pub fn cursors(&self) -> Result<Vec<(String, Cursor)>, StoreError> {
        todo!()
    }

    /// Saves or (with `None`) forgets a cursor.
    pub fn save_cursor(&self, peer: &str, cursor: Option<&Cursor>) -> Result<(), StoreError> {
        let _ = (peer, cursor);
        todo!()
    }

    /// Notes artifacts as wanted, durably; false when the bound is reached.
    pub fn note_wanted(&self, rows: &[Wanted]) -> Result<bool, StoreError> {
        let _ = rows;
        todo!()
    }

    /// Forgets wanted rows; a put of the artifact forgets its row by itself.
    pub fn settle_wanted(&self, ids: &[ArtifactId]) -> Result<(), StoreError> {
        let _ = ids;
        todo!()
    }

    /// A page of wanted rows in id order.
    pub fn wanted_page(&self, after: Option<ArtifactId>, rows_max: usize) -> Result<Vec<Wanted>, StoreError> {
        let _ = (after, rows_max);
        todo!()
    }

    /// Last-known peers, remembered across restarts.
    pub fn remembered_peers(&self) -> Result<Vec<String>, StoreError> {
        todo!()
    }

    /// Replaces the remembered peers.
    pub fn remember_peers(&self, peers: &[String]) -> Result<(), StoreError> {
        let _ = peers;
        todo!()
    }
}

/// Whether a listed artifact is worth fetching.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// Not here, or only older.
    Fetch,
    /// The same digest is here under an older version: adopt it without fetching.
    Adopt,
    /// Here or newer.
    AlreadyHere,
    /// A tombstone beats it.
    Tombstoned,
    /// Evicted here.
    Evicted,
    /// Its version is too far ahead of our clock.
    ClockSkew,
}
