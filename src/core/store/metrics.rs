//! What the store counts while it works.
//!
//! How it works: the families live as long as the process; a store that is opened is given them, so that a reopen
//! goes on counting.

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

use super::committer::CommitOutcome;
use super::error::StoreError;
use super::index::IndexMemory;
use crate::core::telemetry::metrics::MetricsRegistry;

/// The values of `outcome`.
const OUTCOMES: [&str; 11] = [
    "applied",
    "already_present",
    "stale",
    "body_needed",
    "tombstoned",
    "evicted",
    "clock_skew",
    "deleted",
    "delete_ignored",
    "withdrawn",
    "error",
];

/// Why an artifact was evicted; the values of `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EvictionReason {
    /// Its time was over.
    Expired,
    /// The store was at its capacity.
    Capacity,
    /// The volume was short of space.
    Pressure,
}

impl EvictionReason {
    const ALL: [Self; 3] = [Self::Expired, Self::Capacity, Self::Pressure];

    fn label(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Capacity => "capacity",
            Self::Pressure => "pressure",
        }
    }
}

/// The store's families.
#[derive(Debug, Clone)]
pub struct StoreMetrics {
    changes: IntCounterVec,
    groups: IntCounter,
    group_duration: Histogram,
    bodies_removed: IntCounter,
    breaker_refusals: IntCounter,
    evictions: IntCounterVec,
    evicted_bytes: IntCounter,
    relocations: IntCounter,
    charged_bytes: IntGauge,
    retention: IntGauge,
    stubs: IntGauge,
    breaker_open: IntGauge,
    write_stopped: IntGauge,
    memory: MemoryMetrics,
}

/// The families about what the index holds in memory.
#[derive(Debug, Clone)]
struct MemoryMetrics {
    cache_used: IntGauge,
    cache_pinned: IntGauge,
    cache_max: IntGauge,
    write_buffers_used: IntGauge,
    write_buffers_max: IntGauge,
}

impl MemoryMetrics {
    fn new(registry: &MetricsRegistry) -> Self {
        let gauge = |name: &str, help: &str| registry.gauge(name, help);
        Self {
            cache_used: gauge("kura_rocksdb_block_cache_usage_bytes", "Blocks of the index held in memory."),
            cache_pinned: gauge("kura_rocksdb_block_cache_pinned_usage_bytes", "Blocks of the index in use now."),
            cache_max: gauge("kura_rocksdb_block_cache_capacity_bytes", "What the block cache may hold."),
            write_buffers_used: gauge("kura_rocksdb_write_buffer_usage_bytes", "Rows not yet written to tables."),
            write_buffers_max: gauge(
                "kura_rocksdb_write_buffer_capacity_bytes",
                "What may wait to be written to tables.",
            ),
        }
    }
}

impl StoreMetrics {
    /// Makes the families.
    pub fn new(registry: &MetricsRegistry) -> Self {
        let changes = registry.counters(
            "kura_store_changes_total",
            "Changes by what they came to in the committer.",
            &["outcome"],
        );
        for outcome in OUTCOMES {
            changes.with_label_values(&[outcome]);
        }
        let evictions =
            registry.counters("kura_store_evictions_total", "Artifacts evicted to make room, by reason.", &["reason"]);
        for reason in EvictionReason::ALL {
            evictions.with_label_values(&[reason.label()]);
        }
        Self {
            changes,
            evictions,
            evicted_bytes: registry
                .counter("kura_store_evicted_bytes_total", "Charged bytes of the bodies of evicted artifacts."),
            relocations: registry.counter(
                "kura_store_relocated_bodies_total",
                "Inline bodies moved so that the table files they lay in could be dropped.",
            ),
            charged_bytes: registry.gauge(
                "kura_store_charged_bytes",
                "What all bodies take on the volume, with those that wait to be removed.",
            ),
            retention: registry.gauge("kura_store_retention_seconds", "Age of the oldest artifact; 0 without any."),
            stubs: registry.gauge("kura_store_stubs", "Evicted versions remembered one by one."),
            breaker_open: registry.gauge(
                "kura_store_withdraw_breaker_open",
                "1 while bad bodies are left in place because there were too many at once.",
            ),
            write_stopped: registry
                .gauge("kura_store_write_stopped", "1 while nothing is written to the index because a write failed."),
            memory: MemoryMetrics::new(registry),
            groups: registry.counter("kura_store_commit_groups_total", "Groups of changes committed together."),
            group_duration: registry
                .histogram("kura_store_commit_duration_seconds", "Time a group took, from its first change to its answers."),
            bodies_removed: registry
                .counter("kura_store_bodies_removed_total", "Bodies removed because no manifest names them any more."),
            breaker_refusals: registry.counter(
                "kura_store_withdraw_refusals_total",
                "Bad bodies left in place because there were too many at once or the bodies folder is not the one it was.",
            ),
        }
    }

