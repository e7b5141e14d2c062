//! RocksDB behind the few operations the store needs, with errors that say what can be done about them.
//!
//! How it works: one database with a column family per [`Table`], and whatever other families the disk names (a later
//! version's) opened too and left alone. A [`Batch`] collects changes; [`View`] reads at one instant.
//!
//! Invariants: the database is created only when the caller says so; a family of ours that is absent is added. Nothing
//! outside this file names a RocksDB type but through [`View`] and [`Batch`].
//!
//! Failure: RocksDB reports "no space" and everything else alike as an I/O error, so a failed write is judged by what
//! `statvfs` says of the volume, never by the text of the message.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBPinnableSlice,
    DBRecoveryMode, Direction, IteratorMode, LogLevel, Options, ReadOptions, ReadTier, WriteBatch, WriteOptions,
};

use super::error::StoreError;
use super::index_view::{Found, KeyValue, View};
use super::keys::Table;
use super::metadata_room::MetadataRoom;
use super::sizes::IndexSizes;
use crate::core::base::disk::Disk;

/// Below this many free bytes a failed write is taken to have failed for want of space.
const FULL_BELOW_BYTES: u64 = 1 << 20;

/// Flushes and compactions under way at a time: they must leave the cores to the requests.
const BACKGROUND_JOBS_MAX: i32 = 2;

/// Bits per key of the filters: 1 % false answers.
const BLOOM_BITS_PER_KEY: f64 = 10.0;

/// The filter of a memtable, by its largest size: 160 KiB beside 32 MiB are ten bits a key for more rows than fit between
/// two flushes.
const MEMTABLE_BLOOM_RATIO: f64 = 0.005;

/// What a batch takes from the heap at once: a lone change fits, and a group doubles it a few times.
const BATCH_BYTES: usize = 4 << 10;

/// How the index is opened.
#[derive(Debug, Clone)]
pub(crate) struct IndexOptions {
    pub(crate) path: PathBuf,
    pub(crate) sizes: IndexSizes,
    pub(crate) room: Arc<MetadataRoom>,
    pub(crate) cache_bytes: u64,
    pub(crate) open_files_max: i32,
    /// Only while the identity says that the first initialisation has not ended.
    pub(crate) create: bool,
    pub(crate) disk: Arc<dyn Disk>,
}

/// What an open index holds in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexMemory {
    /// Blocks read from tables.
    pub(crate) cache_used_bytes: u64,
    /// Those of them that are in use and cannot go.
    pub(crate) cache_pinned_bytes: u64,
    /// What the cache may hold.
    pub(crate) cache_max_bytes: u64,
    /// Rows not yet written to tables.
    pub(crate) write_buffers_used_bytes: u64,
    /// What may wait to be written to tables.
    pub(crate) write_buffers_max_bytes: u64,
}

/// One file of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableFile {
    /// Its lowest key.
    pub(crate) first: Vec<u8>,
    /// Its highest.
    pub(crate) last: Vec<u8>,
    /// Its size on disk.
    pub(crate) bytes: u64,
    /// Where it stands; files of level 0 have just been written.
    pub(crate) level: i32,
}

impl TableFile {
    fn of(file: rocksdb::LiveFile) -> Option<Self> {
        let (first, last) = (file.start_key?, file.end_key?);
        Some(Self { first, last, bytes: file.size as u64, level: file.level })
    }
}

