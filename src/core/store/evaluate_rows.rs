//! The rows behind a change: what a manifest brings with it, what it takes along, and reading them as the group sees them.
//!
//! Invariants: every manifest has exactly one row in `log`, `by_version` and `by_namespace`, and its body one owner and
//! one place in the counters. All rows that a change needs are read before the first one is written.

use std::collections::hash_map::Entry;

use super::error::StoreError;
use super::evaluate::{Evaluation, number_of};
use super::keys::{LogRow, Table, extent_of, namespace_key, number_key, version_key};
use super::record::{BodyPlace, Record};
use super::state::{corrupt, is_deleted, is_expired};
use super::stubs::Stub;
use super::tagged::Row;
use super::wanted::WantedChange;
use crate::core::base::ids::ArtifactId;

impl Evaluation<'_> {
    /// Puts a manifest in with all its rows and takes the old one's out.
    pub(super) fn store(&mut self, id: ArtifactId, record: Record, old: Option<Record>) -> Result<Record, StoreError> {
        let mut record = record;
        let mut touched = vec![&record];
        touched.extend(old.as_ref());
        self.load_extents(&touched)?;
        let newest_ms = self.newest_of(&record.name.namespace)?;
        self.load_stub(&id)?;
        record.seq = self.state.take_seq();
        if let Some(old) = &old {
            self.remove_rows(&id, old);
            if number_of(old) == number_of(&record) {
                self.count_body(old, false);
                self.state.discharge(self.core.charge_of(old));
            } else {
                self.retire_body(old, false);
            }
        }
        self.set_stub(&id, None);
        self.add_rows(id, &record);
        self.count_body(&record, true);
        self.state.charge(self.core.charge_of(&record));
        if newest_ms < record.version_ms {
            self.raise_namespace(&record.name.namespace, record.version_ms);
        }
        self.core.note_version(record.version_ms);
        let noted = self.wanted.get(&id);
        if !matches!(noted, Some(WantedChange::Noted(row)) if row.version > record.version()) {
            self.wanted.insert(id, WantedChange::Settled(record.version()));
        }
        Ok(record)
    }

    pub(super) fn add_rows(&mut self, id: ArtifactId, record: &Record) {
        let Record { seq, version_ms, logical, .. } = *record;
        self.batch.put(Table::Manifests, id.as_bytes(), &record.to_stored_bytes());
        self.batch.put(Table::Log, &number_key(seq.0), &LogRow::Put { id, version_ms, logical }.encode());
        self.batch.put(Table::ByVersion, &version_key(version_ms, logical, seq), &[]);
        self.batch.put(Table::ByNamespace, &namespace_key(&record.name.namespace, seq), &[]);
        if let Some(body_no) = number_of(record) {
            self.batch.put(Table::BodyOwner, &number_key(body_no.0), id.as_bytes());
        }
        self.state.add(record);
        self.set.add(&id, record);
        self.manifests.insert(id, Some(record.clone()));
    }

    pub(super) fn remove_rows(&mut self, id: &ArtifactId, record: &Record) {
        let Record { seq, version_ms, logical, .. } = *record;
        self.batch.delete(Table::Manifests, id.as_bytes());
        self.batch.delete(Table::Log, &number_key(seq.0));
        self.batch.delete(Table::ByVersion, &version_key(version_ms, logical, seq));
        self.batch.delete(Table::ByNamespace, &namespace_key(&record.name.namespace, seq));
        self.state.remove(record);
        self.set.remove(id, record);
        self.manifests.insert(*id, None);
    }

    /// Hands a body to the sweeper.
    pub(super) fn retire_body(&mut self, record: &Record, keep_for_a_look: bool) {
        let Some(place) = record.body else { return };
        let (is_file, body_no) = match place {
            BodyPlace::Inline(number) => (false, number),
            BodyPlace::File(number) => (true, number),
        };
        self.count_body(record, false);
        self.batch.delete(Table::BodyOwner, &number_key(body_no.0));
        let row = Row::default()
            .with_number(1, u64::from(is_file))
            .with_number(2, record.stored_size)
            .with_number(3, u64::from(keep_for_a_look))
            .with_number(4, self.core.charge_of(record));
        self.batch.put(Table::Garbage, &number_key(body_no.0), &row.encode());
        self.garbage.push(body_no);
    }

    /// Counts a body in or out of its extent, whose row has been loaded.
    pub(super) fn count_body(&mut self, record: &Record, is_in: bool) {
        let Some(place) = record.body else { return };
        let (tag, body_no) = match place {
            BodyPlace::Inline(number) => (1, number),
            BodyPlace::File(number) => (3, number),
        };
        let row = self.extents.entry(extent_of(body_no)).or_default();
        let changed = |number: u64, by: u64| if is_in { number.saturating_add(by) } else { number.saturating_sub(by) };
        row.set_number(tag, changed(row.number(tag), 1));
        row.set_number(tag + 1, changed(row.number(tag + 1), record.stored_size));
    }

    pub(super) fn load_extents(&mut self, records: &[&Record]) -> Result<(), StoreError> {
        for body_no in records.iter().filter_map(|record| number_of(record)) {
            if let Entry::Vacant(vacant) = self.extents.entry(extent_of(body_no)) {
                let bytes = self.core.index.get(Table::Extents, &number_key(*vacant.key()))?;
                let row = bytes.map_or(Ok(Row::default()), |bytes| Row::decode(&bytes));
                vacant.insert(row.map_err(|error| corrupt("extents", error))?);
            }
        }
        Ok(())
    }

    /// What is left of an artifact, as the group sees it.
    pub(super) fn stub(&mut self, id: &ArtifactId) -> Result<Option<Stub>, StoreError> {
        self.load_stub(id)?;
        Ok(self.stubs.get(id).copied().flatten().flatten())
    }

    /// Reads the row that is about to be set.
    pub(super) fn load_stub(&mut self, id: &ArtifactId) -> Result<(), StoreError> {
        // Without any row there is none to look for, which is the usual case.
        if !self.stubs.contains_key(id) && self.state.stubs() > 0 {
            let row = self.core.index.get(Table::Stubs, id.as_bytes())?;
            self.stubs.insert(*id, row.map(|bytes| Stub::decode(&bytes)));
        }
        Ok(())
    }

    /// Sets or removes a stub, whose row has been loaded.
    pub(super) fn set_stub(&mut self, id: &ArtifactId, stub: Option<Stub>) {
        let was_there = self.stubs.get(id).copied().flatten().is_some();
        match stub {
            Some(stub) => self.batch.put(Table::Stubs, id.as_bytes(), &stub.encode()),
            None if was_there => self.batch.delete(Table::Stubs, id.as_bytes()),
            None => return,
        }
        if was_there != stub.is_some() {
            self.state.count_stub(stub.is_some());
        }
        self.stubs.insert(*id, stub.map(Some));
    }

    pub(super) fn is_live(&self, record: &Record, tombstone: Option<u64>) -> bool {
        !is_deleted(record, tombstone) && !is_expired(record, self.now_ms)
    }

    /// The manifest as the group sees it. One that does not decode is replaced rather than in the way for ever.
    pub(super) fn manifest(&self, id: &ArtifactId) -> Result<Option<Record>, StoreError> {
        if let Some(known) = self.manifests.get(id) {
            return Ok(known.clone());
        }
        self.core.readable_manifest(id)
    }

    pub(super) fn tombstone(&mut self, namespace: &str) -> Result<Option<u64>, StoreError> {
        Ok(self.known_tombstone(namespace)?.map(|row| row.number(1)))
    }

    pub(super) fn tombstone_row(&mut self, namespace: &str) -> Result<Option<Row>, StoreError> {
        Ok(self.known_tombstone(namespace)?.cloned())
    }

    /// Only the committer sets tombstones, so one that is read for a group holds for all of it, and so does its absence.
    fn known_tombstone(&mut self, namespace: &str) -> Result<Option<&Row>, StoreError> {
        if !self.tombstone_rows.contains_key(namespace) {
            let bytes = self.core.index.get(Table::Tombstones, namespace.as_bytes())?;
            let row =
                bytes.map(|bytes| Row::decode(&bytes).map_err(|error| corrupt("tombstones", error))).transpose()?;
            self.tombstone_rows.insert(namespace.to_owned(), row);
        }
        Ok(self.tombstone_rows.get(namespace).and_then(Option::as_ref))
    }

    /// The newest version ever put into a namespace, with what this group puts into it.
    pub(super) fn newest_of(&mut self, namespace: &str) -> Result<u64, StoreError> {
        if let Some(known) = self.namespaces.get(namespace).or_else(|| self.namespaces_read.get(namespace)) {
            return Ok(known.number(1));
        }
        let bytes = self.core.index.get(Table::Namespaces, namespace.as_bytes())?;
        let row = bytes.map_or(Ok(Row::default()), |bytes| Row::decode(&bytes));
        let row = row.map_err(|error| corrupt("namespaces", error))?;
        let newest_ms = row.number(1);
        self.namespaces_read.insert(namespace.to_owned(), row);
        Ok(newest_ms)
    }

    /// Raises it; its row has been read.
    fn raise_namespace(&mut self, namespace: &str, version_ms: u64) {
        if let Some(row) = self.namespaces.get_mut(namespace) {
            return row.set_number(1, version_ms);
        }
        let read = self.namespaces_read.remove(namespace).unwrap_or_default();
        self.namespaces.insert(namespace.to_owned(), read.with_number(1, version_ms));
    }
}
