//! Whether the volume below the data dir takes writes, asked without writing.
//!
//! How it works: a mount that is read-only says so to `statvfs`. A filesystem that stopped taking writes after an error
//! need not: since Linux 6.12 an ext4 mounted with `errors=remount-ro` keeps the flag rw and refuses each write. Then the
//! options of its superblock, the count of errors that it keeps, and what stopped the running node's writes tell. An XFS that
//! shut itself down says nothing in its mount and answers every look with EIO: that is the sign of it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{StatVfsMountFlags, major, minor};

use super::volume::about;
use crate::core::doctor::check::{About, Check, CheckError, Outcome, Pulse};
use crate::core::doctor::context::{Context, Vantage};
use crate::core::doctor::finding::{Code, Evidence, Remedy, Severity};

/// Words among a superblock's options that say that nothing is written any more.
const REFUSING: [&str; 2] = ["emergency_ro", "shutdown"];

/// The C library's words for EROFS and EIO, which is how they come through the index's errors.
const EROFS: &str = "Read-only file system";
/// A filesystem that gave up its journal answers a sync so.
const EIO: &str = "Input/output error";

/// Whether the volume takes writes.
#[derive(Debug)]
pub struct DataDirReadOnly;

impl Check for DataDirReadOnly {
    fn about(&self) -> About {
        let about = about(Code::DataDirReadOnly, "the data dir's volume takes writes", Severity::Fail);
        // A filesystem that answers nothing is named here, and DATA_DIR_MISSING then says nothing of it.
        About { needs: &[], ..about }
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let Some(layout) = &context.layout else { return Ok(Outcome::skip("the settings do not name a data dir")) };
        let path = layout.data_dir();
        match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => {}
            Err(error) if is_shut_down(&error) => return Ok(shut_down(context, path, &error)),
            _ => return Ok(Outcome::skip("DATA_DIR_MISSING failed")),
        }
        let stat = rustix::fs::statvfs(path).map_err(|error| CheckError::from_error("ask for mount flags", &error))?;
        let is_read_only = stat.f_flag.contains(StatVfsMountFlags::RDONLY);
        let found = Found::look(context, path);
        let mut evidence = Evidence::new();
        if let Some(errors) = found.errors {
            evidence = evidence.value("filesystem_errors", errors);
        }
        if is_read_only {
            let evidence = evidence.value("read_only", true).fact("the mount has the flag ro");
            return Ok(refuses("the volume is mounted read-only", found.count_errors(evidence)));
        }
        if let Some(word) = &found.refusing {
            let evidence = evidence.value("option", word.as_str()).fact(format!("the mount has the option {word}"));
            return Ok(refuses("the filesystem takes no more writes", found.count_errors(evidence)));
        }
        if let Some(reason) = refused_to_node(context, found.errors) {
            let evidence = evidence.value("reason", reason).fact(reason);
            return Ok(refuses("the filesystem refuses the running node's writes", found.count_errors(evidence)));
        }
        match found.errors {
            Some(1..) => Ok(remembers_errors(found.count_errors(evidence))),
            _ => Ok(Outcome::ok("the volume is mounted for writing").evidence(evidence)),
        }
    }
}

fn refuses(message: &str, evidence: Evidence) -> Outcome {
    Outcome::fail(message)
        .evidence(evidence)
        .effect("nothing can be stored, deleted or freed; kura serve does not start")
        .remedy(
            Remedy::text(
                "ext4 and XFS turn read-only after disk errors: read the kernel's log, unmount, check the filesystem \
                 (e2fsck -f, xfs_repair) and mount it again",
            )
            .look("dmesg --level=err,warn | tail -n 50"),
        )
}

/// Whether a look at a folder failed as on a filesystem that shut itself down, or on a disk that cannot be read.
pub(super) fn is_shut_down(error: &std::io::Error) -> bool {
    let codes = [rustix::io::Errno::IO, rustix::io::Errno::SHUTDOWN];
    codes.iter().any(|code| error.raw_os_error() == Some(code.raw_os_error()))
}

