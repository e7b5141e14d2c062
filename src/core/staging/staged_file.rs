//! A staged file as a guard: dropping it frees its bytes and its reservation.
//!
//! How it works: where the filesystem can, the file has no name (`O_TMPFILE`) until it is linked to its committed one, so
//! a killed process leaves nothing. Elsewhere it has a name `<label>-<uuid v7>` in its area and an exclusive `flock`,
//! which tells everyone that it is owned for exactly as long as this process lives.
//!
//! Invariant: a named file is locked before its first byte. A reclaimer takes the lock of what it unlinks, so a file that
//! was unlinked between its making and its locking has no link left; it is then made anew.
//!
//! Failure: a crash leaves at most a named, unlocked file inside an area.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;

use super::budget::Reservation;
use crate::core::base::disk::Disk;

/// Tries at a named file whose name a reclaimer takes between making and locking it.
const CREATE_TRIES_MAX: u32 = 16;

/// A file in a staging area that nobody else can see (`O_TMPFILE`) or take (a locked name).
#[derive(Debug)]
pub struct StagedFile {
    disk: Arc<dyn Disk>,
    file: File,
    /// `None` for a file without a name.
    name: Option<PathBuf>,
    reservation: Option<Reservation>,
}

impl StagedFile {
    /// A file without a name in `folder`.
    pub(super) fn unnamed(disk: Arc<dyn Disk>, folder: &Path) -> io::Result<Self> {
        let file = disk.create_unnamed(folder)?;
        Ok(Self { disk, file, name: None, reservation: None })
    }

    /// A locked, named file in `folder`.
    pub(super) fn named(disk: Arc<dyn Disk>, folder: &Path, label: &str) -> io::Result<Self> {
        for _ in 0..CREATE_TRIES_MAX {
            let path = folder.join(format!("{label}-{}", uuid::Uuid::now_v7()));
            let file = disk.create_new(&path)?;
            // From here on the guard removes the name again whatever happens.
            let staged = Self { disk: Arc::clone(&disk), file, name: Some(path), reservation: None };
            match rustix::fs::flock(&staged.file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if staged.file.metadata()?.nlink() > 0 => return Ok(staged),
                Ok(()) | Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::other("each new staged file was taken before it could be locked"))
    }

    /// A file that was found under its name and is locked by the caller.
    pub(super) fn found(disk: Arc<dyn Disk>, file: File, path: PathBuf) -> Self {
        Self { disk, file, name: Some(path), reservation: None }
    }

    /// The name stays when this is dropped: a later process knows what the file is.
    pub(super) fn keep_name(&mut self) {
        self.name = None;
    }

    /// The open file, readable and writable.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The staged name, if it has one.
    pub fn name(&self) -> Option<&Path> {
        self.name.as_deref()
    }

    /// Gives the file its committed name; the staged name, if any, is removed and the reservation ends.
    /// On an error the guard still owns the bytes and frees them when dropped.
    pub fn link_to(&mut self, path: &Path) -> io::Result<()> {
        self.disk.link_file(&self.file, path)?;
        self.reservation = None;
        self.remove_name();
        Ok(())
    }

    pub(super) fn set_reservation(&mut self, reservation: Reservation) {
        self.reservation = Some(reservation);
    }

    pub(super) fn reservation_mut(&mut self) -> Option<&mut Reservation> {
        self.reservation.as_mut()
    }

    /// What cannot be removed stays unlocked in its area, where every start-up reclaims it.
    fn remove_name(&mut self) {
        let Some(name) = self.name.take() else { return };
        match self.disk.unlink(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %name.display(), "staged_file_not_removed");
            }
            Ok(()) | Err(_) => {}
        }
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        self.remove_name();
    }
}
