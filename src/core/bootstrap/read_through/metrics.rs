//! The metric families of reads that go through to peers.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntCounterVec};

use super::ask::Through;
use crate::core::telemetry::metrics::MetricsRegistry;

/// How asking one peer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PeerAnswer {
    /// It sends the artifact.
    Found,
    /// It has no good copy.
    Absent,
    /// It could not be reached.
    Unreachable,
    /// It was silent for too long.
    Silent,
    /// Its store was not open yet.
    Opening,
    /// It answered with an error, or what it sent was bad.
    Failed,
}

impl PeerAnswer {
    const ALL: [Self; 6] = [Self::Found, Self::Absent, Self::Unreachable, Self::Silent, Self::Opening, Self::Failed];

    fn name(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Absent => "absent",
            Self::Unreachable => "unreachable",
            Self::Silent => "silent",
            Self::Opening => "opening",
            Self::Failed => "failed",
        }
    }
}

/// The families; cheap to clone.
#[derive(Debug, Clone)]
pub struct ReadThroughMetrics {
    reads: IntCounterVec,
    peers: IntCounterVec,
    bytes: IntCounter,
    wait: Histogram,
}

impl ReadThroughMetrics {
    /// Adds the families to a registry; each label exists from the start.
    pub fn new(registry: &MetricsRegistry) -> Self {
        let reads = registry.counters(
            "kura_read_through_reads_total",
            "Reads that missed here and were asked of peers.",
            &["result"],
        );
        ["hit", "local", "miss", "undecided"].iter().for_each(|result| drop(reads.with_label_values(&[result])));
        let peers = registry.counters(
            "kura_read_through_peer_answers_total",
            "Answers of peers to reads that missed here.",
            &["result"],
        );
        PeerAnswer::ALL.iter().for_each(|answer| drop(peers.with_label_values(&[answer.name()])));
        Self {
            reads,
            peers,
            bytes: registry.counter("kura_read_through_bytes_total", "Bytes of bodies that reads drew from peers."),
            wait: registry
                .histogram("kura_read_through_wait_seconds", "Seconds a read that missed here waited for the peers."),
        }
    }

    pub(super) fn read(&self, answer: &Through, waited: Duration) {
        let result = match answer {
            Through::Whole(..) | Through::Stream(..) | Through::Brought => "hit",
            Through::Here => "local",
            Through::Miss => "miss",
            Through::Undecided => "undecided",
        };
        self.reads.with_label_values(&[result]).inc();
        self.wait.observe(waited.as_secs_f64());
    }

    pub(super) fn peer(&self, answer: PeerAnswer) {
        self.peers.with_label_values(&[answer.name()]).inc();
    }

    pub(super) fn arrived(&self, bytes: usize) {
        self.bytes.inc_by(bytes as u64);
    }
}
