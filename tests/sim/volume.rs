//! A node's volume as an operator handles it: emptied, copied, put back; and filled up for a while by somebody else.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context as _, Result};
use kura::core::base::disk::{Disk, RealDisk, VolumeSpace};

/// A small volume keeps RocksDB's buffers small, and with them the time to open it.
const WITH_ROOM: VolumeSpace = VolumeSpace {
    total_bytes: 256 << 20,
    free_bytes: 200 << 20,
    available_bytes: 200 << 20,
    block_bytes: 4096,
    total_inodes: 1 << 20,
    free_inodes: 1 << 20,
};

/// What `stat` counts blocks in.
const STAT_BLOCK_BYTES: u64 = 512;

/// What is left on a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    Plenty,
    /// No block: new names can be made, and what has blocks can be written again.
    NoBlock,
    /// No name either.
    NoName,
}

/// How full a volume is, whoever fills it. It stays so over the lives of a node.
#[derive(Debug, Clone)]
pub struct Fullness(Arc<AtomicU8>);

impl Default for Fullness {
    fn default() -> Self {
        Self(Arc::new(AtomicU8::new(Room::Plenty as u8)))
    }
}

impl Fullness {
    pub fn set(&self, room: Room) {
        self.0.store(room as u8, Ordering::SeqCst);
    }

    pub fn is_full(&self) -> bool {
        self.0.load(Ordering::SeqCst) != Room::Plenty as u8
    }

    fn check_name(&self) -> io::Result<()> {
        if self.0.load(Ordering::SeqCst) == Room::NoName as u8 {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }

    /// Up to here the file must have its blocks.
    fn check_blocks(&self, file: &File, end: u64) -> io::Result<()> {
        use std::os::unix::fs::MetadataExt as _;
        if self.is_full() && file.metadata()?.blocks() * STAT_BLOCK_BYTES < end {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

/// The disk of a node, which can be full. RocksDB writes beside it, as if by what is kept for its rows.
#[derive(Debug)]
pub struct FillingDisk(pub Fullness);

impl Disk for FillingDisk {
    fn create_unnamed(&self, folder: &Path) -> io::Result<File> {
        self.0.check_name()?;
        RealDisk.create_unnamed(folder)
    }

    fn create_new(&self, path: &Path) -> io::Result<File> {
        self.0.check_name()?;
        RealDisk.create_new(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.check_name()?;
        RealDisk.create_dir(path)
    }

    fn write_all_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.check_blocks(file, offset + u64::try_from(bytes.len()).map_err(io::Error::other)?)?;
        RealDisk.write_all_at(file, bytes, offset)
    }

    fn set_len(&self, file: &File, length: u64) -> io::Result<()> {
        RealDisk.set_len(file, length)
    }

    fn allocate(&self, file: &File, length: u64) -> io::Result<()> {
        self.0.check_blocks(file, length)?;
        RealDisk.allocate(file, length)
    }

    fn sync_data(&self, file: &File) -> io::Result<()> {
        RealDisk.sync_data(file)
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        RealDisk.sync_dir(folder)
    }

    fn sync_filesystem(&self, file: &File) -> io::Result<()> {
        RealDisk.sync_filesystem(file)
    }

    fn link_file(&self, file: &File, path: &Path) -> io::Result<()> {
        self.0.check_name()?;
        RealDisk.link_file(file, path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        RealDisk.unlink(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_dir(path)
    }

    fn unlink_at(&self, folder: &File, name: &OsStr) -> io::Result<()> {
        RealDisk.unlink_at(folder, name)
    }

    fn remove_dir_at(&self, folder: &File, name: &OsStr) -> io::Result<()> {
        RealDisk.remove_dir_at(folder, name)
    }

    fn space(&self, _: &Path) -> io::Result<VolumeSpace> {
        let full = VolumeSpace { free_bytes: 0, available_bytes: 0, ..WITH_ROOM };
        Ok(if self.0.is_full() { full } else { WITH_ROOM })
    }
}

/// Attempts until no file came or went meanwhile: the index tidies up on a thread of its own.
const COPIES_MAX: u32 = 50;

/// Copies a folder with all in it over another one, which is emptied first. A store that is open while it is copied
/// looks afterwards as after a power cut, as a snapshot of its volume does.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    for _ in 0..COPIES_MAX {
        empty(to)?;
        let before = files_in(from)?;
        if copy_all(&before, from, to)? && files_in(from)? == before {
            return Ok(());
        }
    }
    anyhow::bail!("{} did not keep still", from.display())
}

/// The files in a folder and below, by their paths in it.
fn files_in(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(current) = folders.pop() {
        for entry in std::fs::read_dir(&current).with_context(|| format!("listing {}", current.display()))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.insert(entry.path().strip_prefix(folder)?.to_path_buf());
            }
        }
    }
    Ok(files)
}

/// Copies these files; false if one of them is gone.
fn copy_all(files: &BTreeSet<PathBuf>, from: &Path, to: &Path) -> Result<bool> {
    for file in files {
        let (source, target) = (from.join(file), to.join(file));
        let folder = target.parent().context("a file without a folder")?;
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        match std::fs::copy(&source, &target) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            copied => copied.with_context(|| format!("copying {}", source.display()))?,
        };
    }
    Ok(true)
}

/// Removes a folder with all in it, if it is there.
pub fn empty(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.with_context(|| format!("emptying {}", folder.display())),
    }
}
