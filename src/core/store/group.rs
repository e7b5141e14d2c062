//! The group commit: decide, make bodies durable, write one batch, publish, answer.
//!
//! The order, which power loss cannot turn around: footers are written; the files' data is synced (one by one, or with
//! one `syncfs` when there are many); files get their committed names; their folders are synced; new tombstones go
//! to the side log, synced; the batch is written with its log synced; only then is the head published and anybody
//! answered. With `Durability::Process` the syncs are left to a periodic one; so they are for a group of nothing but
//! replicated bodies inside the index, which a power loss takes away together with the cursor behind them.
//!
//! Failure, by step: what fails before the batch fails its own change only. That change is taken out, its name on disk
//! too, and the rest of the group is decided again, because a later change may have counted on it. A body keeps its
//! number and its name through that. "No space" is no reason to stop; a sync that fails otherwise is: what it should
//! have made durable may be lost although a second sync would succeed. When the batch fails nothing is removed: it may
//! yet be found in the log by the next open, which also removes files that no manifest owns.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::batch::BatchPart;
use super::body_files::{self, KnownExtents, body_path, extent_path, parse_body_name};
use super::body_numbers::BodyNumbers;
use super::committer::{CommitOutcome, Operation, Put};
use super::error::StoreError;
use super::evaluate::{Evaluation, Finished, Outcome, Verdict, Work};
use super::evaluate_evict::Evicted;
use super::footer;
use super::index::Batch;
use super::keys::{Table, extent_of, number_key};
use super::open::is_owned;
use super::state::{Core, StateRow};
use super::tombstone_log::TombstoneLog;
use crate::core::base::ids::{BodyNo, Seq};
use crate::core::config::Durability;
use crate::core::data_dir::space::is_storage_full;
use crate::core::staging::body_writer::StagedContent;
use crate::core::staging::staged_file::StagedFile;

/// From this many files on, one sync of the filesystem is cheaper than one for each.
const SYNC_EACH_FILES_MAX: usize = 3;

/// Inline bodies of peers from which on a group writes them as a table file: below, its syncs cost more than the copies,
/// and a large store would have very many small files.
const TABLE_BYTES_MIN: usize = 4 << 20;

/// Who waits for the outcome.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Of a change.
    Change(oneshot::Sender<Result<CommitOutcome, StoreError>>),
    /// Of a put that came with others.
    Part(BatchPart),
    /// Of a purge: where it goes on.
    Purge(std::sync::mpsc::Sender<Result<Option<Seq>, StoreError>>),
    /// Of an eviction.
    Evict(std::sync::mpsc::Sender<Result<Evicted, StoreError>>),
}

/// A piece of work on its way through a group.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) work: Work,
    pub(crate) answer: Answer,
    /// Whoever waits must not be answered before the change is durable.
    waits_for_sync: bool,
    body_no: Option<BodyNo>,
    footer: Vec<u8>,
    linked: bool,
}

impl Pending {
    pub(crate) fn new(work: Work, answer: Answer) -> Self {
        Self { work, answer, waits_for_sync: true, body_no: None, footer: Vec::new(), linked: false }
    }

    /// A put that nobody was promised: a peer has it too, and the cursor behind it lies in the same log. Bodies in files
    /// need their order on disk, so they wait for it.
    pub(crate) fn replicated(put: Put, part: BatchPart) -> Self {
        let waits_for_sync = matches!(put.body.content, StagedContent::File(_));
        let work = Work::Change(Operation::Put(Box::new(put)));
        Self { waits_for_sync, ..Self::new(work, Answer::Part(part)) }
    }

    /// Bytes this piece puts into the batch, roughly.
    pub(crate) fn inline_bytes(&self) -> usize {
        match &self.work {
            Work::Change(Operation::Put(put)) => match &put.body.content {
                StagedContent::Inline(bytes) => bytes.len(),
                StagedContent::File(_) => 0,
            },
            Work::Relocate { bytes, .. } => usize::try_from(*bytes).unwrap_or(usize::MAX),
            _ => 0,
        }
    }

    fn staged(&mut self) -> Option<&mut StagedFile> {
        match &mut self.work {
            Work::Change(Operation::Put(put)) => match &mut put.body.content {
                StagedContent::File(staged) => Some(staged),
                StagedContent::Inline(_) => None,
            },
            _ => None,
        }
    }

