//! What each change comes to, decided against the index and what the same group has already changed.
//!
//! How it works: one [`Evaluation`] per group holds the batch under construction and an overlay of the rows it sets.
//! A change first reads all it needs and only then writes into the batch, so a failed read leaves nothing half done.
//! Nothing here touches a file: what a put needs on disk is returned in its [`Verdict`].
//!
//! Invariants: only the committer makes evaluations, one at a time, so what it reads stays true until the batch is
//! written. Every manifest has exactly one row in `log`, `by_version` and `by_namespace`, and its body one owner.

use std::collections::HashMap;

use bytes::Bytes;

use super::committer::{CommitOutcome, Operation, Put};
use super::error::StoreError;
use super::evaluate_evict::{Evicted, Eviction};
use super::index::Batch;
use super::keys::{LogRow, META_STATE, Table, number_key, purge_key};
use super::record::{BodyPlace, Record};
use super::set_digest::{SetChanges, SetDigest};
use super::state::{Core, StateRow, is_deleted};
use super::stubs::{Reason, Stub, is_gone};
use super::tagged::Row;
use super::version::{self, Decision, Here};
use super::wanted::{Wanted, WantedChange, WantedReason};
use crate::core::base::ids::{ArtifactId, BodyNo, Seq};
use crate::core::base::limits::CLOCK_SKEW_MAX_MS;
use crate::core::staging::body_writer::StagedContent;

/// Fewer manifests are read one by one.
const READ_AHEAD_MIN: usize = 4;

/// A piece of work for the committer.
#[derive(Debug)]
pub(crate) enum Work {
    /// Asked for from outside.
    Change(Operation),
    /// The next rows of a deleted namespace, behind a sequence number.
    Purge { namespace: String, after: Seq },
    /// Artifacts to make room with.
    Evict(Eviction),
    /// An inline body to be put at the head, if it is still this artifact's; about how long it is.
    Relocate { id: ArtifactId, seq: Seq, bytes: u64 },
}

/// What a piece of work came to.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The answer to a change.
    Change(CommitOutcome),
    /// Where the purge goes on; `None` = the namespace is clean.
    Purged(Option<Seq>),
    /// What was evicted.
    Evicted(Evicted),
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
    /// What is here then.
    pub(crate) set_digest: SetDigest,
    /// Tombstones for the side log.
    pub(crate) tombstones: Vec<(String, u64)>,
    /// Bodies that lose their owner.
    pub(crate) garbage: Vec<BodyNo>,
    /// What becomes of wanted rows; they join the batch when it is written.
    pub(crate) wanted: HashMap<ArtifactId, WantedChange>,
    /// Bodies that go into the index before the batch, in the order of their numbers.
    pub(crate) bodies: Vec<(BodyNo, Bytes)>,
}

