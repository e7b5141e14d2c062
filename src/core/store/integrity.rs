//! Proof that what the index says is so: every manifest's body, every body file's owner.
//!
//! How it works: [`verify`] takes manifests in id order, a batch at a time, and looks at the bodies of each batch in the
//! order of their numbers, which is that of the disk ([`super::integrity_batch`]); then it walks the body folders and
//! asks of each file who owns it. [`recount`](super::recount) counts everything anew.
//!
//! Invariants: nothing is changed, so all of it runs on a store opened for reading, on a full volume and beside a
//! writer. Lists are bounded, counts are not. One bad row or file never ends the walk.
//!
//! Beside a writer: a body may be replaced while this walks on an older view. Numbers above the newest known body are
//! taken as arriving, not as unreferenced; what is found bad is settled by verifying just those ids once more on a
//! fresh open.

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use super::body_files::{body_path, is_marked, parse_body_name, parse_extent_name};
use super::error::StoreError;
use super::facade::{OpenBody, Store};
use super::integrity_batch::{Batch, Item, Place, split_window};
use super::keys::{Table, key_number};
use super::open::is_owned;
use super::reads::{BadBody, hash_file};
use super::record::{ArtifactKey, Record};
use super::state::Core;
use crate::core::base::ids::{ArtifactId, BodyNo, Digest};

/// Most entries of each list in a report.
pub const DETAILS_MAX: usize = 100;

/// With `Sample`, one body in this many is hashed.
const SAMPLE_ONE_IN: u8 = 64;

/// Larger bodies are in no sample: reading one would take longer than the rest of the look.
const SAMPLE_BODY_BYTES_MAX: u64 = 16 << 20;

/// Artifacts of a batch where all bodies are hashed, at some 96 bytes each: of several million small bodies each block of
/// the index is then read a few times, and not once for each body.
const BATCH_ROWS_MAX: usize = 1 << 19;

/// The same for a look, which ends by time: each window of it costs at most so many reads.
const SAMPLE_BATCH_ROWS: usize = 64;

/// Which bodies are hashed; presence and length of all are looked at in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashBodies {
    /// None.
    None,
    /// One in 64, the same ones each time.
    Sample,
    /// All.
    All,
}

/// What to verify.
#[derive(Debug, Clone)]
pub struct VerifyRequest {
    /// Which bodies are hashed.
    pub hash: HashBodies,
    /// Only these artifacts; `None` = all.
    pub only: Option<Vec<ArtifactId>>,
    /// Of all artifacts those that an earlier walk did not come to.
    pub from: WalkPlace,
    /// Whether the body folders are walked, too, once all artifacts were looked at.
    pub folders: bool,
}

impl VerifyRequest {
    /// Everything there is.
    pub fn all(hash: HashBodies) -> Self {
        Self { hash, only: None, from: WalkPlace::default(), folders: true }
    }

    /// These artifacts and nothing else.
    pub fn of(hash: HashBodies, only: Vec<ArtifactId>) -> Self {
        Self { hash, only: Some(only), from: WalkPlace::default(), folders: false }
    }
}

/// Where a walk over all artifacts is: what is written meanwhile has a higher body number, so nothing is passed over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WalkPlace {
    /// Artifacts up to this id are done.
    pub after: Option<ArtifactId>,
    /// Behind it those up to this id whose bodies have numbers up to this one.
    pub batch: Option<(ArtifactId, BodyNo)>,
}

/// How far a verification is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Manifests looked at.
    pub artifacts: u64,
    /// Manifests in all, as counted by the store.
    pub artifacts_total: u64,
    /// Bytes hashed.
    pub hashed_bytes: u64,
    /// Where to go on after an interruption.
    pub place: WalkPlace,
}

/// An artifact whose body is not what its manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadArtifact {
    /// Which artifact.
    pub id: ArtifactId,
    /// Its name.
    pub name: ArtifactKey,
    /// The body's file; `None` for one inside the index.
    pub path: Option<PathBuf>,
    /// The digest in the manifest.
    pub expected: Digest,
    /// The digest of the bytes, where they were hashed.
    pub actual: Option<Digest>,
    /// What is wrong, for people.
    pub reason: String,
}

/// What a verification found. Lists hold at most [`DETAILS_MAX`] entries; the counts beside them are complete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IntegrityReport {
    /// Manifests looked at.
    pub artifacts: u64,
    /// Bodies hashed.
    pub hashed: u64,
    /// Bytes of them.
    pub hashed_bytes: u64,
    /// Manifests without a body, or with one that is short.
    pub missing_total: u64,
    /// The first of them.
    pub missing: Vec<BadArtifact>,
    /// Bodies whose digest is another.
    pub corrupt_total: u64,
    /// The first of them.
    pub corrupt: Vec<BadArtifact>,
    /// Bodies that could not be read for a reason that says nothing of them.
    pub unreadable_total: u64,
    /// The first of the errors.
    pub unreadable: Vec<String>,
    /// Manifest rows that do not decode.
    pub corrupt_rows: u64,
    /// Body files that no manifest names and no sweep will remove.
    pub unreferenced_total: u64,
    /// Bytes of them.
    pub unreferenced_bytes: u64,
    /// The first of them.
    pub unreferenced: Vec<PathBuf>,
    /// Whether `bodies/.kura` stands; without it no missing body is believed.
    pub bodies_marked: bool,
    /// Whether it was stopped before the end.
    pub stopped: bool,
}

