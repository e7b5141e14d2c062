//! The files behind a multipart upload: its locked folder, a part being written, and the joining of all parts.
//!
//! Invariants: a folder is locked before anything is put into it; every guard here removes what it made when dropped.
//! Reserved bytes of an upload are the finished parts plus those under way, and while joining the longest part once more.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::FlockOperation;

use super::area::{AreaKind, Staging, StagingError};
use super::body_writer::{Hashers, StagedBody, StagedContent, WRITE_BUFFER_BYTES};
use super::budget::Reservation;
use super::multipart::{MultipartError, Parts, Upload};
use super::staged_file::StagedFile;
use crate::core::base::disk::Disk;

/// Tries at a folder that a reclaimer removes between making and locking it.
const CREATE_TRIES_MAX: u32 = 16;

/// The locked folder of an upload. Dropping it removes the finished parts and the folder.
#[derive(Debug)]
pub(super) struct UploadFolder {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// Holds the lock that tells reclaimers that the folder is owned.
    _lock: File,
    parts: Parts,
}

impl UploadFolder {
    pub(super) fn create(staging: &Staging, name: &str) -> Result<Self, StagingError> {
        let failed = |source| staging.io_error(AreaKind::Parts, "create an upload's folder", source);
        let path = staging.folder(AreaKind::Parts).join(name);
        let disk = staging.disk();
        for _ in 0..CREATE_TRIES_MAX {
            disk.create_dir(&path).map_err(failed)?;
            match lock_folder(&path) {
                Ok(Some(lock)) => {
                    let disk = Arc::clone(disk);
                    return Ok(Self { disk, path, _lock: lock, parts: Parts::new() });
                }
                Ok(None) => {}
                Err(error) => {
                    // What stays is unlocked and empty: the next start-up reclaims it.
                    let _ = disk.remove_dir(&path);
                    return Err(failed(error));
                }
            }
        }
        Err(failed(io::Error::other("each new folder was taken before it could be locked")))
    }

    fn part(&self, number: u32) -> PathBuf {
        self.path.join(number.to_string())
    }

    fn unlink(&self, path: &std::path::Path) {
        match self.disk.unlink(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %path.display(), "staged_part_not_removed");
            }
            Ok(()) | Err(_) => {}
        }
    }
}

impl Drop for UploadFolder {
    fn drop(&mut self) {
        self.parts.keys().for_each(|number| self.unlink(&self.part(*number)));
        if let Err(error) = self.disk.remove_dir(&self.path) {
            // A part still being written keeps the folder; its writer tries again.
            tracing::debug!(%error, path = %self.path.display(), "upload_folder_not_removed");
        }
    }
}

/// `None` if the folder is gone again or another holds it: a reclaimer was faster.
fn lock_folder(path: &std::path::Path) -> io::Result<Option<File>> {
    let folder = match File::open(path) {
        Ok(folder) => folder,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(folder).filter(|folder| folder.metadata().is_ok_and(|found| found.nlink() > 0))),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// An upload that takes parts. The order of its fields is the order in which they are freed.
#[derive(Debug)]
pub(super) struct OpenUpload {
    writing: WritingFiles,
    folder: UploadFolder,
    reservation: Reservation,
    last_progress: Duration,
}

impl OpenUpload {
    pub(super) fn new(folder: UploadFolder, reservation: Reservation, now: Duration) -> Self {
        Self { writing: WritingFiles::default(), folder, reservation, last_progress: now }
    }

    /// How many finished parts there are besides this number, and their bytes.
    pub(super) fn count_other_parts(&self, number: u32) -> (usize, u64) {
        let others = self.folder.parts.iter().filter(|(other, _)| **other != number);
        others.fold((0, 0), |(count, bytes), (_, length)| (count + 1, bytes.saturating_add(*length)))
    }

    pub(super) fn check_parts(&self, named: &[u32]) -> Result<(), MultipartError> {
        if self.is_busy() {
            return Err(MultipartError::Busy);
        }
        if !self.folder.parts.keys().eq(named) {
            return Err(MultipartError::PartsMismatch { uploaded: self.folder.parts.len() });
        }
        Ok(())
    }

    pub(super) fn is_busy(&self) -> bool {
        self.writing.0.iter().any(|file| file.strong_count() > 0)
    }

    pub(super) fn idle_for(&self, now: Duration) -> Duration {
        now.saturating_sub(self.last_progress)
    }

    /// Bytes of all finished parts.
    pub(super) fn total_bytes(&self) -> u64 {
        self.folder.parts.values().sum()
    }

    /// Room for the part that exists twice while it is copied; afterwards the upload is no longer revoked.
    pub(super) fn reserve_joining(&mut self) -> Result<(), StagingError> {
        let longest = self.folder.parts.values().copied().max().unwrap_or(0);
        self.reservation.grow(longest)?;
        self.reservation.settle();
        Ok(())
    }
}

/// Parts being written, so that revoking the upload can close them: their bytes are free before the reservation is.
#[derive(Debug, Default)]
struct WritingFiles(Vec<Weak<WritingFile>>);

impl WritingFiles {
    fn add(&mut self, file: &Arc<WritingFile>) {
        self.0.retain(|file| file.strong_count() > 0);
        self.0.push(Arc::downgrade(file));
    }
}

impl Drop for WritingFiles {
    fn drop(&mut self) {
        self.0.drain(..).filter_map(|file| file.upgrade()).for_each(|file| file.close());
    }
}

/// The file of a part being written; closed from either side.
#[derive(Debug)]
struct WritingFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Mutex<Option<File>>,
}

