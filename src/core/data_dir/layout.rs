//! Every name kura uses on disk, and the making of missing directories.
//!
//! How it works: [`Layout`] only names. [`create_data_dir`] makes the root, which must exist before it can be locked;
//! [`ensure_directories`] makes what is missing below it, under the lock, and decides where staging takes place.
//!
//! Invariants: nothing here removes, renames or rewrites anything. A directory is made with mode 0700 and an existing
//! one is left as it is. Staging areas lie on the mount of the data dir, so that a staged file can be linked to its
//! committed name: two mounts of one volume share a device number and still refuse the link, so mount ids are compared.
//!
//! Failure: on a full volume a missing directory cannot be made. That is reported and not an error, because the very
//! next start-up step frees space, after which the caller asks again.

use std::io;
use std::path::{Path, PathBuf};

use crate::core::base::disk::Disk;
use crate::core::data_dir::space::{self, MountId};

/// The staging areas under the tmp dir; the names are those of the seed era.
pub const AREA_NAMES: [&str; 3] = ["uploads", "parts", "bootstrap"];

/// The paths of one data dir and its tmp dir.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    data_dir: PathBuf,
    tmp_dir: PathBuf,
}

impl Layout {
    /// Names only; touches nothing.
    pub fn new(data_dir: impl Into<PathBuf>, tmp_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), tmp_dir: tmp_dir.into() }
    }

    /// A data dir with its tmp dir inside, the default.
    pub fn with_default_tmp(data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        let tmp_dir = data_dir.join("tmp");
        Self { data_dir, tmp_dir }
    }

    /// The root of everything durable.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The root of the staging areas.
    pub fn tmp_dir(&self) -> &Path {
        &self.tmp_dir
    }

    /// Each tmp dir in which staging areas of this data dir may lie: the configured one and, where it is on another
    /// mount, the one inside the data dir that is used in its place.
    pub fn tmp_dirs(&self) -> Vec<PathBuf> {
        let inside = self.data_dir.join("tmp");
        if inside == self.tmp_dir { vec![inside] } else { vec![self.tmp_dir.clone(), inside] }
    }

    /// Who this data dir is: written once, read by everyone.
    pub fn identity(&self) -> PathBuf {
        self.data_dir.join("identity")
    }

    /// What the current or last writing process said of itself.
    pub fn run_record(&self) -> PathBuf {
        self.data_dir.join("run.json")
    }

    /// The exclusive lock; the seed era's name, so that both kinds exclude each other.
    pub fn lock(&self) -> PathBuf {
        self.data_dir.join(".kura.writer.lock")
    }

    /// RocksDB.
    pub fn index(&self) -> PathBuf {
        self.data_dir.join("index")
    }

    /// Body files, in folders of 4,096 numbers.
    pub fn bodies(&self) -> PathBuf {
        self.data_dir.join("bodies")
    }

    /// Checked before any "body missing" is believed: without it the bodies root is not what it was.
    pub fn bodies_marker(&self) -> PathBuf {
        self.bodies().join(".kura")
    }

    /// The checksummed side log of tombstones.
    pub fn tombstones_log(&self) -> PathBuf {
        self.data_dir.join("tombstones.log")
    }

    /// Bodies found bad, kept for a look.
    pub fn quarantine(&self) -> PathBuf {
        self.data_dir.join("quarantine")
    }

    /// Space kept in reserve.
    pub fn ballast(&self) -> PathBuf {
        self.data_dir.join("ballast")
    }

    /// Where a running node answers `kura doctor`.
    pub fn control_socket(&self) -> PathBuf {
        self.data_dir.join("control.sock")
    }
}

/// What a data directory looks like before anything in it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DataDirKind {
    /// There is no such directory.
    Missing,
    /// A directory without anything a kura or seed-era node would have made.
    Empty,
    /// Something else lives here.
    Foreign,
    /// A kura data dir.
    Kura,
    /// A data dir of the seed-era system.
    SeedEra,
}

