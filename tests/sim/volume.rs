//! A node's volume as an operator handles it: emptied, copied, put back.

use std::path::Path;

use anyhow::{Context as _, Result};

/// Copies a folder with all in it over another one, which is emptied first. A store that is open while it is copied
/// looks afterwards as after a power cut, as a snapshot of its volume does.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    empty(to)?;
    copy_into(from, to)
}

fn copy_into(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("listing {}", from.display()))? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_into(&source, &target)?;
        } else if kind.is_file() {
            std::fs::copy(&source, &target).with_context(|| format!("copying {}", source.display()))?;
        }
    }
    Ok(())
}

/// Removes a folder with all in it, if it is there.
pub fn empty(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.with_context(|| format!("emptying {}", folder.display())),
    }
}