/// One group being decided.
pub(crate) struct Evaluation<'a> {
    pub(super) core: &'a Core,
    pub(super) now_ms: u64,
    pub(super) batch: Batch<'a>,
    pub(super) state: StateRow,
    pub(super) tombstones: Vec<(String, u64)>,
    pub(super) garbage: Vec<BodyNo>,
    pub(super) manifests: HashMap<ArtifactId, Option<Record>>,
    /// As read or set; `None` where there is none.
    pub(super) tombstone_rows: HashMap<String, Option<Row>>,
    /// Rows that the batch sets.
    pub(super) namespaces: HashMap<String, Row>,
    /// Rows that were read and stay as they are.
    pub(super) namespaces_read: HashMap<String, Row>,
    pub(super) extents: HashMap<u64, Row>,
    pub(super) set: SetChanges,
    pub(super) wanted: HashMap<ArtifactId, WantedChange>,
    /// Rows of `stubs`: whether there is one, and what it says if that is known.
    pub(super) stubs: HashMap<ArtifactId, Option<Option<Stub>>>,
    /// Where inline bodies gather that go in beside the batch; without it they go into it.
    bodies: Option<Vec<(BodyNo, Bytes)>>,
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
            namespaces_read: HashMap::new(),
            extents: HashMap::new(),
            set: SetChanges::default(),
            wanted: HashMap::new(),
            stubs: HashMap::new(),
            bodies: None,
        }
    }

    /// Inline bodies of puts are left out of the batch, for the caller to write before it.
    pub(crate) fn with_bodies_beside(self) -> Self {
        Self { bodies: Some(Vec::new()), ..self }
    }

    /// Reads the manifests that puts ask for together: side by side they cost half of what they cost one by one. What
    /// cannot be read is left to the put, which says so.
    pub(crate) fn read_ahead<'p>(&mut self, puts: impl Iterator<Item = &'p Put>) -> Result<(), StoreError> {
        let mut ids: Vec<_> = puts.map(|put| put.name.artifact_id(&self.core.options.tenant_id)).collect();
        if ids.len() < READ_AHEAD_MIN {
            return Ok(());
        }
        ids.sort_unstable();
        ids.dedup();
        self.manifests.reserve(ids.len());
        for (id, record) in self.core.readable_manifests(&ids)? {
            self.manifests.insert(id, record);
        }
        Ok(())
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
            Work::Evict(eviction) => self.evict(eviction),
            Work::Relocate { id, seq, .. } => self.relocate(id, *seq, body_no),
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
        let before = self.core.set_digest().unwrap_or_default();
        let set_digest = self.set.write(&mut self.batch, &before, self.state.head());
        if !self.batch.is_empty() {
            self.batch.put(Table::Meta, META_STATE, &self.state.encode());
        }
        let Self { batch, state, tombstones, garbage, wanted, bodies, .. } = self;
        Finished { batch, state, set_digest, tombstones, garbage, wanted, bodies: bodies.unwrap_or_default() }
    }

    fn put(&mut self, put: &Put, body_no: impl FnOnce() -> Result<BodyNo, StoreError>) -> Result<Verdict, StoreError> {
        let id = put.name.artifact_id(&self.core.options.tenant_id);
        let existing = self.manifest(&id)?;
        let tombstone = self.tombstone(&put.name.namespace)?;
        let live = existing.as_ref().filter(|record| self.is_live(record, tombstone));
        let here = Here {
            existing: existing.as_ref(),
            live,
            tombstone,
            stub: self.stub(&id)?,
            floor_ms: self.state.evicted_floor_ms(),
            now_ms: self.now_ms,
        };
        let stamp = match version::decide(put, here) {
            Decision::Store(stamp) => stamp,
            Decision::Refuse(outcome) => {
                if matches!(outcome, CommitOutcome::AlreadyPresent(_)) {
                    // A client that brings it again would have read it.
                    self.core.visits.set(&id);
                }
                return Ok(outcome.into());
            }
        };
        let body_no = body_no()?;
        let (place, inline) = match &put.body.content {
            StagedContent::Inline(bytes) => (BodyPlace::Inline(body_no), Some(bytes)),
            StagedContent::File(_) => (BodyPlace::File(body_no), None),
        };
        let mut record = stamp.record(put, self.core.store_id, self.now_ms);
        record.body = Some(place);
        let record = self.store(id, record, existing)?;
        match (inline, &mut self.bodies) {
            (Some(bytes), Some(bodies)) => bodies.push((body_no, bytes.clone())),
            (Some(bytes), None) => self.batch.put(Table::Bodies, &number_key(body_no.0), bytes),
            (None, _) => {}
        }
        let file = inline.is_none().then(|| record.clone());
        Ok(Verdict { outcome: Outcome::Change(CommitOutcome::Applied(Box::new(record))), file })
    }

    fn adopt(&mut self, offered: &Record) -> Result<Verdict, StoreError> {
        let id = self.core.id_of(offered);
        let Some(existing) = self.manifest(&id)? else {
            let is_gone = is_gone(&offered.version(), self.stub(&id)?, self.state.evicted_floor_ms());
            return Ok(if is_gone { CommitOutcome::Evicted } else { CommitOutcome::BodyNeeded }.into());
        };
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
            None => self.now_ms.max(standing_ms + 1).max(self.newest_of(namespace)?),
        };
        self.add_tombstone(namespace, version_ms, standing);
        Ok(CommitOutcome::Deleted { version_ms }.into())
    }

    /// Puts a tombstone back that was accepted before, whatever the clock says now.
    pub(super) fn restore_tombstone(&mut self, namespace: &str, version_ms: u64) -> Result<(), StoreError> {
        let standing = self.tombstone_row(namespace)?;
        self.add_tombstone(namespace, version_ms, standing);
        Ok(())
    }

    fn add_tombstone(&mut self, namespace: &str, version_ms: u64, standing: Option<Row>) {
        let seq = self.state.take_seq();
        if let Some(row) = standing {
            self.batch.delete(Table::Log, &number_key(row.number(2)));
        }
        let row = Row::default().with_number(1, version_ms).with_number(2, seq.0);
        self.batch.put(Table::Tombstones, namespace.as_bytes(), &row.encode());
        let log = LogRow::NamespaceDelete { namespace: namespace.to_owned(), version_ms };
        self.batch.put(Table::Log, &number_key(seq.0), &log.encode());
        self.batch.put(Table::Meta, &purge_key(namespace), &Row::default().encode());
        self.tombstone_rows.insert(namespace.to_owned(), Some(row));
        self.tombstones.push((namespace.to_owned(), version_ms));
    }

    fn withdraw(&mut self, id: &ArtifactId, body_no: BodyNo, reason: &str) -> Result<Verdict, StoreError> {
        let existing = self.manifest(id)?.filter(|record| number_of(record) == Some(body_no));
        let Some(record) = existing else { return Ok(CommitOutcome::Withdrawn(false).into()) };
        self.load_extents(&[&record])?;
        self.load_stub(id)?;
        self.remove_rows(id, &record);
        self.retire_body(&record, true);
        self.set_stub(id, Some(Stub::of(&record, Reason::Withdrawn)));
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
}

/// The number of a record's body.
pub(crate) fn number_of(record: &Record) -> Option<BodyNo> {
    record.body.map(|place| match place {
        BodyPlace::Inline(number) | BodyPlace::File(number) => number,
    })
}
