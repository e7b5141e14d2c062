//! What the current or last writing process said of itself: `run.json`.
//!
//! How it works: written beside its place and renamed over it, by the holder of the data-dir lock only: when it starts,
//! with each heartbeat and, marked clean, when it stops. It is a statement, never a proof: whether the process lives is
//! for the lock to say.
//!
//! Invariants: fields this binary does not know are kept when the record it read is written back. Nothing depends on the
//! record being there: on a full volume no new one can be made, so the bytes of the old one are overwritten, which needs no
//! space; where not even that works the stale one of an earlier process is removed rather than left to speak for this one.
//! What stopped a process's writes is told in the same way on a disk that fails: whoever looks next reads it out of the
//! page cache, if nothing else is left.
//!
//! Failure: a crash while writing leaves `run.json.new`, which the next write replaces. An overwritten record may be torn by
//! a power loss; then it does not decode, and the next start writes another.

use std::io::{self, Read};

use serde_json::{Map, Value};

use super::layout::Layout;
use super::space::is_storage_full;
use crate::core::base::disk::Disk;
use crate::core::base::ids::InstanceId;

/// A record is a few hundred bytes; more than this is not one.
const RECORD_BYTES_MAX: u64 = 64 << 10;

/// How often a running node renews its heartbeat.
pub const HEARTBEAT_INTERVAL: std::time::Duration = std::time::Duration::from_secs(10);

/// What a process says of itself.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RunRecord {
    /// This run of this process.
    pub instance_id: InstanceId,
    /// The boot of the machine it ran in: unsynced bytes survive a killed process, but not another boot.
    #[serde(default)]
    pub boot_id: String,
    /// Process id on its host.
    pub pid: u32,
    /// Host name.
    pub host: String,
    /// kura's version.
    pub version: String,
    /// Unix milliseconds.
    pub started_at_ms: u64,
    /// Whether it stopped in order.
    pub clean: bool,
    /// Whether everything it stages carries a kernel lock or has no name, so that what has neither is dead.
    #[serde(default)]
    pub staging_locks: bool,
    /// Unix milliseconds of the last sign of life.
    #[serde(default)]
    pub heartbeat_ms: u64,
    /// Where it answers `kura doctor`, if it does.
    #[serde(default)]
    pub control_socket: Option<String>,
    /// The port for build tools.
    #[serde(default)]
    pub port: Option<u16>,
    /// The port for peers.
    #[serde(default)]
    pub internal_port: Option<u16>,
    /// What stopped its writes, if something did: for whoever looks once it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
    /// Fields of later versions.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// Why a process could not write to its volume.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Trouble {
    /// The first error, with the path that it is about.
    pub reason: String,
    /// Unix milliseconds of when it was noted.
    pub at_ms: u64,
}

/// Whether a record reached the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It is written.
    Written,
    /// The volume is full; no record is left.
    NoSpace,
}

