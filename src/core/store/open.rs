//! Opening a store: identity, index, epoch, what an unclean stop left, committer.
//!
//! How it works, in this order: the identity says whether a store may be made here; the index opens; the new epoch's
//! row and the mark "not closed" are written and synced before anything else is; body files that no manifest owns are
//! removed if the last writer did not close; then the committer and the maintenance start.
//!
//! Invariants: the index is created only while the identity says `initialising` or `rebuilding`. Opening for reading changes nothing.
//!
//! Failure: a crash anywhere in here is an unclean stop like any other.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::watch;

use super::body_files::{self, extent_path, parse_body_name};
use super::body_numbers::{self, BodyNumbers};
use super::breaker::Breaker;
use super::charge::{self, SweptRow};
use super::commit_queue::CommitQueue;
use super::epochs;
use super::error::StoreError;
use super::eviction::EvictionState;
use super::facade::{OpenReport, StoreOptions};
use super::group::Groups;
use super::index::{Batch, Index, IndexOptions};
use super::keys::{EXTENT_BITS, META_RUN, META_STATE, META_SWEPT, Table, number_key};
use super::late_sync::LateSync;
use super::lost_deletes;
use super::maintenance::{Maintenance, MaintenanceThread};
use super::metadata_room::MetadataRoom;
use super::rebuild::{self, RebuildReport};
use super::salvage;
use super::set_digest::SetDigest;
use super::sizes::IndexSizes;
use super::state::{Core, StateRow, corrupt};
use super::tagged::Row;
use super::thin_tables::Patrol;
use super::tombstone_log::TombstoneLog;
use super::trim::DeadBodies;
use super::verified::VerifiedBodies;
use super::visits::Visits;
use super::wanted;
use crate::core::base::ids::{ArtifactId, BodyNo, Epoch, StoreId};
use crate::core::base::rng::RngExt as _;
use crate::core::config::Durability;
use crate::core::data_dir::identity::{Identity, IdentityState, InitState};

/// `meta` / `run`, field 1: a writer has it open, or died with it.
const RUN_OPEN: u64 = 1;
/// `meta` / `run`, field 1: the last writer closed it.
const RUN_CLEAN: u64 = 2;

/// The parts of a store that is open for writing.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) queue: Arc<CommitQueue>,
    pub(crate) maintenance: Option<MaintenanceThread>,
}

/// Opens for writing.
pub(crate) fn open(options: StoreOptions) -> Result<(Arc<Core>, Writer, OpenReport), StoreError> {
    let (mut identity, created) = find_or_make_identity(&options)?;
    let (index, rebuilt) = open_or_rebuild(&options, &mut identity)?;
    let state = StateRow::load(&index)?;
    let mut state = state;
    let unclean = read_run(&index)? == RUN_OPEN;
    let epoch = Epoch(options.rng.bytes());
    let mut batch = index.batch();
    let counted = keep_counters(&index, identity.block_bytes, &mut state, &mut batch)?;
    state.set_counted_under(epoch);
    batch.put(Table::Meta, META_STATE, &state.encode());
    let newest = epochs::current(&index)?.map(|(epoch, _)| epoch);
    SetDigest::begin(&index, &mut batch, (newest, epoch), state.head())?;
    epochs::begin(&index, &mut batch, epoch, state.head())?;
    batch.put(Table::Meta, META_RUN, &Row::default().with_number(1, RUN_OPEN).encode());
    index.write(batch, true)?;
    if identity.init_state == InitState::Initialising {
        identity.init_state = InitState::Ready;
        let stored = identity.store(&options.layout, options.disk.as_ref());
        stored.map_err(|source| file_error(&options, "write", options.layout.identity(), source))?;
    }
    let core = Arc::new(make_core(options, &identity, (epoch, index), &state, Access::Write)?);
    let mut report = OpenReport { created, unclean, counted, rebuilt, ..OpenReport::default() };
    // Also after a clean stop: the index may be an older one than it was.
    (state, report.deletes_restored) = lost_deletes::restore(&core, state)?;
    if unclean {
        // A table file of bodies may have been taken in whose manifests were never written.
        core.dead_bodies.note_unsettled(&body_numbers::unsettled(&core.index)?);
    }
    let left_strays = unclean && !remove_orphans(&core, &mut report)?;
    let writer = start_writer(&core, state, left_strays)?;
    Ok((core, writer, report))
}