/// Looks at the names in a data dir; opens and changes nothing.
pub fn detect_data_dir(layout: &Layout) -> io::Result<DataDirKind> {
    let exists = |path: PathBuf| path.symlink_metadata().is_ok();
    let root = layout.data_dir();
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(DataDirKind::Missing),
        Err(error) => return Err(error),
    };
    if exists(layout.identity()) || exists(layout.run_record()) || exists(layout.index()) {
        return Ok(DataDirKind::Kura);
    }
    if exists(root.join("rocksdb")) || exists(root.join("segments")) {
        return Ok(DataDirKind::SeedEra);
    }
    if exists(layout.lock()) {
        return Ok(DataDirKind::Kura);
    }
    let mut names = entries.filter_map(|entry| entry.ok().map(|entry| entry.file_name()));
    // A fresh volume has `lost+found`; an own tmp dir inside may have been made by hand.
    let is_foreign = names.any(|name| name != "lost+found" && name != "tmp");
    Ok(if is_foreign { DataDirKind::Foreign } else { DataDirKind::Empty })
}

/// A directory that is needed and could not be made.
#[derive(Debug, thiserror::Error)]
#[error("failed to make the directory {path}")]
pub struct EnsureError {
    /// Which directory.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Something the operator should know about where staging takes place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutNote {
    /// The configured tmp dir is on another mount, so bytes are staged inside the data dir.
    #[error("{configured} is on another mount than the data directory: staging in {used}")]
    StagingMoved {
        /// The tmp dir that was asked for.
        configured: PathBuf,
        /// The tmp dir that is used.
        used: PathBuf,
    },
    /// The volume is full and this directory is missing; ask again once space is freed.
    #[error("{path} is missing and cannot be made on a full volume")]
    NotMade {
        /// Which directory.
        path: PathBuf,
    },
}

/// What [`ensure_directories`] came to.
#[derive(Debug, Clone)]
pub struct EnsuredDirectories {
    /// The layout to use from here on; its tmp dir is on the data dir's mount.
    pub layout: Layout,
    /// What the operator should know.
    pub notes: Vec<LayoutNote>,
    /// How many directories were made.
    pub made: usize,
}

impl EnsuredDirectories {
    /// Whether every directory exists now.
    pub fn is_complete(&self) -> bool {
        !self.notes.iter().any(|note| matches!(note, LayoutNote::NotMade { .. }))
    }
}

/// Makes the data dir and missing parents. It must exist before it can be locked.
pub fn create_data_dir(layout: &Layout, disk: &dyn Disk) -> Result<(), EnsureError> {
    make_with_parents(layout.data_dir(), disk).map(|_| ())
}

/// Makes every missing directory of the layout with mode 0700, under the data-dir lock. Never touches data.
pub fn ensure_directories(layout: &Layout, disk: &dyn Disk) -> Result<EnsuredDirectories, EnsureError> {
    let mut ensured = EnsuredDirectories { layout: layout.clone(), notes: Vec::new(), made: 0 };
    for path in [layout.bodies(), layout.quarantine(), layout.tmp_dir().to_path_buf()] {
        make_or_note(&path, disk, &mut ensured)?;
    }
    if !is_on_one_mount(layout.data_dir(), layout.tmp_dir()) {
        let inside = Layout::with_default_tmp(layout.data_dir());
        make_or_note(inside.tmp_dir(), disk, &mut ensured)?;
        ensured.notes.push(LayoutNote::StagingMoved {
            configured: layout.tmp_dir().to_path_buf(),
            used: inside.tmp_dir().to_path_buf(),
        });
        ensured.layout = inside;
    }
    let tmp_dir = ensured.layout.tmp_dir().to_path_buf();
    for name in AREA_NAMES {
        make_or_note(&tmp_dir.join(name), disk, &mut ensured)?;
    }
    Ok(ensured)
}

/// Unknown counts as one mount: the link itself will tell.
fn is_on_one_mount(data_dir: &Path, tmp_dir: &Path) -> bool {
    match (MountId::of(data_dir), MountId::of(tmp_dir)) {
        (Ok(data), Ok(tmp)) => data == tmp,
        _ => true,
    }
}

