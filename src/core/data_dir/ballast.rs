//! Space kept in reserve: a file of real blocks that gives its room to metadata when nothing else is left.
//!
//! How it works: the file `ballast` in the data dir is allocated, never written. [`Ballast::release`] cuts it to nothing
//! and unlinks it, which needs no space; [`Ballast::restore`] allocates it again.
//!
//! Invariants: what is in its place and is no regular file is left alone and holds nothing. Half a ballast is never left
//! behind by a failed restore.
//!
//! Failure: a kill while it is restored leaves a shorter file, which the next restore completes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use crate::core::base::disk::Disk;
use crate::core::data_dir::layout::Layout;

/// Where the filesystem cannot allocate, zeros are written in pieces of this size.
const ZEROS_BYTES: usize = 1 << 20;

/// `st_blocks` counts in these.
const STAT_BLOCK_BYTES: u64 = 512;

/// The ballast of one data dir.
#[derive(Debug, Clone)]
pub struct Ballast {
    path: PathBuf,
    disk: Arc<dyn Disk>,
}

impl Ballast {
    /// Of this data dir; touches nothing.
    pub fn new(layout: &Layout, disk: Arc<dyn Disk>) -> Self {
        Self { path: layout.ballast(), disk }
    }

    /// Bytes it holds on the volume now, as the filesystem counts them.
    pub fn bytes(&self) -> u64 {
        let found = std::fs::symlink_metadata(&self.path).ok().filter(std::fs::Metadata::is_file);
        found.map_or(0, |found| found.blocks().saturating_mul(STAT_BLOCK_BYTES))
    }

    /// Gives its room back; how much it was. Needs no space. An absent one is no error.
    pub fn release(&self) -> io::Result<u64> {
        let bytes = self.bytes();
        match self.open() {
            // Cutting it frees the blocks at once; of an unlinked file XFS frees them in the background.
            Ok(file) => drop(self.disk.set_len(&file, 0)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        }
        self.disk.unlink(&self.path)?;
        Ok(bytes)
    }

    /// Makes it hold this many bytes. Where that fails nothing is left of it.
    pub fn restore(&self, bytes: u64) -> io::Result<()> {
        let restored = self.open_or_make().and_then(|file| self.fill(&file, bytes));
        if restored.is_err() {
            // The first error is the one to tell.
            let _ = self.release();
        }
        restored
    }

    fn fill(&self, file: &File, bytes: u64) -> io::Result<()> {
        if file.metadata()?.len() > bytes {
            self.disk.set_len(file, bytes)?;
        }
        match self.disk.allocate(file, bytes) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.write_zeros(file, bytes),
            allocated => allocated,
        }
    }

    fn write_zeros(&self, file: &File, bytes: u64) -> io::Result<()> {
        let zeros = vec![0; ZEROS_BYTES];
        let mut written = 0;
        while written < bytes {
            let piece = usize::try_from(bytes - written).unwrap_or(ZEROS_BYTES).min(ZEROS_BYTES);
            self.disk.write_all_at(file, zeros.get(..piece).unwrap_or_default(), written)?;
            written += piece as u64;
        }
        self.disk.sync_data(file)
    }

    fn open_or_make(&self) -> io::Result<File> {
        match self.open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.disk.create_new(&self.path),
            opened => opened,
        }
    }

    /// Whatever else is in its place is refused, symlinks included, and opening it never waits.
    fn open(&self) -> io::Result<File> {
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&self.path)?;
        if file.metadata()?.is_file() {
            return Ok(file);
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, "something that is no regular file is in place of the ballast"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::base::disk::{DiskOperation, FaultDisk, RealDisk};

    fn ballast(root: &tempfile::TempDir, disk: Arc<dyn Disk>) -> Ballast {
        Ballast::new(&Layout::with_default_tmp(root.path()), disk)
    }

    #[test]
    fn it_holds_real_blocks_grows_shrinks_and_goes() {
        let root = tempfile::tempdir().unwrap();
        let ballast = ballast(&root, Arc::new(RealDisk));
        assert_eq!((ballast.bytes(), ballast.release().unwrap()), (0, 0));
        for bytes in [1 << 20, 3 << 20, 2 << 20] {
            ballast.restore(bytes).unwrap();
            let found = ballast.bytes();
            assert!(found >= bytes && found < bytes + (64 << 10), "{found} of {bytes}");
        }
        assert!(ballast.release().unwrap() >= 2 << 20);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_restore_that_fails_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let disk = Arc::new(FaultDisk::new(Arc::new(RealDisk)));
        let ballast = ballast(&root, Arc::clone(&disk) as Arc<dyn Disk>);
        disk.set_rule(Some(Box::new(|operation, _, number| {
            (operation == DiskOperation::Write && number == 1).then(|| io::ErrorKind::StorageFull.into())
        })));
        assert_eq!(ballast.restore(1 << 20).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!((ballast.bytes(), std::fs::read_dir(root.path()).unwrap().count()), (0, 0));
    }

    #[test]
    fn a_filesystem_that_cannot_allocate_is_written_to() {
        let root = tempfile::tempdir().unwrap();
        let disk = Arc::new(FaultDisk::new(Arc::new(RealDisk)));
        let ballast = ballast(&root, Arc::clone(&disk) as Arc<dyn Disk>);
        disk.set_rule(Some(Box::new(|operation, _, number| {
            (operation == DiskOperation::Write && number == 1).then(|| io::ErrorKind::Unsupported.into())
        })));
        ballast.restore((1 << 20) + 1).unwrap();
        assert!(ballast.bytes() > 1 << 20);
    }

    #[test]
    fn what_is_not_a_regular_file_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let ballast = ballast(&root, Arc::new(RealDisk));
        let target = root.path().join("precious");
        std::fs::write(&target, "data").unwrap();
        std::os::unix::fs::symlink(&target, root.path().join("ballast")).unwrap();
        assert!(ballast.release().is_err() && ballast.restore(1 << 20).is_err());
        assert_eq!((ballast.bytes(), std::fs::read(&target).unwrap()), (0, b"data".to_vec()));
        assert!(root.path().join("ballast").is_symlink());
    }
}
