//! The disk seam: each operation by which kura changes a volume, so that a test can fail or record any one of them.
//!
//! How it works: callers hold ordinary [`File`]s and ask the [`Disk`] to act on them. [`RealDisk`] is the system;
//! [`FaultDisk`] wraps another disk, counts its operations and fails the chosen one.
//!
//! Invariant: on the staging, commit, eviction and reclaim paths nothing writes, syncs, links, renames or unlinks
//! except through this trait. Reads go straight to the file.
//!
//! Failure: errors are passed up as they are; which step failed on which path is for the caller to say.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

/// What `statvfs` says of a volume, in bytes and inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct VolumeSpace {
    /// Size of the volume.
    pub total_bytes: u64,
    /// What root can still write; percentages count against this.
    pub free_bytes: u64,
    /// Free for everyone else.
    pub available_bytes: u64,
    /// Allocation unit.
    pub block_bytes: u64,
    /// Inodes in all; 0 where the filesystem has no fixed number.
    pub total_inodes: u64,
    /// Inodes not used.
    pub free_inodes: u64,
}

/// The operations that change a volume.
pub trait Disk: Send + Sync + std::fmt::Debug {
    /// A file without a name in `folder`, readable and writable; it is gone when its last handle closes.
    fn create_unnamed(&self, folder: &Path) -> io::Result<File>;
    /// A new named file, readable and writable; refuses an existing name.
    fn create_new(&self, path: &Path) -> io::Result<File>;
    /// One directory with mode 0700 under an existing parent.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// All bytes at an offset.
    fn write_all_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts or extends a file.
    fn set_len(&self, file: &File, length: u64) -> io::Result<()>;
    /// Reserves real blocks, so that later writes cannot meet a full disk.
    fn allocate(&self, file: &File, length: u64) -> io::Result<()>;
    /// File data and the size, durable.
    fn sync_data(&self, file: &File) -> io::Result<()>;
    /// A directory's entries, durable.
    fn sync_dir(&self, folder: &Path) -> io::Result<()>;
    /// Everything written on the file's filesystem, durable.
    fn sync_filesystem(&self, file: &File) -> io::Result<()>;
    /// Gives an unnamed or named open file a (further) name. Refuses an existing one.
    fn link_file(&self, file: &File, path: &Path) -> io::Result<()>;
    /// Renames on one filesystem, replacing the target.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a name.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes a name inside an open directory, wherever that directory is reachable from by now.
    fn unlink_at(&self, folder: &File, name: &OsStr) -> io::Result<()>;
    /// Removes an empty directory inside an open directory.
    fn remove_dir_at(&self, folder: &File, name: &OsStr) -> io::Result<()>;
    /// Space and inodes of the volume that holds the path.
    fn space(&self, path: &Path) -> io::Result<VolumeSpace>;
}

/// The system's own volume.
#[derive(Debug, Default, Clone, Copy)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_unnamed(&self, folder: &Path) -> io::Result<File> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        Ok(rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    fn create_new(&self, path: &Path) -> io::Result<File> {
        use std::os::unix::fs::OpenOptionsExt;
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().mode(0o700).create(path)
    }

    fn write_all_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn set_len(&self, file: &File, length: u64) -> io::Result<()> {
        file.set_len(length)
    }

    fn allocate(&self, file: &File, length: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, length)?)
    }

    fn sync_data(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }

    fn sync_filesystem(&self, file: &File) -> io::Result<()> {
        Ok(rustix::fs::syncfs(file)?)
    }

    fn link_file(&self, file: &File, path: &Path) -> io::Result<()> {
        let source = format!("/proc/self/fd/{}", file.as_raw_fd());
        Ok(rustix::fs::linkat(CWD, source.as_str(), CWD, path, AtFlags::SYMLINK_FOLLOW)?)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir(path)
    }

    fn unlink_at(&self, folder: &File, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(folder, name, AtFlags::empty())?)
    }

    fn remove_dir_at(&self, folder: &File, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)?)
    }

    fn space(&self, path: &Path) -> io::Result<VolumeSpace> {
        let stat = rustix::fs::statvfs(path)?;
        let free_blocks = stat.f_bfree.saturating_sub(unwritable_blocks(path, stat.f_blocks));
        Ok(VolumeSpace {
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            free_bytes: free_blocks.saturating_mul(stat.f_frsize),
            available_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            block_bytes: stat.f_frsize,
            total_inodes: stat.f_files,
            free_inodes: stat.f_ffree,
        })
    }
}