    fn put(&self) -> Option<&Put> {
        match &self.work {
            Work::Change(Operation::Put(put)) => Some(put),
            _ => None,
        }
    }

    fn is_put(&self) -> bool {
        self.put().is_some()
    }
}

impl Answer {
    /// Nobody may be waiting any more; the change stands all the same.
    fn give(self, outcome: Result<Outcome, StoreError>) {
        match (self, outcome) {
            (Self::Change(sender), Ok(Outcome::Change(outcome))) => drop(sender.send(Ok(outcome))),
            (Self::Change(sender), Err(error)) => drop(sender.send(Err(error))),
            (Self::Part(part), Ok(Outcome::Change(outcome))) => part.give(Ok(outcome)),
            (Self::Part(part), Err(error)) => part.give(Err(error)),
            (Self::Purge(sender), Ok(Outcome::Purged(next))) => drop(sender.send(Ok(next))),
            (Self::Purge(sender), Err(error)) => drop(sender.send(Err(error))),
            (Self::Evict(sender), Ok(Outcome::Evicted(evicted))) => drop(sender.send(Ok(evicted))),
            (Self::Evict(sender), Err(error)) => drop(sender.send(Err(error))),
            _ => {}
        }
    }
}

/// What the group left to be done in the background.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct FollowUp {
    /// Bodies that became garbage.
    pub(crate) garbage: Vec<BodyNo>,
    /// Namespaces that were deleted.
    pub(crate) purges: Vec<String>,
}

/// Some members of a group failed before the batch.
struct Fault {
    members: Vec<usize>,
    action: &'static str,
    source: io::Error,
    /// A sync that failed for another reason than space.
    is_fatal: bool,
}

/// What the one committer keeps from group to group.
#[derive(Debug)]
pub(crate) struct Groups {
    core: Arc<Core>,
    state: StateRow,
    numbers: BodyNumbers,
    tombstones: TombstoneLog,
    extents: KnownExtents,
    /// A committed name could not be taken back: the next open must look for it.
    left_strays: bool,
}

impl Groups {
    pub(crate) fn new(
        core: Arc<Core>,
        state: StateRow,
        numbers: BodyNumbers,
        tombstones: TombstoneLog,
        left_strays: bool,
    ) -> Self {
        Self { core, state, numbers, tombstones, extents: KnownExtents::default(), left_strays }
    }

    /// Whether this store may be marked as cleanly stopped.
    pub(crate) fn is_clean(&self) -> bool {
        !self.left_strays && self.core.stop_reason().is_none()
    }

    /// Commits a group and answers everybody in it.
    pub(crate) fn run(&mut self, group: Vec<Pending>) -> FollowUp {
        let started = self.core.options.clock.monotonic();
        let follow_up = self.settle(group);
        if let Some(metrics) = self.core.metrics.get() {
            metrics.group(self.core.options.clock.monotonic().saturating_sub(started));
        }
        follow_up
    }

    fn settle(&mut self, mut group: Vec<Pending>) -> FollowUp {
        let core = Arc::clone(&self.core);
        self.numbers.begin_group(!self.left_strays);
        group = self.refuse_for_space(group);
        loop {
            if let Err(error) = core.check_writable() {
                self.refuse_all(group, error);
                return FollowUp::default();
            }
            let mut evaluation = Evaluation::new(&core, self.state.clone());
            if goes_in_as_a_table(&group) {
                evaluation = evaluation.with_bodies_beside();
            }
            let verdicts;
            (group, verdicts) = self.decide(group, &mut evaluation);
            let durable = self.make_durable(&mut group, &verdicts);
            let Err(fault) = durable else { return self.commit(group, verdicts, evaluation) };
            group = self.take_out(group, fault);
        }
    }