/// The index; made anew from body files where it cannot be read, never made empty over data.
fn open_or_rebuild(
    options: &StoreOptions,
    identity: &mut Identity,
) -> Result<(Index, Option<RebuildReport>), StoreError> {
    if identity.init_state != InitState::Rebuilding {
        match open_index(options, identity.init_state == InitState::Initialising) {
            Err(error) if rebuild::is_damaged(options, &error) => {
                tracing::error!(%error, "store_index_damaged");
                rebuild::request(options, identity)?;
            }
            opened => return Ok((opened?, None)),
        }
    }
    let report = rebuild::rebuild(options, identity)?;
    Ok((open_index(options, false)?, Some(report)))
}

/// Opens for reading.
pub(crate) fn open_read_only(options: StoreOptions) -> Result<Arc<Core>, StoreError> {
    let identity = match load_identity(&options)? {
        Some(identity) => identity,
        None => {
            let source = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(StoreError::Io { action: "open", path: options.layout.identity(), source });
        }
    };
    if identity.init_state == InitState::Rebuilding {
        let message = "it is being made anew from body files; the next start goes on with that".to_owned();
        return Err(StoreError::IndexDamaged { path: options.layout.index(), message });
    }
    let index = Index::open_read_only(&index_options(&options, false)?)?;
    let state = StateRow::load(&index)?;
    let newest = epochs::current(&index)?.map(|(epoch, _)| epoch);
    let is_kept = charge::are_kept(&state, &SweptRow::load(&index)?, newest);
    let opened = (newest.unwrap_or_default(), index);
    Ok(Arc::new(make_core(options, &identity, opened, &state, Access::Read { is_kept })?))
}

/// Marks the store as closed by its writer; the index is flushed so that the next open replays nothing.
pub(crate) fn mark_clean(core: &Core) -> Result<(), StoreError> {
    if core.options.durability == Durability::Process {
        // Bodies have not been synced one by one, and clean says that all of them are there.
        super::maintenance::sync_volume(core)?;
    }
    let flushed = core.index.flush();
    let mut batch = core.index.batch();
    batch.put(Table::Meta, META_RUN, &Row::default().with_number(1, RUN_CLEAN).encode());
    core.index.write(batch, true)?;
    flushed
}

pub(super) fn file_error(
    options: &StoreOptions,
    action: &'static str,
    path: impl Into<std::path::PathBuf>,
    source: std::io::Error,
) -> StoreError {
    match source.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            StoreError::StorageFull { path: options.layout.data_dir().to_path_buf() }
        }
        _ => StoreError::Io { action, path: path.into(), source },
    }
}

/// The identity if the data dir has one that this binary and this tenant may use.
pub(super) fn load_identity(options: &StoreOptions) -> Result<Option<Identity>, StoreError> {
    let path = options.layout.data_dir().to_path_buf();
    let state = Identity::load(&options.layout);
    match state.map_err(|source| file_error(options, "read", options.layout.identity(), source))? {
        IdentityState::Absent => Ok(None),
        IdentityState::Ok(identity) if identity.tenant != options.tenant_id => Err(StoreError::Incompatible {
            path,
            reason: format!("it holds the tenant {:?}, not {:?}", identity.tenant, options.tenant_id),
        }),
        IdentityState::Ok(identity) => Ok(Some(*identity)),
        IdentityState::Incompatible { reason } => Err(StoreError::Incompatible { path, reason }),
        IdentityState::Corrupt { reason } => Err(StoreError::CorruptIdentity { path, reason }),
        IdentityState::Foreign { reason } => Err(StoreError::Foreign { path, reason }),
    }
}

fn find_or_make_identity(options: &StoreOptions) -> Result<(Identity, bool), StoreError> {
    if let Some(identity) = load_identity(options)? {
        if identity.init_state == InitState::Initialising {
            make_folders(options)?;
        }
        return Ok((identity, false));
    }
    std::fs::create_dir_all(options.layout.data_dir())
        .map_err(|source| file_error(options, "make", options.layout.data_dir(), source))?;
    let space = options.disk.space(options.layout.data_dir());
    let space = space.map_err(|source| file_error(options, "measure", options.layout.data_dir(), source))?;
    let identity = Identity::new(StoreId(options.rng.bytes()), &options.tenant_id, space.block_bytes);
    let stored = identity.store(&options.layout, options.disk.as_ref());
    stored.map_err(|source| file_error(options, "write", options.layout.identity(), source))?;
    make_folders(options)?;
    Ok((identity, true))
}

