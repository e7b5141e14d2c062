//! Gives the space of dead inline bodies back without needing any.
//!
//! How it works: inline bodies are put into the index in the order of their numbers, each number is used once, and no row
//! of them is ever deleted. So their table files do not overlap, RocksDB moves them from level to level without writing
//! anything, and a file none of whose bodies has an owner any more is unlinked as it is. Rows that say "deleted" would
//! spoil that: a file with old deletions and new bodies overlaps all others, and then only compactions get rid of the
//! dead, which need the room of what they write. A full volume would stay full for good.
//!
//! The sweeper notes which numbers died; once they amount to a table file, the files they lie in are looked at. What is
//! thin but not dead is the business of `thin_tables`.
//!
//! Invariants: only files below the committer's settled mark are dropped, so a body on its way in is never in one. That
//! the bodies have no owner is durable before their file goes.
//!
//! Failure: none that loses a live body. What could not be dropped yet is looked at again.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use super::body_tables::{self, BodyTable};
use super::error::StoreError;
use super::keys::{Table, number_key};
use super::state::Core;
use crate::core::base::ids::BodyNo;
use crate::core::config::Durability;

/// The inline bodies that died since the last trim.
#[derive(Debug, Default)]
pub(crate) struct DeadBodies(Mutex<Dead>);

#[derive(Debug, Default, Clone, Copy)]
struct Dead {
    /// Lowest and highest number; meaningless while `bytes` is 0.
    low: u64,
    high: u64,
    bytes: u64,
}

impl Dead {
    fn add(&mut self, other: Self) {
        if other.bytes == 0 {
            return;
        }
        self.low = if self.bytes == 0 { other.low } else { self.low.min(other.low) };
        self.high = self.high.max(other.high);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

impl DeadBodies {
    /// Notes a dead inline body.
    pub(crate) fn note(&self, body_no: BodyNo, bytes: u64) {
        self.add(Dead { low: body_no.0, high: body_no.0, bytes: bytes.max(1) });
    }

    /// Notes numbers among which there may be bodies that never got an owner, enough to be looked at soon.
    pub(crate) fn note_unsettled(&self, numbers: &std::ops::Range<u64>) {
        if let Some(high) = numbers.end.checked_sub(1).filter(|high| *high >= numbers.start) {
            self.add(Dead { low: numbers.start, high, bytes: u64::MAX });
        }
    }

    fn add(&self, dead: Dead) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).add(dead);
    }

    /// What died, once it is worth it.
    fn take(&self, bytes_min: u64) -> Option<Dead> {
        let mut dead = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (dead.bytes >= bytes_min).then(|| std::mem::take(&mut *dead))
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
    let Some(dead) = core.dead_bodies.take(bytes_min) else { return Ok(()) };
    let trimmed = drop_dead(core, dead);
    core.dead_bodies.add(*trimmed.as_ref().unwrap_or(&dead));
    trimmed.map(drop)
}

/// Drops the files of these; what has to wait.
fn drop_dead(core: &Core, dead: Dead) -> Result<Dead, StoreError> {
    let mut left = Dead::default();
    let mut doomed = Vec::new();
    for table in body_tables::all(core)? {
        if table.last < dead.low || table.first > dead.high || body_tables::has_live(core, &table)? {
            continue;
        }
        if is_droppable(core, &table) {
            doomed.push(table);
        } else {
            left.add(Dead { low: table.first, high: table.last, bytes: table.bytes });
        }
    }
    drop_tables(core, &doomed)?;
    Ok(left)
}

/// RocksDB drops no file of its first level; it is moved on within moments.
pub(super) fn is_droppable(core: &Core, table: &BodyTable) -> bool {
    table.is_moved && table.last < core.bodies_settled_below.load(Ordering::Acquire)
}

/// Unlinks table files that have no live body.
pub(super) fn drop_tables(core: &Core, tables: &[BodyTable]) -> Result<(), StoreError> {
    if tables.is_empty() {
        return Ok(());
    }
    if core.options.durability == Durability::Process {
        core.index.sync()?;
    } else {
        core.sync_late()?;
    }
    for table in tables {
        core.index.drop_files(Table::Bodies, &number_key(table.first), &number_key(table.last))?;
    }
    Ok(())
}