    /// Puts are refused while there is no room for the log and the tables behind them; deletes never are: before they
    /// would fail the ballast goes.
    fn refuse_for_space(&self, group: Vec<Pending>) -> Vec<Pending> {
        let measured = self.core.room.ensure();
        let mut left = measured.as_ref().ok().and_then(|space| self.core.room.for_puts(space));
        let (kept, refused): (Vec<_>, Vec<_>) = group.into_iter().partition(|pending| {
            // An inline body goes into the log and, some time later, into a table.
            let needed = (pending.inline_bytes() as u64).saturating_mul(2);
            let rest = left.and_then(|left| left.checked_sub(needed));
            left = if pending.is_put() { rest.or(left) } else { left };
            !pending.is_put() || rest.is_some()
        });
        for pending in refused {
            let error = match &measured {
                Ok(_) => self.core.storage_full(),
                Err(source) => {
                    let source = io::Error::new(source.kind(), source.to_string());
                    self.core.io_error("measure", self.core.data_dir(), source)
                }
            };
            self.finish(pending, Err(error));
        }
        kept
    }

    fn decide(&mut self, group: Vec<Pending>, evaluation: &mut Evaluation<'_>) -> (Vec<Pending>, Vec<Verdict>) {
        let (mut kept, mut verdicts) = (Vec::with_capacity(group.len()), Vec::with_capacity(group.len()));
        if let Err(error) = evaluation.read_ahead(group.iter().filter_map(Pending::put)) {
            tracing::debug!(%error, "manifests_not_read_ahead");
        }
        for mut pending in group {
            let Pending { work, body_no, .. } = &mut pending;
            let numbers = &mut self.numbers;
            let index = &self.core.index;
            let number = || match body_no {
                Some(number) => Ok(*number),
                None => numbers.allocate(index).inspect(|number| *body_no = Some(*number)),
            };
            match evaluation.decide(work, number) {
                Ok(verdict) => {
                    kept.push(pending);
                    verdicts.push(verdict);
                }
                Err(error) => self.refuse(pending, error),
            }
        }
        (kept, verdicts)
    }

    /// Everything on disk that must stand before the batch.
    fn make_durable(&mut self, group: &mut [Pending], verdicts: &[Verdict]) -> Result<(), Fault> {
        let files: Vec<usize> =
            (0..verdicts.len()).filter(|at| verdicts.get(*at).is_some_and(|v| v.file.is_some())).collect();
        for at in &files {
            if let (Some(pending), Some(verdict)) = (group.get_mut(*at), verdicts.get(*at)) {
                self.write_footer(pending, verdict).map_err(|source| Fault::one(*at, "write the footer of", source))?;
            }
        }
        self.sync_files(group, &files)?;
        let mut touched = BTreeSet::new();
        for at in files.iter().copied() {
            let Some(pending) = group.get_mut(at) else { continue };
            touched.extend(pending.body_no.map(extent_of));
            self.link(pending).map_err(|source| Fault::one(at, "name", source))?;
        }
        if self.syncs() {
            for extent in touched {
                let synced = self.core.options.disk.sync_dir(&extent_path(&self.core.options.layout, extent));
                synced.map_err(|source| Fault::sync(files.clone(), "sync the folder of", source))?;
            }
        }
        Ok(())
    }

    fn syncs(&self) -> bool {
        self.core.options.durability == Durability::Power
    }

    fn write_footer(&self, pending: &mut Pending, verdict: &Verdict) -> io::Result<()> {
        let Some(record) = &verdict.file else { return Ok(()) };
        let bytes = footer::encode(record);
        if pending.footer == bytes {
            return Ok(());
        }
        let disk = &self.core.options.disk;
        if let Some(staged) = pending.staged() {
            disk.set_len(staged.file(), record.stored_size)?;
            disk.write_all_at(staged.file(), &bytes, record.stored_size)?;
        }
        pending.footer = bytes;
        Ok(())
    }

    fn sync_files(&self, group: &mut [Pending], files: &[usize]) -> Result<(), Fault> {
        if !self.syncs() {
            return Ok(());
        }
        let disk = &self.core.options.disk;
        let at_once = files.len() > SYNC_EACH_FILES_MAX;
        for at in files.iter().copied() {
            let Some(staged) = group.get_mut(at).and_then(Pending::staged) else { continue };
            if at_once {
                let synced = disk.sync_filesystem(staged.file());
                return synced.map_err(|source| Fault::sync(files.to_vec(), "sync the filesystem of", source));
            }
            disk.sync_data(staged.file()).map_err(|source| Fault::sync(vec![at], "sync", source))?;
        }
        Ok(())
    }

