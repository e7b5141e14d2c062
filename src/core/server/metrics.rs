//! The metric families of the listeners: requests by route, artifacts by producer, what is in flight, the state.
//!
//! Invariant: labels come from closed lists: route templates, the producers of [`Producer`], three results.

use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounterVec, IntGauge};

use super::public::problem::Limit;
use super::space_metrics::SpaceMetrics;
use crate::core::telemetry::metrics::MetricsRegistry;
use crate::core::telemetry::process::ProcessMetrics;

/// Who made an artifact: the protocol family in its id. A closed list, because it is also a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Producer {
    /// Xcode CAS and key-value.
    Xcode,
    /// Gradle, by plugin or stock.
    Gradle,
    /// Tuist modules.
    Module,
    /// Bazel's remote execution API over gRPC.
    Reapi,
    /// Nx.
    Nx,
    /// Metro.
    Metro,
    /// Bazel's HTTP cache.
    Bazel,
    /// ccache.
    Ccache,
    /// Turborepo.
    Turborepo,
}

impl Producer {
    /// All producers.
    pub const ALL: [Self; 9] = [
        Self::Xcode,
        Self::Gradle,
        Self::Module,
        Self::Reapi,
        Self::Nx,
        Self::Metro,
        Self::Bazel,
        Self::Ccache,
        Self::Turborepo,
    ];

    /// The name in ids, on the wire and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xcode => "xcode",
            Self::Gradle => "gradle",
            Self::Module => "module",
            Self::Reapi => "reapi",
            Self::Nx => "nx",
            Self::Metro => "metro",
            Self::Bazel => "bazel",
            Self::Ccache => "ccache",
            Self::Turborepo => "turborepo",
        }
    }
}

/// How a read or write of an artifact ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArtifactResult {
    /// Served or stored (or already there).
    Ok,
    /// Not here.
    NotFound,
    /// Anything else; a client that went away included.
    Error,
}

impl ArtifactResult {
    const ALL: [Self; 3] = [Self::Ok, Self::NotFound, Self::Error];

    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotFound => "not_found",
            Self::Error => "error",
        }
    }
}

/// A body that fits one piece leaves in no time; its rate is what a microsecond would make of it.
const SHORTEST_EGRESS_SECONDS: f64 = 1e-6;

/// How sending a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EgressResult {
    /// The last byte went out.
    Ok,
    /// The body failed on our side: it was reset.
    Error,
    /// The client went away.
    Aborted,
}

impl EgressResult {
    const ALL: [Self; 3] = [Self::Ok, Self::Error, Self::Aborted];

    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Aborted => "aborted",
        }
    }
}

/// What became of an action-cache hit that may name blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClosureResult {
    /// Every blob it names can be had.
    Whole,
    /// One cannot: it was answered as a miss.
    Incomplete,
    /// It is no action result.
    Opaque,
}

impl ClosureResult {
    const ALL: [Self; 3] = [Self::Whole, Self::Incomplete, Self::Opaque];

    fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Incomplete => "incomplete",
            Self::Opaque => "opaque",
        }
    }
}

/// The families of the public plane and the node's state; cheap to clone.
#[derive(Debug, Clone)]
pub struct ServerMetrics {
    /// Requests by route template and status.
    pub requests: IntCounterVec,
    /// Seconds from a request's head to the end of its answer.
    pub request_duration: Histogram,
    /// Seconds until the head of the answer, by route.
    pub public_latency: HistogramVec,
    /// Requests in flight.
    pub inflight: IntGauge,
    /// Open public connections.
    pub connections: IntGauge,
    /// Open connections of peers.
    pub internal_connections: IntGauge,
    reads: IntCounterVec,
    writes: IntCounterVec,
    read_bytes: IntCounterVec,
    write_bytes: IntCounterVec,
    egress: IntCounterVec,
    egress_bytes: IntCounterVec,
    egress_duration: HistogramVec,
    egress_throughput: HistogramVec,
    closures: IntCounterVec,
    refusals: IntCounterVec,
    /// Multipart parts by result.
    pub multipart_parts: IntCounterVec,
    /// What is known of the room on the volume.
    pub space: SpaceMetrics,
    /// What the process uses.
    pub process: ProcessMetrics,
}