/// The folders of an empty store. The marker is made only here: later its absence means that `bodies` was lost.
fn make_folders(options: &StoreOptions) -> Result<(), StoreError> {
    let (disk, layout) = (options.disk.as_ref(), &options.layout);
    for folder in [layout.index(), layout.bodies(), layout.quarantine()] {
        body_files::ensure_dir(disk, &folder).map_err(|source| file_error(options, "make", folder, source))?;
    }
    body_files::ensure_marker(disk, layout)
        .map_err(|source| file_error(options, "make", layout.bodies_marker(), source))
}

fn index_options(options: &StoreOptions, create: bool) -> Result<IndexOptions, StoreError> {
    let space = options.disk.space(options.layout.data_dir());
    let space = space.map_err(|source| file_error(options, "measure", options.layout.data_dir(), source))?;
    let sizes = IndexSizes::for_volume(space.total_bytes);
    Ok(IndexOptions {
        path: options.layout.index(),
        sizes,
        room: Arc::new(MetadataRoom::new(&options.layout, Arc::clone(&options.disk), sizes)),
        cache_bytes: options.read_cache_bytes,
        open_files_max: options.open_files_max,
        create,
        disk: Arc::clone(&options.disk),
    })
}

pub(super) fn open_index(options: &StoreOptions, create: bool) -> Result<Index, StoreError> {
    Index::open(&index_options(options, create)?)
}

fn read_run(index: &Index) -> Result<u64, StoreError> {
    let row = index.get(Table::Meta, META_RUN)?.map(|bytes| Row::decode(&bytes)).transpose();
    Ok(row.map_err(|error| corrupt("meta", error))?.map_or(0, |row| row.number(1)))
}

/// How a store is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// With exact counters, by then.
    Write,
    /// As it is found.
    Read { is_kept: bool },
}

/// Counts anew, into the batch that opens the store, if its last writer did not keep the counters. Whether it did so.
fn keep_counters(
    index: &Index,
    block_bytes: u64,
    state: &mut StateRow,
    batch: &mut Batch<'_>,
) -> Result<bool, StoreError> {
    let newest = epochs::current(index)?.map(|(epoch, _)| epoch);
    if charge::are_kept(state, &SweptRow::load(index)?, newest) {
        return Ok(false);
    }
    charge::count_anew(index, block_bytes, state)?;
    batch.put(Table::Meta, META_SWEPT, &SweptRow::default().encode());
    Ok(true)
}

/// What the parts of a store share, while nobody but the caller writes to it.
pub(super) fn make_core_for_writing(
    options: StoreOptions,
    identity: &Identity,
    opened: (Epoch, Index),
    state: &StateRow,
) -> Result<Core, StoreError> {
    make_core(options, identity, opened, state, Access::Write)
}

fn make_core(
    options: StoreOptions,
    identity: &Identity,
    (epoch, index): (Epoch, Index),
    state: &StateRow,
    access: Access,
) -> Result<Core, StoreError> {
    let swept = SweptRow::load(&index)?;
    let sizes = index_options(&options, false)?.sizes;
    let room = Arc::clone(index.room());
    // Only who notes more of them has to know how many there are.
    let wanted_rows = if access == Access::Write { wanted::count(&index)? } else { 0 };
    let set_digest = SetDigest::load(&index, Some(epoch), state.head())?;
    let eviction = EvictionState::load(&index, state, sizes.stubs_max)?;
    Ok(Core {
        options,
        store_id: identity.store_id,
        epoch,
        index,
        room,
        sizes,
        read_only: access != Access::Write,
        head: watch::Sender::new(state.head()),
        artifacts: state.artifacts().into(),
        body_bytes: state.body_bytes().into(),
        evicted_floor_ms: state.evicted_floor_ms().into(),
        charged_in: state.charged_in().into(),
        charged_out: swept.bytes().into(),
        charges_kept: access != Access::Read { is_kept: false },
        swept: swept.into(),
        block_bytes: identity.block_bytes,
        evictions: state.evictions().into(),
        stubs: state.stubs().into(),
        expiring: state.expiring().into(),
        capacity_bytes: u64::MAX.into(),
        wanted_rows: wanted_rows.into(),
        set_digest: std::sync::Mutex::new(set_digest),
        cursor_changes: std::sync::Mutex::default(),
        verified: VerifiedBodies::default(),
        visits: Visits::default(),
        eviction,
        breaker: Breaker::default(),
        late_sync: LateSync::default(),
        dead_bodies: DeadBodies::default(),
        thin_patrol: Patrol::default(),
        bodies_settled_below: 0.into(),
        write_stopped: std::sync::Mutex::default(),
        closing: false.into(),
        metrics: std::sync::OnceLock::new(),
    })
}