/// Looks at every artifact asked for. `progress` is called every few artifacts and may stop the walk.
///
/// # Errors
/// If the index cannot be read; what is wrong with single artifacts is in the report.
pub fn verify(
    store: &Store,
    request: &VerifyRequest,
    progress: &mut dyn FnMut(VerifyProgress) -> ControlFlow<()>,
) -> Result<IntegrityReport, StoreError> {
    verify_noting(store, request, &mut |at, _| progress(at))
}

/// As [`verify`], and `progress` sees what was found so far.
///
/// # Errors
/// As [`verify`].
pub fn verify_noting(
    store: &Store,
    request: &VerifyRequest,
    progress: &mut dyn FnMut(VerifyProgress, &IntegrityReport) -> ControlFlow<()>,
) -> Result<IntegrityReport, StoreError> {
    let core = store.core();
    let report = IntegrityReport { bodies_marked: is_marked(&core.options.layout), ..IntegrityReport::default() };
    let mut walk = Verification { core, hash: request.hash, report, place: request.from, progress };
    let flow = match &request.only {
        Some(ids) => walk.listed(ids)?,
        None => match walk.all()? {
            ControlFlow::Continue(()) if request.folders => walk.body_folders()?,
            ended => ended,
        },
    };
    walk.report.stopped = flow.is_break();
    Ok(walk.report)
}

/// Looks for body files that nobody owns. `progress` is called after each file and may stop the walk; the report has
/// nothing but what concerns them.
///
/// # Errors
/// If the index or the body folders cannot be read.
pub fn unreferenced(
    store: &Store,
    progress: &mut dyn FnMut(VerifyProgress) -> ControlFlow<()>,
) -> Result<IntegrityReport, StoreError> {
    let core = store.core();
    let report = IntegrityReport { bodies_marked: is_marked(&core.options.layout), ..IntegrityReport::default() };
    let mut progress = |at, _: &IntegrityReport| progress(at);
    let place = WalkPlace::default();
    let mut walk = Verification { core, hash: HashBodies::None, report, place, progress: &mut progress };
    walk.report.stopped = walk.body_folders()?.is_break();
    Ok(walk.report)
}

struct Verification<'a> {
    core: &'a Core,
    hash: HashBodies,
    report: IntegrityReport,
    place: WalkPlace,
    progress: &'a mut dyn FnMut(VerifyProgress, &IntegrityReport) -> ControlFlow<()>,
}