    pub(crate) fn changed(&self, outcome: Result<&CommitOutcome, &StoreError>) {
        self.changes.with_label_values(&[name_of(outcome)]).inc();
    }

    pub(crate) fn group(&self, took: std::time::Duration) {
        self.groups.inc();
        self.group_duration.observe(took.as_secs_f64());
    }

    pub(crate) fn removed(&self, bodies: u64) {
        self.bodies_removed.inc_by(bodies);
    }

    pub(crate) fn evicted(&self, reason: EvictionReason, artifacts: u64, bytes: u64) {
        self.evictions.with_label_values(&[reason.label()]).inc_by(artifacts);
        self.evicted_bytes.inc_by(bytes);
    }

    pub(crate) fn relocated(&self, bodies: u64) {
        self.relocations.inc_by(bodies);
    }

    /// Sets the gauges, when somebody looks.
    pub(crate) fn show(&self, charged_bytes: u64, retention: std::time::Duration, stubs: u64) {
        self.charged_bytes.set(shown(charged_bytes));
        self.retention.set(shown(retention.as_secs()));
        self.stubs.set(shown(stubs));
    }

    /// Sets the gauges of what does not work, when somebody looks.
    pub(crate) fn show_trouble(&self, breaker_open: bool, write_stopped: bool) {
        self.breaker_open.set(i64::from(breaker_open));
        self.write_stopped.set(i64::from(write_stopped));
    }

    /// Sets the gauges of the index's memory.
    pub(crate) fn sampled(&self, memory: IndexMemory) {
        self.memory.cache_used.set(shown(memory.cache_used_bytes));
        self.memory.cache_pinned.set(shown(memory.cache_pinned_bytes));
        self.memory.cache_max.set(shown(memory.cache_max_bytes));
        self.memory.write_buffers_used.set(shown(memory.write_buffers_used_bytes));
        self.memory.write_buffers_max.set(shown(memory.write_buffers_max_bytes));
    }

    pub(crate) fn refused_withdrawal(&self) {
        self.breaker_refusals.inc();
    }
}

fn shown(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn name_of(outcome: Result<&CommitOutcome, &StoreError>) -> &'static str {
    match outcome {
        Ok(CommitOutcome::Applied(_)) => "applied",
        Ok(CommitOutcome::AlreadyPresent(_)) => "already_present",
        Ok(CommitOutcome::Stale(_)) => "stale",
        Ok(CommitOutcome::BodyNeeded) => "body_needed",
        Ok(CommitOutcome::Tombstoned) => "tombstoned",
        Ok(CommitOutcome::Evicted) => "evicted",
        Ok(CommitOutcome::ClockSkew { .. }) => "clock_skew",
        Ok(CommitOutcome::Deleted { .. }) => "deleted",
        Ok(CommitOutcome::DeleteIgnored) => "delete_ignored",
        Ok(CommitOutcome::Withdrawn(_)) => "withdrawn",
        Err(_) => "error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_shows_from_the_start() {
        let registry = MetricsRegistry::new();
        let metrics = StoreMetrics::new(&registry);
        metrics.changed(Ok(&CommitOutcome::BodyNeeded));
        metrics.changed(Err(&StoreError::NotOpen));
        let text = registry.encode().unwrap();
        assert!(OUTCOMES.iter().all(|name| text.contains(&format!("outcome=\"{name}\""))));
        assert!(text.contains("kura_store_changes_total{outcome=\"error\"} 1"));
        for reason in ["expired", "capacity", "pressure"] {
            assert!(text.contains(&format!("kura_store_evictions_total{{reason=\"{reason}\"}} 0")));
        }
    }
}