fn start_writer(core: &Arc<Core>, state: StateRow, left_strays: bool) -> Result<Writer, StoreError> {
    let path = core.options.layout.tombstones_log();
    let tombstones = TombstoneLog::open(&path, Arc::clone(&core.options.disk));
    let mut tombstones = tombstones.map_err(|source| core.io_error("open", &path, source))?;
    if tombstones.is_long() || !tombstones.is_whole() {
        tombstones.refresh(core, &path);
    }
    let numbers = BodyNumbers::load(&core.index, !left_strays)?;
    core.bodies_settled_below.store(numbers.next(), Ordering::Release);
    let groups = Groups::new(Arc::clone(core), state, numbers, tombstones, left_strays);
    if core.options.executor.is_inline() {
        let queue = Arc::new(CommitQueue::inline(groups, Arc::clone(core)));
        Maintenance::new(core).look_everywhere(&queue);
        return Ok(Writer { queue, maintenance: None });
    }
    let thread_error = |source| StoreError::Io { action: "start a thread for", path: core.data_dir(), source };
    let (wake, woken) = MaintenanceThread::channel();
    let queue = CommitQueue::on_thread(groups, Arc::clone(core), wake.clone()).map_err(thread_error)?;
    let queue = Arc::new(queue);
    let maintenance = MaintenanceThread::start(Arc::clone(core), Arc::clone(&queue), (wake, woken));
    Ok(Writer { queue, maintenance: Some(maintenance.map_err(thread_error)?) })
}

/// Removes body files that got their name and whose batch never came to be. False if some may be left: they are no
/// reason not to open, and the next open looks for them again.
fn remove_orphans(core: &Core, report: &mut OpenReport) -> Result<bool, StoreError> {
    let unsettled = body_numbers::unsettled(&core.index)?;
    let mut are_gone = true;
    for extent in (unsettled.start >> EXTENT_BITS)..=(unsettled.end >> EXTENT_BITS) {
        let folder = extent_path(&core.options.layout, extent);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                tracing::warn!(%error, path = %folder.display(), "orphans_not_listed");
                are_gone = false;
                continue;
            }
        };
        for entry in entries {
            let removed = match entry {
                Ok(entry) => remove_if_orphan(core, &entry, report)?,
                Err(error) => Err(error),
            };
            if let Err(error) = removed {
                tracing::warn!(%error, path = %folder.display(), "orphan_not_removed");
                are_gone = false;
            }
        }
    }
    Ok(are_gone)
}

/// Outside is what the index says, inside what the file does.
fn remove_if_orphan(
    core: &Core,
    entry: &std::fs::DirEntry,
    report: &mut OpenReport,
) -> Result<std::io::Result<()>, StoreError> {
    let Some(body_no) = entry.file_name().to_str().and_then(parse_body_name) else { return Ok(Ok(())) };
    if is_owned(core, body_no)? || salvaged(core, &entry.path()) {
        return Ok(Ok(()));
    }
    let bytes = entry.metadata().map_or(0, |metadata| metadata.len());
    let removed = body_files::remove(core.options.disk.as_ref(), &core.options.layout, body_no);
    if removed.is_ok() {
        report.orphan_bodies_removed += 1;
        report.orphan_bytes_removed += bytes;
    }
    Ok(removed)
}

/// Whether an orphan was a long body from a peer, which is not fetched again.
fn salvaged(core: &Core, path: &Path) -> bool {
    let (options, own) = (&core.options, core.store_id);
    let salvaged = salvage::orphan(&options.layout, options.disk.as_ref(), path, &options.tenant_id, own);
    salvaged.unwrap_or_else(|error| {
        tracing::warn!(%error, path = %path.display(), "orphan_not_salvaged");
        false
    })
}

/// Whether a manifest names this body, or the sweeper will remove it. A manifest that does not decode may name it.
pub(crate) fn is_owned(core: &Core, body_no: BodyNo) -> Result<bool, StoreError> {
    let key = number_key(body_no.0);
    if core.index.get(Table::Garbage, &key)?.is_some() {
        return Ok(true);
    }
    let owner = core.index.get(Table::BodyOwner, &key)?.and_then(|id| ArtifactId::from_slice(&id));
    let Some(owner) = owner else { return Ok(false) };
    match core.manifest(&owner) {
        Ok(manifest) => Ok(manifest.is_some_and(|record| super::evaluate::number_of(&record) == Some(body_no))),
        Err(StoreError::CorruptRow { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}
