//! How much memory the kernel lets a process have, as its control group says.
//!
//! How it works: `/proc/<pid>/cgroup` names the group. The limit that binds is the smallest of the group and everything
//! above it, in the second generation (`memory.max`) and in the first (`memory.limit_in_bytes`). A container often sees
//! only its own part of the tree, so a group whose folder is not there is looked for further up.
//!
//! Invariant: all files are read below a root that is given, so that tests lay out real ones.

use std::path::{Path, PathBuf};

/// The first generation writes "no limit" as a number near 2^63; no machine has a sixteenth of that.
const LIMIT_BYTES_MAX: u64 = 1 << 59;

/// A limit and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryLimit {
    /// Bytes.
    pub bytes: u64,
    /// The file, or `/proc/meminfo` where no group has a limit.
    pub path: PathBuf,
    /// Whether it is a limit of a group, and not just what the machine has.
    pub is_group: bool,
}

/// The memory a process may have; `None` where nothing can be read. `process` is a pid or `self`.
pub fn memory_limit(root: &Path, process: &str) -> Option<MemoryLimit> {
    let groups = std::fs::read_to_string(root.join(format!("proc/{process}/cgroup"))).unwrap_or_default();
    let limits = group_files(root, &groups).into_iter().filter_map(|path| {
        let bytes = read_number(&path).filter(|bytes| *bytes < LIMIT_BYTES_MAX)?;
        Some(MemoryLimit { bytes, path, is_group: true })
    });
    let host = root.join("proc/meminfo");
    let total = std::fs::read_to_string(&host).ok().and_then(|text| mem_total_bytes(&text));
    let host = total.map(|bytes| MemoryLimit { bytes, path: host, is_group: false });
    limits.chain(host).min_by_key(|limit| limit.bytes)
}

/// Files in which a limit may stand: of the group, and of each one above it.
fn group_files(root: &Path, groups: &str) -> Vec<PathBuf> {
    let unified = root.join("sys/fs/cgroup");
    let mut files = Vec::new();
    let mut add = |mount: PathBuf, group: &str, file: &str| {
        let group = Path::new(group.trim_start_matches('/'));
        files.extend(group.ancestors().map(|part| mount.join(part).join(file)));
    };
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) = (fields.next(), fields.next(), fields.next()) else { continue };
        if controllers.is_empty() {
            add(unified.clone(), group, "memory.max");
        } else if controllers.split(',').any(|name| name == "memory") {
            add(unified.join("memory"), group, "memory.limit_in_bytes");
        }
    }
    files
}

fn read_number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// `MemTotal:  16384 kB` in bytes.
fn mem_total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    fn limit(files: &[(&str, &str)]) -> Option<(u64, bool)> {
        memory_limit(machine(files).path(), "self").map(|limit| (limit.bytes, limit.is_group))
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:       16384 kB\nMemFree: 1 kB\n");

    #[test]
    fn the_smallest_limit_above_a_process_binds_it_in_both_generations() {
        let second = [
            MEMINFO,
            ("proc/self/cgroup", "0::/pod/kura\n"),
            ("sys/fs/cgroup/pod/kura/memory.max", "max\n"),
            ("sys/fs/cgroup/pod/memory.max", "4096\n"),
        ];
        assert_eq!(limit(&second), Some((4096, true)));
        let first = [
            MEMINFO,
            ("proc/self/cgroup", "5:cpu:/docker/x\n4:memory:/docker/x\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "8192\n"),
        ];
        assert_eq!(limit(&first), Some((8192, true)), "a container sees its own group as the root");
        let named = machine(&[("proc/7/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "5\n")]);
        assert_eq!(memory_limit(named.path(), "7").unwrap().bytes, 5);
    }

    #[test]
    fn without_a_limit_it_is_what_the_machine_has() {
        let none = [
            MEMINFO,
            ("proc/self/cgroup", "4:memory:/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(limit(&none), Some((16 << 20, false)));
        assert_eq!(limit(&[]), None);
        assert!(memory_limit(Path::new("/"), "self").is_some_and(|limit| limit.bytes > 0));
    }
}
