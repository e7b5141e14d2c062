//! The metric families of catching up and replication.

use prometheus::{Histogram, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec};

use crate::core::mesh::circuit::{CircuitState, Circuits, Transition};
use crate::core::mesh::readiness::ReadinessSnapshot;
use crate::core::telemetry::metrics::MetricsRegistry;

/// How an item reached this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplySource {
    /// A peer sent it.
    Replication,
    /// This node fetched it.
    Bootstrap,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplyOutcome {
    /// It is new here.
    Applied,
    /// It, or something newer, was here.
    IgnoredStale,
    /// Its namespace was deleted later.
    IgnoredTombstone,
    /// A newer delete was here.
    IgnoredOlder,
    /// It could not be applied.
    Error,
}

/// What was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemType {
    /// An artifact.
    Artifact,
    /// The delete of a namespace.
    NamespaceDelete,
}

/// What happened to the transfer of a long body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    /// It went on where an earlier one had ended.
    TakenUp,
    /// Its connection broke.
    Cut,
    /// The whole was wrong, and its parts were not of one holder.
    BegunAnew,
}

/// How bodies are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyRequest {
    /// Many by one request.
    Bulk,
    /// One by itself.
    Single,
}

/// The families.
#[derive(Debug, Clone)]
pub struct CatchUpMetrics {
    transfers: IntCounterVec,
    apply_results: IntCounterVec,
    applied_items: IntCounterVec,
    runs: IntCounterVec,
    digest_buckets: IntCounterVec,
    duration: Histogram,
    discovered_peers: IntGauge,
    known_peers: IntGauge,
    completed_peers: IntGauge,
    inflight_peers: IntGauge,
    body_requests: IntCounterVec,
    circuits: IntGaugeVec,
    circuit_transitions: IntCounterVec,
    pushes: IntCounterVec,
    push_duration: HistogramVec,
}

const SOURCES: [&str; 2] = ["replication", "bootstrap"];
const ITEM_TYPES: [&str; 2] = ["artifact", "namespace_delete"];
const OUTCOMES: [&str; 5] = ["applied", "ignored_stale", "ignored_tombstone", "ignored_older", "error"];

fn transitions(registry: &MetricsRegistry) -> IntCounterVec {
    let name = "kura_peer_circuit_transitions_total";
    let family = registry.counters(name, "Changes of the circuits of peers.", &["from", "to"]);
    for (from, to) in [("closed", "open"), ("open", "closed"), ("half_open", "open"), ("half_open", "closed")] {
        family.with_label_values(&[from, to]);
    }
    family
}

/// The one thing that is pushed: nodes of kura pull.
const PUSHED: &str = "delete_namespace";

fn pushes(registry: &MetricsRegistry) -> IntCounterVec {
    let name = "kura_replication_requests_total";
    let family = registry.counters(name, "Requests that push to peers of the seed era.", &["operation", "result"]);
    ["ok", "error"].iter().for_each(|result| drop(family.with_label_values(&[PUSHED, result])));
    family
}

fn touched_histogram(registry: &MetricsRegistry) -> HistogramVec {
    let name = "kura_replication_request_duration_seconds";
    let family = registry.histograms(name, "Seconds that a request which pushes took.", &["operation"]);
    drop(family.with_label_values(&[PUSHED]));
    family
}

impl CatchUpMetrics {
    /// Adds the families to a registry.
    pub fn new(registry: &MetricsRegistry) -> Self {
        let apply_results = registry.counters(
            "kura_replication_apply_results_total",
            "Items from peers by what became of them.",
            &["source", "item_type", "outcome"],
        );
        for source in SOURCES {
            for item_type in ITEM_TYPES {
                OUTCOMES.iter().for_each(|outcome| {
                    apply_results.with_label_values(&[source, item_type, outcome]);
                });
            }
        }
        let touched = |name: &str, help: &str, label: &str, values: &[&str]| {
            let family = registry.counters(name, help, &[label]);
            values.iter().for_each(|value| {
                family.with_label_values(&[value]);
            });
            family
        };
        Self {
            transfers: touched(
                "kura_bootstrap_long_transfers_total",
                "What happened to transfers of long bodies.",
                "event",
                &["taken_up", "cut", "begun_anew"],
            ),
            apply_results,
            applied_items: touched(
                "kura_bootstrap_applied_items_total",
                "Items applied while catching up.",
                "item_type",
                &["artifact", "namespace_tombstone"],
            ),
            runs: touched("kura_bootstrap_runs_total", "Passes over a peer.", "result", &["ok", "error"]),
            digest_buckets: touched(
                "kura_bootstrap_digest_buckets_total",
                "Digest buckets of seed-era peers.",
                "result",
                &["matched", "walked"],
            ),
            duration: registry.histogram("kura_bootstrap_duration_seconds", "Time a pass over a peer took."),
            discovered_peers: registry.gauge("kura_discovered_peer_nodes", "Peers that answer now."),
            known_peers: registry.gauge("kura_bootstrap_known_peers", "Peers that answered at least once."),
            completed_peers: registry.gauge("kura_bootstrap_completed_peers", "Peers whose data is settled."),
            body_requests: touched(
                "kura_bootstrap_body_requests_total",
                "Requests to peers for bodies: many by one, or one by itself.",
                "kind",
                &["bulk", "single"],
            ),
            circuits: registry.gauges("kura_peer_circuits", "Peers by how their circuit stands.", &["state"]),
            circuit_transitions: transitions(registry),
            pushes: pushes(registry),
            push_duration: touched_histogram(registry),
            inflight_peers: registry.gauge("kura_bootstrap_inflight_peers", "Peers with a pass under way."),
        }
    }

