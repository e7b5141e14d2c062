//! One open store. All methods block; async callers go through [`super::store_handle::StoreHandle`].

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::backfill::{BackfillPage, BackfillRequest};
use super::breaker::BreakerView;
use super::commit_queue::Message;
use super::committer::{BatchTicket, CommitTicket, Operation, Put};
use super::cursor::Cursor;
use super::epochs;
use super::error::StoreError;
use super::evaluate::number_of;
use super::eviction::{self, EvictGoal, EvictReport};
use super::open::{self, Writer};
use super::rebuild::RebuildReport;
use super::record::Record;
use super::set_digest::{SetBucket, SetDigest};
use super::state::Core;
use super::walk::{CursorCheck, DigestBucket, FeedPage, FeedRequest, ManifestPage, ManifestPageRequest, TombstonePage};
use super::wanted::Wanted;
use crate::core::base::clock::Clock;
use crate::core::base::disk::Disk;
use crate::core::base::executor::StoreExecutor;
use crate::core::base::ids::{ArtifactId, Epoch, InstanceId, Seq, StoreId, Version};
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
    /// The index was made anew from body files.
    pub rebuilt: Option<RebuildReport>,
    /// Deletes that only their own log knew, made good.
    pub deletes_restored: u64,
    /// The last writer did not keep all counters: they were counted anew.
    pub counted: bool,
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
    /// What all bodies take: with footers, rounded to blocks, with their inodes or rows, and with those that wait to be
    /// removed.
    pub charged_bytes: u64,
    /// What they may take, if that is bounded.
    pub capacity_bytes: Option<u64>,
    /// The version of the oldest artifact; 0 = there is none.
    pub oldest_version_ms: u64,
    /// Artifacts evicted in the life of this store.
    pub evictions: u64,
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

/// Tries at a body whose artifact is overwritten again and again while it is being opened.
const OVERTAKEN_TRIES_MAX: u32 = 4;

/// An open store.
#[derive(Debug)]
pub struct Store {
    core: Arc<Core>,
    writer: Option<Writer>,
    closed: AtomicBool,
}

#[expect(clippy::missing_errors_doc, reason = "every method fails as StoreError says")]
impl Store {
    /// Opens for writing: identity, epoch, unclean-stop checks, committer.
    pub fn open(options: StoreOptions) -> Result<(Self, OpenReport), StoreError> {
        let (core, writer, report) = open::open(options)?;
        Ok((Self { core, writer: Some(writer), closed: AtomicBool::new(false) }, report))
    }

    /// Opens for reading only, changing nothing on disk; works on a full or read-only volume and beside a writer.
    pub fn open_read_only(options: StoreOptions) -> Result<Self, StoreError> {
        let core = open::open_read_only(options)?;
        Ok(Self { core, writer: None, closed: AtomicBool::new(false) })
    }

    /// Waits for the committer, flushes and marks the stop as clean.
    pub fn close(&self) -> Result<(), StoreError> {
        let Some(writer) = &self.writer else { return Ok(()) };
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.core.closing.store(true, Ordering::Release);
        if let Some(maintenance) = &writer.maintenance {
            maintenance.close();
        }
        match writer.queue.close() {
            Some(groups) if groups.is_clean() => open::mark_clean(&self.core),
            _ => Err(StoreError::WriteStopped { reason: self.core.stop_reason().unwrap_or_else(|| "unclean".into()) }),
        }
    }

    /// O(1) figures.
    pub fn stats(&self) -> StoreStats {
        self.core.stats()
    }

    /// Sets the gauges of the store's metrics; for whoever is about to show them.
    pub fn show_metrics(&self) {
        if let Some(metrics) = self.core.metrics.get() {
            let stats = self.core.stats();
            let now_ms = self.core.options.clock.now_ms();
            let age_ms = if stats.oldest_version_ms == 0 { 0 } else { now_ms.saturating_sub(stats.oldest_version_ms) };
            let stubs = self.core.stubs.load(Ordering::Acquire);
            metrics.show(stats.charged_bytes, Duration::from_millis(age_ms), stubs);
            metrics.show_trouble(self.breaker_open().is_some(), self.core.stop_reason().is_some());
        }
    }

