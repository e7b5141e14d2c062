//! What the machine offers, from which some defaults derive.
//!
//! Failure: what cannot be read counts as a small machine, so that a default is never too large.

use std::path::{Path, PathBuf};

use crate::core::base::cgroups::memory_limit;

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
    memory_limit(Path::new("/"), "self").map_or(MEMORY_BYTES_FALLBACK, |limit| limit.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_something_to_offer() {
        let machine = Machine::of_this_process();
        assert!(machine.memory_bytes > 0 && machine.cpus > 0 && machine.open_files_max > 0);
    }
}
