//! A volume whose disk fails below it, for real: the image it lies in is on another small filesystem, and that one stops
//! taking writes. What the volume above meets comes from its own block device.

use std::path::{Path, PathBuf};

use crate::volume::{Kind, Volume, fill_with, run};

/// Room below the volume: more than the volume takes.
const DISK_BYTES: u64 = 200 << 20;

/// Of a thin disk: enough for a filesystem and some bodies.
const THIN_BYTES: u64 = 160 << 20;

/// How the disk fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Each write is answered with EIO, reads go on.
    Eio,
    /// What the disk itself lies on is full: blocks that were never written cannot be, whatever `statvfs` says.
    NothingBelow,
}

/// What the image lies on.
#[derive(Debug)]
enum Below {
    Ext4(Volume),
    Memory(PathBuf),
}

/// A mounted volume, and the way to fail its disk.
#[derive(Debug)]
pub struct FailingVolume {
    // Unmounted before what it lies on.
    pub volume: Volume,
    below: Below,
    _folder: tempfile::TempDir,
}

impl FailingVolume {
    /// Makes and mounts one at an existing empty directory.
    pub fn mount(kind: Kind, root: &Path, failure: Failure) -> Self {
        let folder = tempfile::tempdir().expect("making a folder");
        let (disk, place) = (folder.path().join("disk"), folder.path().join("image"));
        for path in [&disk, &place] {
            std::fs::create_dir(path).expect("making a folder");
        }
        let below = match failure {
            Failure::Eio => {
                let place = tempfile::tempdir_in(&place).expect("making a folder");
                Below::Ext4(Volume::make(Kind::Ext4, &disk, place, DISK_BYTES, &["-e", "remount-ro"]))
            }
            Failure::NothingBelow => {
                let options = format!("size={THIN_BYTES}");
                run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", &disk.display().to_string()]);
                Below::Memory(disk.clone())
            }
        };
        let image = tempfile::tempdir_in(&disk).expect("making a folder");
        let volume = Volume::make(kind, root, image, VOLUME_BYTES, &[]);
        Self { volume, below, _folder: folder }
    }

    /// From now on the disk fails.
    pub fn fail(&self) {
        match &self.below {
            Below::Ext4(disk) => disk.meet_error(),
            Below::Memory(disk) => fill_with(&disk.join("filler")),
        }
    }

    /// A good disk again, and the filesystem on it checked. Nobody may use the volume.
    pub fn mend(&self) {
        self.volume.unmount();
        match &self.below {
            Below::Ext4(disk) => disk.mend(),
            Below::Memory(disk) => std::fs::remove_file(disk.join("filler")).expect("making room"),
        }
        self.volume.mount_mended();
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        if let Self::Memory(disk) = self {
            // The volume's device may hold it for a moment yet.
            let _ = std::process::Command::new("umount").arg("-l").arg(disk).status();
        }
    }
}

/// As other volumes under test, but for the thin one, which must be larger than what lies below it could hold.
const VOLUME_BYTES: u64 = 128 << 20;
