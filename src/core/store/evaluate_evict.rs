//! Evicting: chosen elsewhere, checked again here.

use super::error::StoreError;
use super::evaluate::{Evaluation, Outcome, Verdict};
use crate::core::base::ids::{ArtifactId, BodyNo, Seq};

/// Artifacts to evict, each if it is still the row it was when it was chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Eviction {
    /// Which ones.
    pub(crate) chosen: Vec<(ArtifactId, Seq)>,
}

/// What was evicted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Evicted {
    /// How many artifacts.
    pub(crate) artifacts: u64,
    /// Charged bytes of their bodies.
    pub(crate) bytes: u64,
    /// Those bodies.
    pub(crate) garbage: Vec<BodyNo>,
}

impl Evaluation<'_> {
    /// One that was written anew since it was chosen stays.
    pub(super) fn evict(&mut self, eviction: &Eviction) -> Result<Verdict, StoreError> {
        let mut doomed = Vec::with_capacity(eviction.chosen.len());
        for (id, seq) in &eviction.chosen {
            if let Some(record) = self.manifest(id)?.filter(|record| record.seq == *seq) {
                doomed.push((*id, record));
            }
        }
        self.load_extents(&doomed.iter().map(|(_, record)| record).collect::<Vec<_>>())?;
        let mut evicted = Evicted::default();
        for (id, record) in doomed {
            evicted.artifacts += 1;
            evicted.bytes += self.core.charge_of(&record);
            self.state.count_eviction();
            evicted.garbage.extend(super::evaluate::number_of(&record));
            self.remove_rows(&id, &record);
            self.retire_body(&record, false);
        }
        Ok(Verdict { outcome: Outcome::Evicted(evicted), file: None })
    }
}