    fn link(&mut self, pending: &mut Pending) -> io::Result<()> {
        let (false, Some(body_no)) = (pending.linked, pending.body_no) else { return Ok(()) };
        let layout = &self.core.options.layout;
        if self.extents.ensure(self.core.options.disk.as_ref(), layout, extent_of(body_no))? {
            self.remove_leftovers(body_no);
        }
        let path = body_path(layout, body_no);
        if let Some(staged) = pending.staged() {
            staged.link_to(&path)?;
        }
        pending.linked = true;
        Ok(())
    }

    /// Where the index lost its newest rows, numbers are given out again, and files of theirs may be in the way. One
    /// that cannot be removed fails the body that gets its number.
    fn remove_leftovers(&self, next: BodyNo) {
        let (disk, layout) = (self.core.options.disk.as_ref(), &self.core.options.layout);
        let Ok(entries) = std::fs::read_dir(extent_path(layout, extent_of(next))) else { return };
        let numbers = entries.flatten().filter_map(|entry| parse_body_name(entry.file_name().to_str()?));
        for body_no in numbers.filter(|number| *number >= next) {
            if !is_owned(&self.core, body_no).unwrap_or(true) {
                let removed = body_files::remove(disk, layout, body_no);
                tracing::warn!(%body_no, ?removed, "store_leftover_body");
            }
        }
    }

    /// Answers the members at fault and gives back the rest.
    fn take_out(&mut self, group: Vec<Pending>, fault: Fault) -> Vec<Pending> {
        if fault.is_fatal {
            self.core.stop_writes(format!("failed to {} a body: {}", fault.action, fault.source));
        }
        let mut rest = Vec::with_capacity(group.len());
        for (at, pending) in group.into_iter().enumerate() {
            if fault.members.contains(&at) {
                let source = io::Error::new(fault.source.kind(), fault.source.to_string());
                let error = self.core.io_error(fault.action, self.core.options.layout.bodies(), source);
                self.refuse(pending, error);
            } else {
                rest.push(pending);
            }
        }
        rest
    }

    /// Answers with an error and takes the committed name back.
    fn refuse(&mut self, pending: Pending, error: StoreError) {
        self.unlink(&pending);
        self.finish(pending, Err(error));
    }

    /// Answers. A staged file that was not used is closed elsewhere: freeing the blocks of a long one takes a while.
    fn finish(&self, pending: Pending, outcome: Result<Outcome, StoreError>) {
        let Pending { work, answer, .. } = pending;
        if let (Some(metrics), Answer::Change(_) | Answer::Part(_)) = (self.core.metrics.get(), &answer) {
            metrics.changed(match &outcome {
                Ok(Outcome::Change(outcome)) => Ok(outcome),
                Ok(_) => Ok(&CommitOutcome::DeleteIgnored),
                Err(error) => Err(error),
            });
        }
        answer.give(outcome);
        if let Work::Change(Operation::Put(put)) = work
            && matches!(put.body.content, StagedContent::File(_))
        {
            self.core.options.executor.execute(Box::new(move || drop(put)));
        }
    }

    fn refuse_all(&mut self, group: Vec<Pending>, error: StoreError) {
        let reason = error.to_string();
        for pending in group {
            let error = match self.core.stop_reason() {
                Some(reason) => StoreError::WriteStopped { reason },
                None if self.core.read_only => StoreError::NotOpen,
                None => StoreError::WriteStopped { reason: reason.clone() },
            };
            self.refuse(pending, error);
        }
    }

    fn unlink(&mut self, pending: &Pending) {
        let (true, Some(body_no)) = (pending.linked, pending.body_no) else { return };
        if let Err(error) = body_files::remove(self.core.options.disk.as_ref(), &self.core.options.layout, body_no) {
            tracing::warn!(%body_no, %error, "store_stray_body");
            self.left_strays = true;
        }
    }

