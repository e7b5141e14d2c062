//! Multipart uploads: parts arrive in any order and are joined into one staged body.
//!
//! How it works: each upload has a folder `parts/<upload id>` under an exclusive `flock` for as long as it is open, and
//! each finished part is a file in it, named by its number. A part being written has a name of its own beside it and is
//! renamed over the number at its end, so the same number replaces. Completing checks the list of numbers, then joins
//! the parts one by one into a staged file, each unlinked once it is copied: the volume never holds a body twice.
//!
//! Invariants: the registry is bounded and lives in memory; a restart forgets every upload and reclaims its folder. An
//! upload is one growing reservation: its parts never wait for room while others are held, they are refused, and an
//! older upload may revoke a younger one whole. One without progress for [`YIELDS_AFTER`] gives way to anybody who needs
//! its room: its client is most likely gone, and would otherwise hold the ledger until it expires. The mutex of an upload is taken before those of its parts, never after.
//!
//! Failure: a crash leaves a folder without a live lock inside the area `parts`.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::area::{AreaKind, Staging, StagingError};
use super::body_writer::{StagedBody, gathered};
use super::budget::{BudgetClass, Revocable};
use super::part_files::{Assembly, OpenUpload, PartFile, UploadFolder};
use crate::core::base::clock::Clock;
use crate::core::base::executor;
use crate::core::base::limits::NO_PROGRESS_TIMEOUT;

/// Open uploads in one process. Each costs a folder, a lock and about 1 KiB; a build opens a few.
pub const UPLOADS_MAX: usize = 1024;

/// Parts of one upload: the total limit in the smallest parts a client sends stays far below.
pub const PARTS_MAX: usize = 10_000;

/// An upload without progress for this long gives way when somebody needs its room: as long as a transfer may be silent.
pub const YIELDS_AFTER: Duration = NO_PROGRESS_TIMEOUT;

/// Limits of multipart uploads, in bytes and time.
#[derive(Debug, Clone, Copy)]
pub struct MultipartOptions {
    /// Open uploads at a time.
    pub uploads_max: usize,
    /// Longest part.
    pub part_bytes_max: u64,
    /// All parts of one upload together.
    pub total_bytes_max: u64,
    /// An upload without progress for this long is dropped.
    pub idle_max: Duration,
    /// One without progress for this long is dropped if somebody needs its room; see [`YIELDS_AFTER`].
    pub yields_after: Duration,
}

/// Why a multipart call was refused.
#[derive(Debug, thiserror::Error)]
pub enum MultipartError {
    /// No such upload, or it was completed, aborted or expired.
    #[error("unknown upload {upload_id:?}")]
    UnknownUpload {
        /// What was asked for.
        upload_id: String,
    },
    /// The registry is full.
    #[error("{open} multipart uploads are open, which is the limit")]
    TooManyUploads {
        /// Open uploads.
        open: usize,
    },
    /// The upload has too many parts.
    #[error("an upload has at most {limit} parts")]
    TooManyParts {
        /// The limit.
        limit: usize,
    },
    /// One part is too long.
    #[error("a part is longer than {limit} bytes")]
    PartTooLong {
        /// The limit.
        limit: u64,
    },
    /// All parts together are too long.
    #[error("all parts together are longer than {limit} bytes")]
    TotalTooLong {
        /// The limit.
        limit: u64,
    },
    /// The list of parts is not the ascending list of those that were uploaded.
    #[error("the parts named are not the {uploaded} parts uploaded, in ascending order")]
    PartsMismatch {
        /// Finished parts.
        uploaded: usize,
    },
    /// A part of this upload is still being written.
    #[error("a part is still being uploaded")]
    Busy,
    /// Staging refused or failed.
    #[error(transparent)]
    Staging(#[from] StagingError),
}

/// What is open now, for status reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct UploadSlots {
    /// Open uploads.
    pub open: usize,
    /// The limit.
    pub limit: usize,
    /// The longest time an open upload has been without progress, in seconds.
    pub idle_max_s: u64,
}

/// The open multipart uploads of this process; cheap to clone. `M` is whatever the caller wants back at the end.
#[derive(Debug)]
pub struct MultipartUploads<M> {
    inner: Arc<Inner<M>>,
}

impl<M> Clone for MultipartUploads<M> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

#[derive(Debug)]
struct Inner<M> {
    staging: Staging,
    options: MultipartOptions,
    clock: Arc<dyn Clock>,
    uploads: Mutex<HashMap<String, Entry<M>>>,
}

#[derive(Debug)]
struct Entry<M> {
    meta: M,
    upload: Arc<Upload>,
}

