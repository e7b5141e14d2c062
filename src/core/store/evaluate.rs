//! What each change comes to, decided against the index and what the same group has already changed.
//!
//! How it works: one [`Evaluation`] per group holds the batch under construction and an overlay of the rows it sets.
//! A change first reads all it needs and only then writes into the batch, so a failed read leaves nothing half done.
//! Nothing here touches a file: what a put needs on disk is returned in its [`Verdict`].
//!
//! Invariants: only the committer makes evaluations, one at a time, so what it reads stays true until the batch is
//! written. Every manifest has exactly one row in `log`, `by_version` and `by_namespace`, and its body one owner.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::committer::{CommitOutcome, Operation, Put};
use super::error::StoreError;
use super::index::Batch;
use super::keys::{
    self, LogRow, META_STATE, Table, extent_of, last_seq, namespace_key, namespace_prefix, number_key, purge_key,
    version_key,
};
use super::record::{BodyPlace, Record};
use super::state::{Core, StateRow, corrupt, is_deleted, is_expired};
use super::tagged::Row;
use super::version::{self, Decision};
use super::wanted::{Wanted, WantedChange, WantedReason};
use crate::core::base::ids::{ArtifactId, BodyNo, Seq};
use crate::core::base::limits::CLOCK_SKEW_MAX_MS;
use crate::core::staging::body_writer::StagedContent;

/// Rows a purge removes at a time, so that it never holds up the puts behind it.
pub(crate) const PURGE_ROWS_MAX: usize = 512;

/// A piece of work for the committer.
#[derive(Debug)]
pub(crate) enum Work {
    /// Asked for from outside.
    Change(Operation),
    /// The next rows of a deleted namespace, behind a sequence number.
    Purge { namespace: String, after: Seq },
}

/// What a piece of work came to.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The answer to a change.
    Change(CommitOutcome),
    /// Where the purge goes on; `None` = the namespace is clean.
    Purged(Option<Seq>),
}

/// The outcome, and the record of the body file that has to be durable first.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) outcome: Outcome,
    pub(crate) file: Option<Record>,
}

impl From<CommitOutcome> for Verdict {
    fn from(outcome: CommitOutcome) -> Self {
        Self { outcome: Outcome::Change(outcome), file: None }
    }
}

/// A group that is decided.
pub(crate) struct Finished<'a> {
    pub(crate) batch: Batch<'a>,
    pub(crate) state: StateRow,
    /// Tombstones for the side log.
    pub(crate) tombstones: Vec<(String, u64)>,
    /// Bodies that lose their owner.
    pub(crate) garbage: Vec<BodyNo>,
    /// What becomes of wanted rows; they join the batch when it is written.
    pub(crate) wanted: HashMap<ArtifactId, WantedChange>,
}

/// One group being decided.
pub(crate) struct Evaluation<'a> {
    core: &'a Core,
    now_ms: u64,
    batch: Batch<'a>,
    state: StateRow,
    tombstones: Vec<(String, u64)>,
    garbage: Vec<BodyNo>,
    manifests: HashMap<ArtifactId, Option<Record>>,
    tombstone_rows: HashMap<String, Row>,
    namespaces: HashMap<String, Row>,
    extents: HashMap<u64, Row>,
    wanted: HashMap<ArtifactId, WantedChange>,
}

impl<'a> Evaluation<'a> {
    /// Starts a group on top of a committed state.
    pub(crate) fn new(core: &'a Core, state: StateRow) -> Self {
        Self {
            core,
            now_ms: core.options.clock.now_ms(),
            batch: core.index.batch(),
            state,
            tombstones: Vec::new(),
            garbage: Vec::new(),
            manifests: HashMap::new(),
            tombstone_rows: HashMap::new(),
            namespaces: HashMap::new(),
            extents: HashMap::new(),
            wanted: HashMap::new(),
        }
    }

