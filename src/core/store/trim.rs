//! Gives the space of dead inline bodies back without needing any.
//!
//! How it works: inline bodies lie in the index in the order of their numbers, and numbers are used once. So where a
//! run of numbers has no owner left, whole table files hold nothing but dead bodies, and RocksDB drops such a file by
//! unlinking it. A compaction would need the room of what it rewrites. The sweeper notes which numbers died; once they
//! amount to a table file, the gaps between the owners that are left are dropped.
//!
//! Invariants: only numbers below the committer's settled mark are looked at, so a body on its way in is never in a
//! gap. A file that reaches beyond its gap is left.
//!
//! Failure: none that loses a live body. A dead row that comes to light again, because the file with its deletion was
//! dropped and the file with the row was not, is dropped with a later gap.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use super::error::StoreError;
use super::keys::{Table, key_number, number_key};
use super::state::Core;
use crate::core::base::ids::BodyNo;

/// Shorter runs of dead numbers hold no whole file.
const GAP_NUMBERS_MIN: u64 = 16;

/// Owners looked at in one go, a second's work; the rest of the range waits for the next deaths in it.
const OWNERS_SCANNED_MAX: usize = 1 << 20;

/// The inline bodies that died since the last trim.
#[derive(Debug, Default)]
pub(crate) struct DeadBodies(Mutex<Dead>);

#[derive(Debug, Default, Clone, Copy)]
struct Dead {
    low: u64,
    high: u64,
    bytes: u64,
}

impl DeadBodies {
    /// Notes a dead inline body.
    pub(crate) fn note(&self, body_no: BodyNo, bytes: u64) {
        let mut dead = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        dead.low = if dead.bytes == 0 { body_no.0 } else { dead.low.min(body_no.0) };
        dead.high = dead.high.max(body_no.0);
        dead.bytes = dead.bytes.saturating_add(bytes.max(1));
    }

    /// The range of numbers to trim, once it is worth it.
    fn take(&self, bytes_min: u64) -> Option<(u64, u64)> {
        let mut dead = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (dead.bytes >= bytes_min).then(|| std::mem::take(&mut *dead)).map(|dead| (dead.low, dead.high))
    }
}

/// Drops the table files of dead inline bodies, if enough have died.
pub(crate) fn trim(core: &Core) -> Result<(), StoreError> {
    trim_from(core, core.sizes.table_file_bytes)
}

/// Drops them however few have died.
pub(crate) fn trim_all(core: &Core) -> Result<(), StoreError> {
    trim_from(core, 1)
}

fn trim_from(core: &Core, bytes_min: u64) -> Result<(), StoreError> {
    let Some((low, high)) = core.dead_bodies.take(bytes_min) else { return Ok(()) };
    let settled = core.bodies_settled_below.load(Ordering::Acquire);
    let mut gap_start = low.saturating_sub(low % GAP_NUMBERS_MIN);
    let end = high.saturating_add(1).min(settled);
    for (scanned, row) in core.index.rows(Table::BodyOwner, &number_key(gap_start))?.enumerate() {
        let (key, _) = row?;
        if scanned == OWNERS_SCANNED_MAX {
            return Ok(());
        }
        let Some(owned) = key_number(&key).filter(|owned| *owned < settled) else { break };
        drop_gap(core, gap_start, owned.min(end))?;
        if owned >= end {
            return Ok(());
        }
        gap_start = owned + 1;
    }
    drop_gap(core, gap_start, end)
}

fn drop_gap(core: &Core, start: u64, end: u64) -> Result<(), StoreError> {
    if end.saturating_sub(start) < GAP_NUMBERS_MIN {
        return Ok(());
    }
    core.index.drop_files(Table::Bodies, &number_key(start), &number_key(end - 1))
}
