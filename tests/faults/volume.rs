//! A small filesystem of its own in a loop mount, and the filling of it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kura::core::base::disk::{Disk, RealDisk};

/// Size of each volume: the smallest that kura promises to work on.
const VOLUME_BYTES: u64 = 64 << 20;

/// The filesystems under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Still makes empty files when it is full.
    Ext4,
    /// Makes nothing at all when it is full.
    Xfs,
}

/// A mounted volume; dropping it unmounts it.
#[derive(Debug)]
pub struct Volume {
    /// Where it is mounted.
    pub root: PathBuf,
    kind: Kind,
    image: tempfile::TempDir,
}

/// Copies of an image until two in a row are the same: the system writes back on its own while one is made.
const COPIES_MAX: usize = 20;

impl Volume {
    /// Makes and mounts a volume at an existing empty directory.
    pub fn mount(kind: Kind, root: &Path) -> Self {
        Self::mount_with(kind, root, &[])
    }

    /// With more arguments for `mkfs`.
    pub fn mount_with(kind: Kind, root: &Path, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("making a folder for the image");
        Self::make(kind, root, folder, VOLUME_BYTES, more)
    }

    /// Makes a sparse image of this size in a folder of its own, and mounts it.
    pub fn make(kind: Kind, root: &Path, folder: tempfile::TempDir, bytes: u64, more: &[&str]) -> Self {
        let image = folder.path().join("image");
        File::create(&image).and_then(|file| file.set_len(bytes)).expect("making the image");
        let path = image.display().to_string();
        match kind {
            Kind::Ext4 => run("mkfs.ext4", &[&["-q"], more, &[&path]].concat()),
            // XFS below 300 MiB is for tests only, which this is.
            Kind::Xfs => run("mkfs.xfs", &[&["--unsupported", "-q"], more, &[&path]].concat()),
        }
        Self::mount_image(kind, folder, root)
    }

    fn mount_image(kind: Kind, image: tempfile::TempDir, root: &Path) -> Self {
        mount(kind, image.path(), root);
        Self { root: root.to_path_buf(), kind, image }
    }

    /// Mounts what would be left of this volume if the power went now: what the filesystem gave to its device so far.
    /// Nobody may write meanwhile.
    pub fn after_power_loss(&self, root: &Path) -> Self {
        Self::mount_image(self.kind, self.copy_image(), root)
    }

    /// Loses power: `stop` ends whoever writes here, and what is left is mounted in the volume's place. Nobody may write
    /// before.
    pub fn lose_power(self, stop: impl FnOnce()) -> Self {
        let (kind, root, left) = (self.kind, self.root.clone(), self.copy_image());
        stop();
        drop(self);
        Self::mount_image(kind, left, &root)
    }