/// One upload, shared by the registry, its part writers and (weakly) the ledger.
#[derive(Debug)]
pub(super) struct Upload {
    clock: Arc<dyn Clock>,
    yields_after: Duration,
    state: Mutex<UploadState>,
}

#[derive(Debug)]
enum UploadState {
    Open(Box<OpenUpload>),
    /// An older body needed the room.
    Revoked,
    /// Being joined, or gone.
    Taken,
}

impl Upload {
    fn state(&self) -> MutexGuard<'_, UploadState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acts on the open upload; `None` if it is open no more.
    pub(super) fn with<R>(&self, act: impl FnOnce(&mut OpenUpload) -> R) -> Option<R> {
        match &mut *self.state() {
            UploadState::Open(open) => Some(act(open)),
            UploadState::Revoked | UploadState::Taken => None,
        }
    }

    /// Takes the open upload out; nobody else finds it from here on.
    pub(super) fn take(&self) -> Option<Box<OpenUpload>> {
        let mut state = self.state();
        match std::mem::replace(&mut *state, UploadState::Taken) {
            UploadState::Open(open) => Some(open),
            UploadState::Revoked => {
                *state = UploadState::Revoked;
                None
            }
            UploadState::Taken => None,
        }
    }

    fn is_open(&self) -> bool {
        matches!(&*self.state(), UploadState::Open(_))
    }

    fn is_revoked(&self) -> bool {
        matches!(&*self.state(), UploadState::Revoked)
    }
}

impl Revocable for Upload {
    fn revoke(&self) {
        let mut state = self.state();
        if matches!(&*state, UploadState::Open(_)) {
            let open = std::mem::replace(&mut *state, UploadState::Revoked);
            tracing::warn!("multipart_upload_gave_way_to_an_older_one");
            drop(state);
            drop(open);
        }
    }

    fn revoke_if_idle(&self) -> bool {
        // Whoever holds the lock works on it.
        let Ok(mut state) = self.state.try_lock() else { return false };
        let now = self.clock.monotonic();
        let is_idle =
            matches!(&*state, UploadState::Open(open) if !open.is_busy() && open.idle_for(now) > self.yields_after);
        if is_idle {
            tracing::warn!(idle_longer_than_s = self.yields_after.as_secs(), "idle_multipart_upload_gave_way");
            drop(std::mem::replace(&mut *state, UploadState::Revoked));
        }
        is_idle
    }
}