impl WritingFile {
    /// Removes the name and closes the file.
    fn close(&self) {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner).take();
        if file.is_none() {
            return;
        }
        match self.disk.unlink(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %self.path.display(), "staged_part_not_removed");
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// The name is another's now.
    fn release(&self) {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// A part being written. Dropping it removes it and gives its bytes back.
#[derive(Debug)]
pub(super) struct PartFile {
    upload: Arc<Upload>,
    number: u32,
    file: Arc<WritingFile>,
    written: u64,
    reserved: u64,
}

impl PartFile {
    pub(super) fn create(
        staging: &Staging,
        upload: Arc<Upload>,
        number: u32,
        length: Option<u64>,
    ) -> Result<Self, StagingError> {
        let created = upload.with(|open| {
            let path = open.folder.path.join(format!("incoming-{}", uuid::Uuid::now_v7()));
            let failed = |source| staging.io_error(AreaKind::Parts, "create a part", source);
            let file = staging.disk().create_new(&path).map_err(failed)?;
            let disk = Arc::clone(staging.disk());
            let file = Arc::new(WritingFile { disk, path, file: Mutex::new(Some(file)) });
            open.writing.add(&file);
            Ok(file)
        });
        let file = created.unwrap_or_else(|| Err(staging.exhausted(0)))?;
        let mut part = Self { upload, number, file, written: 0, reserved: 0 };
        part.reserve(staging, length.unwrap_or(0))?;
        Ok(part)
    }

    /// Bytes of the upload's other finished parts; `None` once the upload is gone.
    pub(super) fn other_bytes(&self) -> Option<u64> {
        self.upload.with(|open| open.count_other_parts(self.number).1)
    }

    pub(super) fn append(&mut self, staging: &Staging, pieces: &[Bytes], now: Duration) -> Result<(), StagingError> {
        let more = pieces.iter().map(|piece| u64::try_from(piece.len()).unwrap_or(u64::MAX)).sum::<u64>();
        self.reserve(staging, self.written.saturating_add(more))?;
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            let file = self.file.file.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(file) = file.as_ref() else { return Err(staging.exhausted(piece.len())) };
            let written = staging.disk().write_all_at(file, piece, self.written);
            written.map_err(|error| staging.io_error(AreaKind::Parts, "write a part", error))?;
            self.written = self.written.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        }
        self.upload.with(|open| open.last_progress = now);
        Ok(())
    }

    /// Gives the part its number, replacing an earlier one.
    pub(super) fn publish(
        mut self,
        staging: &Staging,
        total_bytes_max: u64,
        now: Duration,
    ) -> Result<(), MultipartError> {
        let published = self.upload.with(|open| {
            // Parts written at the same time did not know of each other.
            if open.count_other_parts(self.number).1.saturating_add(self.written) > total_bytes_max {
                return Err(MultipartError::TotalTooLong { limit: total_bytes_max });
            }
            let renamed = staging.disk().rename(&self.file.path, &open.folder.part(self.number));
            renamed.map_err(|error| staging.io_error(AreaKind::Parts, "name a part", error))?;
            self.file.release();
            let replaced = open.folder.parts.insert(self.number, self.written).unwrap_or(0);
            open.reservation.shrink(replaced.saturating_add(self.reserved.saturating_sub(self.written)));
            open.last_progress = now;
            Ok(())
        });
        published.unwrap_or_else(|| Err(staging.exhausted(0).into()))?;
        self.reserved = 0;
        Ok(())
    }

    /// Brings the reservation up to `total` bytes of this part.
    fn reserve(&mut self, staging: &Staging, total: u64) -> Result<(), StagingError> {
        let more = total.saturating_sub(self.reserved);
        if more == 0 {
            return Ok(());
        }
        let grown = self.upload.with(|open| open.reservation.grow(more));
        grown.unwrap_or_else(|| Err(staging.exhausted(usize::try_from(more).unwrap_or(usize::MAX))))?;
        self.reserved = self.reserved.saturating_add(more);
        Ok(())
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        self.file.close();
        let reserved = self.reserved;
        let is_open = self.upload.with(|open| open.reservation.shrink(reserved)).is_some();
        if let Some(folder) = self.file.path.parent().filter(|_| !is_open) {
            // The upload went while this part kept its folder from being removed. Someone else may be faster.
            let _ = self.file.disk.remove_dir(folder);
        }
    }
}

/// The joining of an upload's parts into one staged body, one part at a time.
#[derive(Debug)]
pub(super) struct Assembly {
    staging: Staging,
    folder: UploadFolder,
    reservation: Reservation,
    hashers: Hashers,
    target: Target,
    length: u64,
}

#[derive(Debug)]
enum Target {
    Inline(Vec<u8>),
    File(StagedFile),
}

impl Assembly {
    /// Takes over an upload. What can be refused comes first; up to the last step the upload stays as it is.
    pub(super) fn start(staging: &Staging, upload: &Upload, sha256: bool) -> Result<Self, StagingError> {
        let gone = || staging.exhausted(0);
        let total = upload.with(|open| open.total_bytes()).ok_or_else(gone)?;
        let target = if total <= staging.options().inline_max_bytes {
            Target::Inline(Vec::with_capacity(usize::try_from(total).unwrap_or(0)))
        } else {
            Target::File(staging.create_file(AreaKind::Parts)?)
        };
        upload.with(OpenUpload::reserve_joining).ok_or_else(gone)??;
        let OpenUpload { folder, reservation, .. } = *upload.take().ok_or_else(gone)?;
        let hashers = Hashers::new(sha256);
        Ok(Self { staging: staging.clone(), folder, reservation, hashers, target, length: 0 })
    }

