//! How much room a volume has, what an error says about it, and whether two paths lie on one mount.
//!
//! Invariant: asking writes nothing, so all of this works on a full and on a read-only volume.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags};

use crate::core::base::disk::{Disk, VolumeSpace};

/// Names the mount a path lies on.
///
/// Two mounts of one volume (two `subPath` mounts of one claim, for instance) share a device number and still refuse
/// links between each other with `EXDEV`; their mount ids differ. Kernels before 5.8 have no mount id: there the device
/// number alone is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MountId {
    /// The mount's number, 0 where the kernel does not tell.
    pub mount: u64,
    /// The device number.
    pub device: u64,
}

impl MountId {
    /// The mount of an existing path, symlinks followed.
    pub fn of(path: &Path) -> io::Result<Self> {
        let stat = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID);
        let mount = match stat {
            Ok(stat) if stat.stx_mask & StatxFlags::MNT_ID.bits() != 0 => stat.stx_mnt_id,
            Ok(_) | Err(rustix::io::Errno::NOSYS) => 0,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { mount, device: std::fs::metadata(path)?.dev() })
    }
}

/// Whether an error says that the volume or the quota has no room left.
pub fn is_storage_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether fewer than `needed_bytes` are left for this process on the volume of `path`.
///
/// RocksDB reports "no space" and other trouble with one status and a text; the figures of the volume tell them apart.
pub fn is_short_of_space(disk: &dyn Disk, path: &Path, needed_bytes: u64) -> io::Result<bool> {
    Ok(usable_bytes(&disk.space(path)?) < needed_bytes)
}

/// Bytes this process can still write: root may use the reserved blocks, everyone else may not.
pub fn usable_bytes(space: &VolumeSpace) -> u64 {
    if rustix::process::geteuid().is_root() { space.free_bytes } else { space.available_bytes }
}

/// Free share of a volume in hundredths of a percent, rounded down; 0 for a volume without size.
pub fn free_basis_points(space: &VolumeSpace) -> u32 {
    let points = u128::from(space.free_bytes) * 10_000;
    points.checked_div(u128::from(space.total_bytes)).and_then(|points| u32::try_from(points).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_directory_is_on_one_mount_and_another_filesystem_is_not() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(MountId::of(root.path()).unwrap(), MountId::of(&root.path().join(".")).unwrap());
        assert_ne!(MountId::of(root.path()).unwrap(), MountId::of(Path::new("/proc")).unwrap());
        assert!(MountId::of(&root.path().join("absent")).is_err());
    }

    #[test]
    fn shares_round_down_and_nothing_has_none() {
        let space = |free_bytes, total_bytes| VolumeSpace { free_bytes, total_bytes, ..VolumeSpace::default() };
        assert_eq!(free_basis_points(&space(999, 10_000)), 999);
        assert_eq!(free_basis_points(&space(1, 10_001)), 0);
        assert_eq!(free_basis_points(&space(0, 0)), 0);
    }

    #[test]
    fn a_quota_is_a_full_volume_and_a_missing_file_is_not() {
        assert!(is_storage_full(&rustix::io::Errno::NOSPC.into()));
        assert!(is_storage_full(&rustix::io::Errno::DQUOT.into()));
        assert!(!is_storage_full(&rustix::io::Errno::NOENT.into()));
    }
}
