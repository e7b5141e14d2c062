//! Whether the memory the kernel gives is enough for what the settings ask for.
//!
//! Invariant: kura refuses nobody for want of memory (clean page cache and slab are the kernel's to give back), so what
//! is weighed is only what the process itself must hold.

use crate::core::base::cgroups::{MemoryLimit, memory_limit};
use crate::core::base::units::ByteSize;
use crate::core::config::Config;
use crate::core::doctor::check::{About, Category, Check, CheckError, Outcome, Pulse, QUICK_LIMIT, Reach};
use crate::core::doctor::context::{Context, Vantage};
use crate::core::doctor::finding::{Code, Evidence, Remedy, Severity};
use crate::core::store::sizes::IndexSizes;

/// Code, stacks, allocator slack, the marks of reads (4 MiB) and connections of a quiet node.
const PROCESS_BYTES: u64 = 64 << 20;
/// A page of a peer's feed while it is read and decoded: twice the most that is asked for.
const PEER_PAGE_BYTES: u64 = 2 * crate::core::bootstrap::source_backfill::WALK_PAGE_BYTES_MAX;
/// A body on its way from a peer: the largest that is kept in memory.
const BODY_BYTES: u64 = 1 << 20;
/// Requests that hold a buffer at the same time, for each worker thread.
const BUFFERS_A_THREAD: u64 = 16;
/// Such a buffer.
const BUFFER_BYTES: u64 = 256 << 10;
/// Less than this part of the limit left is worth a warning: the allocator fragments, and the kernel's own buffers of
/// sockets and files count against the group, too.
const SPARE_PART: u64 = 8;

/// Whether memory is enough for the settings.
#[derive(Debug)]
pub struct MemoryBudget;

impl Check for MemoryBudget {
    fn about(&self) -> About {
        About {
            code: Code::MemoryBudget,
            category: Category::Config,
            title: "memory is enough for what the settings ask for",
            reach: Reach::Offline,
            severity: Severity::Fail,
            fatal: false,
            needs: &[Code::ConfigInvalid],
            limit: QUICK_LIMIT,
        }
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let config = context.config()?;
        // Without a data dir the largest sizes are taken.
        let volume_bytes = context.space().map_or(u64::MAX, |space| space.total_bytes);
        let process = match &context.vantage {
            Vantage::Live(status) => status.pid.to_string(),
            Vantage::Offline(_) => "self".to_owned(),
        };
        let limit = memory_limit(&context.world.root, &process);
        let limit = limit.ok_or_else(|| CheckError("neither /proc nor a control group tells the memory".to_owned()))?;
        Ok(judged(&limit, &Needs::of(config, volume_bytes)))
    }
}

/// What a node holds at most by its settings, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Needs {
    read_cache: u64,
    write_buffers: u64,
    peer_pages: u64,
    bodies: u64,
    requests: u64,
}

impl Needs {
    fn of(config: &Config, volume_bytes: u64) -> Self {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        Self {
            read_cache: config.metadata_store_read_cache_bytes,
            write_buffers: IndexSizes::for_volume(volume_bytes).write_buffers_bytes,
            peer_pages: count(config.bootstrap_max_concurrent_peers).saturating_mul(PEER_PAGE_BYTES),
            bodies: count(config.bootstrap_concurrency).saturating_mul(BODY_BYTES),
            requests: count(config.tokio_worker_threads).saturating_mul(BUFFERS_A_THREAD * BUFFER_BYTES),
        }
    }

    fn parts(&self) -> [(&'static str, u64); 6] {
        [
            ("read_cache_bytes", self.read_cache),
            ("write_buffers_bytes", self.write_buffers),
            ("peer_pages_bytes", self.peer_pages),
            ("bodies_bytes", self.bodies),
            ("requests_bytes", self.requests),
            ("process_bytes", PROCESS_BYTES),
        ]
    }

    fn total(&self) -> u64 {
        self.parts().iter().fold(0, |total, (_, bytes)| total.saturating_add(*bytes))
    }
}

fn judged(limit: &MemoryLimit, needs: &Needs) -> Outcome {
    let (total, left) = (needs.total(), limit.bytes.saturating_sub(needs.total()));
    let mut evidence = Evidence::new()
        .value("limit_bytes", limit.bytes)
        .value("limit_path", limit.path.to_string_lossy())
        .value("needed_bytes", total)
        .value("left_bytes", left);
    for (key, bytes) in needs.parts() {
        evidence = evidence.value(key, bytes);
    }
    let whose = if limit.is_group { "the control group" } else { "the machine" };
    if left >= limit.bytes / SPARE_PART {
        let message = format!("{} of memory needed at most; {whose} allows {}", ByteSize(total), ByteSize(limit.bytes));
        return Outcome::ok(message).evidence(evidence);
    }
    let evidence = evidence
        .fact(format!("{whose} allows {} ({})", ByteSize(limit.bytes), limit.path.display()))
        .fact(format!("{} needed at most", ByteSize(total)))
        .list("parts", &largest_first(needs), needs.parts().len() as u64);
    let outcome = if left == 0 {
        Outcome::fail("the settings ask for more memory than there is")
    } else {
        Outcome::warn(format!("only {} of memory are left beside what the settings ask for", ByteSize(left)))
    };
    outcome
        .evidence(evidence)
        .effect("under load the kernel kills the process (exit 137); it starts again and catches up each time")
        .remedy(Remedy::text(advice(limit, needs)))
}

fn largest_first(needs: &Needs) -> Vec<String> {
    let mut parts = needs.parts();
    parts.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    parts.map(|(key, bytes)| format!("{}: {}", key.trim_end_matches("_bytes"), ByteSize(bytes))).to_vec()
}

/// The largest part that a setting decides comes first.
fn advice(limit: &MemoryLimit, needs: &Needs) -> String {
    let settings = [
        ("--metadata-store-read-cache-bytes", needs.read_cache),
        ("--bootstrap-max-concurrent-peers", needs.peer_pages),
        ("--bootstrap-concurrency", needs.bodies),
        ("--tokio-worker-threads", needs.requests),
    ];
    let flag = settings.iter().max_by_key(|(_, bytes)| *bytes).map_or("", |(flag, _)| flag);
    let enough = needs.total().saturating_mul(SPARE_PART) / (SPARE_PART - 1) + 1;
    let raise = if limit.is_group { "raise the memory limit" } else { "give the machine more memory, at least" };
    format!("{raise} to {}, or lower {flag} first", ByteSize(enough))
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