impl<M: Clone + Send + Sync + std::fmt::Debug + 'static> MultipartUploads<M> {
    /// A registry without uploads.
    pub fn new(staging: Staging, options: MultipartOptions, clock: Arc<dyn Clock>) -> Self {
        Self { inner: Arc::new(Inner { staging, options, clock, uploads: Mutex::default() }) }
    }

    /// Opens an upload and returns its id. With all slots taken, uploads that nobody works on any more give theirs up.
    pub async fn start(&self, meta: M) -> Result<String, MultipartError> {
        if self.require_slot().is_err() {
            self.expire_after(self.inner.options.yields_after).await;
            self.require_slot()?;
        }
        let upload_id = uuid::Uuid::now_v7().to_string();
        let (staging, folder_name) = (self.inner.staging.clone(), upload_id.clone());
        let folder = self.run(move || UploadFolder::create(&staging, &folder_name)).await?;
        let (clock, yields_after) = (Arc::clone(&self.inner.clock), self.inner.options.yields_after);
        let upload = Arc::new(Upload { clock, yields_after, state: Mutex::new(UploadState::Taken) });
        let weak: Weak<Upload> = Arc::downgrade(&upload);
        let reservation = self.inner.staging.ledger().start_growing(BudgetClass::Client, weak);
        let now = self.inner.clock.monotonic();
        *upload.state() = UploadState::Open(Box::new(OpenUpload::new(folder, reservation, now)));
        self.insert(&upload_id, Entry { meta, upload })?;
        Ok(upload_id)
    }

    /// What the upload was started with.
    pub fn meta(&self, upload_id: &str) -> Option<M> {
        self.uploads().get(upload_id).filter(|entry| entry.upload.is_open()).map(|entry| entry.meta.clone())
    }

    /// Starts writing a part of an announced or unknown length. An equal number replaces once the writer finishes.
    pub async fn part_writer(
        &self,
        upload_id: &str,
        part_number: u32,
        length: Option<u64>,
    ) -> Result<PartWriter, MultipartError> {
        let upload = self.upload(upload_id)?;
        let limits = self.inner.options;
        if length.is_some_and(|length| length > limits.part_bytes_max) {
            return Err(MultipartError::PartTooLong { limit: limits.part_bytes_max });
        }
        let counted = upload.with(|open| open.count_other_parts(part_number));
        let (others, other_bytes) = counted.ok_or_else(|| self.gone(&upload, upload_id))?;
        if others >= PARTS_MAX {
            return Err(MultipartError::TooManyParts { limit: PARTS_MAX });
        }
        if other_bytes.saturating_add(length.unwrap_or(0)) > limits.total_bytes_max {
            return Err(MultipartError::TotalTooLong { limit: limits.total_bytes_max });
        }
        let staging = self.inner.staging.clone();
        let file = self.run(move || PartFile::create(&staging, upload, part_number, length)).await?;
        let (staging, clock) = (self.inner.staging.clone(), Arc::clone(&self.inner.clock));
        let pending = BytesMut::new();
        Ok(PartWriter { staging, clock, limits, length, received: 0, pending, file: Some(file) })
    }

    /// Joins the parts into one body. The list must name the uploaded parts in ascending order. The upload is gone
    /// afterwards, but kept if the list is wrong, a part is still being written, or the ledger has no room.
    pub async fn complete(
        &self,
        upload_id: &str,
        parts: &[u32],
        sha256: bool,
    ) -> Result<(M, StagedBody), MultipartError> {
        let upload = self.upload(upload_id)?;
        let meta = self.meta(upload_id).ok_or_else(|| self.gone(&upload, upload_id))?;
        upload.with(|open| open.check_parts(parts)).ok_or_else(|| self.gone(&upload, upload_id))??;
        let staging = self.inner.staging.clone();
        let mut assembly = self.run(move || Assembly::start(&staging, &upload, sha256)).await?;
        self.uploads().remove(upload_id);
        while !assembly.is_done() {
            assembly = self.run(move || assembly.consume_next()).await?;
        }
        let body = self.run(move || assembly.finish()).await?;
        Ok((meta, body))
    }

    /// Drops an upload and frees its bytes. Returns whether it was open.
    pub async fn abort(&self, upload_id: &str) -> bool {
        let Some(entry) = self.uploads().remove(upload_id) else { return false };
        let was_open = entry.upload.is_open();
        self.free(vec![entry.upload]).await;
        was_open
    }

    /// Drops uploads without progress for longer than allowed; returns how many.
    pub async fn expire(&self) -> usize {
        self.expire_after(self.inner.options.idle_max).await
    }

    async fn expire_after(&self, idle_max: Duration) -> usize {
        let now = self.inner.clock.monotonic();
        let expired: Vec<Arc<Upload>> = {
            let mut uploads = self.uploads();
            let is_expired = |entry: &Entry<M>| {
                entry.upload.with(|open| !open.is_busy() && open.idle_for(now) > idle_max).unwrap_or(true)
            };
            let ids: Vec<String> =
                uploads.iter().filter(|(_, entry)| is_expired(entry)).map(|(id, _)| id.clone()).collect();
            ids.iter().filter_map(|id| uploads.remove(id)).map(|entry| entry.upload).collect()
        };
        let count = expired.len();
        self.free(expired).await;
        count
    }

    /// Open uploads.
    pub fn count(&self) -> usize {
        self.uploads().values().filter(|entry| entry.upload.is_open()).count()
    }

    /// Open uploads, their limit and the longest idle time.
    pub fn slots(&self) -> UploadSlots {
        let now = self.inner.clock.monotonic();
        let uploads = self.uploads();
        let idle: Vec<Duration> =
            uploads.values().filter_map(|entry| entry.upload.with(|open| open.idle_for(now))).collect();
        let idle_max_s = idle.iter().max().map_or(0, Duration::as_secs);
        UploadSlots { open: idle.len(), limit: self.inner.options.uploads_max, idle_max_s }
    }

    fn uploads(&self) -> MutexGuard<'_, HashMap<String, Entry<M>>> {
        self.inner.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn require_slot(&self) -> Result<(), MultipartError> {
        let open = self.uploads().len();
        if open >= self.inner.options.uploads_max {
            return Err(MultipartError::TooManyUploads { open });
        }
        Ok(())
    }

    /// The last slot may have been taken meanwhile; dropping the entry then removes its folder again.
    fn insert(&self, upload_id: &str, entry: Entry<M>) -> Result<(), MultipartError> {
        let mut uploads = self.uploads();
        let open = uploads.len();
        if open >= self.inner.options.uploads_max {
            drop(uploads);
            return Err(MultipartError::TooManyUploads { open });
        }
        uploads.insert(upload_id.to_owned(), entry);
        Ok(())
    }

    fn upload(&self, upload_id: &str) -> Result<Arc<Upload>, MultipartError> {
        let found = self.uploads().get(upload_id).map(|entry| Arc::clone(&entry.upload));
        found.ok_or_else(|| MultipartError::UnknownUpload { upload_id: upload_id.to_owned() })
    }

    /// Why an upload that was found is open no more.
    fn gone(&self, upload: &Upload, upload_id: &str) -> MultipartError {
        if upload.is_revoked() {
            return self.inner.staging.exhausted(0).into();
        }
        MultipartError::UnknownUpload { upload_id: upload_id.to_owned() }
    }

    async fn free(&self, uploads: Vec<Arc<Upload>>) {
        let freed = self.run(move || {
            // Dropping the open state frees it even while a part writer still holds the upload.
            uploads.iter().for_each(|upload| drop(upload.take()));
            Ok::<_, StagingError>(())
        });
        // A lost job has dropped the uploads, which frees them as well.
        let _ = freed.await;
    }

    async fn run<R, E, F>(&self, work: F) -> Result<R, MultipartError>
    where
        R: Send + 'static,
        E: Into<MultipartError> + Send + 'static,
        F: FnOnce() -> Result<R, E> + Send + 'static,
    {
        run_job(&self.inner.staging, work).await
    }
}

