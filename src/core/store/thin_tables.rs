//! Gives back the space of inline bodies that died here and there.
//!
//! How it works: a table file is dropped only when nothing in it lives. Overwrites and deletes kill bodies anywhere, so
//! once the dead take too large a part of all tables, some tables at a time are looked at, in turn, and what lives in a
//! thin one is moved to the head; then the table is dead, and the trim drops it.
//!
//! Invariants: a move is one batch of the committer, so a body is in one place or the other. Nothing is moved without the
//! room for it; then eviction is what helps.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::body_tables::{self, BodyTable};
use super::commit_queue::{CommitQueue, Started};
use super::error::StoreError;
use super::evaluate::Work;
use super::maintenance::Maintenance;
use super::state::Core;
use super::trim;
use crate::core::base::ids::{ArtifactId, Seq};

/// The dead may be this part of what lives ...
const DEAD_SHARE: u64 = 4;
/// ... and this many table files.
const DEAD_TABLES: u64 = 4;

/// Tables looked at in one round: a second's work.
const LOOKED_AT_MAX: usize = 8;

/// A table of which less than this share of its bytes lives, in thirds, is thin: with more, moving costs more than it gives.
const THIN_THIRDS: u64 = 2;

/// Bodies being moved at a time: they are in memory meanwhile.
const MOVES_MAX: usize = 32;

/// Where the next round begins.
#[derive(Debug, Default)]
pub(crate) struct Patrol(Mutex<u64>);

/// One round; how many bodies were moved.
pub(super) fn thin_out(core: &Core, queue: &CommitQueue) -> Result<u64, StoreError> {
    let tables = body_tables::all(core)?;
    let bytes: u64 = tables.iter().map(|table| table.bytes).sum();
    let live = body_tables::live_bytes(core)?;
    if bytes.saturating_sub(live) <= (live / DEAD_SHARE).max(core.sizes.table_file_bytes * DEAD_TABLES) {
        return Ok(0);
    }
    let mut moved = 0;
    for table in next_tables(core, tables) {
        if core.is_closing() {
            break;
        }
        moved += thin(core, queue, &table)?;
    }
    Ok(moved)
}

/// The tables of this round.
fn next_tables(core: &Core, mut tables: Vec<BodyTable>) -> Vec<BodyTable> {
    tables.retain(|table| trim::is_droppable(core, table));
    let mut from = core.thin_patrol.0.lock().unwrap_or_else(PoisonError::into_inner);
    let start = tables.partition_point(|table| table.first < *from);
    tables.rotate_left(start);
    tables.truncate(LOOKED_AT_MAX);
    *from = tables.last().map_or(0, |table| table.last + 1);
    tables
}

fn thin(core: &Core, queue: &CommitQueue, table: &BodyTable) -> Result<u64, StoreError> {
    let contents = body_tables::contents(core, table)?;
    let live: Vec<_> = contents.doomed.into_iter().chain(contents.staying).collect();
    let bytes: u64 = live.iter().map(|(.., bytes)| bytes.saturating_add(body_tables::ROW_BYTES_MAX)).sum();
    let is_thin = bytes <= table.bytes / 3 * THIN_THIRDS;
    if !is_thin || !has_room_for(core, bytes) {
        return Ok(0);
    }
    let moved = relocate(core, queue, live)?;
    if !body_tables::has_live(core, table)? {
        trim::drop_tables(core, std::slice::from_ref(table))?;
    }
    Ok(moved)
}

/// Whether this much can be written without coming near the end of the volume.
pub(super) fn has_room_for(core: &Core, bytes: u64) -> bool {
    let options = &core.options;
    let needed = core.sizes.put_reserve_bytes.saturating_add(bytes.saturating_mul(2));
    options.disk.space(options.layout.data_dir()).is_ok_and(|space| space.available_bytes >= needed)
}

/// Moves inline bodies to the head, those that are still what they were; how many.
pub(super) fn relocate(
    core: &Core,
    queue: &CommitQueue,
    bodies: Vec<(ArtifactId, Seq, u64)>,
) -> Result<u64, StoreError> {
    let (mut under_way, mut moved) = (VecDeque::new(), 0);
    for (id, seq, bytes) in bodies {
        if under_way.len() == MOVES_MAX {
            moved += settle(core, under_way.pop_front())?;
        }
        under_way.push_back(queue.start(Work::Relocate { id, seq, bytes }));
    }
    while !under_way.is_empty() {
        moved += settle(core, under_way.pop_front())?;
    }
    Ok(moved)
}

fn settle(core: &Core, answer: Option<Started>) -> Result<u64, StoreError> {
    let Some(answer) = answer else { return Ok(0) };
    let moved = answer.recv().unwrap_or(Err(StoreError::NotOpen))?;
    Maintenance::new(core).sweep_these(&moved.garbage);
    let count = moved.garbage.len() as u64;
    if let Some(metrics) = core.metrics.get() {
        metrics.relocated(count);
    }
    Ok(count)
}