impl RunRecord {
    /// The record of this process as it starts.
    pub fn starting(instance_id: InstanceId, now_ms: u64) -> Self {
        Self {
            instance_id,
            boot_id: boot_id(),
            pid: std::process::id(),
            host: super::lock::host_name(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at_ms: now_ms,
            clean: false,
            staging_locks: true,
            heartbeat_ms: now_ms,
            control_socket: None,
            port: None,
            internal_port: None,
            trouble: None,
            unknown: Map::new(),
        }
    }

    /// Reads the record, if there is one. Changes nothing.
    ///
    /// # Errors
    /// What the system says but for "not found"; `InvalidData` if it does not decode.
    pub fn load(layout: &Layout) -> io::Result<Option<Self>> {
        let file = match std::fs::File::open(layout.run_record()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(RECORD_BYTES_MAX).read_to_end(&mut bytes)?;
        serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from)
    }

    /// Writes the record so that a reader sees the old one or the new one. The caller holds the data-dir lock.
    ///
    /// # Errors
    /// What the disk says, but for a full volume.
    pub fn store(&self, layout: &Layout, disk: &dyn Disk) -> io::Result<Recorded> {
        match self.replace(layout, disk) {
            Ok(()) => Ok(Recorded::Written),
            Err(error) if is_storage_full(&error) || self.trouble.is_some() => match self.overwrite(layout, disk) {
                Ok(()) => Ok(Recorded::Written),
                Err(_) if is_storage_full(&error) => {
                    remove(disk, &layout.run_record())?;
                    Ok(Recorded::NoSpace)
                }
                Err(_) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// The same record with a fresh sign of life.
    #[must_use]
    pub fn with_heartbeat(mut self, now_ms: u64) -> Self {
        self.heartbeat_ms = now_ms;
        self
    }

    /// The same record, stopped in order.
    #[must_use]
    pub fn stopped(mut self, now_ms: u64) -> Self {
        self.clean = true;
        self.with_heartbeat(now_ms)
    }

    /// The same record, with what stopped this process's writes.
    #[must_use]
    pub fn with_trouble(mut self, reason: Option<String>, now_ms: u64) -> Self {
        self.trouble = reason.map(|reason| Trouble { reason, at_ms: now_ms });
        self
    }

    fn to_text(&self) -> io::Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Writes over the record that is there, without a sync. What is left of a longer one becomes empty lines.
    fn overwrite(&self, layout: &Layout, disk: &dyn Disk) -> io::Result<()> {
        let file = std::fs::File::options().write(true).open(layout.run_record())?;
        let mut text = self.to_text()?;
        let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        text.resize(text.len().max(length), b'\n');
        disk.write_all_at(&file, &text, 0)
    }

    fn replace(&self, layout: &Layout, disk: &dyn Disk) -> io::Result<()> {
        let path = layout.run_record();
        let fresh = path.with_extension("json.new");
        remove(disk, &fresh)?;
        let text = self.to_text()?;
        let written = disk.create_new(&fresh).and_then(|file| {
            disk.write_all_at(&file, &text, 0)?;
            disk.sync_data(&file)
        });
        if let Err(error) = written.and_then(|()| disk.rename(&fresh, &path)) {
            // The half-written file goes as well as it can; the next write would remove it too.
            let _ = disk.unlink(&fresh);
            return Err(error);
        }
        disk.sync_dir(layout.data_dir())
    }
}

/// The id of this boot of the machine; empty where the kernel does not tell.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

fn remove(disk: &dyn Disk, path: &std::path::Path) -> io::Result<()> {
    match disk.unlink(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::base::disk::{DiskOperation, FaultDisk, RealDisk};

    fn bench() -> (tempfile::TempDir, Layout, FaultDisk) {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::with_default_tmp(root.path());
        (root, layout, FaultDisk::new(std::sync::Arc::new(RealDisk)))
    }

    #[test]
    fn what_is_stored_is_loaded_and_unknown_fields_are_kept() {
        let (_root, layout, disk) = bench();
        assert_eq!(RunRecord::load(&layout).unwrap(), None);
        let mut record = RunRecord::starting(InstanceId([7; 16]), 1_700_000_000_000);
        record.unknown.insert("of_later".to_owned(), serde_json::json!({"a": 1}));
        assert_eq!(record.store(&layout, &disk).unwrap(), Recorded::Written);
        let read = RunRecord::load(&layout).unwrap().unwrap();
        assert_eq!(read, record);
        let stopped = read.stopped(1_700_000_000_500);
        stopped.store(&layout, &disk).unwrap();
        let text = std::fs::read_to_string(layout.run_record()).unwrap();
        assert!(text.contains("\"of_later\"") && text.contains("\"clean\": true"), "{text}");
        assert!(!record.boot_id.is_empty() && record.staging_locks);
    }

    #[test]
    fn a_full_volume_leaves_no_record_rather_than_a_stale_one() {
        let (_root, layout, disk) = bench();
        RunRecord::starting(InstanceId([1; 16]), 1).store(&layout, &disk).unwrap();
        disk.set_rule(Some(Box::new(|operation, _, _| {
            (operation == DiskOperation::Write).then(|| io::ErrorKind::StorageFull.into())
        })));
        let recorded = RunRecord::starting(InstanceId([2; 16]), 2).store(&layout, &disk).unwrap();
        assert_eq!((recorded, RunRecord::load(&layout).unwrap()), (Recorded::NoSpace, None));
        assert_eq!(std::fs::read_dir(layout.data_dir()).unwrap().count(), 0);
    }

    #[test]
    fn a_volume_that_takes_no_new_file_has_its_record_overwritten() {
        let (_root, layout, disk) = bench();
        let long = RunRecord { version: "x".repeat(300), ..RunRecord::starting(InstanceId([1; 16]), 1) };
        for error in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
            disk.set_rule(None);
            long.store(&layout, &disk).unwrap();
            let length = std::fs::metadata(layout.run_record()).unwrap().len();
            disk.set_rule(Some(Box::new(move |operation, _, _| {
                (operation == DiskOperation::Sync).then(|| error.into())
            })));
            let next = RunRecord::starting(InstanceId([2; 16]), 2).with_trouble(Some("/d: no".to_owned()), 3);
            assert_eq!(next.store(&layout, &disk).unwrap(), Recorded::Written, "{error}");
            assert_eq!(RunRecord::load(&layout).unwrap(), Some(next));
            assert_eq!(std::fs::metadata(layout.run_record()).unwrap().len(), length);
            assert_eq!(std::fs::read_dir(layout.data_dir()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_record_of_before_has_no_trouble() {
        let (_root, layout, _) = bench();
        let before = r#"{"instance_id":"07070707070707070707070707070707","pid":1,"host":"h","version":"0.1.0",
            "started_at_ms":1,"clean":false,"staging_locks":true,"heartbeat_ms":2}"#;
        std::fs::write(layout.run_record(), before).unwrap();
        assert_eq!(RunRecord::load(&layout).unwrap().unwrap().trouble, None);
    }

    #[test]
    fn any_other_failure_leaves_the_old_record() {
        let (_root, layout, disk) = bench();
        let old = RunRecord::starting(InstanceId([1; 16]), 1);
        for failing in 0..4 {
            disk.set_rule(None);
            old.store(&layout, &disk).unwrap();
            // Operation 0 removes a leftover, the last but one renames.
            disk.set_rule(Some(Box::new(move |_, _, number| {
                (number == failing).then(|| io::Error::other("on purpose"))
            })));
            assert!(RunRecord::starting(InstanceId([2; 16]), 2).store(&layout, &disk).is_err());
            assert_eq!(RunRecord::load(&layout).unwrap().as_ref(), Some(&old));
        }
    }

    #[test]
    fn a_record_that_does_not_decode_is_invalid_data() {
        let (_root, layout, _) = bench();
        std::fs::write(layout.run_record(), "{}").unwrap();
        assert_eq!(RunRecord::load(&layout).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
