//! The families about the room on the volume; they mirror what its keeper last saw.

use prometheus::{IntGauge, IntGaugeVec};

use crate::core::data_dir::capacity::Stage;
use crate::core::data_dir::space_watch::SpaceStatus;
use crate::core::telemetry::metrics::MetricsRegistry;

/// The families; cheap to clone.
#[derive(Debug, Clone)]
pub struct SpaceMetrics {
    total: IntGauge,
    free: IntGauge,
    capacity: IntGauge,
    ballast: IntGauge,
    stage: IntGauge,
    paused: IntGaugeVec,
}

impl SpaceMetrics {
    /// Adds the families to a registry.
    pub fn new(registry: &MetricsRegistry) -> Self {
        let gauge = |name: &str, help: &str| registry.gauge(name, help);
        let paused = registry.gauges(
            "kura_background_work_paused",
            "1 while a worker rests because the volume is short of space.",
            &["worker"],
        );
        paused.with_label_values(&["catch_up"]).set(0);
        Self {
            total: gauge("kura_volume_bytes", "Size of the data dir's volume, or of the quota on it."),
            free: gauge("kura_volume_free_bytes", "Bytes that this node can still write."),
            capacity: gauge("kura_store_capacity_bytes", "What artifacts may take now."),
            ballast: gauge("kura_ballast_bytes", "Space kept in reserve."),
            stage: gauge(
                "kura_space_stage",
                "0 room, 1 catching up rests, 2 eviction under pressure, 3 client bodies refused.",
            ),
            paused,
        }
    }

    /// Mirrors what was last seen.
    pub fn observe(&self, status: &SpaceStatus) {
        self.total.set(signed(status.total_bytes));
        self.free.set(signed(status.free_bytes));
        self.capacity.set(signed(status.capacity_bytes));
        self.ballast.set(signed(status.ballast_bytes));
        self.stage.set(match status.stage {
            Stage::Normal => 0,
            Stage::Paused => 1,
            Stage::Pressed => 2,
            Stage::Refusing => 3,
        });
        self.paused.with_label_values(&["catch_up"]).set(i64::from(status.stage > Stage::Normal));
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
