//! Bodies that can be taken up again: begun by one fetch, left when its connection broke, and finished by another.
//!
//! How it works: whoever fetches a long body of known digest takes it up with [`Staging::resume`]: that gives the body as
//! far as it came, from whichever holder, or a new one. A writer that is parked or dropped leaves its body here. Those
//! above a size are files with a header (see [`super::partials`]), which [`Staging::adopt_partials`] finds after a start.
//!
//! Invariants: every body here holds its whole reservation, so that going on with it needs no room and nobody waits while
//! holding some; it gives way to whoever is short of room (see [`super::budget`]). One body per artifact, at most
//! [`PARKED_MAX`].
//!
//! Failure: a body that gave way, or whose file cannot be read any more, is begun anew.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::area::{AreaKind, Staging, StagingError};
use super::body_writer::{BodySpec, BodyWriter};
use super::budget::BudgetClass;
use super::partials::{self, FoundPartial, PartialIdentity};
use super::spool::Spool;
use crate::core::base::executor;
use crate::core::base::ids::ArtifactId;

/// Parked bodies at the same time: more than a node fetches at once from many peers. The one parked last is dropped.
const PARKED_MAX: usize = 256;

/// Longer bodies are partials, so that a killed process costs a piece: for shorter ones a name, a header and syncs cost
/// more than fetching again.
pub const PARTIAL_BYTES_MIN: u64 = 64 << 20;

/// From which size on bodies are worth the trouble of taking them up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResumeLimits {
    /// Longer bodies are fetched so that a broken connection costs nothing: shorter ones take less than the trouble.
    pub resumable_bytes_min: u64,
    /// Longer bodies are partials; see [`PARTIAL_BYTES_MIN`].
    pub partial_bytes_min: u64,
    /// The piece after which a partial is synced: a kill costs at most two of them. At 100 MB/s one is a third of a
    /// second, so that the syncs do not show.
    pub sync_every_bytes: u64,
}

impl Default for ResumeLimits {
    fn default() -> Self {
        Self { resumable_bytes_min: 4 << 20, partial_bytes_min: PARTIAL_BYTES_MIN, sync_every_bytes: 32 << 20 }
    }
}

/// The bodies nobody works on at the moment, by artifact.
#[derive(Debug, Default)]
pub(super) struct ParkedBodies(Mutex<BTreeMap<ArtifactId, Arc<Spool>>>);

impl ParkedBodies {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<ArtifactId, Arc<Spool>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, id: &ArtifactId) -> Option<Arc<Spool>> {
        self.entries().remove(id)
    }

    /// Keeps one of two bodies of an artifact, the newer or else the longer one; gives back the other, or what there is
    /// no room for. Those that gave way leave at this occasion.
    fn put(&self, id: ArtifactId, spool: Arc<Spool>) -> Option<Arc<Spool>> {
        let rank = |spool: &Arc<Spool>| (spool.identity().map(|identity| identity.version), spool.written());
        let mut entries = self.entries();
        entries.retain(|_, spool| spool.written() > 0);
        match entries.get(&id) {
            Some(here) if rank(here) >= rank(&spool) => Some(spool),
            None if entries.len() >= PARKED_MAX => Some(spool),
            _ => entries.insert(id, spool),
        }
    }
}

/// What was found and taken over at a start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Partials that wait for their fetch.
    pub partials: u64,
    /// Bytes of them that need not be fetched again.
    pub durable_bytes: u64,
    /// Partials that were removed: another one of the same artifact is better, or the ledger has no room.
    pub removed: u64,
}

