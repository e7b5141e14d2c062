//! Evicting: chosen elsewhere, checked again here, and what else eviction changes in the index.

use super::error::StoreError;
use super::evaluate::{Evaluation, Outcome, Verdict, number_of};
use super::keys::{META_HAND, Table, number_key};
use super::record::{BodyPlace, Record};
use super::stubs::{Reason, Stub};
use super::tagged::Row;
use crate::core::base::ids::{ArtifactId, BodyNo, Digest, Seq};

/// Artifacts to evict, each if it is still the row it was when it was chosen, and stubs to fold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Eviction {
    /// Which ones go.
    pub(crate) chosen: Vec<(ArtifactId, Seq)>,
    /// Where the hand stands then; absent = where it did.
    pub(crate) hand: Option<Vec<u8>>,
    /// Stubs that go, each if it is still the one it was.
    pub(crate) folded: Vec<(ArtifactId, Stub)>,
    /// What the evicted floor is raised to, so that it covers them.
    pub(crate) floor_ms: u64,
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
                self.load_stub(id)?;
                doomed.push((*id, record));
            }
        }
        self.load_extents(&doomed.iter().map(|(_, record)| record).collect::<Vec<_>>())?;
        let mut folded = Vec::with_capacity(eviction.folded.len());
        for (id, stub) in &eviction.folded {
            if self.stub(id)? == Some(*stub) {
                folded.push(*id);
            }
        }
        let mut evicted = Evicted::default();
        for (id, record) in doomed {
            evicted.artifacts += 1;
            evicted.bytes += self.core.charge_of(&record);
            evicted.garbage.extend(number_of(&record));
            self.remove_rows(&id, &record);
            self.retire_body(&record, false);
            self.set_stub(&id, Some(Stub::of(&record, Reason::Evicted)));
            self.state.count_eviction();
        }
        folded.iter().for_each(|id| self.set_stub(id, None));
        self.state.raise_evicted_floor(eviction.floor_ms);
        if let Some(hand) = &eviction.hand {
            self.batch.put(Table::Meta, META_HAND, &Row::default().with_bytes(1, hand).encode());
        }
        Ok(Verdict { outcome: Outcome::Evicted(evicted), file: None })
    }

    /// Gives an inline body a new number; version and seq stay. The old body is in the outcome. Bytes that are not what
    /// they should be stay where they are: the next reader withdraws them.
    pub(super) fn relocate(
        &mut self,
        id: &ArtifactId,
        seq: Seq,
        body_no: impl FnOnce() -> Result<BodyNo, StoreError>,
    ) -> Result<Verdict, StoreError> {
        let mut moved = Evicted::default();
        if let Some((record, old_no, bytes)) = self.inline_body(id, seq)? {
            let body_no = body_no()?;
            let there = Record { body: Some(BodyPlace::Inline(body_no)), ..record.clone() };
            self.load_extents(&[&record, &there])?;
            self.remove_rows(id, &record);
            self.retire_body(&record, false);
            self.batch.put(Table::Bodies, &number_key(body_no.0), &bytes);
            self.add_rows(*id, &there);
            self.count_body(&there, true);
            self.state.charge(self.core.charge_of(&there));
            moved.garbage.push(old_no);
        }
        Ok(Verdict { outcome: Outcome::Evicted(moved), file: None })
    }

    fn inline_body(&self, id: &ArtifactId, seq: Seq) -> Result<Option<(Record, BodyNo, Vec<u8>)>, StoreError> {
        let Some(record) = self.manifest(id)?.filter(|record| record.seq == seq) else { return Ok(None) };
        let Some(BodyPlace::Inline(body_no)) = record.body else { return Ok(None) };
        let bytes = self.core.index.get(Table::Bodies, &number_key(body_no.0))?.map(|bytes| bytes.to_vec());
        let bytes = bytes.filter(|bytes| Digest::of(bytes) == record.digest);
        Ok(bytes.map(|bytes| (record, body_no, bytes)))
    }
}
