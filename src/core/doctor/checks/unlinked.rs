//! Files of the volume that have no name any more and whose bytes stay taken, because the running node has them open.
//!
//! How it works: `/proc/<pid>/fd` of the node, twice with a pause. A file that is open both times, lies on the data
//! dir's or the tmp dir's volume and has no link is counted with the blocks it takes. Staged files of kura never had a
//! name (the kernel shows them as `#<inode>`); they are the ledger's and left out.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::core::base::units::ByteSize;
use crate::core::doctor::check::{About, Category, Check, CheckError, Outcome, Pulse, QUICK_LIMIT, Reach};
use crate::core::doctor::context::Context;
use crate::core::doctor::finding::{Code, Evidence, Remedy, Severity};

/// Between the two looks: a read of a body that was evicted meanwhile ends within it, unless its client is slow.
const PAUSE: Duration = Duration::from_millis(500);
/// Below this nobody misses the bytes: tables that a compaction replaced are held for a moment.
const HELD_BYTES_MIN: u64 = 64 << 20;
/// What the kernel counts blocks in.
const SECTOR_BYTES: u64 = 512;
/// What the kernel puts behind the path of a file without a name.
const DELETED_SUFFIX: &str = " (deleted)";

/// Whether the node holds deleted files open.
#[derive(Debug)]
pub struct DeletedButOpen;

impl Check for DeletedButOpen {
    fn about(&self) -> About {
        About {
            code: Code::DeletedButOpen,
            category: Category::Volume,
            title: "no deleted file is held open",
            reach: Reach::Live,
            severity: Severity::Warn,
            fatal: false,
            needs: &[Code::DataDirMissing],
            limit: QUICK_LIMIT,
        }
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let pid = context.live()?.pid;
        let volumes = volumes(context)?;
        let first = held(pid, &volumes)?;
        if bytes_of(&first) < HELD_BYTES_MIN {
            return Ok(quiet(&first));
        }
        std::thread::sleep(PAUSE);
        let mut both = held(pid, &volumes)?;
        both.retain(|inode, _| first.contains_key(inode));
        Ok(if bytes_of(&both) < HELD_BYTES_MIN { quiet(&both) } else { found(pid, &both) })
    }
}

/// A file without a name.
#[derive(Debug, Clone)]
struct Held {
    path: PathBuf,
    bytes: u64,
    handles: u64,
}

fn bytes_of(files: &BTreeMap<(u64, u64), Held>) -> u64 {
    files.values().map(|file| file.bytes).sum()
}

fn quiet(files: &BTreeMap<(u64, u64), Held>) -> Outcome {
    let bytes = bytes_of(files);
    Outcome::ok(format!("{} of deleted files are held open", ByteSize(bytes)))
        .evidence(Evidence::new().value("files", files.len()).value("bytes", bytes))
}

fn found(pid: u32, files: &BTreeMap<(u64, u64), Held>) -> Outcome {
    let (bytes, handles) = (bytes_of(files), files.values().map(|file| file.handles).sum::<u64>());
    let mut largest: Vec<&Held> = files.values().collect();
    largest.sort_by_key(|file| std::cmp::Reverse(file.bytes));
    let lines: Vec<String> =
        largest.iter().map(|file| format!("{} in {}", ByteSize(file.bytes), file.path.display())).collect();
    let evidence = Evidence::new()
        .value("pid", pid)
        .value("files", files.len())
        .value("handles", handles)
        .value("bytes", bytes)
        .fact(format!("pid {pid} has {handles} handles to {} files without a name", files.len()))
        .list("paths", &lines, lines.len() as u64);
    Outcome::warn(format!("{} of deleted files are held open", ByteSize(bytes)))
        .evidence(evidence)
        .effect("the space comes back only when the last handle closes: df and du disagree by so much")
        .remedy(Remedy::text(
            "look again in a minute (a slow client may be reading an evicted body); if it stays, restart the node",
        ))
}

/// The volumes of data dir and tmp dir.
fn volumes(context: &Context) -> Result<Vec<u64>, CheckError> {
    let layout = context.layout()?;
    let volumes: Vec<u64> = [layout.data_dir(), layout.tmp_dir()]
        .iter()
        .filter_map(|path| std::fs::metadata(path).ok())
        .map(|found| found.dev())
        .collect();
    if volumes.is_empty() {
        Err(CheckError("neither data dir nor tmp dir can be looked at".to_owned()))
    } else {
        Ok(volumes)
    }
}

/// What a process has open of these volumes that has no name, by device and inode.
fn held(pid: u32, volumes: &[u64]) -> Result<BTreeMap<(u64, u64), Held>, CheckError> {
    let folder = PathBuf::from(format!("/proc/{pid}/fd"));
    let entries = std::fs::read_dir(&folder).map_err(|error| {
        CheckError(format!(
            "failed to list {}: {error} (ask as the node's own user, in its container)",
            folder.display()
        ))
    })?;
    let mut files: BTreeMap<(u64, u64), Held> = BTreeMap::new();
    for entry in entries.flatten() {
        // A handle that closed meanwhile holds nothing.
        let (Ok(target), Ok(about)) = (std::fs::read_link(entry.path()), std::fs::metadata(entry.path())) else {
            continue;
        };
        if !about.is_file() || about.nlink() > 0 || !volumes.contains(&about.dev()) || is_staged(&target, about.ino()) {
            continue;
        }
        let held = files.entry((about.dev(), about.ino())).or_insert_with(|| Held {
            path: target,
            bytes: about.blocks().saturating_mul(SECTOR_BYTES),
            handles: 0,
        });
        held.handles += 1;
    }
    Ok(files)
}

/// A file that was opened without a name.
fn is_staged(target: &Path, inode: u64) -> bool {
    let name = target.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.trim_end_matches(DELETED_SUFFIX) == format!("#{inode}")
}

#[cfg(test)]
#[path = "unlinked_tests.rs"]
mod tests;
