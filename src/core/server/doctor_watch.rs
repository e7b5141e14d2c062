//! The node's own doctor: the checks that cost little, every minute, as metrics and as a line for each change.
//!
//! How it works: a thread of its own runs the checks one after another (see [`crate::core::doctor::watch`]); the next
//! look comes [`LOOK_INTERVAL`] after the last one has ended.
//!
//! Invariants: one look at a time, so a check that hangs in the kernel costs one thread and no more; the age of the
//! last look then tells. Nothing here changes anything or opens the index a second time, reads bodies or dials peers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{Gauge, IntGaugeVec};
use tokio::sync::oneshot;

use super::node::NodeContext;
use crate::core::doctor::context::{Asked, Context, Mode, Settings, Verify, World};
use crate::core::doctor::finding::{Code, Status};
use crate::core::doctor::watch::{self, Seen};
use crate::core::telemetry::metrics::MetricsRegistry;

/// Between two looks. What is found stays for minutes, and people need some to come.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// A node that has only just started is not ready yet, and that is no finding.
const FIRST_LOOK_AFTER: Duration = Duration::from_secs(10);

/// The values of `severity`: how a check ended that found something, or could not look.
const SEVERITIES: [(&str, Status); 3] = [("warn", Status::Warn), ("fail", Status::Fail), ("error", Status::Error)];

/// The families; cheap to clone.
#[derive(Debug, Clone)]
pub struct DoctorMetrics {
    checks: IntGaugeVec,
    last_look: Gauge,
}

impl DoctorMetrics {
    /// Adds the families to a registry; each watched code shows 0 from the start.
    pub fn new(registry: &MetricsRegistry) -> Self {
        let checks = registry.gauges(
            "kura_doctor_check",
            "1 while the node's own doctor finds this; severity error is a check that could not look.",
            &["code", "severity"],
        );
        let name = "kura_doctor_last_run_timestamp_seconds";
        let last_look = registry.measure(name, "When the node's own doctor last looked, in Unix seconds; 0 before.");
        let metrics = Self { checks, last_look };
        watch::watched().for_each(|check| metrics.show(check.about().code, Status::Ok));
        metrics
    }

    fn show(&self, code: Code, found: Status) {
        for (severity, status) in SEVERITIES {
            self.checks.with_label_values(&[code.as_str(), severity]).set(i64::from(status == found));
        }
    }
}

/// Runs until the node's shutdown.
pub(super) async fn run(node: Arc<NodeContext>) {
    tokio::select! {
        biased;
        () = node.shutdown.cancelled() => {}
        () = look_forever(&node) => {}
    }
}

async fn look_forever(node: &Arc<NodeContext>) {
    let mut known = BTreeMap::new();
    tokio::time::sleep(FIRST_LOOK_AFTER).await;
    loop {
        if let Some(seen) = look(node).await {
            take(&node.doctor_metrics, &mut known, &seen);
            node.doctor_metrics.last_look.set(Duration::from_millis(node.seams.clock.now_ms()).as_secs_f64());
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// One look on a thread of its own, which is left behind if the node ends first.
async fn look(node: &Arc<NodeContext>) -> Option<Vec<Seen>> {
    let (sender, receiver) = oneshot::channel();
    let settings = Settings::Resolved(Arc::clone(&node.config));
    let world = World {
        clock: Arc::clone(&node.seams.clock),
        disk: Arc::clone(&node.seams.disk),
        transport: None,
        runtime: tokio::runtime::Handle::current(),
        root: "/".into(),
        positions: None,
        watch: None,
    };
    let asked = Asked { mode: Mode::Auto, verify: Verify::None };
    let spawned = std::thread::Builder::new().name("doctor watch".to_owned()).spawn(move || {
        // Nobody listens any more once the node ends.
        let _ = sender.send(watch::look(&Context::new(settings, asked, world)));
    });
    match spawned {
        Ok(_) => receiver.await.ok(),
        Err(error) => {
            tracing::warn!(%error, "doctor_watch_failed");
            None
        }
    }
}

/// Shows what was seen, and says what is new.
fn take(metrics: &DoctorMetrics, known: &mut BTreeMap<Code, Status>, seen: &[Seen]) {
    for Seen { code, status, message } in seen {
        metrics.show(*code, *status);
        let before = known.insert(*code, *status).unwrap_or(Status::Ok);
        match (is_finding(before), is_finding(*status)) {
            (_, true) if before != *status => {
                tracing::warn!(%code, status = ?status, %message, "doctor_finding_began");
            }
            (true, false) => tracing::info!(%code, "doctor_finding_ended"),
            _ => {}
        }
    }
}

fn is_finding(status: Status) -> bool {
    SEVERITIES.iter().any(|(_, finding)| *finding == status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_while_it_lasts_under_the_severity_it_has() {
        let registry = MetricsRegistry::new();
        let metrics = DoctorMetrics::new(&registry);
        let mut known = BTreeMap::new();
        let mut shown = |status| {
            let seen = Seen { code: Code::DiskNearfull, status, message: String::new() };
            take(&metrics, &mut known, &[seen]);
            let of = |severity: &str| metrics.checks.with_label_values(&["DISK_NEARFULL", severity]).get();
            (of("warn"), of("fail"), of("error"))
        };
        assert_eq!(shown(Status::Ok), (0, 0, 0));
        assert_eq!(shown(Status::Warn), (1, 0, 0));
        assert_eq!(shown(Status::Fail), (0, 1, 0));
        assert_eq!(shown(Status::Error), (0, 0, 1));
        assert_eq!(shown(Status::Skip), (0, 0, 0));
    }
}