/// An open index.
pub(crate) struct Index {
    pub(super) db: DB,
    pub(super) path: PathBuf,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) room: Arc<MetadataRoom>,
    /// How table files of bodies are written to be taken in.
    pub(super) ingested: Options,
    memory_only: ReadOptions,
    /// Whether bodies came in with a batch since the last table was taken in.
    pub(super) has_loose_bodies: AtomicBool,
    /// The first thing found that says more than one row of it is damaged.
    damage: OnceLock<String>,
    cache: Cache,
    cache_bytes: u64,
    write_buffers_bytes: u64,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Index {
    /// Opens for writing.
    pub(crate) fn open(options: &IndexOptions) -> Result<Self, StoreError> {
        Self::remove_unfinished(&options.path);
        let cache = cache(options);
        let database = database_options(options);
        let descriptors = descriptors(options, &cache, &database);
        DB::open_cf_descriptors(&database, &options.path, descriptors)
            .map(|db| Self::of(db, cache, options))
            .map_err(|error| write_error(&options.path, options.disk.as_ref(), &error))
    }

    fn of(db: DB, cache: Cache, options: &IndexOptions) -> Self {
        let (path, disk, room) = (options.path.clone(), Arc::clone(&options.disk), Arc::clone(&options.room));
        let (cache_bytes, write_buffers_bytes) = (options.cache_bytes, options.sizes.write_buffers_bytes);
        let ingested = table_options(options, &cache, Some(Table::Bodies));
        let mut memory_only = ReadOptions::default();
        memory_only.set_read_tier(ReadTier::BlockCache);
        let has_loose_bodies = AtomicBool::new(true);
        Self {
            db,
            path,
            disk,
            room,
            ingested,
            memory_only,
            has_loose_bodies,
            damage: OnceLock::new(),
            cache,
            cache_bytes,
            write_buffers_bytes,
        }
    }

    /// Why it has to be made anew, if it has to be: tables that do not match their checksums, which stops listings and
    /// compactions for good. A body or a manifest in such a table is a miss by itself.
    pub(crate) fn damage(&self) -> Option<&str> {
        self.damage.get().map(String::as_str)
    }

    pub(super) fn failed(&self, error: StoreError) -> StoreError {
        if let StoreError::IndexDamaged { message, .. } = &error {
            self.note_damage(message);
        }
        error
    }

    fn note_damage(&self, message: &str) {
        if self.damage.set(message.to_owned()).is_ok() {
            tracing::error!(message, "store_index_damaged");
        }
    }

    fn row_failed(&self, table: Table, error: &rocksdb::Error) -> StoreError {
        let error = row_error(&self.path, table, error);
        if let (StoreError::CorruptRow { reason, .. }, false) = (&error, table.is_missed_by_itself()) {
            self.note_damage(reason);
        }
        error
    }

    /// What it holds in memory. Takes the database's mutex, so it is not for the path of a probe.
    pub(crate) fn memory(&self) -> IndexMemory {
        let buffers = |table: Table| {
            let family = self.family(table).ok()?;
            self.db.property_int_value_cf(family, "rocksdb.cur-size-all-mem-tables").ok()?
        };
        IndexMemory {
            cache_used_bytes: self.cache.get_usage() as u64,
            cache_pinned_bytes: self.cache.get_pinned_usage() as u64,
            cache_max_bytes: self.cache_bytes,
            write_buffers_used_bytes: Table::ALL.into_iter().filter_map(buffers).sum(),
            write_buffers_max_bytes: self.write_buffers_bytes,
        }
    }

    /// Where its rows find room on a full volume.
    pub(crate) fn room(&self) -> &Arc<MetadataRoom> {
        &self.room
    }

    /// Opens for reading: no lock, no log, no folder is made.
    pub(crate) fn open_read_only(options: &IndexOptions) -> Result<Self, StoreError> {
        if let Err(source) = std::fs::metadata(options.path.join("CURRENT")) {
            return Err(StoreError::Io { action: "open", path: options.path.join("CURRENT"), source });
        }
        let cache = cache(options);
        let mut database = Options::default();
        database.set_max_open_files(options.open_files_max);
        let names = DB::list_cf(&database, &options.path).map_err(|error| index_error(&options.path, &error))?;
        let descriptors = names.iter().map(|name| {
            let table = Table::ALL.into_iter().find(|table| table.name() == name);
            ColumnFamilyDescriptor::new(name, table_options(options, &cache, table))
        });
        DB::open_cf_descriptors_read_only(&database, &options.path, descriptors, false)
            .map(|db| Self::of(db, cache, options))
            .map_err(|error| index_error(&options.path, &error))
    }

    pub(super) fn family(&self, table: Table) -> Result<&ColumnFamily, StoreError> {
        self.db.cf_handle(table.name()).ok_or_else(|| StoreError::Index {
            path: self.path.clone(),
            message: format!("the table {} is absent", table.name()),
        })
    }

    /// One value, if it takes no look at the disk to know it; `None` says nothing. A value that is damaged is not known.
    pub(crate) fn get_in_memory(&self, table: Table, key: &[u8]) -> Option<Option<DBPinnableSlice<'_>>> {
        self.db.get_pinned_cf_opt(self.family(table).ok()?, key, &self.memory_only).ok()
    }

    /// One value.
    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Result<Option<DBPinnableSlice<'_>>, StoreError> {
        self.db.get_pinned_cf(self.family(table)?, key).map_err(|error| self.row_failed(table, &error))
    }

    /// Many values at once, in the order of the keys, which ascend. A value that cannot be read is an error of its own.
    pub(crate) fn get_many(&self, table: Table, keys: &[&[u8]]) -> Result<Vec<Found<'_>>, StoreError> {
        let family = self.family(table)?;
        Ok(self.found(table, self.db.batched_multi_get_cf(family, keys.iter().copied(), true)))
    }

    pub(super) fn found<'a>(
        &self,
        table: Table,
        rows: Vec<Result<Option<DBPinnableSlice<'a>>, rocksdb::Error>>,
    ) -> Vec<Found<'a>> {
        rows.into_iter().map(|row| row.map_err(|error| row_error(&self.path, table, &error))).collect()
    }

    /// Rows from a key on, ascending, as they are now.
    pub(crate) fn rows<'a>(
        &'a self,
        table: Table,
        from: &[u8],
    ) -> Result<impl Iterator<Item = Result<KeyValue, StoreError>> + use<'a>, StoreError> {
        let rows = self.db.iterator_cf(self.family(table)?, IteratorMode::From(from, Direction::Forward));
        Ok(rows.map(move |row| row.map_err(|error| self.failed(index_error(&self.path, &error)))))
    }

    /// Everything as of now.
    pub(crate) fn view(&self) -> View<'_> {
        View::of(self, self.db.snapshot())
    }

    /// A batch to fill.
    pub(crate) fn batch(&self) -> Batch<'_> {
        let families = Table::ALL.map(|table| self.db.cf_handle(table.name()));
        Batch {
            index: self,
            families,
            batch: WriteBatch::with_capacity_bytes(BATCH_BYTES),
            has_bodies: false,
            failed: None,
        }
    }

    /// Applies a batch; with `sync` it is durable when this returns.
    pub(crate) fn write(&self, batch: Batch<'_>, sync: bool) -> Result<(), StoreError> {
        if let Some(error) = batch.failed {
            return Err(error);
        }
        // A volume that cannot be measured is no reason not to try.
        let _ = self.room.ensure();
        if batch.has_bodies {
            self.has_loose_bodies.store(true, Ordering::Relaxed);
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.db
            .write_opt(batch.batch, &options)
            .map_err(|error| self.failed(write_error(&self.path, self.disk.as_ref(), &error)))
    }

    /// The files of a table.
    pub(crate) fn table_files(&self, table: Table) -> Result<Vec<TableFile>, StoreError> {
        let files = self.db.live_files().map_err(|error| self.failed(index_error(&self.path, &error)))?;
        let files = files.into_iter().filter(|file| file.column_family_name == table.name());
        Ok(files.filter_map(TableFile::of).collect())
    }

    /// Unlinks table files that hold nothing but keys from `first` to `last`; needs no space.
    pub(crate) fn drop_files(&self, table: Table, first: &[u8], last: &[u8]) -> Result<(), StoreError> {
        let dropped = self.db.delete_file_in_range_cf(self.family(table)?, first, last);
        dropped.map_err(|error| self.failed(index_error(&self.path, &error)))
    }

    /// Makes everything written so far durable.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.db.flush_wal(true).map_err(|error| self.failed(write_error(&self.path, self.disk.as_ref(), &error)))
    }

    /// Writes all memtables out, so that the next start has no log to replay.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        let families = Table::ALL.into_iter().map(|table| self.family(table)).collect::<Result<Vec<_>, _>>()?;
        self.db
            .flush_cfs_opt(&families, &rocksdb::FlushOptions::default())
            .map_err(|error| self.failed(write_error(&self.path, self.disk.as_ref(), &error)))
    }

    /// Measured bytes of all table files.
    pub(crate) fn table_bytes(&self) -> u64 {
        let bytes = |table: Table| {
            let family = self.family(table).ok()?;
            self.db.property_int_value_cf(family, "rocksdb.total-sst-files-size").ok()?
        };
        Table::ALL.into_iter().filter_map(bytes).sum()
    }
}

