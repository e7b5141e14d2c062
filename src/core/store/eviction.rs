//! Making room: which artifacts go, and how.
//!
//! How it works: SIEVE over a queue that is there anyway, `by_version`. A hand walks it from the oldest version on. What
//! clients asked for since the hand last came by (`visits`) is passed over and loses its mark; the rest goes. Behind the
//! newest end the hand begins anew. The youngest part of the queue is spared, because a build's artifacts are first
//! asked for a while after they were written. What has expired goes before everything else.
//!
//! Artifacts are chosen here, in the caller, in bounded batches; the committer looks at each again, and evicts those
//! that are still what they were. Their bodies are removed before the next batch is chosen.
//!
//! Invariants: there is no memory per artifact. The hand is durable with each batch, and the version it stands at is the
//! floor below which a full store fetches nothing. Only one eviction runs at a time. Nothing here asks for free space,
//! except that bodies are moved only where there is some.
//!
//! Failure: a crash between batches leaves what any crash leaves: garbage rows, which the next sweep removes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::StoreError;
use super::evaluate_evict::Eviction;
use super::eviction_walk::{Lap, Walk};
use super::index::Index;
use super::keys::{META_HAND, Table, key_version_ms};
use super::maintenance::Maintenance;
use super::metrics::EvictionReason;
use super::open::Writer;
use super::record::Record;
use super::state::{Core, StateRow, corrupt};
use super::tagged::Row;

/// Of ten parts of its capacity a store has to have filled this many to count as full. What keeps it below its capacity
/// frees about the last part; were that filled with what is older, each would undo the other's work.
const FULL_TENTHS: u64 = 9;

/// How much room to make.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EvictGoal {
    /// Charged bytes to free.
    pub bytes: u64,
    /// The volume is short of space: files first, whose room is free at once, then whole table files of inline bodies.
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
    /// Table files of inline bodies that were emptied.
    pub tables_emptied: u64,
    /// Bodies that were moved out of such a table because they stay.
    pub rewritten: u64,
}

/// What eviction keeps in memory.
#[derive(Debug)]
pub(crate) struct EvictionState {
    /// Behind which key of `by_version` the hand stands; empty = in front of all. Held while an eviction runs.
    hand: Mutex<Vec<u8>>,
    /// The version at the hand; 0 = nothing was evicted yet.
    floor_ms: AtomicU64,
    /// The version of the oldest artifact, as last looked at.
    oldest_ms: AtomicU64,
    /// Behind which manifest the search for expired ones goes on.
    patrol: Mutex<Vec<u8>>,
    /// Stubs kept before the oldest are folded.
    pub(crate) stubs_max: AtomicU64,
}

impl EvictionState {
    /// As the index says.
    pub(crate) fn load(index: &Index, state: &StateRow, stubs_max: u64) -> Result<Self, StoreError> {
        let row = index.get(Table::Meta, META_HAND)?.map(|bytes| Row::decode(&bytes)).transpose();
        let row = row.map_err(|error| corrupt("meta", error))?.unwrap_or_default();
        let hand = row.bytes(1).unwrap_or_default().to_vec();
        let oldest_ms = oldest_ms(index)?;
        let floor_ms = if state.evictions() == 0 { 0 } else { key_version_ms(&hand).unwrap_or(oldest_ms) };
        Ok(Self {
            hand: hand.into(),
            floor_ms: floor_ms.into(),
            oldest_ms: oldest_ms.into(),
            patrol: Mutex::default(),
            stubs_max: stubs_max.into(),
        })
    }

    pub(super) fn patrol(&self) -> MutexGuard<'_, Vec<u8>> {
        self.patrol.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn oldest_ms(index: &Index) -> Result<u64, StoreError> {
    let first = index.rows(Table::ByVersion, &[])?.next().transpose()?;
    Ok(first.and_then(|(key, _)| key_version_ms(&key)).unwrap_or(0))
}

impl Core {
    /// An artifact of this version is there by now.
    pub(crate) fn note_version(&self, version_ms: u64) {
        let oldest = &self.eviction.oldest_ms;
        let known = oldest.load(Ordering::Acquire);
        if known == 0 || version_ms < known {
            oldest.store(version_ms, Ordering::Release);
        }
    }

    /// Looks which artifact is the oldest by now.
    pub(crate) fn refresh_oldest(&self) -> Result<(), StoreError> {
        self.eviction.oldest_ms.store(oldest_ms(&self.index)?, Ordering::Release);
        Ok(())
    }

