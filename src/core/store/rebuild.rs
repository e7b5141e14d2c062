//! Making the index anew from what lies outside it: body files with their footers, and the log of tombstones.
//!
//! How it works: the identity is given a new store id and the state `rebuilding`, durably; then the damaged index moves
//! aside and an empty one is made. First all tombstones go in, then the artifact of every body file whose footer is
//! whole, the newest version of each winning. Only when all of that is durable does the identity say `ready` again.
//!
//! Invariants: nothing deleted comes back, because a tombstone reaches its log before it reaches the index. A body file
//! goes only if its artifact is deleted, or is here in a newer version, or it has no footer to say what it is. The new
//! store id makes every peer list this store anew: the sequence numbers are other ones.
//!
//! What is lost: inline bodies, which lie in the index, cursors, and what was wanted. All of it comes back from peers.
//!
//! Failure: a crash anywhere leaves `rebuilding`, and the next open begins the rebuild again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::body_files::{self, body_path, extent_path, parse_body_name, parse_extent_name};
use super::epochs;
use super::error::StoreError;
use super::evaluate::{Evaluation, Finished};
use super::facade::StoreOptions;
use super::footer;
use super::index::Batch;
use super::keys::{EXTENT_BITS, META_BODY_HIGH, META_BODY_LOW, META_STATE, Table};
use super::open::{file_error, make_core_for_writing, open_index};
use super::record::{BodyPlace, Record};
use super::state::{Core, StateRow, is_deleted};
use super::tagged::Row;
use crate::core::base::ids::{BodyNo, Epoch, StoreId};
use crate::core::base::rng::RngExt as _;
use crate::core::data_dir::identity::{Identity, InitState};
use crate::core::data_dir::layout::Layout;

/// Body files taken in with one batch: enough to share its cost, few enough to hold their records in memory.
const BATCH_FILES_MAX: usize = 1024;

/// Names of the index folder that are looked at; RocksDB keeps far fewer files.
const INDEX_NAMES_MAX: usize = 100_000;

/// Where the damaged index lies until the next rebuild, for a look at it.
const OLD_INDEX_NAME: &str = "index.old";

/// A volume with less than one part in this many free keeps no damaged index.
const KEEP_OLD_FREE_SHARE: u64 = 10;

/// What a rebuild found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct RebuildReport {
    /// Tombstones taken from their log.
    pub tombstones: u64,
    /// Artifacts that are here again.
    pub artifacts: u64,
    /// Bytes of their bodies.
    pub body_bytes: u64,
    /// Files removed because their artifact is deleted.
    pub deleted: u64,
    /// Files removed because a newer version of their artifact is here.
    pub superseded: u64,
    /// Files without a whole footer, set aside.
    pub unusable: u64,
    /// Files that could not be read now; they stay where they are and nothing names them.
    pub unreadable: u64,
}

/// Has the next open make the index anew, under a new store id. The caller holds the data-dir lock.
pub(super) fn request(options: &StoreOptions, identity: &mut Identity) -> Result<(), StoreError> {
    if !body_files::is_marked(&options.layout) {
        let reason =
            "the marker in bodies/ is missing: the folder is not what it was, perhaps its volume is not mounted";
        return Err(StoreError::CorruptIdentity {
            path: options.layout.data_dir().to_path_buf(),
            reason: reason.to_owned(),
        });
    }
    remove_folder(options, old_index(&options.layout))?;
    identity.init_state = InitState::Rebuilding;
    identity.store_id = StoreId(options.rng.bytes());
    store_identity(options, identity)
}

fn store_identity(options: &StoreOptions, identity: &Identity) -> Result<(), StoreError> {
    let stored = identity.store(&options.layout, options.disk.as_ref());
    stored.map_err(|source| file_error(options, "write", options.layout.identity(), source))
}

/// Makes the index anew; the identity says `rebuilding` before and `ready` after.
pub(super) fn rebuild(options: &StoreOptions, identity: &mut Identity) -> Result<RebuildReport, StoreError> {
    tracing::warn!(path = %options.layout.index().display(), "store_index_rebuilding");
    move_aside(options)?;
    let index = open_index(options, true)?;
    let epoch = Epoch(options.rng.bytes());
    let mut state = StateRow::load(&index)?;
    let mut batch = index.batch();
    state.set_counted_under(epoch);
    batch.put(Table::Meta, META_STATE, &state.encode());
    epochs::begin(&index, &mut batch, epoch, state.head())?;
    index.write(batch, false)?;
    let core = make_core_for_writing(options.clone(), identity, (epoch, index), &state)?;
    let mut rebuild = Rebuild { core: &core, state, report: RebuildReport::default(), highest: 0 };
    rebuild.take_tombstones()?;
    rebuild.take_bodies()?;
    let report = rebuild.finish()?;
    drop(core);
    identity.init_state = InitState::Ready;
    store_identity(options, identity)?;
    forget_old_index_if_short(options);
    tracing::warn!(?report, "store_index_rebuilt");
    Ok(report)
}