fn make_or_note(path: &Path, disk: &dyn Disk, ensured: &mut EnsuredDirectories) -> Result<(), EnsureError> {
    match make_with_parents(path, disk) {
        Ok(made) => ensured.made += made,
        Err(error) if space::is_storage_full(&error.source) => {
            ensured.notes.push(LayoutNote::NotMade { path: path.to_path_buf() });
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// How many directories were made: 0 if the path was there.
fn make_with_parents(path: &Path, disk: &dyn Disk) -> Result<usize, EnsureError> {
    if path.is_dir() {
        return Ok(0);
    }
    let made = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => make_with_parents(parent, disk)?,
        _ => 0,
    };
    match disk.create_dir(path) {
        Ok(()) => Ok(made + 1),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(made),
        Err(source) => Err(EnsureError { path: path.to_path_buf(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::base::disk::{DiskOperation, FaultDisk, RealDisk};

    fn failing(kind: io::ErrorKind) -> FaultDisk {
        let disk = FaultDisk::new(std::sync::Arc::new(RealDisk));
        disk.set_rule(Some(Box::new(move |operation, _, _| (operation == DiskOperation::Create).then(|| kind.into()))));
        disk
    }

    #[test]
    fn on_a_full_volume_what_is_missing_is_a_note_and_not_an_error() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::with_default_tmp(root.path());
        let ensured = ensure_directories(&layout, &failing(io::ErrorKind::StorageFull)).unwrap();
        assert!(!ensured.is_complete());
        let missing = ensured.notes.iter().filter(|note| matches!(note, LayoutNote::NotMade { .. })).count();
        assert_eq!((missing, ensured.made, std::fs::read_dir(root.path()).unwrap().count()), (6, 0, 0));
        assert!(ensure_directories(&layout, &RealDisk).unwrap().is_complete());
    }

    #[test]
    fn any_other_failure_names_the_directory() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::with_default_tmp(root.path());
        let error = ensure_directories(&layout, &failing(io::ErrorKind::PermissionDenied)).unwrap_err();
        assert_eq!(error.path, layout.bodies());
        std::fs::write(layout.bodies(), "a file in the way").unwrap();
        assert_eq!(ensure_directories(&layout, &RealDisk).unwrap_err().path, layout.bodies());
    }

    #[test]
    fn existing_directories_keep_their_mode() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::with_default_tmp(root.path());
        std::fs::create_dir(layout.tmp_dir()).unwrap();
        std::fs::set_permissions(layout.tmp_dir(), std::fs::Permissions::from_mode(0o770)).unwrap();
        ensure_directories(&layout, &RealDisk).unwrap();
        assert_eq!(layout.tmp_dir().metadata().unwrap().permissions().mode() & 0o777, 0o770);
    }

    #[test]
    fn a_data_dir_is_told_from_other_directories_by_its_names() {
        let root = tempfile::tempdir().unwrap();
        let kind = |names: &[&str]| {
            let folder = root.path().join(names.join("+").replace('/', "_"));
            std::fs::create_dir(&folder).unwrap();
            names.iter().for_each(|name| std::fs::create_dir_all(folder.join(name)).unwrap());
            detect_data_dir(&Layout::with_default_tmp(folder)).unwrap()
        };
        assert_eq!(kind(&["tmp/uploads", "lost+found"]), DataDirKind::Empty);
        assert_eq!(kind(&["identity", "index"]), DataDirKind::Kura);
        assert_eq!(kind(&["index"]), DataDirKind::Kura);
        assert_eq!(kind(&[".kura.writer.lock"]), DataDirKind::Kura);
        assert_eq!(kind(&[".kura.writer.lock", "rocksdb"]), DataDirKind::SeedEra);
        assert_eq!(kind(&["photos"]), DataDirKind::Foreign);
        let missing = Layout::with_default_tmp(root.path().join("missing"));
        assert_eq!(detect_data_dir(&missing).unwrap(), DataDirKind::Missing);
    }
}
