//! A disk that counts each of its operations and, at a chosen one, fails, tears a write, or lets the test copy the volume.
//!
//! How it works: every operation is a step, asking for the free space too, because the store asks before each batch it
//! writes to the index: so there is a step before and after each of them. A copy of the volume made at a step is what a
//! process leaves that is killed there: files without a name are not in it, locks are free, and what was written is
//! written. A write is two steps, the second with half of it done.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use kura::core::base::disk::{Disk, RealDisk, VolumeSpace};

/// Told before each step: its number and what it is.
type Watcher = Box<dyn Fn(u64, &'static str) + Send>;

/// What happens to operations.
pub enum Plan {
    /// Nothing but being counted.
    Count,
    /// This one fails with this number of the system's, and with `lasting` all behind it.
    Fail { at: u64, errno: i32, lasting: bool },
    /// Each is told beforehand.
    Watch(Watcher),
}

/// The disk. Its volume looks small, which keeps RocksDB's files small, and has room.
pub struct StepDisk {
    steps: AtomicU64,
    plan: Mutex<Plan>,
    /// Which operation failed, if one did.
    failed: Mutex<Option<&'static str>>,
}

impl std::fmt::Debug for StepDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StepDisk").field("steps", &self.steps).finish_non_exhaustive()
    }
}

const SPACE: VolumeSpace = VolumeSpace {
    total_bytes: 256 << 20,
    free_bytes: 200 << 20,
    available_bytes: 200 << 20,
    block_bytes: 4096,
    total_inodes: 1 << 20,
    free_inodes: 1 << 20,
};

impl StepDisk {
    pub fn new() -> Self {
        Self { steps: AtomicU64::new(0), plan: Mutex::new(Plan::Count), failed: Mutex::default() }
    }

    /// Counts from 0 again.
    pub fn set(&self, plan: Plan) {
        self.steps.store(0, Ordering::SeqCst);
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = plan;
    }

    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::SeqCst)
    }

    /// Which operation was made to fail first.
    pub fn failed(&self) -> Option<&'static str> {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(&self, what: &'static str) -> io::Result<()> {
        let number = self.steps.fetch_add(1, Ordering::SeqCst);
        match &*self.plan.lock().unwrap_or_else(PoisonError::into_inner) {
            Plan::Count => Ok(()),
            Plan::Watch(watcher) => {
                watcher(number, what);
                Ok(())
            }
            Plan::Fail { at, errno, lasting } if number == *at || (*lasting && number > *at) => {
                // A full volume still says how full it is.
                if what == "space" && *errno == FULL {
                    return Ok(());
                }
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
                Err(io::Error::from_raw_os_error(*errno))
            }
            Plan::Fail { .. } => Ok(()),
        }
    }
}

/// ENOSPC.
pub const FULL: i32 = 28;
/// EIO.
pub const BROKEN: i32 = 5;

impl Disk for StepDisk {
    fn create_unnamed(&self, folder: &Path) -> io::Result<File> {
        self.step("create unnamed")?;
        RealDisk.create_unnamed(folder)
    }

    fn create_new(&self, path: &Path) -> io::Result<File> {
        self.step("create")?;
        RealDisk.create_new(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.step("create folder")?;
        RealDisk.create_dir(path)
    }

    fn write_all_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.step("write")?;
        let (half, _) = bytes.split_at(bytes.len() / 2);
        RealDisk.write_all_at(file, half, offset)?;
        self.step("half a write")?;
        RealDisk.write_all_at(file, bytes, offset)
    }

    fn set_len(&self, file: &File, length: u64) -> io::Result<()> {
        self.step("set length")?;
        RealDisk.set_len(file, length)
    }

    fn allocate(&self, file: &File, length: u64) -> io::Result<()> {
        self.step("allocate")?;
        RealDisk.allocate(file, length)
    }

    fn sync_data(&self, file: &File) -> io::Result<()> {
        self.step("sync").and_then(|()| RealDisk.sync_data(file))
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        self.step("sync folder")?;
        RealDisk.sync_dir(folder)
    }

    fn sync_filesystem(&self, _file: &File) -> io::Result<()> {
        // Of the whole machine's filesystem it would take long, and proves nothing here.
        self.step("sync filesystem")
    }

    fn link_file(&self, file: &File, path: &Path) -> io::Result<()> {
        self.step("link")?;
        RealDisk.link_file(file, path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step("rename")?;
        RealDisk.rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.step("unlink")?;
        RealDisk.unlink(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.step("remove folder")?;
        RealDisk.remove_dir(path)
    }

    fn unlink_at(&self, folder: &File, name: &OsStr) -> io::Result<()> {
        self.step("unlink")?;
        RealDisk.unlink_at(folder, name)
    }

    fn remove_dir_at(&self, folder: &File, name: &OsStr) -> io::Result<()> {
        self.step("remove folder")?;
        RealDisk.remove_dir_at(folder, name)
    }

    fn space(&self, _path: &Path) -> io::Result<VolumeSpace> {
        self.step("space")?;
        Ok(SPACE)
    }
}
