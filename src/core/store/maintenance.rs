//! What happens behind the commits: bodies that nobody names any more are removed, deleted namespaces are emptied, and
//! with relaxed durability everything is synced once in a while.
//!
//! How it works: one thread, woken by the committer and by the clock. A sweep takes a bounded number of garbage rows,
//! removes their bodies, then the rows; both may be repeated at will, because body numbers are never used twice.
//!
//! Invariants: a garbage row is durable before its file is unlinked; nothing here needs free space but the rows' own
//! removal, which is a few bytes of log. A purge goes through the committer like every other change.
//!
//! Failure: an unlink that fails leaves its row, and the next sweep tries again.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::body_files;
use super::charge::{SweptRow, charge_of_garbage};
use super::commit_queue::{CommitQueue, receive};
use super::error::StoreError;
use super::index::Batch;
use super::index_view::KeyValue;
use super::keys::{META_SWEPT, Table, extent_of, key_number, number_key};
use super::state::Core;
use super::tagged::Row;
use super::trim;
use crate::core::base::ids::{BodyNo, Seq};
use crate::core::config::Durability;

/// Garbage rows taken at a time: what a kill repeats.
const SWEEP_ROWS_MAX: usize = 256;

/// What a power loss may cost: of everything with relaxed durability, else of what peers have too.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// How often the whole table is looked through, for garbage whose removal failed or whose wake-up was lost.
const RETRY_EVERY: Duration = Duration::from_secs(30);

/// Garbage remembered until the next periodic sync; the rest is found in the index.
const GATHERED_MAX: usize = 16 << 10;

/// Wake-ups that wait; a lost one is found in the index by the next look.
const WAKES_MAX: usize = 64;

/// Why the maintenance is woken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wake {
    /// These bodies became garbage.
    Sweep(Vec<BodyNo>),
    /// A namespace was deleted.
    Purge(String),
    /// The store closes.
    Close,
}

/// The thread.
#[derive(Debug)]
pub(crate) struct MaintenanceThread {
    wake: SyncSender<Wake>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl MaintenanceThread {
    /// The channel, made before the committer that sends into it.
    pub(crate) fn channel() -> (SyncSender<Wake>, Receiver<Wake>) {
        sync_channel(WAKES_MAX)
    }

    /// Starts the thread.
    pub(crate) fn start(
        core: Arc<Core>,
        queue: Arc<CommitQueue>,
        (wake, woken): (SyncSender<Wake>, Receiver<Wake>),
    ) -> std::io::Result<Self> {
        let body = move || Maintenance::new(&core).run(&queue, &woken);
        let thread = std::thread::Builder::new().name("kura-store-worker".to_owned()).spawn(body)?;
        Ok(Self { wake, thread: Mutex::new(Some(thread)) })
    }

    /// Ends the thread after the piece of work it is at.
    pub(crate) fn close(&self) {
        let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        // The flag ends a piece of work early; the message wakes a sleeper.
        let _ = self.wake.send(Wake::Close);
        if thread.join().is_err() {
            tracing::error!("store_worker_panicked");
        }
    }
}

/// A removal on its way.
struct Removal<'a> {
    batch: Batch<'a>,
    /// Whose files went.
    extents: BTreeSet<u64>,
    swept: SweptRow,
}

/// One store's maintenance.
pub(crate) struct Maintenance<'a> {
    core: &'a Core,
}

impl<'a> Maintenance<'a> {
    pub(crate) fn new(core: &'a Core) -> Self {
        Self { core }
    }

    fn run(&self, queue: &CommitQueue, woken: &Receiver<Wake>) {
        let relaxed = self.core.options.durability == Durability::Process;
        self.look_everywhere(queue);
        let mut gathered = Vec::new();
        let mut next_round = self.core.options.clock.monotonic() + SYNC_EVERY;
        let mut next_look = self.core.options.clock.monotonic() + RETRY_EVERY;
        loop {
            let now = self.core.options.clock.monotonic();
            match receive(woken, next_round.saturating_sub(now)) {
                // Relaxed, the rows become durable with the next periodic sync; only then may their files go.
                Ok(Wake::Sweep(numbers)) if relaxed => gathered.extend(numbers),
                Ok(Wake::Sweep(numbers)) => self.sweep_these(&numbers),
                Ok(Wake::Purge(namespace)) => self.purge_all(queue, &[namespace]),
                Err(true) => {}
                Ok(Wake::Close) | Err(false) => return,
            }
            let now = self.core.options.clock.monotonic();
            if relaxed && (now >= next_round || gathered.len() >= GATHERED_MAX) {
                self.sync_relaxed();
                self.sweep_these(&std::mem::take(&mut gathered));
            } else if now >= next_round {
                // A failure has stopped writes, and says why there.
                let _ = self.core.sync_late();
            }
            if now >= next_look {
                self.look_everywhere(queue);
                next_look = now + RETRY_EVERY;
            }
            if now >= next_round {
                self.thin_out(queue);
                next_round = now + SYNC_EVERY;
            }
        }
    }

