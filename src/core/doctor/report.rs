//! All findings of one run, as `kura.doctor/v1`, and what they come to.

use serde::Serialize;

use super::finding::{Finding, Severity, Status};
use super::mesh_view::MeshView;

/// How many checks ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Nothing wrong.
    pub ok: u64,
    /// Warnings.
    pub warn: u64,
    /// Failures.
    pub fail: u64,
    /// Not looked at.
    pub skip: u64,
    /// Could not be looked at.
    pub error: u64,
}

impl Summary {
    /// Counts the findings.
    pub fn of(findings: &[Finding]) -> Self {
        let count = |status| findings.iter().filter(|finding| finding.status == status).count() as u64;
        Self {
            ok: count(Status::Ok),
            warn: count(Status::Warn),
            fail: count(Status::Fail),
            skip: count(Status::Skip),
            error: count(Status::Error),
        }
    }

    /// All checks.
    pub fn total(&self) -> u64 {
        self.ok + self.warn + self.fail + self.skip + self.error
    }

    /// What the run comes to, when findings of at least this severity count as failures.
    pub fn conclusion(&self, fail_on: Severity) -> Conclusion {
        let failures = if fail_on <= Severity::Warn { self.fail + self.warn } else { self.fail };
        match (failures, self.error) {
            (0, 0) => Conclusion::Clean,
            (0, _) => Conclusion::Incomplete,
            _ => Conclusion::Findings,
        }
    }
}

/// What a run comes to; each has its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conclusion {
    /// Nothing to do: exit 0.
    Clean,
    /// At least one failure: exit 3.
    Findings,
    /// No failure, but a check could not run: exit 4.
    Incomplete,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// `kura.doctor/v1`.
    pub schema: &'static str,
    /// kura's version.
    pub version: &'static str,
    /// The data dir looked at; `null` when settings do not even name one.
    pub data_dir: Option<String>,
    /// `live` when a running node answered, else `offline`.
    pub vantage: &'static str,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// The counts.
    pub summary: Summary,
    /// All checks in order.
    pub checks: Vec<Finding>,
    /// The mesh, if peers were asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh: Option<MeshView>,
    /// Why this vantage, for people.
    #[serde(skip)]
    pub vantage_reason: String,
}

/// The schema's name.
pub const SCHEMA: &str = "kura.doctor/v1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_outrank_errors_and_warnings_count_only_when_asked() {
        let summary = |warn, fail, error| Summary { warn, fail, error, ..Summary::default() };
        let cases = [
            (summary(0, 0, 0), Conclusion::Clean, Conclusion::Clean),
            (summary(1, 0, 0), Conclusion::Clean, Conclusion::Findings),
            (summary(0, 1, 1), Conclusion::Findings, Conclusion::Findings),
            (summary(0, 0, 1), Conclusion::Incomplete, Conclusion::Incomplete),
            (summary(1, 0, 1), Conclusion::Incomplete, Conclusion::Findings),
        ];
        for (summary, on_fail, on_warn) in cases {
            assert_eq!(summary.conclusion(Severity::Fail), on_fail, "{summary:?}");
            assert_eq!(summary.conclusion(Severity::Warn), on_warn, "{summary:?}");
        }
    }
}
