//! A staged file as a guard: dropping it frees its bytes and its reservation.

use std::fs::File;
use std::io;
use std::path::Path;

/// A file in a staging area that nobody else can see (`O_TMPFILE`) or take (a locked name).
#[derive(Debug)]
pub struct StagedFile {}

impl StagedFile {
    /// The open file, readable and writable.
    pub fn file(&self) -> &File {
        todo!()
    }

    /// Gives the file its committed name; the staged name, if any, is removed and the reservation ends.
    /// On an error the guard still owns the bytes and frees them when dropped.
    pub fn link_to(&mut self, path: &Path) -> io::Result<()> {
        let _ = path;
        todo!()
    }
}