    /// The version of the oldest artifact; 0 = there is none.
    pub(crate) fn oldest_version_ms(&self) -> u64 {
        if self.artifacts.load(Ordering::Acquire) == 0 { 0 } else { self.eviction.oldest_ms.load(Ordering::Acquire) }
    }

    /// Whether this store is full of newer artifacts, so that this one would be the next to go. One that has not evicted
    /// yet may be filled to the brim; what is older than all it has would have it begin, with that.
    pub(crate) fn is_beyond_capacity(&self, offered: &Record) -> bool {
        let capacity = self.capacity_bytes.load(Ordering::Acquire);
        let (charged, floor_ms) = (self.charged_bytes(), self.eviction.floor_ms.load(Ordering::Acquire));
        if capacity == u64::MAX {
            return false;
        }
        if floor_ms == 0 {
            return offered.version_ms <= self.oldest_version_ms()
                && charged.saturating_add(self.charge_of_offered(offered)) > capacity;
        }
        offered.version_ms <= floor_ms && charged.saturating_add(offered.size) > capacity / 10 * FULL_TENTHS
    }
}

/// Frees what is asked for, or as much as there is.
pub(crate) fn evict(core: &Core, writer: &Writer, goal: EvictGoal) -> Result<EvictReport, StoreError> {
    let mut hand = core.eviction.hand.lock().unwrap_or_else(PoisonError::into_inner);
    let mut run = Run { core, writer, goal, report: EvictReport::default() };
    let ended = run.all(&mut hand);
    let noted = core.refresh_oldest();
    run.report.floor_ms = key_version_ms(&hand).unwrap_or_else(|| core.oldest_version_ms());
    if core.evictions.load(Ordering::Acquire) > 0 {
        core.eviction.floor_ms.store(run.report.floor_ms, Ordering::Release);
    }
    ended.and(noted).map(|()| run.report)
}

/// One eviction under way.
pub(super) struct Run<'a> {
    pub(super) core: &'a Core,
    pub(super) writer: &'a Writer,
    pub(super) goal: EvictGoal,
    pub(super) report: EvictReport,
}

impl Run<'_> {
    fn all(&mut self, hand: &mut Vec<u8>) -> Result<(), StoreError> {
        self.expired()?;
        if self.goal.under_pressure {
            let maintenance = Maintenance::new(self.core);
            maintenance.sweep();
            self.walk(&mut Walk::over_files(hand.clone(), Lap::FIRST), None)?;
            self.tables()?;
            self.walk(&mut Walk::over_files(Vec::new(), Lap::LAST), None)?;
        }
        self.walk(&mut Walk::over_all(hand.clone()), Some(hand))?;
        self.fold_stubs()
    }

    pub(super) fn reason(&self) -> EvictionReason {
        if self.goal.under_pressure { EvictionReason::Pressure } else { EvictionReason::Capacity }
    }

    /// Charged bytes that are still to be freed.
    pub(super) fn missing(&self) -> u64 {
        if self.core.is_closing() { 0 } else { self.goal.bytes.saturating_sub(self.report.bytes) }
    }

    /// Evicts what a walk comes to, until there is room or it has come around often enough.
    fn walk(&mut self, walk: &mut Walk, mut hand: Option<&mut Vec<u8>>) -> Result<(), StoreError> {
        while self.missing() > 0 && !walk.has_ended() {
            let chosen = walk.choose(self.core, self.missing())?;
            if chosen.is_empty() {
                continue;
            }
            let moved = hand.is_some().then(|| walk.position().to_vec());
            self.commit(Eviction { chosen, hand: moved.clone(), ..Eviction::default() }, self.reason())?;
            if let (Some(hand), Some(moved)) = (hand.as_deref_mut(), moved) {
                *hand = moved;
            }
        }
        Ok(())
    }

    /// Has a batch evicted and its bodies removed.
    pub(super) fn commit(&mut self, eviction: Eviction, reason: EvictionReason) -> Result<(), StoreError> {
        self.core.check_writable()?;
        let evicted = self.writer.queue.evict(eviction)?;
        if let Some(metrics) = self.core.metrics.get() {
            metrics.evicted(reason, evicted.artifacts, evicted.bytes);
        }
        Maintenance::new(self.core).sweep_these(&evicted.garbage);
        self.report.artifacts += evicted.artifacts;
        self.report.bytes += evicted.bytes;
        Ok(())
    }
}