    /// What the filesystem gave to its device so far.
    fn copy_image(&self) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("making a folder for the image");
        let (image, copy) = (self.image.path().join("image"), folder.path().join("image"));
        let paths = [&image, &copy].map(|path| path.display().to_string());
        let mut last = None;
        for _ in 0..COPIES_MAX {
            // Holes stay holes, so that a large volume costs what is in it.
            run("cp", &["--sparse=always", &paths[0], &paths[1]]);
            let digest = blake3::hash(&fs::read(&copy).expect("reading the image"));
            if last.replace(digest) == Some(digest) {
                return folder;
            }
        }
        panic!("the image of {} does not come to rest", self.root.display());
    }

    /// Has an ext4 meet an error, as a disk that fails makes it do.
    pub fn meet_error(&self) {
        let device = fs::metadata(&self.root).expect("looking at the mount").dev();
        let link = format!("/sys/dev/block/{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
        let link = fs::read_link(link).expect("the mount's device");
        let name = link.file_name().expect("a device's name");
        fs::write(Path::new("/sys/fs/ext4").join(name).join("trigger_fs_error"), "1").expect("making an error");
    }

    /// Unmounts it, has the filesystem checked and mended, and mounts it again, as an operator would. Nobody may use it.
    pub fn mend(&self) {
        self.unmount();
        self.mount_mended();
    }

    /// Unmounts it for a while.
    pub fn unmount(&self) {
        run("umount", &[&self.root.display().to_string()]);
    }

    /// Mounts it again after a check.
    pub fn mount_mended(&self) {
        if self.kind == Kind::Ext4 {
            let path = self.image.path().join("image").display().to_string();
            let checked = Command::new("e2fsck").args(["-f", "-y", &path]).output().expect("running e2fsck");
            // 1 = there were errors, and they were mended.
            assert!(matches!(checked.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&checked.stdout));
        }
        // XFS mends itself by replaying its log.
        mount(self.kind, self.image.path(), &self.root);
    }

    /// Mounts it anew with another option, such as `ro`; false if the kernel refuses.
    pub fn remount(&self, option: &str) -> bool {
        let root = self.root.display().to_string();
        let options = format!("remount,{option}");
        let remounted = Command::new("mount").args(["-o", &options, &root]).stderr(Stdio::null()).status();
        remounted.is_ok_and(|status| status.success())
    }

    /// Bytes root can still write.
    pub fn free_bytes(&self) -> u64 {
        RealDisk.space(&self.root).expect("asking the volume").free_bytes
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // A process that still ends may hold it for a moment; then it goes with its last file.
        let root = self.root.display().to_string();
        let unmounted = Command::new("umount").arg(&root).stderr(Stdio::null()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            let _ = Command::new("umount").args(["-l", &root]).status();
        }
    }
}

/// Mounts the image in a folder.
fn mount(kind: Kind, folder: &Path, root: &Path) {
    let options = match kind {
        Kind::Ext4 => "loop",
        // A copy has the name of the one it is a copy of.
        Kind::Xfs => "loop,nouuid",
    };
    let path = folder.join("image").display().to_string();
    run("mount", &["-o", options, &path, &root.display().to_string()]);
}

pub fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?} (root and loop devices are needed): {stderr}");
}

/// Fills the volume with one file until not one more byte can be written, not even by root.
pub fn fill_with(path: &Path) {
    let file = File::options().create(true).append(true).open(path).expect("making a foreign file");
    for length in [1 << 20, 64 << 10, 4 << 10, 1] {
        let zeros = vec![0x5a; length];
        while (&file).write_all(&zeros).is_ok() {}
    }
    let last = (&file).write_all(&[1]).expect_err("the volume is not full");
    assert_eq!(last.kind(), io::ErrorKind::StorageFull);
}

/// Fills the volume with named files in the staging areas until not one more byte can be written, not even by root.
/// Returns how many files lie there then; a full ext4 still makes empty ones.
pub fn fill(tmp_dir: &Path) -> usize {
    let labels = [("uploads", "upload"), ("parts", "0190-abandoned/1"), ("bootstrap", "bootstrap")];
    let mut files = 0;
    for length in [1 << 20, 64 << 10, 4 << 10, 1] {
        loop {
            let (area, label) = labels[files % labels.len()];
            let path = tmp_dir.join(area).join(format!("{label}-{files}"));
            match write(&path, length) {
                Ok(()) => files += 1,
                Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
    }
    assert!(files > 10, "only {files} files fitted");
    let last = write(&tmp_dir.join("uploads/upload-last"), 1).expect_err("the volume is not full");
    assert_eq!(last.kind(), io::ErrorKind::StorageFull);
    files_below(tmp_dir).len()
}

fn write(path: &Path, length: usize) -> io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        fs::create_dir_all(folder)?;
    }
    File::create(path)?.write_all(&vec![0x5a; length])
}

/// The digest of every file below a folder.
pub fn hashes(folder: &Path) -> BTreeMap<PathBuf, blake3::Hash> {
    let hash = |path: PathBuf| {
        let digest = blake3::hash(&fs::read(&path).expect("reading a file"));
        (path, digest)
    };
    files_below(folder).into_iter().map(hash).collect()
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("listing a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found
}
