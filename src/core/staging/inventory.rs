//! What lies in the staging areas, found without following a link or leaving the mount.
//!
//! How it works: each tmp dir is opened once and everything below is reached from that handle, name by name, by
//! `openat` and `statx` that follow no symlink. Regular files inside an area are staged; directories are walked; all
//! else (symlinks, sockets, devices, other mounts, names outside the areas) is unknown and left alone.
//!
//! Invariants: looking writes nothing. Memory does not grow with the number of files: each is handed to the caller and
//! forgotten. An owner is a kernel lock (`flock`) on the file or on the directory that holds it; trying a lock and
//! letting it go again is all that is done to a file here.
//!
//! Failure: what cannot be looked at is reported by path and the walk goes on.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::area::AreaKind;
use super::partials::{has_partial_name, read_header};
use super::removal::{self, OpenFolder, Told};
use crate::core::base::disk::{Disk, VolumeSpace};
use crate::core::data_dir::layout::Layout;

/// Levels of directories below an area that are walked; kura makes one. Deeper ones are unknown.
const DEPTH_MAX: usize = 16;

/// `st_blocks` counts in this unit whatever the filesystem's own block is.
const STAT_BLOCK_BYTES: u64 = 512;

/// Names a folder in one of the tmp dirs: an area, or one below it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StagedFolder {
    /// Which of the layout's tmp dirs.
    pub root: usize,
    /// The area.
    pub kind: AreaKind,
    /// The names below the area.
    pub names: Vec<OsString>,
}

/// Names a file in an area of one of the tmp dirs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StagedPath {
    /// Where it lies; shared by all files of a folder.
    pub folder: Arc<StagedFolder>,
    /// Its name.
    pub name: OsString,
}

/// A staged file as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedEntry {
    /// Where it is.
    pub path: StagedPath,
    /// Bytes allocated to it on disk.
    pub bytes: u64,
    /// Names it has in all.
    pub links: u32,
    /// Its inode, unique within the mount.
    pub inode: u64,
    /// Unix milliseconds of its last change.
    pub modified_ms: u64,
    /// Whether a kernel lock says that somebody owns it. Only looked at beside a live server.
    pub is_owned: bool,
    /// Whether it is a partial body that the next start goes on with, by its own header.
    pub is_partial: bool,
}

/// One thing found.
#[derive(Debug)]
pub enum Found {
    /// A regular file in an area.
    Staged(StagedEntry),
    /// Something that is not kura's to touch.
    Unknown(PathBuf),
    /// Something that could not be looked at.
    Failed(PathBuf, io::Error),
}

/// What is known about owners before any file is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// The caller holds the data-dir lock: nobody owns anything.
    Nobody,
    /// A live server that locks what it stages: what carries no kernel lock is dead.
    ByLock,
}

/// What became of a file that was to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It is removed now, or was gone already.
    Done,
    /// Somebody owns it after all.
    InUse,
}

/// Takes what a scan finds, and says whether it goes on.
pub type Visit<'visit> = dyn FnMut(Found) -> ControlFlow<()> + 'visit;

/// The staging areas as the reclaimer sees them: real directories, or a model of them.
pub trait StagingTree {
    /// Hands over everything in the given areas, in no particular order, until it is told to break off.
    fn scan_while(&self, kinds: &[AreaKind], ownership: Ownership, visit: &mut Visit<'_>);

    /// Hands over everything in the given areas, in no particular order.
    fn scan(&self, kinds: &[AreaKind], ownership: Ownership, visit: &mut dyn FnMut(Found)) {
        self.scan_while(kinds, ownership, &mut |found| {
            visit(found);
            ControlFlow::Continue(())
        });
    }

    /// Removes these files, each under its lock if there may be owners, and tells what became of the file of each number.
    fn remove_all(&self, paths: &[&StagedPath], ownership: Ownership, told: &mut Told<'_>);
    /// Removes directories in the given areas that are empty and not owned.
    fn remove_empty_folders(&self, kinds: &[AreaKind], ownership: Ownership);
    /// The room of the volume.
    fn space(&self) -> io::Result<VolumeSpace>;
    /// Makes removals durable, so that the room they freed shows.
    fn settle(&self) -> io::Result<()>;
    /// The path as people see it.
    fn display(&self, path: &StagedPath) -> PathBuf;
}

/// The areas on disk.
#[derive(Debug)]
pub struct StagingFolders {
    disk: Arc<dyn Disk>,
    data_dir: PathBuf,
    roots: Vec<PathBuf>,
}

/// An open directory during a walk.
struct Folder<'walk> {
    handle: &'walk File,
    place: Arc<StagedFolder>,
}

struct Walk<'walk> {
    root: usize,
    kind: AreaKind,
    mount: Mount,
    ownership: Ownership,
    area: PathBuf,
    visit: &'walk mut Visit<'walk>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mount {
    id: u64,
    device: (u32, u32),
}

impl StagingFolders {
    /// The areas of a layout; touches nothing.
    pub fn new(layout: &Layout, disk: Arc<dyn Disk>) -> Self {
        let data_dir = layout.data_dir().to_path_buf();
        Self { disk, data_dir, roots: layout.tmp_dirs() }
    }