impl Verification<'_> {
    fn all(&mut self) -> Result<ControlFlow<()>, StoreError> {
        let rows_max = if self.hash == HashBodies::All { BATCH_ROWS_MAX } else { SAMPLE_BATCH_ROWS };
        let view = self.core.index.view();
        loop {
            let batch = Batch::gather(&view, self.place, rows_max)?;
            self.report.corrupt_rows += batch.corrupt_rows;
            if self.bodies(&batch.items, Some(batch.through))?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            if batch.is_last() {
                return Ok(ControlFlow::Continue(()));
            }
            self.place = WalkPlace { after: Some(batch.through), batch: None };
        }
    }

    fn listed(&mut self, ids: &[ArtifactId]) -> Result<ControlFlow<()>, StoreError> {
        let mut items = Vec::with_capacity(ids.len());
        for id in ids {
            match self.core.manifest(id) {
                Ok(record) => items.extend(record.map(|record| Item::of(*id, &record))),
                Err(StoreError::CorruptRow { .. }) => self.report.corrupt_rows += 1,
                Err(error) => return Err(error),
            }
        }
        items.sort_unstable_by_key(|item| item.body_no);
        self.bodies(&items, None)
    }

    /// Looks at bodies in the order of their numbers; `through` is the last id of their range.
    fn bodies(&mut self, items: &[Item], through: Option<ArtifactId>) -> Result<ControlFlow<()>, StoreError> {
        let (mut window, mut rest) = split_window(items);
        while let Some(last) = window.last() {
            self.window(window)?;
            self.place.batch = through.map(|through| (through, last.body_no));
            if self.advanced().is_break() {
                return Ok(ControlFlow::Break(()));
            }
            (window, rest) = split_window(rest);
        }
        Ok(ControlFlow::Continue(()))
    }

    fn window(&mut self, window: &[Item]) -> Result<(), StoreError> {
        let mut inline = self.core.look_at_inline(window)?.into_iter();
        for item in window {
            self.report.artifacts += 1;
            let looked = match item.place {
                Place::File => self.look_at_file(item),
                Place::Nowhere => Ok(Some(BadBody::Missing)),
                Place::Inline => {
                    self.count_hashed(item);
                    Ok(inline.next().flatten())
                }
            };
            match looked {
                Ok(None) => {}
                Ok(Some(bad)) => self.note_bad(item, &bad)?,
                Err(StoreError::Io { action, path, source }) => {
                    self.report.unreadable_total += 1;
                    let text = format!("failed to {action} {}: {source}", path.display());
                    push_bounded(&mut self.report.unreadable, text);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn advanced(&mut self) -> ControlFlow<()> {
        let at = VerifyProgress {
            artifacts: self.report.artifacts,
            artifacts_total: self.core.artifacts.load(Ordering::Acquire),
            hashed_bytes: self.report.hashed_bytes,
            place: self.place,
        };
        (self.progress)(at, &self.report)
    }

    fn look_at_file(&mut self, item: &Item) -> Result<Option<BadBody>, StoreError> {
        let path = body_path(&self.core.options.layout, item.body_no);
        let length = match std::fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(BadBody::Missing)),
            Err(source) => return Err(StoreError::Io { action: "measure", path, source }),
        };
        if length < item.stored_size {
            return Ok(Some(BadBody::Short { bytes: length }));
        }
        if !self.is_hashed(item) {
            return Ok(None);
        }
        self.count_hashed(item);
        let hashed = std::fs::File::open(&path).and_then(|file| hash_file(&file, item.size));
        let actual = hashed.map_err(|source| StoreError::Io { action: "read", path, source })?;
        Ok((actual != item.digest).then_some(BadBody::Corrupt { actual }))
    }

    fn is_hashed(&self, item: &Item) -> bool {
        match self.hash {
            HashBodies::None => false,
            HashBodies::Sample => {
                let last = item.id.as_bytes().last();
                item.size <= SAMPLE_BODY_BYTES_MAX && last.is_some_and(|byte| byte % SAMPLE_ONE_IN == 0)
            }
            HashBodies::All => true,
        }
    }

    fn count_hashed(&mut self, item: &Item) {
        self.report.hashed += 1;
        self.report.hashed_bytes += item.size;
    }

    fn note_bad(&mut self, item: &Item, bad: &BadBody) -> Result<(), StoreError> {
        let actual = if let BadBody::Corrupt { actual } = bad { Some(*actual) } else { None };
        let (total, list) = match actual {
            Some(_) => (&mut self.report.corrupt_total, &mut self.report.corrupt),
            None => (&mut self.report.missing_total, &mut self.report.missing),
        };
        *total += 1;
        if list.len() >= DETAILS_MAX {
            return Ok(());
        }
        // Only what is told needs its name, and what has gone since needs none.
        let Some(record) = self.core.manifest(&item.id)? else { return Ok(()) };
        let path = (item.place == Place::File).then(|| body_path(&self.core.options.layout, item.body_no));
        let (id, name, expected, reason) = (item.id, record.name, item.digest, bad.to_string());
        list.push(BadArtifact { id, name, path, expected, actual, reason });
        Ok(())
    }

    /// Files that nobody owns. Numbers above the newest owned one may be on their way in.
    fn body_folders(&mut self) -> Result<ControlFlow<()>, StoreError> {
        let newest = self.core.index.view().last(Table::BodyOwner)?.and_then(|(key, _)| key_number(&key));
        let Some(newest) = newest else { return Ok(ControlFlow::Continue(())) };
        let folders = match std::fs::read_dir(self.core.options.layout.bodies()) {
            Ok(folders) => folders,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ControlFlow::Continue(())),
            Err(source) => {
                return Err(StoreError::Io { action: "list", path: self.core.options.layout.bodies(), source });
            }
        };
        for folder in folders.filter_map(Result::ok) {
            if folder.file_name().to_str().and_then(parse_extent_name).is_some() {
                let flow = self.body_folder(&folder.path(), newest)?;
                if flow.is_break() {
                    return Ok(flow);
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn body_folder(&mut self, folder: &std::path::Path, newest: u64) -> Result<ControlFlow<()>, StoreError> {
        // A folder that vanishes meanwhile had nothing left in it.
        let Ok(files) = std::fs::read_dir(folder) else { return Ok(ControlFlow::Continue(())) };
        for file in files.filter_map(Result::ok) {
            let Some(body_no) = file.file_name().to_str().and_then(parse_body_name) else { continue };
            if body_no.0 <= newest && !is_owned(self.core, body_no)? {
                self.report.unreferenced_total += 1;
                self.report.unreferenced_bytes += file.metadata().map_or(0, |metadata| metadata.len());
                push_bounded(&mut self.report.unreferenced, file.path());
            }
            if self.advanced().is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

pub(super) fn push_bounded<T>(list: &mut Vec<T>, item: T) {
    if list.len() < DETAILS_MAX {
        list.push(item);
    }
}

impl Store {
    /// Opens a body without withdrawing it if it is bad: for tools that change nothing.
    ///
    /// # Errors
    /// As [`Store::open_body`].
    pub fn inspect_body(&self, record: &Record) -> Result<Result<OpenBody, String>, StoreError> {
        Ok(self.core().try_open_body(record)?.map_err(|bad| bad.to_string()))
    }
}