fn old_index(layout: &Layout) -> PathBuf {
    layout.quarantine().join(OLD_INDEX_NAME)
}

/// The damaged index goes to the quarantine, once; what a rebuild that was cut off left is removed.
fn move_aside(options: &StoreOptions) -> Result<(), StoreError> {
    let (disk, layout) = (options.disk.as_ref(), &options.layout);
    let (index, aside) = (layout.index(), old_index(layout));
    body_files::ensure_dir(disk, &layout.quarantine())
        .map_err(|source| file_error(options, "make", layout.quarantine(), source))?;
    if !aside.exists() {
        match disk.rename(&index, &aside) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(file_error(options, "move aside", index, source));
            }
            _ => {}
        }
    }
    remove_folder(options, index.clone())?;
    body_files::ensure_dir(disk, &index).map_err(|source| file_error(options, "make", index, source))
}

fn remove_folder(options: &StoreOptions, folder: PathBuf) -> Result<(), StoreError> {
    match std::fs::remove_dir_all(&folder) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(file_error(options, "remove", folder, source))
        }
        _ => Ok(()),
    }
}

/// The damaged index is only good for a look; on a volume that runs short it is in the way.
fn forget_old_index_if_short(options: &StoreOptions) {
    let space = options.disk.space(options.layout.data_dir());
    let is_short = space.is_ok_and(|space| space.available_bytes < space.total_bytes / KEEP_OLD_FREE_SHARE);
    if is_short && let Err(error) = remove_folder(options, old_index(&options.layout)) {
        tracing::warn!(%error, "store_old_index_not_removed");
    }
}

/// A rebuild under way.
struct Rebuild<'a> {
    core: &'a Core,
    state: StateRow,
    report: RebuildReport,
    /// Above every body number found.
    highest: u64,
}

