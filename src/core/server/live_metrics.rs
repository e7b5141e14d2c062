//! The families that mirror a state of the node; they are set when somebody looks.
//!
//! Invariant: everything comes from memory, so that a scrape is answered while the disk hangs.

use std::time::Duration;

use prometheus::{Gauge, GaugeVec, IntGauge};

use super::node::NodeContext;
use crate::core::config::Config;
use crate::core::mesh::readiness::{ReadinessSnapshot, TrafficState};
use crate::core::telemetry::metrics::MetricsRegistry;

/// The steps of start-up; each shows from the start, as 0 until it has ended.
pub const STEPS: [&str; 12] = [
    "lock",
    "bind_listeners",
    "make_directories",
    "adopt_partials",
    "reclaim_staging",
    "release_ballast",
    "open_store",
    "open_store_without_partials",
    "evict_below_watermark",
    "restore_ballast",
    "discover_peers",
    "catch_up",
];

/// The families; cheap to clone.
#[derive(Debug, Clone)]
pub struct LiveMetrics {
    traffic_state: IntGauge,
    ready_state: IntGauge,
    complete_state: IntGauge,
    drain_state: IntGauge,
    discovery_completed: IntGauge,
    lock_owned: IntGauge,
    staging_bytes: IntGauge,
    staging_max_bytes: IntGauge,
    staging_waiting: IntGauge,
    multipart_uploads: IntGauge,
    artifacts: IntGauge,
    artifact_bytes: IntGauge,
    startup_steps: GaugeVec,
    heartbeat_age: Gauge,
    rows_settled: IntGauge,
    rows_expected: IntGauge,
    last_advance: Gauge,
    excused_peers: IntGauge,
}

impl LiveMetrics {
    /// Adds the families to a registry.
    pub fn new(registry: &MetricsRegistry, config: &Config) -> Self {
        let info = registry.gauges(
            "kura_node_info",
            "1; what the node is, in its labels.",
            &["region", "tenant_id", "version"],
        );
        info.with_label_values(&[config.region.as_str(), &config.tenant_id, env!("CARGO_PKG_VERSION")]).set(1);
        let startup_steps = registry.measures(
            "kura_startup_step_duration_seconds",
            "Seconds each step of start-up took; 0 until it has ended, and where it was not needed.",
            &["step"],
        );
        STEPS.iter().for_each(|step| startup_steps.with_label_values(&[step]).set(0.0));
        let gauge = |name: &str, help: &str| registry.gauge(name, help);
        Self {
            traffic_state: gauge("kura_traffic_state", "0 joining, 1 serving, 2 draining."),
            ready_state: gauge("kura_ready_state", "1 when the node is ready for traffic."),
            complete_state: gauge("kura_complete_state", "1 when all that the peers had when it joined is settled."),
            drain_state: gauge("kura_drain_state", "1 while the node drains."),
            discovery_completed: gauge("kura_initial_discovery_completed", "1 once the first discovery round is done."),
            lock_owned: gauge("kura_writer_lock_owned", "1 while the data dir's lock is held."),
            staging_bytes: gauge("kura_tmp_dir_bytes", "Bytes reserved in the staging ledger."),
            staging_max_bytes: gauge("kura_tmp_dir_max_bytes", "What may be reserved in the staging ledger."),
            staging_waiting: gauge("kura_tmp_dir_waiting", "Bodies that wait for room in the staging ledger."),
            multipart_uploads: gauge("kura_multipart_uploads", "Open multipart uploads."),
            artifacts: gauge("kura_store_artifacts", "Live artifacts in the store."),
            artifact_bytes: gauge("kura_store_artifact_bytes", "Bytes of the bodies of live artifacts."),
            startup_steps,
            heartbeat_age: registry.measure(
                "kura_store_heartbeat_age_seconds",
                "Seconds since the store last answered a lookup that goes the way of a client's, or was first asked one.",
            ),
            rows_settled: gauge("kura_bootstrap_rows_settled", "Rows settled in the passes over peers that are not settled."),
            rows_expected: gauge("kura_bootstrap_rows_expected", "Rows in those passes, once each peer said; else 0."),
            last_advance: registry.measure(
                "kura_bootstrap_last_advance_age_seconds",
                "Seconds since a row, page or body came from a peer that is not settled; 0 when all are, or none came yet.",
            ),
            excused_peers: gauge("kura_bootstrap_excused_peers", "Peers that are no longer waited for."),
        }
    }

    /// Mirrors the node as it is now.
    pub fn observe(&self, node: &NodeContext, snapshot: &ReadinessSnapshot) {
        self.traffic_state.set(match snapshot.state {
            TrafficState::Joining => 0,
            TrafficState::Serving => 1,
            TrafficState::Draining => 2,
        });
        self.ready_state.set(i64::from(snapshot.ready));
        self.complete_state.set(i64::from(snapshot.complete));
        self.drain_state.set(i64::from(node.drain.is_draining()));
        self.discovery_completed.set(i64::from(snapshot.initial_discovery_completed));
        self.lock_owned.set(i64::from(snapshot.writer_lock_owned));
        self.staging_bytes.set(signed(node.staging.reserved_bytes()));
        self.staging_max_bytes.set(signed(node.staging.budget_bytes()));
        self.staging_waiting.set(i64::try_from(node.staging.ledger().waiting()).unwrap_or(i64::MAX));
        self.multipart_uploads.set(i64::try_from(node.uploads.count()).unwrap_or(i64::MAX));
        let heartbeat_age = node.store_beat.age(node.seams.clock.monotonic());
        self.heartbeat_age.set(heartbeat_age.as_secs_f64());
        self.observe_startup(node);
        self.observe_progress(snapshot, node.seams.clock.now_ms());
        if let Some(store) = node.store.current() {
            store.show_metrics();
            let stats = store.stats();
            self.artifacts.set(signed(stats.artifacts));
            self.artifact_bytes.set(signed(stats.body_bytes));
        }
    }

    fn observe_startup(&self, node: &NodeContext) {
        for step in node.startup.steps() {
            let seconds = step.duration_ms.map(|ms| Duration::from_millis(ms).as_secs_f64());
            self.startup_steps.with_label_values(&[step.name]).set(seconds.unwrap_or(0.0));
        }
    }

    fn observe_progress(&self, snapshot: &ReadinessSnapshot, now_ms: u64) {
        let progress = snapshot.progress();
        self.rows_settled.set(signed(progress.done));
        self.rows_expected.set(signed(progress.total.unwrap_or(0)));
        let unsettled = snapshot.peers.iter().filter(|peer| !peer.bootstrapped);
        let last = unsettled.filter_map(|peer| peer.last_advance_ms).max();
        let age_ms = last.map_or(0, |last| now_ms.saturating_sub(last));
        self.last_advance.set(Duration::from_millis(age_ms).as_secs_f64());
        self.excused_peers.set(i64::try_from(progress.excused_peers).unwrap_or(i64::MAX));
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
