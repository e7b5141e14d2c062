//! Keeps the number of stubs within its bound: the oldest become one number, the evicted floor.
//!
//! How it works: once there are more than the bound, a version is looked for at or below which a quarter of them lies;
//! the floor is raised to it, and they go, in bounded batches through the committer. So each stub is looked at a few
//! times in its life, and no table orders them by age.
//!
//! Invariants: the floor is raised in the batch in which the first of them goes, so none is missing meanwhile. Stubs of
//! withdrawn artifacts stay while they are few, for those may return at the same version.

use std::sync::atomic::Ordering;

use super::error::StoreError;
use super::evaluate_evict::Eviction;
use super::eviction::Run;
use super::keys::Table;
use super::state::Core;
use super::stubs::{Reason, Stub};
use crate::core::base::ids::ArtifactId;

/// Stubs that go at a time.
const FOLD_ROWS_MAX: usize = 512;

/// The part of the bound that goes at once.
const FOLD_SHARE: usize = 4;

impl Run<'_> {
    /// Folds the oldest stubs if there are too many.
    pub(super) fn fold_stubs(&mut self) -> Result<(), StoreError> {
        let core = self.core;
        if core.stubs.load(Ordering::Acquire) <= core.eviction.stubs_max.load(Ordering::Acquire) {
            return Ok(());
        }
        let Some(floor_ms) = fold_up_to(core)? else { return Ok(()) };
        tracing::info!(floor_ms, stubs = core.stubs.load(Ordering::Acquire), "evicted_floor_raised");
        let mut folded = Vec::new();
        for row in core.index.rows(Table::Stubs, &[])? {
            let (key, value) = row?;
            let (Some(id), Some(stub)) = (ArtifactId::from_slice(&key), Stub::decode(&value)) else { continue };
            if is_foldable(core, &stub) && stub.version().0 <= floor_ms {
                folded.push((id, stub));
            }
            if folded.len() == FOLD_ROWS_MAX {
                let folded = std::mem::take(&mut folded);
                self.commit(Eviction { folded, floor_ms, ..Eviction::default() }, self.reason())?;
            }
        }
        self.commit(Eviction { folded, floor_ms, ..Eviction::default() }, self.reason())
    }
}

/// The version at or below which a quarter of what may be folded lies.
fn fold_up_to(core: &Core) -> Result<Option<u64>, StoreError> {
    let mut versions = Vec::new();
    for row in core.index.rows(Table::Stubs, &[])? {
        let (_, value) = row?;
        versions.extend(Stub::decode(&value).filter(|stub| is_foldable(core, stub)).map(|stub| stub.version().0));
    }
    let at = versions.len() / FOLD_SHARE;
    Ok((at < versions.len()).then(|| *versions.select_nth_unstable(at).1))
}

/// Once there are twice as many as there should be, those of withdrawn artifacts go too.
fn is_foldable(core: &Core, stub: &Stub) -> bool {
    let max = core.eviction.stubs_max.load(Ordering::Acquire);
    stub.reason() == Reason::Evicted || core.stubs.load(Ordering::Acquire) / 2 > max
}
