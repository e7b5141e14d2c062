//! A memory control group for a process under test, of either version of the kernel's interface. It needs root.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::wait::eventually;

/// A group with a limit; dropping it removes it, once its processes are gone.
#[derive(Debug)]
pub struct MemoryGroup {
    folder: PathBuf,
    peak: &'static str,
}

impl MemoryGroup {
    /// A group whose processes together get this many bytes, page cache included.
    pub fn new(limit_bytes: u64) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("kura-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let root = Path::new("/sys/fs/cgroup");
        let (parent, limit, peak) = if root.join("cgroup.controllers").exists() {
            // Where it is set already, or may not be, making the group tells.
            let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
            (root.to_path_buf(), "memory.max", "memory.peak")
        } else {
            (root.join("memory"), "memory.limit_in_bytes", "memory.max_usage_in_bytes")
        };
        let folder = parent.join(name);
        let made = fs::create_dir(&folder).and_then(|()| fs::write(folder.join(limit), limit_bytes.to_string()));
        made.unwrap_or_else(|error| panic!("a memory control group (root is needed): {error}"));
        Self { folder, peak }
    }

    /// A line for a shell that puts itself into the group and becomes a command.
    pub fn line(&self, command: &str) -> String {
        format!("sh -c 'echo $$ > {}/cgroup.procs && exec {command}'", self.folder.display())
    }

    /// The most its processes ever had at once.
    pub fn peak_bytes(&self) -> u64 {
        let text = fs::read_to_string(self.folder.join(self.peak)).expect("reading the group's peak");
        text.trim().parse().expect("a number")
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            eventually("an empty memory group", Duration::from_secs(10), || fs::remove_dir(&self.folder));
        }
    }
}
