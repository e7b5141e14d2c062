//! What the kernel knows of this process, read from `/proc` when metrics are asked for.
//!
//! Failure: what cannot be read keeps its last value; a scrape never fails for it.

use prometheus::IntGauge;

use super::metrics::MetricsRegistry;

/// Reported to user space in hundredths of a second on every Linux, whatever the kernel's own tick.
const CLOCK_TICKS_PER_SECOND: i64 = 100;

/// The families of the process itself.
#[derive(Debug, Clone)]
pub struct ProcessMetrics {
    resident_bytes: IntGauge,
    resident_anon_bytes: IntGauge,
    resident_file_bytes: IntGauge,
    virtual_bytes: IntGauge,
    open_files: IntGauge,
    open_files_max: IntGauge,
}

/// What `/proc/self/status` says, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryUse {
    /// Resident in all.
    pub resident_bytes: u64,
    /// Resident, of no file: heap and stacks.
    pub anon_bytes: u64,
    /// Resident, mapped from files.
    pub file_bytes: u64,
    /// Address space.
    pub virtual_bytes: u64,
}

impl ProcessMetrics {
    /// Makes the families and sets what never changes.
    pub fn new(metrics: &MetricsRegistry) -> Self {
        let start = metrics.gauge("kura_process_start_time_seconds", "When the process started, in Unix seconds.");
        if let Some(seconds) = start_time_seconds() {
            start.set(seconds);
        }
        let made = Self {
            resident_bytes: metrics.gauge("kura_process_resident_memory_bytes", "Resident memory."),
            resident_anon_bytes: metrics.gauge("kura_process_resident_anon_bytes", "Resident memory of no file."),
            resident_file_bytes: metrics
                .gauge("kura_process_resident_file_bytes", "Resident memory mapped from files."),
            virtual_bytes: metrics.gauge("kura_process_virtual_memory_bytes", "Address space."),
            open_files: metrics.gauge("kura_process_open_fds", "Open file descriptors."),
            open_files_max: metrics.gauge("kura_process_max_fds", "The limit on open file descriptors."),
        };
        made.refresh();
        made
    }

    /// Reads everything again; called before each exposition. Takes microseconds and touches only `/proc`.
    pub fn refresh(&self) {
        if let Some(memory) = memory_use() {
            self.resident_bytes.set(signed(memory.resident_bytes));
            self.resident_anon_bytes.set(signed(memory.anon_bytes));
            self.resident_file_bytes.set(signed(memory.file_bytes));
            self.virtual_bytes.set(signed(memory.virtual_bytes));
        }
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            // One of them is the folder being read.
            self.open_files.set(i64::try_from(entries.count()).unwrap_or(i64::MAX).saturating_sub(1));
        }
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        self.open_files_max.set(limit.map_or(-1, signed));
    }
}

/// This process's memory now.
pub fn memory_use() -> Option<MemoryUse> {
    Some(parse_status(&std::fs::read_to_string("/proc/self/status").ok()?))
}

fn parse_status(status: &str) -> MemoryUse {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kib.unwrap_or(0).saturating_mul(1024)
    };
    MemoryUse {
        resident_bytes: field("VmRSS"),
        anon_bytes: field("RssAnon"),
        file_bytes: field("RssFile"),
        virtual_bytes: field("VmSize"),
    }
}

/// Boot time plus the process's start in ticks since boot.
fn start_time_seconds() -> Option<i64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let boot = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: i64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + start_ticks(&stat)? / CLOCK_TICKS_PER_SECOND)
}

/// The 22nd field; the second is a name in brackets that may hold spaces.
fn start_ticks(stat: &str) -> Option<i64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_status_file() {
        let memory = parse_status("Name:\tkura\nVmSize:\t  10 kB\nVmRSS:\t   3 kB\nRssAnon:\t 2 kB\nRssFile:\t 1 kB\n");
        let expected = MemoryUse { resident_bytes: 3072, anon_bytes: 2048, file_bytes: 1024, virtual_bytes: 10_240 };
        assert_eq!(memory, expected);
    }

    #[test]
    fn the_start_is_the_22nd_field_even_after_an_odd_name() {
        let fields: Vec<String> = (3..=30).map(|n| (n * 100).to_string()).collect();
        assert_eq!(start_ticks(&format!("1 (a ) b) {}", fields.join(" "))), Some(2200));
    }

    #[test]
    fn a_living_process_has_memory_files_and_a_start() {
        let metrics = MetricsRegistry::new();
        let process = ProcessMetrics::new(&metrics);
        process.refresh();
        assert!(process.resident_bytes.get() > 0 && process.open_files.get() > 2 && process.open_files_max.get() > 0);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let started = start_time_seconds().unwrap();
        assert!(started <= now as i64 + 1 && started > now as i64 - 3600, "{started} {now}");
    }
}
