//! The action cache: does what it promises exist.
//!
//! How it works: without `--verify all` the walk ends after a moment. Ids are hashes, so the part it saw is an even
//! sample of all artifacts.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::core::doctor::check::{About, Category, Check, CheckError, Outcome, Pulse, Reach};
use crate::core::doctor::context::{Context, Verify};
use crate::core::doctor::finding::{Code, Evidence, Remedy, Severity};
use crate::core::store::action_closure::{self, BrokenResult, ClosureReport};

/// A walk beats with each artifact; one result may name sixteen thousand blobs.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// A look without flags stays a look.
const SAMPLE_TIME_MAX: Duration = Duration::from_millis(300);

/// Whether each action result has its blobs.
#[derive(Debug)]
pub struct ActionClosureBroken;

impl Check for ActionClosureBroken {
    fn about(&self) -> About {
        About {
            code: Code::ActionClosureBroken,
            category: Category::Bodies,
            title: "action results name only blobs that can be had",
            reach: Reach::Offline,
            severity: Severity::Fail,
            fatal: false,
            needs: &[Code::IndexUnreadable],
            limit: SILENCE_LIMIT,
        }
    }

    fn run(&self, context: &Context, pulse: &Pulse) -> Result<Outcome, CheckError> {
        let started = Instant::now();
        let is_sample = context.asked.verify != Verify::All;
        let mut keep_on = |_| {
            pulse.beat();
            let is_over = is_sample && started.elapsed() >= SAMPLE_TIME_MAX;
            if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let store = context.index()?;
        let mut report = action_closure::verify(store, &mut keep_on)
            .map_err(|error| CheckError::from_error("read the action cache", &error))?;
        if report.broken_total > 0 && context.is_held() {
            // Beside a writer a blob may have come or gone meanwhile: only what a fresh view says, too, counts.
            let fresh = context.open_index().map_err(|trouble| CheckError(trouble.message))?;
            let again = action_closure::verify(&fresh, &mut keep_on);
            let again = again.map_err(|error| CheckError::from_error("read the action cache", &error))?;
            report.broken.retain(|one| again.broken.iter().any(|other| other.id == one.id));
            let is_cut = report.broken_total > report.broken.len() as u64 && !report.broken.is_empty();
            let listed = report.broken.len() as u64;
            report.broken_total = if is_cut { report.broken_total.min(again.broken_total) } else { listed };
        }
        Ok(judged(&report, store.stats().artifacts))
    }
}

fn judged(report: &ClosureReport, artifacts: u64) -> Outcome {
    let evidence = Evidence::new()
        .value("artifacts", artifacts)
        .value("artifacts_seen", report.artifacts)
        .value("results", report.results)
        .value("opaque", report.opaque)
        .value("explained", report.explained)
        .value("broken", report.broken_total);
    let scope = if report.stopped {
        format!("{} action results among {} of {artifacts} artifacts", report.results, report.artifacts)
    } else {
        format!("all {} action results", report.results)
    };
    if report.broken_total == 0 {
        let explained = match report.explained {
            0 => String::new(),
            number => format!(", and {number} are misses because a blob was evicted, deleted or is still to come"),
        };
        let message = match report.results {
            0 if report.stopped => format!("no action results among {} of {artifacts} artifacts", report.artifacts),
            0 => "there are no action results".to_owned(),
            _ => format!("{scope}: no blob is gone without a trace{explained}"),
        };
        return Outcome::ok(message).evidence(evidence);
    }
    let entries: Vec<(Value, String)> = report.broken.iter().map(entry).collect();
    let noun = if report.broken_total == 1 {
        "1 action result names"
    } else {
        &format!("{} action results name", report.broken_total)
    };
    Outcome::fail(format!("{noun} blobs that are gone without a trace"))
        .evidence(evidence.fact(format!("{scope} were read")).entries("results_broken", &entries, report.broken_total))
        .effect("each is a miss when it is asked for, never a build that fails; their actions run again")
        .remedy(Remedy::text(
            "nothing by hand: the next run of each action writes it anew. Gone without a trace means lost rows (an index \
             made anew, a restored snapshot): catch up from a peer to get the blobs back",
        ))
}

fn entry(broken: &BrokenResult) -> (Value, String) {
    let name = &broken.name;
    let value = json!({
        "artifact_id": broken.id,
        "namespace": name.namespace,
        "key": name.key,
        "blob": broken.blob,
        "blobs_gone": broken.blobs_gone,
    });
    (value, format!("{:?} {:?}: {} gone, first cas/{}", name.namespace, name.key, broken.blobs_gone, broken.blob))
}

#[cfg(test)]
#[path = "closure_tests.rs"]
mod tests;
