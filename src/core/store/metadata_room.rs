//! Room for the rows of deletes and evictions on a volume without a free byte: the ballast goes before they would fail.
//!
//! How it works: before each write of the index, and before each group of the committer, the volume is asked how much is
//! free; a system call of about a microsecond. When it is less than metadata may need, the ballast is released.
//!
//! Invariant: what the ballast left is for metadata only; puts count it as not free until it is back.
//!
//! Failure: a ballast that cannot be released is logged, and the write is tried all the same.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::sizes::IndexSizes;
use crate::core::base::disk::{Disk, VolumeSpace};
use crate::core::data_dir::ballast::Ballast;
use crate::core::data_dir::capacity::is_short_for_metadata;
use crate::core::data_dir::layout::Layout;

/// The room of one data dir.
#[derive(Debug)]
pub(crate) struct MetadataRoom {
    disk: Arc<dyn Disk>,
    data_dir: PathBuf,
    ballast: Ballast,
    sizes: IndexSizes,
    /// Bytes of ballast that should be in place and are not.
    owed_bytes: AtomicU64,
}

impl MetadataRoom {
    pub(crate) fn new(layout: &Layout, disk: Arc<dyn Disk>, sizes: IndexSizes) -> Self {
        let ballast = Ballast::new(layout, Arc::clone(&disk));
        let data_dir = layout.data_dir().to_path_buf();
        Self { disk, data_dir, ballast, sizes, owed_bytes: AtomicU64::new(0) }
    }

    /// Sees to it that a few rows can be written. How much is free otherwise.
    pub(crate) fn ensure(&self) -> io::Result<VolumeSpace> {
        let space = self.disk.space(&self.data_dir)?;
        if !is_short_for_metadata(&space, &self.sizes.needs()) {
            return Ok(space);
        }
        match self.ballast.release() {
            Ok(0) => Ok(space),
            Ok(bytes) => {
                tracing::warn!(bytes, free_bytes = space.available_bytes, "ballast_released");
                self.owed_bytes.fetch_add(bytes, Ordering::AcqRel);
                self.disk.space(&self.data_dir)
            }
            Err(error) => {
                tracing::warn!(%error, "ballast_not_released");
                Ok(space)
            }
        }
    }

    /// Bytes that a group of puts may write on a volume with this much free; `None` = not even a row.
    ///
    /// New bodies are let in only above the whole reserve. Those that were before may go down to half of it while the
    /// ballast is in place: a flush of the index takes as much for moments, and gives it back.
    pub(crate) fn for_puts(&self, space: &VolumeSpace) -> Option<u64> {
        let kept = match self.owed_bytes.load(Ordering::Acquire) {
            0 => self.sizes.put_reserve_bytes / 2,
            owed => self.sizes.put_reserve_bytes.saturating_add(owed),
        };
        space.available_bytes.checked_sub(kept)
    }

    /// What of the ballast is not in place.
    pub(crate) fn set_owed(&self, bytes: u64) {
        self.owed_bytes.store(bytes, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::base::disk::{FaultDisk, RealDisk};

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_ballast_goes_once_metadata_is_short_and_puts_do_not_get_it() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::with_default_tmp(root.path());
        let disk = Arc::new(FaultDisk::new(Arc::new(RealDisk)));
        let sizes = IndexSizes::for_volume(64 * MIB);
        let room = MetadataRoom::new(&layout, Arc::clone(&disk) as Arc<dyn Disk>, sizes);
        let free = |available_bytes| VolumeSpace { available_bytes, total_bytes: 64 * MIB, ..VolumeSpace::default() };
        let ballast = Ballast::new(&layout, Arc::clone(&disk) as Arc<dyn Disk>);
        ballast.restore(4 * MIB).unwrap();
        disk.set_space(Some(free(sizes.put_reserve_bytes / 4)));
        room.ensure().unwrap();
        let half = sizes.put_reserve_bytes / 2;
        assert_eq!((room.for_puts(&free(half + 5)), room.for_puts(&free(half - 1))), (Some(5), None));
        assert!(ballast.bytes() > 0);
        disk.set_space(Some(free(0)));
        room.ensure().unwrap();
        assert_eq!(ballast.bytes(), 0);
        assert_eq!(room.for_puts(&free(sizes.put_reserve_bytes)), None);
        room.ensure().unwrap();
        room.set_owed(0);
        assert!(room.for_puts(&free(sizes.put_reserve_bytes)).is_some());
    }
}
