//! Proof that what the index says is so: every manifest's body, every body file's owner.
//!
//! How it works: [`verify`] walks manifests in id order and looks at each body, hashing as many as asked; then it walks
//! the body folders and asks of each file who owns it. [`recount`](super::recount) counts everything anew.
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
use super::keys::{Table, key_number};
use super::open::is_owned;
use super::reads::{BadBody, hash_file};
use super::record::{ArtifactKey, BodyPlace, Record};
use super::state::Core;
use crate::core::base::ids::{ArtifactId, BodyNo, Digest};

/// Most entries of each list in a report.
pub const DETAILS_MAX: usize = 100;

/// With `Sample`, one body in this many is hashed.
const SAMPLE_ONE_IN: u8 = 64;

/// Larger bodies are in no sample: reading one would take longer than the rest of the look.
const SAMPLE_BODY_BYTES_MAX: u64 = 16 << 20;

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
    /// Of all artifacts those with a greater id: where an earlier walk ended.
    pub after: Option<ArtifactId>,
    /// Whether the body folders are walked, too, once all artifacts were looked at.
    pub folders: bool,
}

impl VerifyRequest {
    /// Everything there is.
    pub fn all(hash: HashBodies) -> Self {
        Self { hash, only: None, after: None, folders: true }
    }

    /// These artifacts and nothing else.
    pub fn of(hash: HashBodies, only: Vec<ArtifactId>) -> Self {
        Self { hash, only: Some(only), after: None, folders: false }
    }
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
    /// The artifact looked at last.
    pub last: Option<ArtifactId>,
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

/// Looks at every artifact asked for. `progress` is called after each and may stop the walk.
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
    let mut walk = Verification { core, hash: request.hash, report, progress };
    let flow = match &request.only {
        Some(ids) => walk.listed(ids)?,
        None => match walk.all(request.after)? {
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
    let mut walk = Verification { core, hash: HashBodies::None, report, progress: &mut progress };
    walk.report.stopped = walk.body_folders()?.is_break();
    Ok(walk.report)
}

struct Verification<'a> {
    core: &'a Core,
    hash: HashBodies,
    report: IntegrityReport,
    progress: &'a mut dyn FnMut(VerifyProgress, &IntegrityReport) -> ControlFlow<()>,
}

impl Verification<'_> {
    fn all(&mut self, after: Option<ArtifactId>) -> Result<ControlFlow<()>, StoreError> {
        let core = self.core;
        let from = after.map(|id| [id.as_bytes().as_slice(), &[0]].concat()).unwrap_or_default();
        for row in core.index.view().rows(Table::Manifests, &from, None)? {
            let (key, value) = row?;
            let record = Record::from_bytes(&value).ok();
            let flow = match (ArtifactId::from_slice(&key), record) {
                (Some(id), Some(record)) => self.one(id, &record)?,
                _ => {
                    self.report.corrupt_rows += 1;
                    ControlFlow::Continue(())
                }
            };
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn listed(&mut self, ids: &[ArtifactId]) -> Result<ControlFlow<()>, StoreError> {
        for id in ids {
            let flow = match self.core.manifest(id) {
                Ok(Some(record)) => self.one(*id, &record)?,
                Ok(None) => ControlFlow::Continue(()),
                Err(StoreError::CorruptRow { .. }) => {
                    self.report.corrupt_rows += 1;
                    ControlFlow::Continue(())
                }
                Err(error) => return Err(error),
            };
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn one(&mut self, id: ArtifactId, record: &Record) -> Result<ControlFlow<()>, StoreError> {
        self.report.artifacts += 1;
        match self.look(&id, record) {
            Ok(None) => {}
            Ok(Some(bad)) => self.note_bad(id, record, bad),
            Err(StoreError::Io { action, path, source }) => {
                self.report.unreadable_total += 1;
                let text = format!("failed to {action} {}: {source}", path.display());
                push_bounded(&mut self.report.unreadable, text);
            }
            Err(error) => return Err(error),
        }
        Ok(self.advanced(Some(id)))
    }

    fn advanced(&mut self, last: Option<ArtifactId>) -> ControlFlow<()> {
        let at = VerifyProgress {
            artifacts: self.report.artifacts,
            artifacts_total: self.core.artifacts.load(Ordering::Acquire),
            hashed_bytes: self.report.hashed_bytes,
            last,
        };
        (self.progress)(at, &self.report)
    }

    fn look(&mut self, id: &ArtifactId, record: &Record) -> Result<Option<BadBody>, StoreError> {
        match record.body {
            Some(BodyPlace::File(body_no)) => self.look_at_file(id, record, body_no),
            // A body inside the index is read and hashed in any case.
            _ => {
                self.count_hashed(record);
                Ok(self.core.try_open_body(record)?.err())
            }
        }
    }

    fn look_at_file(
        &mut self,
        id: &ArtifactId,
        record: &Record,
        body_no: BodyNo,
    ) -> Result<Option<BadBody>, StoreError> {
        let path = body_path(&self.core.options.layout, body_no);
        let length = match std::fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(BadBody::Missing)),
            Err(source) => return Err(StoreError::Io { action: "measure", path, source }),
        };
        if length < record.stored_size {
            return Ok(Some(BadBody::Short { bytes: length }));
        }
        if !self.is_hashed(id, record.size) {
            return Ok(None);
        }
        self.count_hashed(record);
        let hashed = std::fs::File::open(&path).and_then(|file| hash_file(&file, record.size));
        let actual = hashed.map_err(|source| StoreError::Io { action: "read", path, source })?;
        Ok((actual != record.digest).then_some(BadBody::Corrupt { actual }))
    }

    fn is_hashed(&self, id: &ArtifactId, size: u64) -> bool {
        match self.hash {
            HashBodies::None => false,
            HashBodies::Sample => {
                size <= SAMPLE_BODY_BYTES_MAX && id.as_bytes().last().is_some_and(|byte| byte % SAMPLE_ONE_IN == 0)
            }
            HashBodies::All => true,
        }
    }

    fn count_hashed(&mut self, record: &Record) {
        self.report.hashed += 1;
        self.report.hashed_bytes += record.size;
    }

    fn note_bad(&mut self, id: ArtifactId, record: &Record, bad: BadBody) {
        let path = match record.body {
            Some(BodyPlace::File(body_no)) => Some(body_path(&self.core.options.layout, body_no)),
            _ => None,
        };
        let actual = if let BadBody::Corrupt { actual } = bad { Some(actual) } else { None };
        let reason = bad.to_string();
        let artifact = BadArtifact { id, name: record.name.clone(), path, expected: record.digest, actual, reason };
        if actual.is_some() {
            self.report.corrupt_total += 1;
            push_bounded(&mut self.report.corrupt, artifact);
        } else {
            self.report.missing_total += 1;
            push_bounded(&mut self.report.missing, artifact);
        }
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
            if self.advanced(None).is_break() {
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
