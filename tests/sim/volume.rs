//! A node's volume as an operator handles it: emptied, copied, put back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

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