async fn run_job<R, E, F>(staging: &Staging, work: F) -> Result<R, MultipartError>
where
    R: Send + 'static,
    E: Into<MultipartError> + Send + 'static,
    F: FnOnce() -> Result<R, E> + Send + 'static,
{
    match executor::run(staging.executor().as_ref(), work).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(lost) => Err(staging.io_error(AreaKind::Parts, "run a job", std::io::Error::other(lost)).into()),
    }
}

/// A part on its way in. Dropping it at any point frees its bytes and leaves the upload as it was.
#[derive(Debug)]
pub struct PartWriter {
    staging: Staging,
    clock: Arc<dyn Clock>,
    limits: MultipartOptions,
    length: Option<u64>,
    received: u64,
    pending: BytesMut,
    /// `None` only while a job has it, or after a failure.
    file: Option<PartFile>,
}

impl PartWriter {
    /// Adds bytes.
    pub async fn write(&mut self, chunk: Bytes) -> Result<(), MultipartError> {
        let received = self.received.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        self.check_length(received)?;
        self.received = received;
        if gathered(&mut self.pending, &chunk) {
            return Ok(());
        }
        let pieces = [self.pending.split().freeze(), chunk];
        self.append(pieces).await
    }

    /// Ends the part, which replaces an earlier one of its number. Returns its length in bytes.
    pub async fn finish(mut self) -> Result<u64, MultipartError> {
        if let Some(expected) = self.length.filter(|expected| *expected != self.received) {
            return Err(StagingError::TooShort { received: self.received, expected }.into());
        }
        let pieces = [self.pending.split().freeze(), Bytes::new()];
        self.append(pieces).await?;
        let Some(file) = self.file.take() else { return Err(self.staging.exhausted(0).into()) };
        let (staging, now, total_max) = (self.staging.clone(), self.clock.monotonic(), self.limits.total_bytes_max);
        run_job(&self.staging, move || file.publish(&staging, total_max, now)).await?;
        Ok(self.received)
    }

    fn check_length(&self, received: u64) -> Result<(), MultipartError> {
        if received > self.limits.part_bytes_max {
            return Err(MultipartError::PartTooLong { limit: self.limits.part_bytes_max });
        }
        if let Some(limit) = self.length.filter(|length| received > *length) {
            return Err(StagingError::TooLong { limit }.into());
        }
        let others = self.file.as_ref().and_then(PartFile::other_bytes).unwrap_or(0);
        if others.saturating_add(received) > self.limits.total_bytes_max {
            return Err(MultipartError::TotalTooLong { limit: self.limits.total_bytes_max });
        }
        Ok(())
    }

    async fn append(&mut self, pieces: [Bytes; 2]) -> Result<(), MultipartError> {
        let Some(mut file) = self.file.take() else { return Err(self.staging.exhausted(0).into()) };
        let (staging, now) = (self.staging.clone(), self.clock.monotonic());
        let file = run_job(&self.staging, move || {
            file.append(&staging, &pieces, now)?;
            Ok::<_, StagingError>(file)
        });
        self.file = Some(file.await?);
        Ok(())
    }
}

impl Drop for PartWriter {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            self.staging.executor().execute(Box::new(move || drop(file)));
        }
    }
}

/// Sizes of finished parts by number.
pub(super) type Parts = BTreeMap<u32, u64>;

#[cfg(test)]
#[path = "multipart_tests.rs"]
mod tests;