    fn commit(&mut self, group: Vec<Pending>, verdicts: Vec<Verdict>, evaluation: Evaluation<'_>) -> FollowUp {
        let Finished { mut batch, state, set_digest, tombstones, garbage, wanted, bodies } = evaluation.finish();
        self.take_in(bodies, &mut batch);
        if let Err(error) = self.log_tombstones(&tombstones) {
            return self.refuse_group(group, error);
        }
        let sync = self.syncs() && group.iter().any(|pending| pending.waits_for_sync);
        if let Err(error) = self.core.write_settling(batch, wanted, |batch| self.write(batch, sync)) {
            // The names stay: the batch may have reached the log. The next open settles it.
            self.core.stop_writes(&error);
            self.left_strays = true;
            return self.refuse_group_keeping_files(group, error);
        }
        self.state = state;
        self.core.bodies_settled_below.store(self.numbers.next(), Ordering::Release);
        self.core.publish(&self.state, set_digest);
        let follow_up = FollowUp { garbage, purges: tombstones.into_iter().map(|(namespace, _)| namespace).collect() };
        for (pending, verdict) in group.into_iter().zip(verdicts) {
            if verdict.file.is_none() {
                // It had stored a file in an earlier attempt at this group and no longer does.
                self.unlink(&pending);
            }
            self.finish(pending, Ok(verdict.outcome));
        }
        follow_up
    }

    /// Bodies that are many go into the index as a table file of their own, durably, before the batch that names them. If
    /// that fails they go into the batch like others.
    fn take_in(&self, mut bodies: Vec<(BodyNo, Bytes)>, batch: &mut Batch<'_>) {
        bodies.sort_unstable_by_key(|(body_no, _)| *body_no);
        if let Err(error) = self.core.index.ingest_bodies(&bodies) {
            tracing::warn!(%error, bodies = bodies.len(), "store_table_not_taken_in");
            bodies.iter().for_each(|(body_no, body)| batch.put(Table::Bodies, &number_key(body_no.0), body));
        }
    }

    fn write(&self, batch: Batch<'_>, sync: bool) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        if sync || !self.syncs() {
            self.core.index.write(batch, sync)?;
            self.core.late_sync.all_synced();
            return Ok(());
        }
        self.core.late_sync.write_unsynced(|| self.core.index.write(batch, false))
    }

    /// A delete is in the side log, durably, before it is anywhere else.
    fn log_tombstones(&mut self, tombstones: &[(String, u64)]) -> Result<(), StoreError> {
        if tombstones.is_empty() {
            return Ok(());
        }
        let path = self.core.options.layout.tombstones_log();
        if self.tombstones.is_long() {
            // Before the new ones go in, which the index does not have yet.
            self.tombstones.refresh(&self.core, &path);
        }
        let entries = tombstones.iter().map(|(namespace, version_ms)| (namespace.as_str(), *version_ms));
        let end = self.tombstones.end();
        self.tombstones.append(entries).map_err(|source| self.core.io_error("append to", &path, source))?;
        self.tombstones.sync().map_err(|source| {
            let is_taken_back = is_storage_full(&source) && self.tombstones.take_back(end).is_ok();
            if !is_taken_back {
                self.core.stop_writes(format!("failed to sync {}: {source}", path.display()));
            }
            self.core.io_error("sync", &path, source)
        })
    }

    fn refuse_group(&mut self, group: Vec<Pending>, error: StoreError) -> FollowUp {
        group.iter().for_each(|pending| self.unlink(pending));
        self.refuse_group_keeping_files(group, error)
    }

    fn refuse_group_keeping_files(&mut self, group: Vec<Pending>, error: StoreError) -> FollowUp {
        let is_full = matches!(error, StoreError::StorageFull { .. });
        for pending in group {
            let error = match is_full {
                true => self.core.storage_full(),
                false => StoreError::WriteStopped { reason: error.to_string() },
            };
            self.finish(pending, Err(error));
        }
        FollowUp::default()
    }
}

/// Whether the inline bodies of a group are worth a table file of their own: a few syncs more, and most copies less. Not
/// where somebody waits for few of them.
fn goes_in_as_a_table(group: &[Pending]) -> bool {
    let unhurried = group.iter().filter(|pending| !pending.waits_for_sync);
    unhurried.map(Pending::inline_bytes).sum::<usize>() >= TABLE_BYTES_MIN
}

impl Fault {
    fn one(at: usize, action: &'static str, source: io::Error) -> Self {
        Self { members: vec![at], action, source, is_fatal: false }
    }

    fn sync(members: Vec<usize>, action: &'static str, source: io::Error) -> Self {
        let is_fatal = !is_storage_full(&source);
        Self { members, action, source, is_fatal }
    }
}
