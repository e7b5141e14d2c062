//! Runs the chosen checks in order, each on its own thread, with its own time limit and panic guard.
//!
//! How it works: a check's thread is waited for until it answers or its [`Pulse`] has been silent for its limit. A
//! thread that hangs in the kernel is left behind: it cannot be ended, only the process that holds it can.
//!
//! Invariants: every chosen check ends up in the report. One check never stops another, except that a check is skipped
//! when one it needs did not succeed.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Instant;

use super::check::{About, Category, Check, Outcome, Pulse, Reach};
use super::context::{Context, Mode, Vantage};
use super::finding::{Code, Finding, Severity, Status};
use super::mesh_view;
use super::report::{Report, SCHEMA, Summary};
use super::runbook;

/// A code or a whole category.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selector {
    /// One check.
    Code(Code),
    /// All checks of a category.
    Category(Category),
}

/// A text is neither a code nor a category.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown check or category `{0}`")]
pub struct UnknownSelector(pub String);

impl FromStr for Selector {
    type Err = UnknownSelector;

    fn from_str(text: &str) -> Result<Self, UnknownSelector> {
        let code = text.parse().map(Self::Code);
        code.or_else(|_| text.parse().map(Self::Category)).map_err(|()| UnknownSelector(text.to_owned()))
    }
}

impl Selector {
    fn matches(self, about: &About) -> bool {
        match self {
            Self::Code(code) => about.code == code,
            Self::Category(category) => about.category == category,
        }
    }
}

/// Which checks to run.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Only these, if any are given; the others are left out of the report.
    pub only: Vec<Selector>,
    /// Not these; they are reported as skipped.
    pub skip: Vec<Selector>,
}

/// Runs the chosen ones of `checks`, in their order.
pub fn run(context: &Arc<Context>, selection: &Selection, checks: &[&'static dyn Check]) -> Report {
    let started_at_ms = context.world.clock.now_ms();
    let mut statuses = BTreeMap::new();
    let chosen = checks.iter().filter(|check| {
        selection.only.is_empty() || selection.only.iter().any(|selector| selector.matches(&check.about()))
    });
    let findings: Vec<Finding> = chosen.map(|check| conduct(context, selection, *check, &mut statuses)).collect();
    Report {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        data_dir: context.layout.as_ref().map(|layout| layout.data_dir().to_string_lossy().into_owned()),
        vantage: context.vantage.as_str(),
        started_at: rfc3339(started_at_ms),
        summary: Summary::of(&findings),
        checks: findings,
        mesh: mesh_view::of(context),
        vantage_reason: context.vantage.reason(),
    }
}

/// A time as people and JSON read it.
pub fn rfc3339(unix_ms: u64) -> String {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms).unwrap_or_default().to_string()
}

fn conduct(
    context: &Arc<Context>,
    selection: &Selection,
    check: &'static dyn Check,
    statuses: &mut BTreeMap<Code, Status>,
) -> Finding {
    let about = check.about();
    let started = Instant::now();
    let outcome = if selection.skip.iter().any(|selector| selector.matches(&about)) {
        Outcome::skip("as asked by --skip")
    } else {
        let outcome = barred(context, &about, statuses).unwrap_or_else(|| guarded(context, check, &about));
        statuses.insert(about.code, outcome.status);
        outcome
    };
    finding(&about, outcome, u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// Why a check is not run at all.
pub(super) fn barred(context: &Context, about: &About, statuses: &BTreeMap<Code, Status>) -> Option<Outcome> {
    let unmet = about.needs.iter().find_map(|need| match statuses.get(need) {
        Some(Status::Fail) => Some(format!("{need} failed")),
        Some(Status::Error) => Some(format!("{need} could not be checked")),
        Some(Status::Skip) => Some(format!("{need} was skipped")),
        Some(Status::Ok | Status::Warn) | None => None,
    });
    if let Some(reason) = unmet {
        return Some(Outcome::skip(reason));
    }
    match (about.reach, context.asked.mode, &context.vantage) {
        (Reach::Network, Mode::Offline, _) => Some(Outcome::skip("asks peers; left out by --offline")),
        (Reach::Live, Mode::Online, Vantage::Offline(reason)) => {
            Some(Outcome::error(format!("no running node answers: {reason}")))
        }
        (Reach::Live, _, Vantage::Offline(reason)) => Some(Outcome::skip(format!("asks a running node: {reason}"))),
        _ => None,
    }
}

/// One check on its own thread.
fn guarded(context: &Arc<Context>, check: &'static dyn Check, about: &About) -> Outcome {
    let (sender, receiver) = mpsc::channel();
    let (context, pulse) = (Arc::clone(context), Arc::new(Pulse::default()));
    let watched = Arc::clone(&pulse);
    let spawned = std::thread::Builder::new().name(format!("doctor {}", about.code)).spawn(move || {
        let answer = catch_unwind(AssertUnwindSafe(|| check.run(&context, &pulse)));
        // The index must not be closed on this thread while the process already ends: RocksDB's own statics go then.
        drop(context);
        // Nobody listens any more if the limit has passed; the answer is then of no use.
        let _ = sender.send(answer);
    });
    if let Err(error) = spawned {
        return Outcome::error(format!("no thread for the check: {error}"));
    }
    loop {
        let left = about.limit.saturating_sub(watched.silence());
        if left.is_zero() {
            return Outcome::error(format!("no answer within {} s", about.limit.as_secs()));
        }
        match receiver.recv_timeout(left) {
            Ok(Ok(Ok(outcome))) => return outcome,
            Ok(Ok(Err(error))) => return Outcome::error(error.to_string()),
            Ok(Err(panic)) => return Outcome::error(format!("the check itself failed: {}", words_of(&*panic))),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Outcome::error("the check's thread ended without an answer"),
        }
    }
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without words".to_owned())
}

fn finding(about: &About, outcome: Outcome, ms: u64) -> Finding {
    let severity: Severity = outcome.severity.unwrap_or(about.severity);
    Finding {
        code: about.code,
        category: about.category,
        title: about.title,
        status: outcome.status,
        severity,
        message: outcome.message,
        evidence: outcome.evidence,
        effect: outcome.effect,
        remedy: outcome.remedy,
        docs: runbook::anchor(about.code),
        ms,
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
