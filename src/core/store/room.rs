//! Keeping room on the volume: a look measures, decides, and does what was decided.
//!
//! How it works: [`RoomKeeper::look`] asks the volume, has [`SpaceController`] decide, tells the store its capacity, evicts
//! one bounded batch, and releases or restores the ballast. It blocks; callers run it off the async threads, again and
//! again. Before the store is open, [`make_room_to_open`] gives the ballast's room to the index if it needs it.
//!
//! Invariants: eviction comes before refusal: room that is being freed counts for a few looks, so that a filesystem or an
//! index that frees late does not cost twice the artifacts.
//!
//! Failure: a volume that cannot be measured is an error of the look, never a full volume; everything stays as it was.

use std::io;
use std::sync::Arc;

use super::eviction::EvictGoal;
use super::facade::Store;
use super::sizes::IndexSizes;
use crate::core::base::disk::{Disk, VolumeSpace};
use crate::core::data_dir::ballast::Ballast;
use crate::core::data_dir::capacity::{self, Decision, Measured, SpaceController, Stage};
use crate::core::data_dir::layout::Layout;
use crate::core::data_dir::space::usable_bytes;
use crate::core::data_dir::space_watch::{Room, SpaceStatus};

/// Charged bytes evicted between two looks: a second's work or less, and the volume is asked again.
const EVICT_BATCH_BYTES: u64 = 64 << 20;

/// What opening the index writes besides its unflushed log: a manifest, a new log, small files.
pub const INDEX_OPEN_BYTES: u64 = 1 << 20;

/// Names looked at in the index folder; RocksDB keeps far fewer files.
const INDEX_FILES_MAX: usize = 100_000;

/// Bytes that opening the index writes: its unflushed logs become tables of about the same size.
pub fn bytes_to_open(layout: &Layout) -> u64 {
    let Ok(entries) = std::fs::read_dir(layout.index()) else { return INDEX_OPEN_BYTES };
    let logs = entries.take(INDEX_FILES_MAX).flatten();
    let logs = logs.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "log"));
    logs.filter_map(|log| log.metadata().ok()).map(|log| log.len()).sum::<u64>().saturating_add(INDEX_OPEN_BYTES)
}

/// Releases the ballast if the index could not open otherwise; how much that was. Writes nothing.
///
/// # Errors
/// The volume cannot be measured, or the ballast not be removed.
pub fn make_room_to_open(layout: &Layout, disk: &Arc<dyn Disk>) -> io::Result<u64> {
    let (space, needed_bytes) = (disk.space(layout.data_dir())?, bytes_to_open(layout));
    if usable_bytes(&space) >= needed_bytes {
        return Ok(0);
    }
    let released = Ballast::new(layout, Arc::clone(disk)).release()?;
    if released > 0 {
        tracing::warn!(released, free_bytes = usable_bytes(&space), needed_bytes, "ballast_released_to_open");
    }
    Ok(released)
}

/// What a look came to.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// What was seen and decided.
    pub status: SpaceStatus,
    /// What bodies may take until the next look.
    pub room: Room,
    /// Artifacts that were evicted.
    pub evicted: u64,
}

impl Look {
    /// Whether there is more to evict that can be.
    pub fn goes_on(&self) -> bool {
        self.status.excess_bytes > 0 && !self.status.is_exhausted
    }
}

/// Keeps the room of one data dir.
#[derive(Debug)]
pub struct RoomKeeper {
    layout: Layout,
    disk: Arc<dyn Disk>,
    ballast: Ballast,
    sizes: IndexSizes,
    controller: SpaceController,
}

impl RoomKeeper {
    /// With the capacity that is set, if one is.
    ///
    /// # Errors
    /// The volume cannot be measured.
    pub fn new(layout: &Layout, disk: Arc<dyn Disk>, setting: Option<u64>) -> io::Result<Self> {
        let sizes = IndexSizes::for_volume(disk.space(layout.data_dir())?.total_bytes);
        Ok(Self {
            layout: layout.clone(),
            ballast: Ballast::new(layout, Arc::clone(&disk)),
            disk,
            sizes,
            controller: SpaceController::new(setting, sizes.needs()),
        })
    }