impl ServerMetrics {
    /// Adds the families to a registry; each label combination exists from the start.
    pub fn new(registry: &MetricsRegistry) -> Self {
        let reads_or_writes = |name: &str, help: &str| {
            by_producer(registry, (name, help), &ArtifactResult::ALL.map(ArtifactResult::name))
        };
        let egress =
            |name: &str, help: &str| by_producer(registry, (name, help), &EgressResult::ALL.map(EgressResult::name));
        Self {
            requests: registry.counters(
                "kura_http_requests_total",
                "Requests answered on the public port.",
                &["route", "status"],
            ),
            request_duration: registry.histogram(
                "kura_http_request_duration_seconds",
                "Seconds from a request's head to the end of its answer.",
            ),
            public_latency: registry.histograms(
                "kura_public_request_latency_seconds",
                "Seconds from a request's head to the head of its answer.",
                &["transport", "route"],
            ),
            inflight: registry.gauge("kura_http_inflight_requests", "Public requests in flight."),
            connections: registry.gauge("kura_http_open_connections", "Open connections on the public port."),
            internal_connections: registry
                .gauge("kura_internal_open_connections", "Open connections on the port for peers."),
            reads: reads_or_writes("kura_artifact_reads_total", "Artifact reads by clients of this node."),
            writes: reads_or_writes("kura_artifact_writes_total", "Artifact writes by clients of this node."),
            read_bytes: reads_or_writes("kura_artifact_read_bytes_total", "Bytes of artifacts read by clients."),
            write_bytes: reads_or_writes("kura_artifact_write_bytes_total", "Bytes of artifacts written by clients."),
            egress: egress("kura_artifact_egress_completions_total", "Bodies whose sending ended."),
            egress_bytes: egress("kura_artifact_egress_bytes_total", "Bytes of bodies sent."),
            egress_duration: touched_by_producer(registry.histograms(
                "kura_artifact_egress_duration_seconds",
                "Seconds from the first byte of a body that was sent whole to its last.",
                &["producer"],
            )),
            egress_throughput: touched_by_producer(registry.throughputs(
                "kura_artifact_egress_throughput_bytes_per_second",
                "Bytes a second of bodies that were sent whole.",
                &["producer"],
            )),
            closures: by_closure(registry),
            refusals: by_limit(registry),
            multipart_parts: by_part(registry),
            space: SpaceMetrics::new(registry),
            process: ProcessMetrics::new(registry),
        }
    }

    /// Counts one read; bytes only count when it is served.
    pub fn read(&self, producer: Producer, result: ArtifactResult, bytes: u64) {
        let labels = [producer.name(), result.name()];
        self.reads.with_label_values(&labels).inc();
        self.read_bytes.with_label_values(&labels).inc_by(bytes);
    }

    /// Counts one write.
    pub fn write(&self, producer: Producer, result: ArtifactResult, bytes: u64) {
        let labels = [producer.name(), result.name()];
        self.writes.with_label_values(&labels).inc();
        self.write_bytes.with_label_values(&labels).inc_by(bytes);
    }

    /// Counts one request that a limit refused.
    pub fn refused(&self, limit: Limit) {
        self.refusals.with_label_values(&[limit.name()]).inc();
    }

    /// Counts one action-cache hit that was looked into.
    pub fn closure(&self, result: ClosureResult) {
        self.closures.with_label_values(&[result.name()]).inc();
    }

    /// Counts the end of one body on its way out.
    pub fn egress(&self, producer: Producer, result: EgressResult, bytes: u64, took: Duration) {
        let labels = [producer.name(), result.name()];
        self.egress.with_label_values(&labels).inc();
        self.egress_bytes.with_label_values(&labels).inc_by(bytes);
        if result == EgressResult::Ok {
            let seconds = took.as_secs_f64();
            self.egress_duration.with_label_values(&[producer.name()]).observe(seconds);
            let rate = bytes as f64 / seconds.max(SHORTEST_EGRESS_SECONDS);
            self.egress_throughput.with_label_values(&[producer.name()]).observe(rate);
        }
    }
}

fn touched_by_producer(family: HistogramVec) -> HistogramVec {
    Producer::ALL.iter().for_each(|producer| drop(family.with_label_values(&[producer.name()])));
    family
}

fn by_producer(registry: &MetricsRegistry, (name, help): (&str, &str), results: &[&str]) -> IntCounterVec {
    let family = registry.counters(name, help, &["producer", "result"]);
    for producer in Producer::ALL {
        results.iter().for_each(|result| drop(family.with_label_values(&[producer.name(), result])));
    }
    family
}

fn by_closure(registry: &MetricsRegistry) -> IntCounterVec {
    let family = registry.counters(
        "kura_action_results_total",
        "Action-cache hits by whether the blobs they name can be had; an incomplete one is answered as a miss.",
        &["closure"],
    );
    ClosureResult::ALL.iter().for_each(|result| drop(family.with_label_values(&[result.name()])));
    family
}

fn by_part(registry: &MetricsRegistry) -> IntCounterVec {
    let family = registry.counters("kura_multipart_parts_total", "Parts of multipart uploads received.", &["result"]);
    ["ok", "error"].iter().for_each(|result| drop(family.with_label_values(&[result])));
    family
}

fn by_limit(registry: &MetricsRegistry) -> IntCounterVec {
    let family = registry.counters(
        "kura_requests_refused_total",
        "Requests refused by a limit although nothing is broken, whatever status the tool was given.",
        &["limit"],
    );
    Limit::ALL.iter().for_each(|limit| drop(family.with_label_values(&[limit.name()])));
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_producer_shows_zero_from_the_start() {
        let registry = MetricsRegistry::new();
        ServerMetrics::new(&registry);
        let text = registry.encode().unwrap();
        for producer in Producer::ALL {
            let line = format!("kura_artifact_reads_total{{producer=\"{}\",result=\"ok\"}} 0\n", producer.name());
            assert!(text.contains(&line), "{line}");
        }
    }
}