/// What ext4 answers as its type.
const EXT4_MAGIC: u64 = 0xEF53;

/// ext4 keeps back a fiftieth of its blocks, at most this many, for its own metadata. It counts them as free, and still
/// refuses them to everybody, root included: measured on 64 MiB, where writes end with 1.3 MiB "free".
const EXT4_KEPT_BLOCKS_MAX: u64 = 4096;

/// The fiftieth is of all blocks, of which the volume's size leaves out journal and tables; a fortieth covers both.
const EXT4_KEPT_SHARE: u64 = 40;

/// Free blocks that nobody can write, as near as can be told.
fn unwritable_blocks(path: &Path, total_blocks: u64) -> u64 {
    let kind = rustix::fs::statfs(path).map(|stat| stat.f_type);
    let is_ext4 = kind.is_ok_and(|kind| u64::try_from(kind).is_ok_and(|kind| kind == EXT4_MAGIC));
    if is_ext4 { (total_blocks / EXT4_KEPT_SHARE).min(EXT4_KEPT_BLOCKS_MAX) } else { 0 }
}

/// The kinds of operation a fault can be aimed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskOperation {
    /// `create_unnamed`, `create_new` and `create_dir`.
    Create,
    /// `write_all_at`, `set_len` and `allocate`.
    Write,
    /// `sync_data`, `sync_dir` and `sync_filesystem`.
    Sync,
    /// `link_file`.
    Link,
    /// `rename`.
    Rename,
    /// `unlink`, `remove_dir` and their `_at` forms, whose path is the bare name.
    Unlink,
}

/// Decides, before each operation, whether it fails: it is given the operation, its path if known, and its number.
pub type FaultRule = Box<dyn Fn(DiskOperation, Option<&Path>, u64) -> Option<io::Error> + Send>;

/// A disk that fails where it is told to and counts what it is asked.
pub struct FaultDisk {
    inner: Arc<dyn Disk>,
    rule: Mutex<Option<FaultRule>>,
    operations: AtomicU64,
    space: Mutex<Option<VolumeSpace>>,
    space_error: Mutex<Option<io::ErrorKind>>,
}

impl std::fmt::Debug for FaultDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultDisk").field("operations", &self.operations).finish_non_exhaustive()
    }
}

impl FaultDisk {
    /// Wraps a disk without any fault.
    pub fn new(inner: Arc<dyn Disk>) -> Self {
        let (rule, space, space_error) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { inner, rule, operations: AtomicU64::new(0), space, space_error }
    }

    /// Sets or clears the rule; the operation count starts again at 0.
    pub fn set_rule(&self, rule: Option<FaultRule>) {
        self.operations.store(0, Ordering::SeqCst);
        *self.rule.lock().unwrap_or_else(PoisonError::into_inner) = rule;
    }

    /// How many changing operations were asked since the rule was set.
    pub fn operations(&self) -> u64 {
        self.operations.load(Ordering::SeqCst)
    }

    /// Pretends the volume has these figures, as a quota would make it.
    pub fn set_space(&self, space: Option<VolumeSpace>) {
        *self.space.lock().unwrap_or_else(PoisonError::into_inner) = space;
    }

    /// Fails to say how much room the volume has.
    pub fn fail_space(&self, error: Option<io::ErrorKind>) {
        *self.space_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    fn before(&self, operation: DiskOperation, path: Option<&Path>) -> io::Result<()> {
        let number = self.operations.fetch_add(1, Ordering::SeqCst);
        let rule = self.rule.lock().unwrap_or_else(PoisonError::into_inner);
        rule.as_ref().and_then(|rule| rule(operation, path, number)).map_or(Ok(()), Err)
    }
}

impl Disk for FaultDisk {
    fn create_unnamed(&self, folder: &Path) -> io::Result<File> {
        self.before(DiskOperation::Create, Some(folder))?;
        self.inner.create_unnamed(folder)
    }

    fn create_new(&self, path: &Path) -> io::Result<File> {
        self.before(DiskOperation::Create, Some(path))?;
        self.inner.create_new(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.before(DiskOperation::Create, Some(path))?;
        self.inner.create_dir(path)
    }

    fn write_all_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.before(DiskOperation::Write, None)?;
        self.inner.write_all_at(file, bytes, offset)
    }