    /// One look; `wanted_bytes` is the room that a body waits for.
    ///
    /// # Errors
    /// The volume cannot be measured.
    pub fn look(&mut self, store: Option<&Store>, wanted_bytes: u64) -> io::Result<Look> {
        let space = self.disk.space(self.layout.data_dir())?;
        let charged_bytes = store.map_or(0, |store| store.stats().charged_bytes);
        let measured = Measured { space, charged_bytes, ballast_bytes: self.ballast.bytes(), wanted_bytes };
        let decision = self.controller.look(&measured);
        tracing::debug!(?measured, ?decision, "looked_at_room");
        let mut look = self.describe(&measured, &decision);
        if decision.release_ballast {
            self.release(&mut look, &space);
        }
        let Some(store) = store else { return Ok(look) };
        store.set_capacity(Some(decision.capacity.bytes));
        if decision.evict_bytes > 0 {
            self.evict(store, &decision, &mut look);
        } else if decision.restore_ballast {
            self.restore(&mut look);
        }
        store.set_ballast_owed(look.status.ballast_expected_bytes.saturating_sub(look.status.ballast_bytes));
        look.status.charged_bytes = store.stats().charged_bytes;
        Ok(look)
    }

    fn describe(&self, measured: &Measured, decision: &Decision) -> Look {
        let total_bytes = measured.space.total_bytes;
        let status = SpaceStatus {
            stage: decision.stage,
            total_bytes,
            free_bytes: measured.space.available_bytes,
            capacity_bytes: decision.capacity.bytes,
            bound: decision.capacity.bound,
            charged_bytes: measured.charged_bytes,
            ballast_bytes: measured.ballast_bytes,
            ballast_expected_bytes: capacity::ballast_bytes(total_bytes, &self.sizes.needs()),
            excess_bytes: decision.evict_bytes,
            is_exhausted: decision.evict_bytes == 0 && decision.freeing_bytes == 0,
            error: None,
        };
        Look { status, room: Room { bytes: decision.room_bytes, files: decision.room_files }, evicted: 0 }
    }

    fn evict(&mut self, store: &Store, decision: &Decision, look: &mut Look) {
        let bytes = decision.evict_bytes.min(EVICT_BATCH_BYTES);
        match store.evict(EvictGoal { bytes, under_pressure: decision.under_pressure }) {
            Ok(report) => {
                tracing::debug!(?report, bytes, stage = ?decision.stage, "artifacts_evicted");
                self.controller.note_evicted(report.bytes);
                look.evicted = report.artifacts;
                look.status.is_exhausted = report.artifacts == 0;
            }
            Err(error) => {
                // Full as it may be: the committer releases the ballast for it, so this is trouble of another kind.
                tracing::warn!(%error, "eviction_failed");
                look.status.error = Some(format!("eviction failed: {error}"));
                look.status.is_exhausted = true;
            }
        }
    }

    fn release(&self, look: &mut Look, space: &VolumeSpace) {
        match self.ballast.release() {
            Ok(bytes) => {
                tracing::warn!(bytes, free_bytes = space.available_bytes, "ballast_released");
                look.status.ballast_bytes = 0;
            }
            Err(error) => look.status.error = Some(format!("the ballast cannot be released: {error}")),
        }
    }

    fn restore(&self, look: &mut Look) {
        match self.ballast.restore(look.status.ballast_expected_bytes) {
            Ok(()) => tracing::info!(bytes = look.status.ballast_expected_bytes, "ballast_restored"),
            Err(error) => look.status.error = Some(format!("the ballast cannot be restored: {error}")),
        }
        look.status.ballast_bytes = self.ballast.bytes();
    }

    /// Looks until nothing is left to evict, at most `looks_max` times: a start-up that takes its time.
    ///
    /// # Errors
    /// The volume cannot be measured.
    pub fn settle(&mut self, store: &Store, looks_max: u32) -> io::Result<Look> {
        let mut look = self.look(Some(store), 0)?;
        for _ in 1..looks_max {
            if !look.goes_on() || look.status.stage == Stage::Normal {
                break;
            }
            let evicted = look.evicted;
            look = self.look(Some(store), 0)?;
            look.evicted += evicted;
        }
        Ok(look)
    }
}

#[cfg(test)]
#[path = "room_tests.rs"]
mod tests;