    /// Finds what nobody woke for: left by an earlier process, failed before, or lost in a full channel.
    pub(crate) fn look_everywhere(&self, queue: &CommitQueue) {
        self.purge_left_over(queue);
        self.sweep();
        if let Err(error) = self.core.refresh_oldest() {
            tracing::warn!(%error, "store_oldest_unknown");
        }
    }

    /// Gives back the room of inline bodies that died here and there.
    fn thin_out(&self, queue: &CommitQueue) {
        match super::thin_tables::thin_out(self.core, queue) {
            Ok(0) => {}
            Ok(bodies) => tracing::debug!(bodies, "store_bodies_moved"),
            Err(error) => tracing::warn!(%error, "store_bodies_not_moved"),
        }
    }

    /// Body data first, then the rows that name it.
    fn sync_relaxed(&self) {
        if let Err(error) = sync_volume(self.core) {
            self.core.stop_writes(format!("the periodic sync failed: {error}"));
        }
    }

    /// Purges what earlier processes left, and what was not woken for.
    fn purge_left_over(&self, queue: &CommitQueue) {
        match super::evaluate_purge::purges_under_way(self.core) {
            Ok(namespaces) => self.purge_all(queue, &namespaces),
            Err(error) => tracing::warn!(%error, "store_purge_list_failed"),
        }
    }

    /// Empties deleted namespaces, a bounded batch at a time.
    pub(crate) fn purge_all(&self, queue: &CommitQueue, namespaces: &[String]) {
        for namespace in namespaces {
            let mut after = Seq(0);
            loop {
                match queue.purge(namespace, after) {
                    // What is left is found by the next open.
                    Ok(Some(_)) if self.core.is_closing() => return,
                    Ok(Some(next)) => after = next,
                    Ok(None) => break,
                    Err(error) => {
                        // The others are not to wait for it; it is tried again with the next look.
                        tracing::warn!(%error, "store_purge_failed");
                        break;
                    }
                }
            }
        }
    }

    /// Removes all garbage there is; what cannot be removed is passed over and tried again another time.
    pub(crate) fn sweep(&self) {
        self.report(self.sweep_all());
    }

    /// Removes the garbage of these numbers, without a look at the rest.
    pub(crate) fn sweep_these(&self, numbers: &[BodyNo]) {
        for some in numbers.chunks(SWEEP_ROWS_MAX) {
            self.report(self.sweep_some(some));
        }
    }

    fn sweep_some(&self, numbers: &[BodyNo]) -> Result<(), StoreError> {
        let mut swept = self.core.swept.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = numbers.iter().map(|number| number_key(number.0));
        let rows = keys.filter_map(|key| match self.core.index.get(Table::Garbage, &key) {
            Ok(row) => row.map(|row| Ok((key.into(), row.as_ref().into()))),
            Err(error) => Some(Err(error)),
        });
        self.remove(&rows.collect::<Result<Vec<KeyValue>, _>>()?, &mut swept)
    }

    fn report(&self, swept: Result<(), StoreError>) {
        if let Err(error) = swept.and_then(|()| trim::trim(self.core)) {
            tracing::warn!(%error, "store_sweep_failed");
        }
    }

    fn sweep_all(&self) -> Result<(), StoreError> {
        let mut from = Vec::new();
        while !self.core.is_closing() {
            let mut swept = self.core.swept.lock().unwrap_or_else(PoisonError::into_inner);
            let rows = self.core.index.rows(Table::Garbage, &from)?.take(SWEEP_ROWS_MAX);
            let rows = rows.collect::<Result<Vec<_>, _>>()?;
            self.remove(&rows, &mut swept)?;
            match rows.last() {
                Some((last, _)) if rows.len() == SWEEP_ROWS_MAX => from = [last, [0].as_slice()].concat(),
                _ => break,
            }
        }
        Ok(())
    }