    /// Sets the gauges of what the index holds in memory. It may wait for the index, so it is not for a probe.
    pub fn sample_memory(&self) {
        if let Some(metrics) = self.core.metrics.get() {
            metrics.sampled(self.core.index.memory());
        }
    }

    /// Bounds what bodies may take, in charged bytes; `None` lifts the bound. Nothing is evicted by this: see
    /// [`Store::evict`]. A full store answers [`Wants::BeyondCapacity`] to what it would evict at once.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.core.capacity_bytes.store(bytes.unwrap_or(u64::MAX), Ordering::Release);
    }

    /// What of the ballast is not in place; puts leave as much more free.
    pub fn set_ballast_owed(&self, bytes: u64) {
        self.core.room.set_owed(bytes);
    }

    /// Makes room; blocks until the bodies are gone. Frees less than asked for only if there is no more.
    pub fn evict(&self, goal: EvictGoal) -> Result<EvictReport, StoreError> {
        let writer = self.writer.as_ref().ok_or(StoreError::NotOpen)?;
        eviction::evict(&self.core, writer, goal)
    }

    /// The newest visible row; changes wake the receiver.
    pub fn head(&self) -> tokio::sync::watch::Receiver<Seq> {
        self.core.head.subscribe()
    }

    /// The artifact if it is live: present, not tombstoned, not expired.
    pub fn lookup(&self, id: &ArtifactId) -> Result<Option<Record>, StoreError> {
        self.core.lookup(id)
    }

    /// A client was told that the artifact is here: it stays longer than one nobody asks for. Reads by peers, which
    /// read everything, are not noted.
    pub fn note_read(&self, id: &ArtifactId) {
        self.core.visits.set(id);
    }

    /// Opens the body of a record. Inline bodies and files up to 16 MiB on their first read are verified here.
    /// `None`: the body was missing, short or corrupt; it has been withdrawn, and the artifact is a miss.
    pub fn open_body(&self, record: &Record) -> Result<Option<OpenBody>, StoreError> {
        match self.core.try_open_body(record)? {
            Ok(body) => Ok(Some(body)),
            Err(bad) => {
                self.core.withdraw(self.writer.as_ref(), record, &bad.to_string());
                Ok(None)
            }
        }
    }

    /// Opens the artifact's body as it is by now: where another version took the record's place since it was looked up,
    /// that one. `None` as in [`Store::open_body`].
    pub fn open_current(&self, record: Record) -> Result<Option<(Record, OpenBody)>, StoreError> {
        let mut record = record;
        for _ in 0..OVERTAKEN_TRIES_MAX {
            if let Some(body) = self.open_body(&record)? {
                return Ok(Some((record, body)));
            }
            match self.core.lookup(&self.core.id_of(&record))? {
                Some(now) if number_of(&now) != number_of(&record) => record = now,
                _ => break,
            }
        }
        Ok(None)
    }

    /// The reader checked the whole body of this record and it is good.
    pub fn note_verified(&self, record: &Record) {
        if let Some(body_no) = number_of(record) {
            self.core.verified.insert(body_no);
        }
    }

    /// A peer got other bytes than this record's: whoever reads the body next looks at all of it again, whatever was
    /// found before.
    pub fn note_doubted(&self, record: &Record) {
        if let Some(body_no) = number_of(record) {
            self.core.verified.remove(body_no);
        }
    }

    /// The reader found this record's body bad: withdraw it (once) and want it back.
    pub fn report_bad_body(&self, record: &Record, reason: &str) {
        self.core.withdraw(self.writer.as_ref(), record, reason);
    }

    /// Hands a change to the committer. Bounded: waits for room in its queue.
    pub fn submit(&self, operation: Operation) -> CommitTicket {
        match &self.writer {
            Some(writer) => writer.queue.submit(operation),
            None => CommitTicket::refused(),
        }
    }

    /// Hands in a change unless it had to wait for room in the queue; then it comes back.
    pub(crate) fn try_submit(&self, operation: Operation) -> Result<CommitTicket, Operation> {
        match &self.writer {
            Some(writer) => writer.queue.try_submit(operation),
            None => Ok(CommitTicket::refused()),
        }
    }

    /// Hands in replicated puts that came together. What had to wait for room comes back, for
    /// [`Store::send_all`].
    pub(crate) fn try_submit_batch(&self, puts: Vec<Put>) -> (BatchTicket, Vec<Message>) {
        match &self.writer {
            Some(writer) => writer.queue.try_submit_batch(puts),
            None => (BatchTicket(tokio::sync::oneshot::channel().1), Vec::new()),
        }
    }

    /// Hands in what had to wait; blocks until there was room.
    pub(crate) fn send_all(&self, messages: Vec<Message>) {
        if let Some(writer) = &self.writer {
            writer.queue.send_all(messages);
        }
    }

    /// Commits exactly these together.
    #[cfg(test)]
    pub(crate) fn thin_out(&self) -> Result<u64, StoreError> {
        let writer = self.writer.as_ref().ok_or(StoreError::NotOpen)?;
        super::thin_tables::thin_out(&self.core, &writer.queue)
    }

    #[cfg(test)]
    pub(crate) fn run_group(&self, group: Vec<super::group::Pending>) {
        if let Some(writer) = &self.writer {
            writer.queue.run_group(group);
        }
    }

    /// What this store was opened with.
    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    /// Why bodies are not withdrawn at present, if they are not: the first of too many bad ones.
    pub fn breaker_open(&self) -> Option<String> {
        self.core.breaker.open_reason(self.core.options.clock.monotonic())
    }

    /// How the breaker of withdrawals stands.
    pub fn breaker(&self) -> BreakerView {
        self.core.breaker.view(self.core.options.clock.monotonic())
    }

    /// Why the index has to be made anew, if it has to be: see [`Store::request_rebuild`].
    pub fn damage(&self) -> Option<String> {
        self.core.index.damage().map(str::to_owned)
    }

    /// Measured bytes of the index's table files.
    pub fn index_bytes(&self) -> u64 {
        self.core.index.table_bytes()
    }

    /// Whether a peer's version of an artifact is worth fetching: none here, no newer one, no tombstone, not evicted.
    pub fn wants(&self, record: &Record) -> Result<Wants, StoreError> {
        self.core.wants(record)
    }

    /// As [`Self::wants`], for a page of rows, with their ids.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn wants_all(&self, records: &[&Record]) -> Result<Vec<(ArtifactId, Wants)>, StoreError> {
        self.core.wants_all(records)
    }

    /// A page of live manifests in id order.
    pub fn manifest_page(&self, request: &ManifestPageRequest) -> Result<ManifestPage, StoreError> {
        self.core.manifest_page(request)
    }

    /// The seed era's digest over the given producers.
    pub fn digest_v1(&self, prefix_len: usize, producers: &[&str]) -> Result<Vec<DigestBucket>, StoreError> {
        self.core.digest_v1(prefix_len, producers)
    }

    /// A page of tombstones.
    pub fn tombstone_page(&self, after: Option<&str>, rows_max: usize) -> Result<TombstonePage, StoreError> {
        self.core.tombstone_page(after, rows_max)
    }

    /// A page of the change log.
    pub fn feed_page(&self, request: &FeedRequest) -> Result<FeedPage, StoreError> {
        self.core.feed_page(request)
    }

    /// A page of live artifacts, newest version first.
    pub fn backfill_page(&self, request: &BackfillRequest) -> Result<BackfillPage, StoreError> {
        self.core.backfill_page(request)
    }

    /// What is here at the newest head, in one figure for each bucket of ids. `None` where a store opened for reading was
    /// last written by a version that did not keep it.
    pub fn set_digest(&self) -> Option<SetDigest> {
        self.core.set_digest()
    }

    /// What is here of the ids that begin with `prefix`, in one figure for each range of `prefix_len` digits; looks
    /// through their manifests.
    pub fn deep_digest(&self, prefix: &str, prefix_len: usize) -> Result<Vec<(String, SetBucket)>, StoreError> {
        self.core.deep_digest(prefix, prefix_len)
    }

    /// How many evicted artifacts are remembered one by one.
    pub fn stubs(&self) -> u64 {
        self.core.stubs.load(Ordering::Acquire)
    }

    /// Whether a cursor handed out earlier still holds.
    pub fn check_cursor(&self, epoch: Epoch, seq: Seq) -> Result<CursorCheck, StoreError> {
        epochs::check(&self.core.index, epoch, seq, *self.core.head.borrow())
    }

    /// The cursor of a peer, by the peer's key (its store id, or its URL for seed-era peers).
    pub fn cursor(&self, peer: &str) -> Result<Option<Cursor>, StoreError> {
        self.core.cursor(peer)
    }

    /// All cursors.
    pub fn cursors(&self) -> Result<Vec<(String, Cursor)>, StoreError> {
        self.core.cursors()
    }

    /// Saves or (with `None`) forgets a cursor.
    pub fn save_cursor(&self, peer: &str, cursor: Option<&Cursor>) -> Result<(), StoreError> {
        self.core.save_cursor(peer, cursor)
    }

    /// Replaces a cursor by what becomes of it, `None` = forgotten; no other change comes between.
    pub fn change_cursor(
        &self,
        peer: &str,
        change: impl FnOnce(Option<Cursor>) -> Option<Cursor>,
    ) -> Result<(), StoreError> {
        self.core.change_cursor(peer, change)
    }

    /// Notes artifacts as wanted, durably; false when the bound is reached.
    pub fn note_wanted(&self, rows: &[Wanted]) -> Result<bool, StoreError> {
        self.core.note_wanted(rows)
    }

    /// Forgets wanted rows, each up to a version; a put of the artifact forgets its row by itself.
    pub fn settle_wanted(&self, settled: &[(ArtifactId, Version)]) -> Result<(), StoreError> {
        self.core.settle_wanted(settled)
    }

    /// Writes down tries of wanted artifacts, each unless its row was settled meanwhile.
    pub fn note_tried(&self, rows: &[Wanted]) -> Result<(), StoreError> {
        self.core.note_tried(rows)
    }

    /// The wanted row of one artifact.
    pub fn wanted(&self, id: &ArtifactId) -> Result<Option<Wanted>, StoreError> {
        self.core.wanted(id)
    }

    /// A page of wanted rows in id order.
    pub fn wanted_page(&self, after: Option<ArtifactId>, rows_max: usize) -> Result<Vec<Wanted>, StoreError> {
        self.core.wanted_page(after, rows_max)
    }

    /// Last-known peers, remembered across restarts.
    pub fn remembered_peers(&self) -> Result<Vec<String>, StoreError> {
        self.core.remembered_peers()
    }

    /// Replaces the remembered peers.
    pub fn remember_peers(&self, peers: &[String]) -> Result<(), StoreError> {
        self.core.remember_peers(peers)
    }
}

impl Drop for Store {
    /// A store that is dropped without `close` stops uncleanly, but never leaves its threads behind.
    fn drop(&mut self) {
        if let (Some(writer), false) = (&self.writer, self.closed.load(Ordering::Acquire)) {
            self.core.closing.store(true, Ordering::Release);
            if let Some(maintenance) = &writer.maintenance {
                maintenance.close();
            }
            drop(writer.queue.close());
        }
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
    /// Evicted here; it is not wanted again.
    Evicted,
    /// This store is full of newer artifacts and would evict it at once.
    BeyondCapacity,
    /// Its version is too far ahead of our clock.
    ClockSkew,
}
