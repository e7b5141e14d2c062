//! Every name kura uses on disk, and the making of missing directories.

use std::path::{Path, PathBuf};

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