    fn set_len(&self, file: &File, length: u64) -> io::Result<()> {
        self.before(DiskOperation::Write, None)?;
        self.inner.set_len(file, length)
    }

    fn allocate(&self, file: &File, length: u64) -> io::Result<()> {
        self.before(DiskOperation::Write, None)?;
        self.inner.allocate(file, length)
    }

    fn sync_data(&self, file: &File) -> io::Result<()> {
        self.before(DiskOperation::Sync, None)?;
        self.inner.sync_data(file)
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        self.before(DiskOperation::Sync, Some(folder))?;
        self.inner.sync_dir(folder)
    }

    fn sync_filesystem(&self, file: &File) -> io::Result<()> {
        self.before(DiskOperation::Sync, None)?;
        self.inner.sync_filesystem(file)
    }

    fn link_file(&self, file: &File, path: &Path) -> io::Result<()> {
        self.before(DiskOperation::Link, Some(path))?;
        self.inner.link_file(file, path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.before(DiskOperation::Rename, Some(to))?;
        self.inner.rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.before(DiskOperation::Unlink, Some(path))?;
        self.inner.unlink(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.before(DiskOperation::Unlink, Some(path))?;
        self.inner.remove_dir(path)
    }

    fn unlink_at(&self, folder: &File, name: &OsStr) -> io::Result<()> {
        self.before(DiskOperation::Unlink, Some(Path::new(name)))?;
        self.inner.unlink_at(folder, name)
    }

    fn remove_dir_at(&self, folder: &File, name: &OsStr) -> io::Result<()> {
        self.before(DiskOperation::Unlink, Some(Path::new(name)))?;
        self.inner.remove_dir_at(folder, name)
    }

    fn space(&self, path: &Path) -> io::Result<VolumeSpace> {
        if let Some(error) = *self.space_error.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(error.into());
        }
        let pretended = *self.space.lock().unwrap_or_else(PoisonError::into_inner);
        pretended.map_or_else(|| self.inner.space(path), Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeps_the_contract(disk: &dyn Disk) {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("folder");
        disk.create_dir(&folder).unwrap();
        assert_eq!(disk.create_dir(&folder).unwrap_err().kind(), io::ErrorKind::AlreadyExists);

        let unnamed = disk.create_unnamed(&folder).unwrap();
        disk.write_all_at(&unnamed, b"world", 5).unwrap();
        disk.write_all_at(&unnamed, b"hello", 0).unwrap();
        disk.sync_data(&unnamed).unwrap();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);

        let (first, second) = (folder.join("first"), folder.join("second"));
        disk.link_file(&unnamed, &first).unwrap();
        disk.sync_dir(&folder).unwrap();
        assert_eq!(disk.link_file(&unnamed, &first).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&first).unwrap(), b"helloworld");
        assert_eq!(disk.create_new(&first).unwrap_err().kind(), io::ErrorKind::AlreadyExists);

        disk.rename(&first, &second).unwrap();
        disk.set_len(&unnamed, 5).unwrap();
        disk.sync_filesystem(&unnamed).unwrap();
        assert_eq!(std::fs::read(&second).unwrap(), b"hello");
        disk.unlink(&second).unwrap();
        assert_eq!(disk.unlink(&second).unwrap_err().kind(), io::ErrorKind::NotFound);
        disk.remove_dir(&folder).unwrap();
        assert!(disk.space(root.path()).unwrap().total_bytes > 0);
    }

    #[test]
    fn real_and_fault_disk_keep_the_contract() {
        keeps_the_contract(&RealDisk);
        keeps_the_contract(&FaultDisk::new(Arc::new(RealDisk)));
    }

    #[test]
    fn a_rule_fails_just_the_chosen_operation() {
        let root = tempfile::tempdir().unwrap();
        let disk = FaultDisk::new(Arc::new(RealDisk));
        disk.set_rule(Some(Box::new(|operation, _, number| {
            (operation == DiskOperation::Sync && number == 1).then(|| io::ErrorKind::StorageFull.into())
        })));
        let file = disk.create_unnamed(root.path()).unwrap();
        assert_eq!(disk.sync_data(&file).unwrap_err().kind(), io::ErrorKind::StorageFull);
        disk.sync_data(&file).unwrap();
        assert_eq!(disk.operations(), 3);
    }
}