/// Changes that become visible and durable together.
pub(crate) struct Batch<'a> {
    index: &'a Index,
    /// In the order of [`Table::ALL`]: looking one up by its name costs as much as putting a small row.
    families: [Option<&'a ColumnFamily>; Table::ALL.len()],
    batch: WriteBatch,
    has_bodies: bool,
    failed: Option<StoreError>,
}

impl<'a> Batch<'a> {
    fn family(&self, table: Table) -> Result<&'a ColumnFamily, StoreError> {
        match self.families.get(table as usize) {
            Some(Some(family)) => Ok(family),
            _ => self.index.family(table),
        }
    }

    /// Sets a value. A table that is absent fails the write of the whole batch.
    pub(crate) fn put(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.has_bodies |= table == Table::Bodies;
        match self.family(table) {
            Ok(family) => self.batch.put_cf(family, key, value),
            Err(error) => self.failed = Some(error),
        }
    }

    /// Removes a key.
    pub(crate) fn delete(&mut self, table: Table, key: &[u8]) {
        match self.family(table) {
            Ok(family) => self.batch.delete_cf(family, key),
            Err(error) => self.failed = Some(error),
        }
    }

    /// Whether nothing was put in.
    pub(crate) fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }
}

fn cache(options: &IndexOptions) -> Cache {
    Cache::new_hyper_clock_cache(to_usize(options.cache_bytes), 0)
}