    pub(super) fn disk(&self) -> &dyn Disk {
        self.disk.as_ref()
    }

    fn area(&self, root: usize, kind: AreaKind) -> PathBuf {
        self.roots.get(root).cloned().unwrap_or_default().join(kind.name())
    }

    /// The roots that exist, open, with their mount; one that is reached by two names once.
    fn open_roots(&self, visit: &mut Visit<'_>) -> Vec<(usize, File, Mount)> {
        let mut open: Vec<(usize, File, Mount)> = Vec::new();
        let mut inodes = Vec::new();
        for (root, path) in self.roots.iter().enumerate() {
            match open_root(path) {
                Ok(Some((handle, mount))) => {
                    let identity = handle.metadata().ok().map(|found| (found.dev(), found.ino()));
                    if identity.is_none() || !inodes.contains(&identity) {
                        inodes.push(identity);
                        open.push((root, handle, mount));
                    }
                }
                Ok(None) => {}
                // What cannot be opened has nothing that could be broken off.
                Err(error) => _ = visit(Found::Failed(path.clone(), error)),
            }
        }
        open
    }

    /// Names beside the areas are nothing of ours.
    fn scan_beside_areas(&self, root: usize, handle: &File, visit: &mut Visit<'_>) -> ControlFlow<()> {
        let path = self.roots.get(root).cloned().unwrap_or_default();
        for name in names_in(handle) {
            match name {
                Ok(name) if AreaKind::ALL.iter().any(|kind| name == OsStr::new(kind.name())) => {}
                Ok(name) => visit(Found::Unknown(path.join(name)))?,
                Err(error) => visit(Found::Failed(path.clone(), error))?,
            }
        }
        ControlFlow::Continue(())
    }

    fn each_area(
        &self,
        kinds: &[AreaKind],
        ownership: Ownership,
        visit: &mut Visit<'_>,
        act: &mut dyn FnMut(&mut Walk<'_>, &File) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        for (root, handle, mount) in self.open_roots(visit) {
            for kind in kinds {
                let area = self.area(root, *kind);
                match open_area(&handle, kind.name(), mount) {
                    Ok(Opened::Folder(folder)) => {
                        let visit = &mut |found| visit(found);
                        act(&mut Walk { root, kind: *kind, mount, ownership, area, visit }, &folder)?;
                    }
                    Ok(Opened::Missing) => {}
                    Ok(Opened::Other) => visit(Found::Unknown(area))?,
                    Err(error) => visit(Found::Failed(area, error))?,
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// Opens a folder, from the tmp dir down; `None` if somebody owns it.
    pub(super) fn open_folder(&self, place: &StagedFolder, ownership: Ownership) -> io::Result<Option<OpenFolder>> {
        let root = self.roots.get(place.root).ok_or(io::ErrorKind::NotFound)?;
        let Some((root, mount)) = open_root(root)? else { return Err(io::ErrorKind::NotFound.into()) };
        let mut handles = Vec::new();
        let mut above = root;
        let area = OsString::from(place.kind.name());
        for (depth, name) in std::iter::once(&area).chain(&place.names).enumerate() {
            let Opened::Folder(folder) = open_area(&above, name, mount)? else {
                return Err(io::ErrorKind::NotFound.into());
            };
            // The area itself has no owner, the folders below it may.
            if depth > 0 && ownership == Ownership::ByLock && !try_lock(&folder)? {
                return Ok(None);
            }
            handles.push(above);
            above = folder;
        }
        handles.push(above);
        Ok(Some(OpenFolder { handles }))
    }
}

impl StagingTree for StagingFolders {
    fn scan_while(&self, kinds: &[AreaKind], ownership: Ownership, visit: &mut Visit<'_>) {
        for (root, handle, _) in self.open_roots(&mut |_| ControlFlow::Continue(())) {
            if self.scan_beside_areas(root, &handle, visit).is_break() {
                return;
            }
        }
        let scan = &mut |walk: &mut Walk<'_>, folder: &File| walk.scan(&walk.top(folder), false);
        let _ = self.each_area(kinds, ownership, visit, scan);
    }

    fn remove_all(&self, paths: &[&StagedPath], ownership: Ownership, told: &mut Told<'_>) {
        removal::remove_all(self, paths, ownership, told);
    }

    fn remove_empty_folders(&self, kinds: &[AreaKind], ownership: Ownership) {
        let disk = Arc::clone(&self.disk);
        let prune = &mut |walk: &mut Walk<'_>, folder: &File| {
            walk.prune(&disk, &walk.top(folder));
            ControlFlow::Continue(())
        };
        let _ = self.each_area(kinds, ownership, &mut |_| ControlFlow::Continue(()), prune);
    }

    fn space(&self) -> io::Result<VolumeSpace> {
        self.disk.space(&self.data_dir)
    }

    fn settle(&self) -> io::Result<()> {
        self.disk.sync_filesystem(&File::open(&self.data_dir)?)
    }

    fn display(&self, path: &StagedPath) -> PathBuf {
        let StagedFolder { root, kind, names } = path.folder.as_ref();
        names.iter().fold(self.area(*root, *kind), |path, name| path.join(name)).join(&path.name)
    }
}

impl Walk<'_> {
    /// The area itself.
    fn top<'folder>(&self, handle: &'folder File) -> Folder<'folder> {
        Folder { handle, place: Arc::new(StagedFolder { root: self.root, kind: self.kind, names: Vec::new() }) }
    }

