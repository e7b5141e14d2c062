//! The metrics registry of one process, and how a part adds its families to it.
//!
//! How it works: each part has a small struct of its own families, made from a [`MetricsRegistry`] when the part is
//! made; nothing is global, so a test or a simulation has as many registries as it has nodes. The exposition is
//! Prometheus text 0.0.4 with HELP and TYPE under each sample's own name.
//!
//! Invariant: counters exist from the start; label values come from closed lists, never from paths or peers' names.

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

/// The families of one process; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct MetricsRegistry {
    registry: Registry,
}

/// Buckets of latencies in seconds: 1 ms doubling 16 times.
const LATENCY_BUCKETS: (f64, f64, usize) = (0.001, 2.0, 16);

/// Buckets of throughput in bytes a second: 1 KiB times four, 12 times.
const THROUGHPUT_BUCKETS: (f64, f64, usize) = (1024.0, 4.0, 12);

impl MetricsRegistry {
    /// A registry without families.
    pub fn new() -> Self {
        Self::default()
    }

    /// A counter; its name ends in `_total`.
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::with_opts(Opts::new(name, help)))
    }

    /// Counters by label; each combination that can occur is touched once so that it shows 0 from the start.
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    /// A gauge.
    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::with_opts(Opts::new(name, help)))
    }

    /// Gauges by label.
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    /// A gauge of seconds or of another measure that is no whole number.
    pub fn measure(&self, name: &str, help: &str) -> Gauge {
        self.add(Gauge::with_opts(Opts::new(name, help)))
    }

    /// The same by label.
    pub fn measures(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.add(GaugeVec::new(Opts::new(name, help), labels))
    }

    /// A histogram of seconds with the house's latency buckets.
    pub fn histogram(&self, name: &str, help: &str) -> Histogram {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets(LATENCY_BUCKETS))))
    }

    /// Histograms of seconds by label.
    pub fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets(LATENCY_BUCKETS)), labels))
    }

    /// Histograms of bytes a second by label.
    pub fn throughputs(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets(THROUGHPUT_BUCKETS)), labels))
    }

    /// The exposition in text format 0.0.4.
    pub fn encode(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Names and labels are constants of this program; a bad or doubled one fails the first test that makes the part.
    #[expect(clippy::expect_used, reason = "the arguments are constants of this program")]
    fn add<C: Collector + Clone + 'static>(&self, made: Result<C, prometheus::Error>) -> C {
        let collector = made.expect("metric names and labels are valid");
        self.registry.register(Box::new(collector.clone())).expect("each metric is registered once");
        collector
    }
}

fn buckets((start, factor, count): (f64, f64, usize)) -> Vec<f64> {
    std::iter::successors(Some(start), |bound| Some(bound * factor)).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_and_type_stand_under_the_samples_own_name() {
        let metrics = MetricsRegistry::new();
        metrics.counters("kura_reads_total", "Reads.", &["result"]).with_label_values(&["ok"]).inc();
        let text = metrics.encode().unwrap();
        assert_eq!(
            text,
            "# HELP kura_reads_total Reads.\n# TYPE kura_reads_total counter\nkura_reads_total{result=\"ok\"} 1\n"
        );
    }

    #[test]
    fn latency_buckets_double_from_a_millisecond() {
        let buckets = super::buckets(LATENCY_BUCKETS);
        assert_eq!((buckets.len(), buckets.first(), buckets.last()), (16, Some(&0.001), Some(&32.768)));
    }
}