impl Rebuild<'_> {
    fn take_tombstones(&mut self) -> Result<(), StoreError> {
        let mut newest: BTreeMap<String, u64> = BTreeMap::new();
        for (namespace, version_ms) in super::lost_deletes::logged(self.core)? {
            let known = newest.entry(namespace).or_default();
            *known = (*known).max(version_ms);
        }
        let mut evaluation = Evaluation::new(self.core, self.state.clone());
        for (namespace, version_ms) in newest {
            evaluation.restore_tombstone(&namespace, version_ms)?;
            self.report.tombstones += 1;
        }
        self.write(evaluation.finish())
    }

    /// All extents in the order of their numbers, a bounded number of files at a time.
    fn take_bodies(&mut self) -> Result<(), StoreError> {
        let folder = self.core.options.layout.bodies();
        let names = self.names(folder)?;
        let mut extents: Vec<u64> = names.iter().filter_map(|name| parse_extent_name(name)).collect();
        extents.sort_unstable();
        for extent in extents {
            let folder = extent_path(&self.core.options.layout, extent);
            let mut numbers: Vec<BodyNo> =
                self.names(folder)?.iter().filter_map(|name| parse_body_name(name)).collect();
            numbers.sort_unstable_by_key(|number| number.0);
            for some in numbers.chunks(BATCH_FILES_MAX) {
                self.take_files(some)?;
            }
            let last = numbers.last().map_or(0, |number| number.0.saturating_add(1));
            self.highest = self.highest.max(last);
        }
        Ok(())
    }

    fn names(&self, folder: PathBuf) -> Result<Vec<String>, StoreError> {
        let failed = |source| self.core.io_error("list", folder.clone(), source);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            names.extend(entry.map_err(failed)?.file_name().into_string());
        }
        Ok(names)
    }

    /// Takes files in. What has to go is removed only when the batch that makes it needless is durable.
    fn take_files(&mut self, numbers: &[BodyNo]) -> Result<(), StoreError> {
        let mut needless = Vec::new();
        let mut evaluation = Evaluation::new(self.core, self.state.clone());
        for body_no in numbers {
            let Some(record) = self.read_footer(*body_no) else { continue };
            let record = Record { body: Some(BodyPlace::File(*body_no)), ..record };
            let id = self.core.id_of(&record);
            let existing = evaluation.manifest(&id)?;
            if is_deleted(&record, evaluation.tombstone(&record.name.namespace)?) {
                self.report.deleted += 1;
                needless.push(*body_no);
            } else if existing.as_ref().is_some_and(|existing| existing.version() >= record.version()) {
                self.report.superseded += 1;
                needless.push(*body_no);
            } else {
                self.report.superseded += u64::from(existing.is_some());
                evaluation.store(id, record, existing)?;
            }
        }
        self.write(evaluation.finish())?;
        if needless.is_empty() {
            return Ok(());
        }
        self.core.index.sync()?;
        for body_no in needless {
            let removed = body_files::remove(self.core.options.disk.as_ref(), &self.core.options.layout, body_no);
            removed.map_err(|source| {
                self.core.io_error("remove", body_path(&self.core.options.layout, body_no), source)
            })?;
        }
        Ok(())
    }

    fn read_footer(&mut self, body_no: BodyNo) -> Option<Record> {
        let (disk, layout) = (self.core.options.disk.as_ref(), &self.core.options.layout);
        let read = std::fs::File::open(body_path(layout, body_no)).and_then(|file| footer::read(&file));
        let set_aside = match read {
            Ok(Some(record)) => return Some(record),
            Ok(None) => body_files::set_aside(disk, layout, body_no).inspect(|()| self.report.unusable += 1),
            // Of a folder in its place, or of a disk that fails just now, nothing can be said.
            Err(error) => Err(error),
        };
        if let Err(error) = set_aside {
            tracing::warn!(%body_no, %error, "store_body_not_read");
            self.report.unreadable += 1;
        }
        None
    }

    fn write(&mut self, finished: Finished<'_>) -> Result<(), StoreError> {
        self.core.write_settling(finished.batch, finished.wanted, |batch: Batch<'_>| {
            if batch.is_empty() { Ok(()) } else { self.core.index.write(batch, false) }
        })?;
        self.state = finished.state;
        Ok(())
    }

    /// No number that may have been used is used again, and no file below it is without an owner that says so.
    fn finish(mut self) -> Result<RebuildReport, StoreError> {
        let extents = self.highest.div_ceil(1 << EXTENT_BITS).saturating_add(1);
        let high = Row::default().with_number(1, extents << EXTENT_BITS).encode();
        let mut batch = self.core.index.batch();
        batch.put(Table::Meta, META_BODY_HIGH, &high);
        batch.put(Table::Meta, META_BODY_LOW, &high);
        self.core.index.write(batch, true)?;
        super::open::mark_clean(self.core)?;
        (self.report.artifacts, self.report.body_bytes) = (self.state.artifacts(), self.state.body_bytes());
        Ok(self.report)
    }
}

/// Whether an error of opening the index says that what is there cannot be read, now or later.
pub(super) fn is_damaged(options: &StoreOptions, error: &StoreError) -> bool {
    match error {
        StoreError::IndexDamaged { .. } => true,
        // RocksDB reports these as I/O errors; the identity says that there was a whole index.
        StoreError::Index { .. } => {
            lacks_its_beginning(&options.layout.index()) || holds_a_folder(&options.layout.index())
        }
        _ => false,
    }
}

/// Whether the file `CURRENT` is not there, or says nothing, or names a file that is not there.
fn lacks_its_beginning(index: &Path) -> bool {
    let is_gone = |error: std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    match std::fs::read_to_string(index.join("CURRENT")) {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => true,
        Err(error) if error.kind() == std::io::ErrorKind::IsADirectory => true,
        Err(error) => is_gone(error),
        Ok(named) if !named.starts_with("MANIFEST-") => true,
        Ok(named) => std::fs::metadata(index.join(named.trim_end())).is_err_and(is_gone),
    }
}

/// RocksDB makes no folders here: one is in the place of a file.
fn holds_a_folder(index: &Path) -> bool {
    let entries = std::fs::read_dir(index).into_iter().flatten().flatten();
    entries.take(INDEX_NAMES_MAX).any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}

impl super::facade::Store {
    /// Has the next open make the index anew from body files and the log of tombstones; see [`rebuild`]. The caller
    /// holds the data-dir lock.
    ///
    /// # Errors
    /// A data dir that is none or another tenant's, and a bodies folder that is not what it was.
    pub fn request_rebuild(options: &StoreOptions) -> Result<(), StoreError> {
        let Some(mut identity) = super::open::load_identity(options)? else {
            let source = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(StoreError::Io { action: "open", path: options.layout.identity(), source });
        };
        match identity.init_state {
            // Nothing was ever acknowledged, or it is asked for already.
            InitState::Initialising | InitState::Rebuilding => Ok(()),
            InitState::Ready => request(options, &mut identity),
        }
    }
}