    pub(super) fn is_done(&self) -> bool {
        self.folder.parts.is_empty()
    }

    /// Copies the next part to the end of the body and unlinks it.
    pub(super) fn consume_next(mut self) -> Result<Self, StagingError> {
        let Some((number, length)) = self.folder.parts.first_key_value().map(|(number, length)| (*number, *length))
        else {
            return Ok(self);
        };
        let path = self.folder.part(number);
        let copied = File::open(&path).and_then(|part| self.copy(&part, length));
        copied.map_err(|error| self.staging.io_error(AreaKind::Parts, "join a part", error))?;
        self.folder.unlink(&path);
        self.folder.parts.remove(&number);
        Ok(self)
    }

    fn copy(&mut self, part: &File, length: u64) -> io::Result<()> {
        let mut buffer = vec![0_u8; WRITE_BUFFER_BYTES.min(usize::try_from(length).unwrap_or(WRITE_BUFFER_BYTES))];
        let mut offset = 0;
        while offset < length {
            let want = usize::try_from(length - offset).unwrap_or(usize::MAX).min(buffer.len());
            let Some(piece) = buffer.get_mut(..want) else { break };
            part.read_exact_at(piece, offset)?;
            self.hashers.update(piece);
            match &mut self.target {
                Target::Inline(bytes) => bytes.extend_from_slice(piece),
                Target::File(file) => self.staging.disk().write_all_at(file.file(), piece, self.length)?,
            }
            let copied = u64::try_from(want).unwrap_or(u64::MAX);
            offset = offset.saturating_add(copied);
            self.length = self.length.saturating_add(copied);
        }
        Ok(())
    }

    /// The whole body; the upload's folder goes, the reservation shrinks to what is left.
    pub(super) fn finish(mut self) -> Result<StagedBody, StagingError> {
        let spare = self.reservation.bytes().saturating_sub(self.length);
        self.reservation.shrink(spare);
        let (digest, sha256) = self.hashers.finish();
        let content = match self.target {
            Target::Inline(bytes) => StagedContent::Inline(Bytes::from(bytes)),
            Target::File(mut file) => {
                file.set_reservation(self.reservation);
                StagedContent::File(file)
            }
        };
        Ok(StagedBody { length: self.length, digest, sha256, content })
    }
}