    /// Counts what happened to the transfer of a long body.
    pub fn transfer(&self, event: Transfer) {
        let event = match event {
            Transfer::TakenUp => "taken_up",
            Transfer::Cut => "cut",
            Transfer::BegunAnew => "begun_anew",
        };
        self.transfers.with_label_values(&[event]).inc();
    }

    /// Counts an item from a peer.
    pub fn applied(&self, source: ApplySource, item: ItemType, outcome: ApplyOutcome) {
        self.many_applied(source, item, outcome, 1);
    }

    /// Counts items from a peer.
    pub fn many_applied(&self, source: ApplySource, item: ItemType, outcome: ApplyOutcome, count: u64) {
        let labels = [
            match source {
                ApplySource::Replication => "replication",
                ApplySource::Bootstrap => "bootstrap",
            },
            match item {
                ItemType::Artifact => "artifact",
                ItemType::NamespaceDelete => "namespace_delete",
            },
            match outcome {
                ApplyOutcome::Applied => "applied",
                ApplyOutcome::IgnoredStale => "ignored_stale",
                ApplyOutcome::IgnoredTombstone => "ignored_tombstone",
                ApplyOutcome::IgnoredOlder => "ignored_older",
                ApplyOutcome::Error => "error",
            },
        ];
        self.apply_results.with_label_values(&labels).inc_by(count);
        if source == ApplySource::Bootstrap && outcome == ApplyOutcome::Applied {
            let item = if item == ItemType::Artifact { "artifact" } else { "namespace_tombstone" };
            self.applied_items.with_label_values(&[item]).inc_by(count);
        }
    }

    /// Counts a request for bodies.
    pub fn bodies_requested(&self, kind: BodyRequest) {
        let kind = match kind {
            BodyRequest::Bulk => "bulk",
            BodyRequest::Single => "single",
        };
        self.body_requests.with_label_values(&[kind]).inc();
    }

    /// Counts a delete that was pushed, or was not taken.
    pub fn delete_pushed(&self, taken: bool, elapsed: std::time::Duration) {
        self.pushes.with_label_values(&[PUSHED, if taken { "ok" } else { "error" }]).inc();
        self.push_duration.with_label_values(&[PUSHED]).observe(elapsed.as_secs_f64());
    }

    /// Counts a change of a peer's circuit.
    pub fn circuit_changed(&self, changed: Transition) {
        self.circuit_transitions.with_label_values(&[changed.from.name(), changed.to.name()]).inc();
    }

    /// Sets the gauges of circuits.
    pub fn observe_circuits(&self, circuits: &Circuits) {
        for state in CircuitState::ALL {
            let count = i64::try_from(circuits.count(state)).unwrap_or(i64::MAX);
            self.circuits.with_label_values(&[state.name()]).set(count);
        }
    }

    /// Counts a pass.
    pub fn pass(&self, clean: bool, elapsed: std::time::Duration) {
        self.runs.with_label_values(&[if clean { "ok" } else { "error" }]).inc();
        self.duration.observe(elapsed.as_secs_f64());
    }

    /// Counts a comparison of digests.
    pub fn buckets(&self, matched: u64, walked: u64) {
        self.digest_buckets.with_label_values(&["matched"]).inc_by(matched);
        self.digest_buckets.with_label_values(&["walked"]).inc_by(walked);
    }

    /// Sets the gauges of peers.
    pub fn observe_peers(&self, snapshot: &ReadinessSnapshot) {
        let count = |length: usize| i64::try_from(length).unwrap_or(i64::MAX);
        self.discovered_peers.set(count(snapshot.peers.iter().filter(|peer| peer.reachable).count()));
        self.known_peers.set(count(snapshot.known_peers.len()));
        self.completed_peers.set(count(snapshot.bootstrapped_peers.len()));
        self.inflight_peers.set(count(snapshot.bootstrap_inflight_peers.len()));
    }
}