fn database_options(options: &IndexOptions) -> Options {
    let sizes = options.sizes;
    let mut database = Options::default();
    database.create_if_missing(options.create);
    database.create_missing_column_families(true);
    database.set_max_open_files(options.open_files_max);
    database.set_max_background_jobs(BACKGROUND_JOBS_MAX);
    database.set_max_total_wal_size(sizes.wal_bytes);
    database.set_db_write_buffer_size(to_usize(sizes.write_buffers_bytes));
    database.set_write_buffer_size(to_usize(sizes.write_buffer_bytes));
    database.set_max_manifest_file_size(to_usize(sizes.manifest_bytes));
    database.set_manifest_preallocation_size(to_usize(sizes.manifest_bytes / 4));
    database.set_max_log_file_size(to_usize(sizes.info_log_bytes));
    database.set_keep_log_file_num(2);
    database.set_log_level(LogLevel::Warn);
    database.set_stats_dump_period_sec(0);
    database.set_stats_persist_period_sec(0);
    // A torn end of the log is what a crash leaves; anything torn before it stops the replay there, never skips.
    database.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    database
}

/// Our tables and whatever else the disk names; listing fails where there is no database yet.
fn descriptors(options: &IndexOptions, cache: &Cache, database: &Options) -> Vec<ColumnFamilyDescriptor> {
    let listed = DB::list_cf(database, &options.path).unwrap_or_default();
    let others =
        listed.iter().filter(|name| *name != "default" && Table::ALL.iter().all(|table| table.name() != *name));
    let ours = Table::ALL.into_iter().map(|table| (table.name(), Some(table)));
    ours.chain([("default", None)])
        .chain(others.map(|name| (name.as_str(), None)))
        .map(|(name, table)| ColumnFamilyDescriptor::new(name, table_options(options, cache, table)))
        .collect()
}

fn table_options(options: &IndexOptions, cache: &Cache, table: Option<Table>) -> Options {
    let sizes = options.sizes;
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    if table.is_some_and(Table::is_probed) {
        blocks.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
    }
    let mut family = Options::default();
    if table == Some(Table::Manifests) {
        // Each put looks whether its artifact is here, mostly in vain, and the newest table is in memory.
        family.set_memtable_prefix_bloom_ratio(MEMTABLE_BLOOM_RATIO);
        family.set_memtable_whole_key_filtering(true);
    }
    family.set_block_based_table_factory(&blocks);
    // Build tools send what is compressed already; trying again costs a tenth of a flush.
    let is_bodies = table == Some(Table::Bodies);
    if is_bodies {
        // Files of it do not overlap, so moving one on writes nothing; and only one that was moved can be dropped.
        family.set_level_zero_file_num_compaction_trigger(1);
    }
    family.set_compression_type(if is_bodies { DBCompressionType::None } else { DBCompressionType::Lz4 });
    family.set_write_buffer_size(to_usize(sizes.write_buffer_bytes));
    family.set_arena_block_size(to_usize(sizes.arena_block_bytes));
    family.set_target_file_size_base(sizes.table_file_bytes);
    family.set_max_bytes_for_level_base(sizes.table_file_bytes * 4);
    family
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Only what RocksDB calls corrupt is damaged: an I/O error may be gone at the next try.
pub(super) fn index_error(path: &Path, error: &rocksdb::Error) -> StoreError {
    let (path, message) = (path.to_path_buf(), error.to_string());
    match error.kind() {
        rocksdb::ErrorKind::Corruption => StoreError::IndexDamaged { path, message },
        _ => StoreError::Index { path, message },
    }
}

/// Reading one row: a block that does not match its checksum is a statement about the row, not about the index.
pub(super) fn row_error(path: &Path, table: Table, error: &rocksdb::Error) -> StoreError {
    match error.kind() {
        rocksdb::ErrorKind::Corruption => StoreError::CorruptRow { table: table.name(), reason: error.to_string() },
        _ => index_error(path, error),
    }
}

pub(super) fn write_error(path: &Path, disk: &dyn Disk, error: &rocksdb::Error) -> StoreError {
    let volume = path.parent().unwrap_or(path);
    match disk.space(volume) {
        Ok(space) if space.available_bytes < FULL_BELOW_BYTES => StoreError::StorageFull { path: volume.to_path_buf() },
        _ => index_error(path, error),
    }
}