fn shut_down(context: &Context, path: &Path, error: &std::io::Error) -> Outcome {
    let mounts = std::fs::read_to_string(context.world.root.join("proc/self/mountinfo")).unwrap_or_default();
    let mut evidence = Evidence::new()
        .value("path", path.to_string_lossy())
        .value("error", error.to_string())
        .fact(format!("{}: {error}", path.display()));
    if let Some((kind, device)) = mounted_at(&mounts, path) {
        evidence = evidence
            .value("filesystem", kind)
            .value("device", device)
            .fact(format!("it lies on {device}, mounted as {kind}"));
    }
    Outcome::fail("the filesystem has shut down, or its disk cannot be read")
        .evidence(evidence)
        .effect("nothing can be read or written; kura serve does not start, and a running node answers from memory at best")
        .remedy(
            Remedy::text(
                "XFS shuts down when its log cannot be written: read the kernel's log, mend or replace the disk, unmount the \
                 volume and mount it again, which replays the log (xfs_repair only if the mount fails)",
            )
            .look("dmesg --level=err,warn | tail -n 50"),
        )
}

/// Type and source of the mount that a path lies on, by names alone: the path itself cannot be looked at. Of mounts on one
/// folder the last counts.
fn mounted_at<'a>(mounts: &'a str, path: &Path) -> Option<(&'a str, &'a str)> {
    let lies_on = |line: &&str| line.split(' ').nth(4).is_some_and(|root| path.starts_with(root));
    let depth = |line: &&str| line.split(' ').nth(4).map_or(0, |root| Path::new(root).components().count());
    let (_, source) = mounts.lines().filter(lies_on).max_by_key(depth)?.split_once(" - ")?;
    let mut words = source.split(' ');
    Some((words.next()?, words.next()?))
}

fn remembers_errors(evidence: Evidence) -> Outcome {
    Outcome::warn("the filesystem remembers errors that no check has mended")
        .evidence(evidence)
        .effect(
            "with errors=remount-ro it may refuse all writes, now or at the next error, without a sign in its mount",
        )
        .remedy(
            Remedy::text("read the kernel's log; in a quiet hour unmount the volume, run e2fsck -f and mount it again")
                .look("dmesg --level=err,warn | tail -n 50"),
        )
}

/// What stopped the running node's writes, if it was the filesystem that refused them.
fn refused_to_node(context: &Context, errors: Option<u64>) -> Option<&str> {
    let Vantage::Live(status) = &context.vantage else { return None };
    let reason = status.store.as_ref()?.write_stopped.as_deref()?;
    let is_refusal = reason.contains(EROFS) || (reason.contains(EIO) && errors.is_some_and(|errors| errors > 0));
    is_refusal.then_some(reason)
}

/// What the kernel tells of the filesystem.
#[derive(Debug, Default)]
struct Found {
    /// The option that says that nothing is written any more.
    refusing: Option<String>,
    /// Errors since the filesystem was checked; ext4 alone counts them.
    errors: Option<u64>,
}

impl Found {
    /// What is not there or cannot be read is not known.
    fn look(context: &Context, path: &Path) -> Self {
        let root = &context.world.root;
        let Ok(device) = std::fs::metadata(path).map(|found| found.dev()) else { return Self::default() };
        let device = format!("{}:{}", major(device), minor(device));
        let mounts = std::fs::read_to_string(root.join("proc/self/mountinfo")).unwrap_or_default();
        Self { refusing: refusing_option(&mounts, &device), errors: errors_of(root, &device) }
    }

    fn count_errors(&self, evidence: Evidence) -> Evidence {
        match self.errors {
            Some(errors @ 1..) => {
                evidence.fact(format!("the filesystem counts {errors} errors since it was last checked"))
            }
            _ => evidence,
        }
    }
}

/// The option of the device's superblock that says that it takes no writes. All mounts of a device share these options,
/// while the flag ro of one mount says nothing of another.
fn refusing_option(mounts: &str, device: &str) -> Option<String> {
    let mut of_device = mounts.lines().filter(|line| line.split(' ').nth(2) == Some(device));
    of_device.find_map(|line| {
        let (_, source) = line.split_once(" - ")?;
        let options = source.split(' ').nth(2)?;
        options.split(',').find(|option| REFUSING.contains(option)).map(str::to_owned)
    })
}

/// The count of errors that ext4 keeps for this device.
fn errors_of(root: &Path, device: &str) -> Option<u64> {
    let link = std::fs::read_link(root.join("sys/dev/block").join(device)).ok()?;
    let path = root.join("sys/fs/ext4").join(link.file_name()?).join("errors_count");
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
#[path = "read_only_tests.rs"]
mod tests;
