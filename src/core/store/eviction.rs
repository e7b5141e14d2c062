//! Making room: which artifacts go, and how.
//!
//! How it works: the queue is `by_version`, oldest first. Artifacts are chosen here, in bounded batches, off the path of
//! requests; the committer looks at each again and evicts those that are still what they were.

use super::error::StoreError;
use super::evaluate_evict::Eviction;
use super::keys::{LogRow, Table, last_seq, number_key};
use super::maintenance::Maintenance;
use super::open::Writer;
use super::state::{Core, corrupt};

/// Artifacts evicted at a time: few enough that no put behind them waits for long.
const EVICT_ROWS_MAX: usize = 128;

/// How much room to make.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EvictGoal {
    /// Charged bytes to free.
    pub bytes: u64,
    /// The volume is short of space: files first, whose room is free at once, then whole extents of inline bodies.
    pub under_pressure: bool,
}

/// What an eviction came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct EvictReport {
    /// Artifacts that went.
    pub artifacts: u64,
    /// Charged bytes they took.
    pub bytes: u64,
    /// The version eviction has come to; nothing at or below it is fetched while the store is full.
    pub floor_ms: u64,
    /// Extents of inline bodies that were emptied.
    pub extents_dropped: u64,
    /// Bodies that were moved out of such an extent because they stay.
    pub rewritten: u64,
}

/// Frees what is asked for, or as much as there is.
pub(crate) fn evict(core: &Core, writer: &Writer, goal: EvictGoal) -> Result<EvictReport, StoreError> {
    let mut report = EvictReport::default();
    while report.bytes < goal.bytes && !core.is_closing() {
        core.check_writable()?;
        let eviction = oldest(core, goal.bytes - report.bytes)?;
        if eviction.chosen.is_empty() {
            break;
        }
        let evicted = writer.queue.evict(eviction)?;
        Maintenance::new(core).sweep_these(&evicted.garbage);
        report.artifacts += evicted.artifacts;
        report.bytes += evicted.bytes;
    }
    Ok(report)
}

fn oldest(core: &Core, bytes: u64) -> Result<Eviction, StoreError> {
    let mut eviction = Eviction::default();
    let mut freed = 0;
    for row in core.index.rows(Table::ByVersion, &[])? {
        if freed >= bytes || eviction.chosen.len() >= EVICT_ROWS_MAX {
            break;
        }
        let (key, _) = row?;
        let seq = last_seq(&key).ok_or_else(|| corrupt("by_version", "a key is short"))?;
        let Some(log) = core.index.get(Table::Log, &number_key(seq.0))? else { continue };
        let Ok(LogRow::Put { id, .. }) = LogRow::decode(&log) else { continue };
        let Some(record) = core.readable_manifest(&id)?.filter(|record| record.seq == seq) else { continue };
        freed += core.charge_of(&record);
        eviction.chosen.push((id, seq));
    }
    Ok(eviction)
}
