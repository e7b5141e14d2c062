//! What the machine offers, from which some defaults derive.
//!
//! Failure: what cannot be read counts as a small machine, so that a default is never too large.

use std::path::{Path, PathBuf};

/// Facts about the machine and the process; tests make their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Memory this process may use: the smaller of the host's and the container's.
    pub memory_bytes: u64,
    /// CPUs this process may use.
    pub cpus: usize,
    /// Open files this process may have.
    pub open_files_max: u64,
    /// What relative paths are relative to.
    pub current_dir: PathBuf,
}

/// Assumed when nothing can be read: the smallest container worth running in.
const MEMORY_BYTES_FALLBACK: u64 = 512 << 20;

/// Assumed without a limit to read; the usual soft limit.
const OPEN_FILES_FALLBACK: u64 = 1024;

/// Where a container's memory limit stands, in both generations of control groups.
const CGROUP_MEMORY_FILES: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

impl Machine {
    /// Reads the facts of this process.
    pub fn of_this_process() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Self {
            memory_bytes: memory_bytes(),
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            open_files_max: limit.unwrap_or(OPEN_FILES_FALLBACK),
            current_dir: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
        }
    }
}

fn memory_bytes() -> u64 {
    let limits = CGROUP_MEMORY_FILES.iter().filter_map(|path| read_number(Path::new(path)));
    limits.chain(host_memory_bytes()).min().unwrap_or(MEMORY_BYTES_FALLBACK)
}

fn read_number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn host_memory_bytes() -> Option<u64> {
    mem_total_bytes(&std::fs::read_to_string("/proc/meminfo").ok()?)
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

    #[test]
    fn memory_is_read_from_meminfo() {
        assert_eq!(mem_total_bytes("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16 << 20));
        assert_eq!(mem_total_bytes("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn this_machine_has_something_to_offer() {
        let machine = Machine::of_this_process();
        assert!(machine.memory_bytes > 0 && machine.cpus > 0 && machine.open_files_max > 0);
    }
}