    /// Removes the bodies of garbage rows, then the rows; the rows were read under the lock that `swept` is behind.
    fn remove(&self, rows: &[KeyValue], swept: &mut SweptRow) -> Result<(), StoreError> {
        self.core.check_writable()?;
        if rows.is_empty() {
            return Ok(());
        }
        if self.core.options.durability == Durability::Process {
            self.core.index.sync()?;
        } else {
            self.core.sync_late()?;
        }
        let mut removal = Removal { batch: self.core.index.batch(), extents: BTreeSet::new(), swept: swept.clone() };
        let mut removed = 0;
        for (key, value) in rows {
            removed += u64::from(self.remove_one(key, value, &mut removal));
        }
        let Removal { mut batch, extents, swept: next } = removal;
        // The names must be gone for good before the rows that remember them are.
        for extent in &extents {
            let folder = body_files::extent_path(&self.core.options.layout, *extent);
            let synced = self.core.options.disk.sync_dir(&folder);
            synced.map_err(|source| self.core.io_error("sync", &folder, source))?;
        }
        if !batch.is_empty() {
            batch.put(Table::Meta, META_SWEPT, &next.encode());
            self.core.index.write(batch, false)?;
            self.core.charged_out.store(next.bytes(), Ordering::Release);
            *swept = next;
        }
        if let Some(metrics) = self.core.metrics.get() {
            metrics.removed(removed);
        }
        self.remove_empty_folders(&extents);
        Ok(())
    }

    /// Removes one body; false where that failed or its row says nothing.
    fn remove_one(&self, key: &[u8], value: &[u8], removal: &mut Removal<'_>) -> bool {
        let Removal { batch, extents, swept } = removal;
        let (Some(number), Ok(row)) = (key_number(key), Row::decode(value)) else {
            tracing::error!(table = "garbage", key = hex::encode(key), "store_row_corrupt");
            batch.delete(Table::Garbage, key);
            swept.doubt();
            return false;
        };
        if row.number(1) == 0 {
            self.core.dead_bodies.note(BodyNo(number), row.number(2));
        } else {
            let body_no = BodyNo(number);
            self.core.verified.remove(body_no);
            if let Err(error) = self.remove_file(body_no, row.number(3) != 0) {
                tracing::warn!(%body_no, %error, "store_unlink_failed");
                return false;
            }
            if body_files::extent_path(&self.core.options.layout, extent_of(body_no)).exists() {
                extents.insert(extent_of(body_no));
            }
        }
        batch.delete(Table::Garbage, key);
        swept.add(charge_of_garbage(&row, self.core.block_bytes));
        true
    }

    fn remove_file(&self, body_no: BodyNo, keep_for_a_look: bool) -> std::io::Result<()> {
        let (disk, layout) = (self.core.options.disk.as_ref(), &self.core.options.layout);
        if keep_for_a_look {
            body_files::set_aside(disk, layout, body_no)
        } else {
            body_files::remove(disk, layout, body_no)
        }
    }

    /// A folder that can still get bodies is left: only the committer makes folders, and it remembers them.
    fn remove_empty_folders(&self, extents: &BTreeSet<u64>) {
        let Ok(Some(newest)) = self.core.index.view().last(Table::BodyOwner) else { return };
        let Some(newest) = key_number(&newest.0).map(|number| extent_of(BodyNo(number))) else { return };
        for extent in extents.iter().filter(|extent| **extent < newest) {
            // Not empty is the usual answer.
            let _ = self.core.options.disk.remove_dir(&body_files::extent_path(&self.core.options.layout, *extent));
        }
    }
}

/// Makes everything durable: the volume's files, then the log of the index.
pub(crate) fn sync_volume(core: &Core) -> Result<(), StoreError> {
    let data_dir: &Path = core.options.layout.data_dir();
    let folder = std::fs::File::open(data_dir).map_err(|source| core.io_error("open", data_dir, source))?;
    let synced = core.options.disk.sync_filesystem(&folder);
    synced.map_err(|source| core.io_error("sync the filesystem of", data_dir, source))?;
    core.index.sync()
}
