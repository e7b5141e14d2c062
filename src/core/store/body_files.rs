//! Body files: where they lie, how they come in and how they go.
//!
//! How it works: `bodies/<extent in hex>/<number as 16 hex digits>`, an extent being 4,096 numbers. A number is never
//! used twice, so a late unlink cannot hit a newer body.
//!
//! Invariant: the marker `bodies/.kura` exists from the first open on. Without it the folder is not what it was (a
//! volume is not mounted, an operator moved it), and no missing body is believed.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use super::keys::extent_of;
use crate::core::base::disk::Disk;
use crate::core::base::ids::BodyNo;
use crate::core::data_dir::layout::Layout;

/// Most files kept for a look after they were found bad; the oldest goes first.
const QUARANTINE_FILES_MAX: usize = 64;

/// Bad files larger than this are removed at once: with the bound above it keeps the quarantine below 256 MiB.
const QUARANTINE_FILE_BYTES_MAX: u64 = 4 << 20;

/// The folder of an extent.
pub(crate) fn extent_path(layout: &Layout, extent: u64) -> PathBuf {
    layout.bodies().join(format!("{extent:x}"))
}

/// The path of a body.
pub(crate) fn body_path(layout: &Layout, body_no: BodyNo) -> PathBuf {
    extent_path(layout, extent_of(body_no)).join(body_no.to_string())
}

/// The number in a body file's name, if the name is one that kura gives.
pub(crate) fn parse_body_name(name: &str) -> Option<BodyNo> {
    let number = u64::from_str_radix(name, 16).ok().map(BodyNo)?;
    (number.to_string() == name).then_some(number)
}

/// The extent in a folder's name, if the name is one that kura gives.
pub(crate) fn parse_extent_name(name: &str) -> Option<u64> {
    let extent = u64::from_str_radix(name, 16).ok()?;
    (format!("{extent:x}") == name).then_some(extent)
}

/// Makes a folder unless it is there; its parent is synced when it was made.
pub(crate) fn ensure_dir(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    match disk.create_dir(folder) {
        Ok(()) => disk.sync_dir(folder.parent().unwrap_or(folder)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes the marker unless it is there.
pub(crate) fn ensure_marker(disk: &dyn Disk, layout: &Layout) -> io::Result<()> {
    match disk.create_new(&layout.bodies_marker()) {
        Ok(_) => disk.sync_dir(&layout.bodies()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether a missing body can be believed.
pub(crate) fn is_marked(layout: &Layout) -> bool {
    layout.bodies_marker().exists()
}

/// The extents whose folders were made or seen in this process.
#[derive(Debug, Default)]
pub(crate) struct KnownExtents(HashSet<u64>);

/// Extents remembered; a set this large is begun anew, which costs one refused mkdir per extent.
const KNOWN_EXTENTS_MAX: usize = 4096;

impl KnownExtents {
    /// Makes the folder of an extent unless it is known to be there. True if it is now met for the first time.
    pub(crate) fn ensure(&mut self, disk: &dyn Disk, layout: &Layout, extent: u64) -> io::Result<bool> {
        if self.0.contains(&extent) {
            return Ok(false);
        }
        ensure_dir(disk, &extent_path(layout, extent))?;
        if self.0.len() >= KNOWN_EXTENTS_MAX {
            self.0.clear();
        }
        self.0.insert(extent);
        Ok(true)
    }
}

/// Removes a body file that has a garbage row; an absent one is removed already.
pub(crate) fn remove(disk: &dyn Disk, layout: &Layout, body_no: BodyNo) -> io::Result<()> {
    match disk.unlink(&body_path(layout, body_no)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Moves a bad body file to the quarantine, which is kept small; where that fails the file is removed.
pub(crate) fn set_aside(disk: &dyn Disk, layout: &Layout, body_no: BodyNo) -> io::Result<()> {
    if std::fs::metadata(body_path(layout, body_no)).is_ok_and(|file| file.len() > QUARANTINE_FILE_BYTES_MAX) {
        return remove(disk, layout, body_no);
    }
    // Where the folder cannot be made the rename fails, and the file is removed.
    let _ = ensure_dir(disk, &layout.quarantine());
    match disk.rename(&body_path(layout, body_no), &layout.quarantine().join(body_no.to_string())) {
        Ok(()) => trim_quarantine(disk, layout),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) => remove(disk, layout, body_no),
    }
}

/// Body numbers rise, so the lowest name is the oldest body.
fn trim_quarantine(disk: &dyn Disk, layout: &Layout) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(layout.quarantine())? {
        names.push(entry?.file_name());
    }
    names.sort_unstable();
    let excess = names.len().saturating_sub(QUARANTINE_FILES_MAX);
    for name in names.iter().take(excess) {
        disk.unlink(&layout.quarantine().join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::base::disk::RealDisk;

    #[test]
    fn names_are_those_of_the_format_and_only_those_parse() {
        let layout = Layout::with_default_tmp("/data");
        assert_eq!(body_path(&layout, BodyNo(0x12_3456)), Path::new("/data/bodies/123/0000000000123456"));
        assert_eq!(parse_body_name("0000000000123456"), Some(BodyNo(0x12_3456)));
        assert_eq!(parse_extent_name("123"), Some(0x123));
        for name in ["123456", "000000000012345G", "000000000012345A", ".kura", "+000000000000001", ""] {
            assert_eq!(parse_body_name(name), None, "{name:?}");
        }
        assert_eq!((parse_extent_name("0123"), parse_extent_name("+1")), (None, None));
    }

    #[test]
    fn the_quarantine_keeps_the_newest_files_up_to_its_bound() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::with_default_tmp(root.path());
        std::fs::create_dir_all(extent_path(&layout, 0)).unwrap();
        let count = QUARANTINE_FILES_MAX as u64 + 3;
        for number in 0..count {
            std::fs::write(body_path(&layout, BodyNo(number)), "bad").unwrap();
            set_aside(&RealDisk, &layout, BodyNo(number)).unwrap();
        }
        set_aside(&RealDisk, &layout, BodyNo(9999)).unwrap();
        assert_eq!(std::fs::read_dir(layout.quarantine()).unwrap().count(), QUARANTINE_FILES_MAX);
        assert!(!layout.quarantine().join(BodyNo(2).to_string()).exists());
        assert!(layout.quarantine().join(BodyNo(3).to_string()).exists());
    }
}