impl Staging {
    /// Takes a body up as far as it came, or begins it, for which room is reserved, waiting as the class allows. What is
    /// here of an older version is dropped.
    pub async fn resume(&self, spec: BodySpec, identity: PartialIdentity) -> Result<BodyWriter, StagingError> {
        if identity.size > spec.length_max {
            return Err(StagingError::TooLong { limit: spec.length_max });
        }
        let (staging, wanted) = (self.clone(), identity.clone());
        let taken = executor::run(self.executor().as_ref(), move || staging.take_up(&spec, &wanted)).await;
        if let Ok(Some(writer)) = taken {
            return Ok(writer);
        }
        let reserved = self.reserve(spec.class, identity.size).await?;
        Ok(BodyWriter::resumable(self.clone(), spec, identity, Some(reserved)))
    }

    /// Blocks while a found body is hashed.
    fn take_up(&self, spec: &BodySpec, wanted: &PartialIdentity) -> Option<BodyWriter> {
        let spool = self.parked().take(&wanted.id)?;
        let here = spool.identity()?.clone();
        let is_same = here.version.digest == wanted.version.digest && here.size == wanted.size;
        if !is_same && here.version > wanted.version {
            // Somebody else goes for a newer one.
            self.discard_other(self.parked().put(wanted.id, spool));
            return None;
        }
        if is_same && spool.unpark(spec) {
            let written = spool.written();
            tracing::info!(artifact = %here.id, from = written, size = here.size, "body_taken_up");
            return Some(BodyWriter::taken_up(self.clone(), *spec, spool));
        }
        spool.discard();
        None
    }

    /// Blocks while it is synced.
    pub(super) fn keep_parked(&self, spool: Arc<Spool>) {
        let Some(id) = spool.identity().map(|identity| identity.id) else { return };
        if spool.park(self) {
            self.discard_other(self.parked().put(id, spool));
        }
    }

    fn discard_other(&self, other: Option<Arc<Spool>>) {
        if let Some(other) = other {
            other.discard();
        }
    }

    /// Finds what earlier processes left, before dead staging is reclaimed. The caller holds the data dir. Blocks.
    pub fn adopt_partials(&self) -> Adopted {
        let mut found = partials::find(self.disk(), &self.folder(AreaKind::Bootstrap));
        // The best one of each artifact first.
        found.sort_by_key(|found| std::cmp::Reverse((found.header.identity.version, found.header.durable_bytes)));
        let mut adopted = Adopted::default();
        for found in found {
            let bytes = found.header.durable_bytes;
            if bytes > 0 && self.adopt(found) {
                adopted.partials += 1;
                adopted.durable_bytes = adopted.durable_bytes.saturating_add(bytes);
            } else {
                adopted.removed += 1;
            }
        }
        adopted
    }

    /// A partial that is not adopted goes with its guard.
    fn adopt(&self, found: FoundPartial) -> bool {
        let PartialIdentity { id, size, .. } = found.header.identity;
        if self.parked().entries().contains_key(&id) {
            return false;
        }
        let Some(reservation) = self.ledger().adopt(BudgetClass::CatchUp, size) else { return false };
        let other = self.parked().put(id, Spool::adopt(found, reservation));
        let is_kept = other.is_none();
        self.discard_other(other);
        is_kept
    }

    /// What the parked bodies are.
    pub fn parked_bodies(&self) -> Vec<PartialIdentity> {
        let entries = self.parked().entries();
        let live = entries.values().filter(|spool| spool.written() > 0);
        live.filter_map(|spool| spool.identity().cloned()).collect()
    }

    /// Frees the parked body of an artifact: nobody wants it any more. Blocks.
    pub fn discard_parked(&self, id: &ArtifactId) -> bool {
        let spool = self.parked().take(id);
        spool.inspect(|spool| spool.discard()).is_some()
    }

    /// Frees all parked bodies, because their room is needed; returns how many there were. Blocks.
    pub fn discard_all_parked(&self) -> usize {
        let all = std::mem::take(&mut *self.parked().entries());
        let live = all.values().filter(|spool| spool.written() > 0).count();
        all.values().for_each(|spool| spool.discard());
        live
    }
}

#[cfg(test)]
#[path = "parked_tests.rs"]
mod tests;