    fn scan(&mut self, folder: &Folder<'_>, is_folder_owned: bool) -> ControlFlow<()> {
        for name in names_in(folder.handle) {
            match name {
                Ok(name) => self.scan_entry(folder, name, is_folder_owned)?,
                Err(error) => self.failed(folder, OsStr::new(""), error)?,
            }
        }
        ControlFlow::Continue(())
    }

    fn scan_entry(&mut self, folder: &Folder<'_>, name: OsString, is_folder_owned: bool) -> ControlFlow<()> {
        let stat = match stat_entry(folder.handle, &name) {
            Ok(Some(stat)) => stat,
            Ok(None) => return ControlFlow::Continue(()),
            Err(error) => return self.failed(folder, &name, error),
        };
        match FileType::from_raw_mode(u32::from(stat.stx_mode)) {
            FileType::RegularFile if mount_of(&stat) == self.mount => {
                match self.is_owned(folder, &name, is_folder_owned) {
                    Ok(is_owned) => {
                        let is_partial = self.is_partial(folder, &name, &stat);
                        let entry = StagedEntry { is_partial, ..self.entry(folder, name, &stat, is_owned) };
                        (self.visit)(Found::Staged(entry))
                    }
                    Err(error) => self.failed(folder, &name, error),
                }
            }
            FileType::Directory if folder.place.names.len() < DEPTH_MAX => {
                self.scan_folder(folder, name, is_folder_owned)
            }
            _ => self.unknown(folder, &name),
        }
    }

    fn scan_folder(&mut self, above: &Folder<'_>, name: OsString, is_above_owned: bool) -> ControlFlow<()> {
        match open_area(above.handle, &name, self.mount) {
            Ok(Opened::Folder(handle)) => {
                let is_owned =
                    is_above_owned || (self.ownership == Ownership::ByLock && !matches!(try_lock(&handle), Ok(true)));
                self.scan(&above.below(&handle, name), is_owned)
            }
            Ok(Opened::Missing) => ControlFlow::Continue(()),
            Ok(Opened::Other) => self.unknown(above, &name),
            Err(error) => self.failed(above, &name, error),
        }
    }