    /// Decides one piece of work. `body_no` gives the number for a new body; it is asked at most once.
    pub(crate) fn decide(
        &mut self,
        work: &Work,
        body_no: impl FnOnce() -> Result<BodyNo, StoreError>,
    ) -> Result<Verdict, StoreError> {
        match work {
            Work::Change(Operation::Put(put)) => self.put(put, body_no),
            Work::Change(Operation::AdoptVersion(record)) => self.adopt(record),
            Work::Change(Operation::DeleteNamespace { namespace, version_ms }) => self.delete(namespace, *version_ms),
            Work::Change(Operation::Withdraw { id, body_no, reason }) => self.withdraw(id, *body_no, reason),
            Work::Purge { namespace, after } => self.purge(namespace, *after),
        }
    }

    /// Ends the batch: the rows that were only counted so far, and the state.
    pub(crate) fn finish(mut self) -> Finished<'a> {
        for (namespace, row) in &self.namespaces {
            self.batch.put(Table::Namespaces, namespace.as_bytes(), &row.encode());
        }
        for (extent, row) in &self.extents {
            if (1..=4).all(|tag| row.number(tag) == 0) {
                self.batch.delete(Table::Extents, &number_key(*extent));
            } else {
                self.batch.put(Table::Extents, &number_key(*extent), &row.encode());
            }
        }
        if !self.batch.is_empty() {
            self.batch.put(Table::Meta, META_STATE, &self.state.encode());
        }
        let Self { batch, state, tombstones, garbage, wanted, .. } = self;
        Finished { batch, state, tombstones, garbage, wanted }
    }

    fn put(&mut self, put: &Put, body_no: impl FnOnce() -> Result<BodyNo, StoreError>) -> Result<Verdict, StoreError> {
        let id = put.name.artifact_id(&self.core.options.tenant_id);
        let existing = self.manifest(&id)?;
        let tombstone = self.tombstone(&put.name.namespace)?;
        let live = existing.as_ref().filter(|record| self.is_live(record, tombstone));
        let decision = version::decide(put, existing.as_ref(), live, tombstone, self.now_ms);
        let stamp = match decision {
            Decision::Store(stamp) => stamp,
            Decision::Refuse(outcome) => return Ok(outcome.into()),
        };
        let body_no = body_no()?;
        let (place, inline) = match &put.body.content {
            StagedContent::Inline(bytes) => (BodyPlace::Inline(body_no), Some(bytes)),
            StagedContent::File(_) => (BodyPlace::File(body_no), None),
        };
        let mut record = stamp.record(put, self.core.store_id, self.now_ms);
        record.body = Some(place);
        let record = self.store(id, record, existing)?;
        if let Some(bytes) = inline {
            self.batch.put(Table::Bodies, &number_key(body_no.0), bytes);
        }
        let file = inline.is_none().then(|| record.clone());
        Ok(Verdict { outcome: Outcome::Change(CommitOutcome::Applied(Box::new(record))), file })
    }

    fn adopt(&mut self, offered: &Record) -> Result<Verdict, StoreError> {
        let id = self.core.id_of(offered);
        let Some(existing) = self.manifest(&id)? else { return Ok(CommitOutcome::BodyNeeded.into()) };
        if offered.version_ms > self.now_ms.saturating_add(CLOCK_SKEW_MAX_MS) {
            return Ok(CommitOutcome::ClockSkew { version_ms: offered.version_ms }.into());
        }
        if is_deleted(offered, self.tombstone(&offered.name.namespace)?) {
            return Ok(CommitOutcome::Tombstoned.into());
        }
        if existing.version() >= offered.version() {
            return Ok(CommitOutcome::Stale(Box::new(existing)).into());
        }
        if existing.digest != offered.digest {
            return Ok(CommitOutcome::BodyNeeded.into());
        }
        // What describes the bytes was checked here; a peer's word of it was not.
        let adopted = Record {
            body: existing.body,
            size: existing.size,
            sha256: existing.sha256,
            stored_size: existing.stored_size,
            encoding: existing.encoding,
            received_at_ms: self.now_ms,
            ..offered.clone()
        };
        let record = self.store(id, adopted, Some(existing))?;
        Ok(CommitOutcome::Applied(Box::new(record)).into())
    }

    fn delete(&mut self, namespace: &str, version_ms: Option<u64>) -> Result<Verdict, StoreError> {
        let standing = self.tombstone_row(namespace)?;
        let standing_ms = standing.as_ref().map_or(0, |row| row.number(1));
        let version_ms = match version_ms.filter(|version_ms| *version_ms > 0) {
            Some(given) if given > self.now_ms.saturating_add(CLOCK_SKEW_MAX_MS) => {
                return Ok(CommitOutcome::ClockSkew { version_ms: given }.into());
            }
            Some(given) if standing.is_some() && standing_ms >= given => return Ok(CommitOutcome::DeleteIgnored.into()),
            Some(given) => given,
            // A delete asked for here takes everything that is here, also what was stamped ahead of our clock.
            None => self.now_ms.max(standing_ms + 1).max(self.namespace(namespace)?.number(1)),
        };
        let seq = self.state.take_seq();
        if let Some(row) = standing {
            self.batch.delete(Table::Log, &number_key(row.number(2)));
        }
        let row = Row::default().with_number(1, version_ms).with_number(2, seq.0);
        self.batch.put(Table::Tombstones, namespace.as_bytes(), &row.encode());
        let log = LogRow::NamespaceDelete { namespace: namespace.to_owned(), version_ms };
        self.batch.put(Table::Log, &number_key(seq.0), &log.encode());
        self.batch.put(Table::Meta, &purge_key(namespace), &Row::default().encode());
        self.tombstone_rows.insert(namespace.to_owned(), row);
        self.tombstones.push((namespace.to_owned(), version_ms));
        Ok(CommitOutcome::Deleted { version_ms }.into())
    }

    fn withdraw(&mut self, id: &ArtifactId, body_no: BodyNo, reason: &str) -> Result<Verdict, StoreError> {
        let existing = self.manifest(id)?.filter(|record| number_of(record) == Some(body_no));
        let Some(record) = existing else { return Ok(CommitOutcome::Withdrawn(false).into()) };
        self.load_extents(&[&record])?;
        self.remove_rows(id, &record);
        self.retire_body(&record, true);
        let row = Wanted {
            id: *id,
            version: record.version(),
            size: record.size,
            name: (record.name.producer, record.name.namespace, record.name.key),
            holders: Vec::new(),
            reason: WantedReason::Withdrawn,
            error: Some(reason.to_owned()),
            attempts: 0,
            next_try_ms: 0,
        };
        self.wanted.insert(*id, WantedChange::Noted(Box::new(row)));
        Ok(CommitOutcome::Withdrawn(true).into())
    }

    fn purge(&mut self, namespace: &str, after: Seq) -> Result<Verdict, StoreError> {
        let tombstone = self.tombstone(namespace)?;
        let covers = self.tombstone_row(namespace)?.map_or(0, |row| row.number(2));
        let began = if after == Seq(0) { covers } else { self.purge_row(namespace)?.number(2) };
        let mut doomed = Vec::new();
        let mut position = after;
        let mut looked_at = 0;
        for seq in self.namespace_seqs(namespace, after)? {
            let seq = seq?;
            looked_at += 1;
            position = seq;
            if let Some((id, record)) = self.record_at(seq)?
                && is_deleted(&record, tombstone)
            {
                doomed.push((id, record));
            }
            if looked_at == PURGE_ROWS_MAX {
                break;
            }
        }
        self.load_extents(&doomed.iter().map(|(_, record)| record).collect::<Vec<_>>())?;
        for (id, record) in doomed {
            self.remove_rows(&id, &record);
            self.retire_body(&record, false);
        }
        let next = (looked_at == PURGE_ROWS_MAX).then_some(position);
        if next.is_none() && began == covers {
            self.batch.delete(Table::Meta, &purge_key(namespace));
        } else if after == Seq(0) {
            // A delete that comes while this goes on also takes rows that were passed already: it keeps its mark.
            let row = self.purge_row(namespace)?.with_number(2, covers);
            self.batch.put(Table::Meta, &purge_key(namespace), &row.encode());
        }
        Ok(Verdict { outcome: Outcome::Purged(next), file: None })
    }

    fn purge_row(&self, namespace: &str) -> Result<Row, StoreError> {
        let bytes = self.core.index.get(Table::Meta, &purge_key(namespace))?;
        bytes.map_or(Ok(Row::default()), |bytes| Row::decode(&bytes)).map_err(|error| corrupt("meta", error))
    }

    fn namespace_seqs(
        &self,
        namespace: &str,
        after: Seq,
    ) -> Result<impl Iterator<Item = Result<Seq, StoreError>> + use<'a>, StoreError> {
        let prefix = namespace_prefix(namespace);
        let from = namespace_key(namespace, Seq(after.0.saturating_add(1)));
        let rows = self.core.index.rows(Table::ByNamespace, &from)?;
        Ok(rows.take_while(move |row| row.as_ref().map_or(true, |(key, _)| key.starts_with(&prefix))).map(|row| {
            row.and_then(|(key, _)| last_seq(&key).ok_or_else(|| corrupt("by_namespace", "a key is short")))
        }))
    }

    /// The manifest whose current row in the log this is.
    fn record_at(&self, seq: Seq) -> Result<Option<(ArtifactId, Record)>, StoreError> {
        let Some(bytes) = self.core.index.get(Table::Log, &number_key(seq.0))? else { return Ok(None) };
        let LogRow::Put { id, .. } = LogRow::decode(&bytes).map_err(|reason| corrupt("log", reason))? else {
            return Ok(None);
        };
        Ok(self.manifest(&id)?.filter(|record| record.seq == seq).map(|record| (id, record)))
    }

    /// Puts a manifest in with all its rows and takes the old one's out.
    fn store(&mut self, id: ArtifactId, record: Record, old: Option<Record>) -> Result<Record, StoreError> {
        let mut record = record;
        let mut touched = vec![&record];
        touched.extend(old.as_ref());
        self.load_extents(&touched)?;
        let mut namespace = self.namespace(&record.name.namespace)?;
        record.seq = self.state.take_seq();
        if let Some(old) = &old {
            self.remove_rows(&id, old);
            if number_of(old) == number_of(&record) {
                self.count_body(old, false);
            } else {
                self.retire_body(old, false);
            }
        }
        self.add_rows(id, &record);
        self.count_body(&record, true);
        if namespace.number(1) < record.version_ms {
            namespace.set_number(1, record.version_ms);
            self.namespaces.insert(record.name.namespace.clone(), namespace);
        }
        let noted = self.wanted.get(&id);
        if !matches!(noted, Some(WantedChange::Noted(row)) if row.version > record.version()) {
            self.wanted.insert(id, WantedChange::Settled(record.version()));
        }
        Ok(record)
    }

    fn add_rows(&mut self, id: ArtifactId, record: &Record) {
        let Record { seq, version_ms, logical, .. } = *record;
        self.batch.put(Table::Manifests, id.as_bytes(), &record.to_stored_bytes());
        self.batch.put(Table::Log, &number_key(seq.0), &LogRow::Put { id, version_ms, logical }.encode());
        self.batch.put(Table::ByVersion, &version_key(version_ms, logical, seq), &[]);
        self.batch.put(Table::ByNamespace, &namespace_key(&record.name.namespace, seq), &[]);
        if let Some(body_no) = number_of(record) {
            self.batch.put(Table::BodyOwner, &number_key(body_no.0), id.as_bytes());
        }
        self.state.add(record);
        self.manifests.insert(id, Some(record.clone()));
    }

    fn remove_rows(&mut self, id: &ArtifactId, record: &Record) {
        let Record { seq, version_ms, logical, .. } = *record;
        self.batch.delete(Table::Manifests, id.as_bytes());
        self.batch.delete(Table::Log, &number_key(seq.0));
        self.batch.delete(Table::ByVersion, &version_key(version_ms, logical, seq));
        self.batch.delete(Table::ByNamespace, &namespace_key(&record.name.namespace, seq));
        self.state.remove(record);
        self.manifests.insert(*id, None);
    }

    /// Hands a body to the sweeper.
    fn retire_body(&mut self, record: &Record, keep_for_a_look: bool) {
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
            .with_number(3, u64::from(keep_for_a_look));
        self.batch.put(Table::Garbage, &number_key(body_no.0), &row.encode());
        self.garbage.push(body_no);
    }

    /// Counts a body in or out of its extent, whose row has been loaded.
    fn count_body(&mut self, record: &Record, is_in: bool) {
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

    fn load_extents(&mut self, records: &[&Record]) -> Result<(), StoreError> {
        for body_no in records.iter().filter_map(|record| number_of(record)) {
            if let Entry::Vacant(vacant) = self.extents.entry(extent_of(body_no)) {
                let bytes = self.core.index.get(Table::Extents, &number_key(*vacant.key()))?;
                let row = bytes.map_or(Ok(Row::default()), |bytes| Row::decode(&bytes));
                vacant.insert(row.map_err(|error| corrupt("extents", error))?);
            }
        }
        Ok(())
    }

    fn is_live(&self, record: &Record, tombstone: Option<u64>) -> bool {
        !is_deleted(record, tombstone) && !is_expired(record, self.now_ms)
    }

    /// The manifest as the group sees it. One that does not decode is replaced rather than in the way for ever.
    fn manifest(&self, id: &ArtifactId) -> Result<Option<Record>, StoreError> {
        if let Some(known) = self.manifests.get(id) {
            return Ok(known.clone());
        }
        self.core.readable_manifest(id)
    }

    fn tombstone(&self, namespace: &str) -> Result<Option<u64>, StoreError> {
        Ok(self.tombstone_row(namespace)?.map(|row| row.number(1)))
    }

    fn tombstone_row(&self, namespace: &str) -> Result<Option<Row>, StoreError> {
        if let Some(known) = self.tombstone_rows.get(namespace) {
            return Ok(Some(known.clone()));
        }
        let bytes = self.core.index.get(Table::Tombstones, namespace.as_bytes())?;
        bytes.map(|bytes| Row::decode(&bytes).map_err(|error| corrupt("tombstones", error))).transpose()
    }

    fn namespace(&self, namespace: &str) -> Result<Row, StoreError> {
        if let Some(known) = self.namespaces.get(namespace) {
            return Ok(known.clone());
        }
        let bytes = self.core.index.get(Table::Namespaces, namespace.as_bytes())?;
        bytes.map_or(Ok(Row::default()), |bytes| Row::decode(&bytes)).map_err(|error| corrupt("namespaces", error))
    }
}

/// The number of a record's body.
pub(crate) fn number_of(record: &Record) -> Option<BodyNo> {
    record.body.map(|place| match place {
        BodyPlace::Inline(number) | BodyPlace::File(number) => number,
    })
}

/// Namespaces whose purge was under way when the store was last open.
pub(crate) fn purges_under_way(core: &Core) -> Result<Vec<String>, StoreError> {
    let mut namespaces = Vec::new();
    for row in core.index.rows(Table::Meta, keys::META_PURGE_PREFIX)? {
        let (key, _) = row?;
        let Some(namespace) = key.strip_prefix(keys::META_PURGE_PREFIX) else { break };
        namespaces.push(String::from_utf8_lossy(namespace).into_owned());
    }
    Ok(namespaces)
}