    fn is_owned(&self, folder: &Folder<'_>, name: &OsStr, is_folder_owned: bool) -> io::Result<bool> {
        if self.ownership == Ownership::Nobody || is_folder_owned {
            return Ok(is_folder_owned);
        }
        match lock_file(folder.handle, name) {
            Ok(lock) => Ok(lock.is_none()),
            // Gone: nothing is left that could be owned.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn entry(&self, folder: &Folder<'_>, name: OsString, stat: &Statx, is_owned: bool) -> StagedEntry {
        let seconds = u64::try_from(stat.stx_mtime.tv_sec).unwrap_or(0);
        StagedEntry {
            path: StagedPath { folder: Arc::clone(&folder.place), name },
            bytes: stat.stx_blocks.saturating_mul(STAT_BLOCK_BYTES),
            links: stat.stx_nlink,
            inode: stat.stx_ino,
            modified_ms: seconds.saturating_mul(1000).saturating_add(u64::from(stat.stx_mtime.tv_nsec / 1_000_000)),
            is_owned,
            is_partial: false,
        }
    }

    /// A file with a second name is a committed body or about to be one. What cannot be read is no partial.
    fn is_partial(&self, folder: &Folder<'_>, name: &OsStr, stat: &Statx) -> bool {
        let is_candidate = self.kind == AreaKind::Bootstrap && folder.place.names.is_empty() && has_partial_name(name);
        is_candidate
            && stat.stx_nlink == 1
            && open_file(folder.handle, name).and_then(|file| read_header(&file)).is_ok_and(|header| header.is_some())
    }

    /// Removes empty folders from the leaves up. One that is not empty or not ours stays; the system decides.
    fn prune(&mut self, disk: &Arc<dyn Disk>, folder: &Folder<'_>) {
        if folder.place.names.len() >= DEPTH_MAX {
            return;
        }
        for name in names_in(folder.handle).flatten() {
            let Ok(Opened::Folder(handle)) = open_area(folder.handle, &name, self.mount) else { continue };
            if self.ownership == Ownership::ByLock && !matches!(try_lock(&handle), Ok(true)) {
                continue;
            }
            self.prune(disk, &folder.below(&handle, name.clone()));
            if let Err(error) = disk.remove_dir_at(folder.handle, &name) {
                tracing::debug!(%error, path = %self.path(folder, &name).display(), "staging_folder_kept");
            }
        }
    }

    fn unknown(&mut self, folder: &Folder<'_>, name: &OsStr) -> ControlFlow<()> {
        let path = self.path(folder, name);
        (self.visit)(Found::Unknown(path))
    }

    fn failed(&mut self, folder: &Folder<'_>, name: &OsStr, error: io::Error) -> ControlFlow<()> {
        let path = self.path(folder, name);
        (self.visit)(Found::Failed(path, error))
    }

    fn path(&self, folder: &Folder<'_>, name: &OsStr) -> PathBuf {
        folder.place.names.iter().fold(self.area.clone(), |path, name| path.join(name)).join(name)
    }
}

impl Folder<'_> {
    fn below<'folder>(&self, handle: &'folder File, name: OsString) -> Folder<'folder> {
        let mut place = self.place.as_ref().clone();
        place.names.push(name);
        Folder { handle, place: Arc::new(place) }
    }
}

fn open_root(path: &Path) -> io::Result<Option<(File, Mount)>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let handle = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(handle) => File::from(handle),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let stat = rustix::fs::statx(&handle, "", AtFlags::EMPTY_PATH, wanted)?;
    Ok(Some((handle, mount_of(&stat))))
}

enum Opened {
    Folder(File),
    Missing,
    /// A symlink, another kind of thing, or another mount.
    Other,
}

fn open_area(above: &File, name: impl AsRef<OsStr>, mount: Mount) -> io::Result<Opened> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = match rustix::fs::openat(above, name.as_ref(), flags, Mode::empty()) {
        Ok(handle) => File::from(handle),
        Err(Errno::NOENT) => return Ok(Opened::Missing),
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Opened::Other),
        Err(error) => return Err(error.into()),
    };
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let stat = rustix::fs::statx(&handle, "", AtFlags::EMPTY_PATH, wanted)?;
    Ok(if mount_of(&stat) == mount { Opened::Folder(handle) } else { Opened::Other })
}

fn stat_entry(folder: &File, name: &OsStr) -> io::Result<Option<Statx>> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match rustix::fs::statx(folder, name, flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Kernels before 5.8 do not tell the mount; the device number then stands alone.
fn mount_of(stat: &Statx) -> Mount {
    let id = if stat.stx_mask & StatxFlags::MNT_ID.bits() == 0 { 0 } else { stat.stx_mnt_id };
    Mount { id, device: (stat.stx_dev_major, stat.stx_dev_minor) }
}

/// The names in a directory but for `.` and `..`, read as they are asked for.
fn names_in(folder: &File) -> impl Iterator<Item = io::Result<OsString>> {
    let (entries, failure) = match rustix::fs::Dir::read_from(folder) {
        Ok(entries) => (Some(entries), None),
        Err(error) => (None, Some(Err(error.into()))),
    };
    let names = entries.into_iter().flatten().filter_map(|entry| match entry {
        Ok(entry) => {
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            (name != "." && name != "..").then(|| Ok(name.to_owned()))
        }
        Err(error) => Some(Err(error.into())),
    });
    failure.into_iter().chain(names)
}

/// Takes the lock of an open file or directory; false if another holds it.
fn try_lock(handle: &File) -> io::Result<bool> {
    match rustix::fs::flock(handle, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Opens and locks a regular file; `None` if another holds its lock.
pub(super) fn lock_file(folder: &File, name: &OsStr) -> io::Result<Option<File>> {
    let file = open_file(folder, name)?;
    Ok(try_lock(&file)?.then_some(file))
}

fn open_file(folder: &File, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(folder, name, flags, Mode::empty())?))
}
