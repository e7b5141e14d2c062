//! The running node's store: whether it answers, whether its bodies are good, and whether it holds what its peers do.

use super::peers::{KuraAnswer, probes};
use super::staging::age;
use crate::core::data_dir::lock::{DataDirLock, LockState};
use crate::core::data_dir::run_record::{HEARTBEAT_INTERVAL, RunRecord};
use crate::core::doctor::check::{About, Category, Check, CheckError, Outcome, Pulse, QUICK_LIMIT, Reach};
use crate::core::doctor::context::{Context, Mode, Vantage};
use crate::core::doctor::finding::{Code, Evidence, Remedy, Severity};
use crate::core::doctor::live::{ControlStatus, StoreStatus};
use crate::core::store::breaker::WITHDRAWALS_PER_MINUTE_MAX;

/// A beat every two seconds, and ten for its answer; more is no busy disk.
const BEAT_AGE_MAX_MS: u64 = 15_000;
/// Heartbeats of the run record that may be missing: it is written to the same volume as everything.
const RECORD_BEATS_MISSED_MAX: u32 = 3;
/// Below this share of what the fullest peer has, in percent, a node sends most reads elsewhere.
const COVERAGE_WARN_PERCENT: u64 = 50;
/// From this share of its capacity on a node is full by itself, in percent.
const FULL_PERCENT: u64 = 80;

fn about(code: Code, title: &'static str, severity: Severity) -> About {
    About {
        code,
        category: Category::Node,
        title,
        reach: Reach::Live,
        severity,
        fatal: false,
        needs: &[],
        limit: QUICK_LIMIT,
    }
}

/// Whether the process that holds the data dir, and its store, move.
#[derive(Debug)]
pub struct NoProgress;

impl Check for NoProgress {
    fn about(&self) -> About {
        // A process that stands still answers nobody: then its files tell.
        About {
            reach: Reach::Offline,
            ..about(Code::NoProgress, "the running node and its store move", Severity::Fail)
        }
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        match &context.vantage {
            Vantage::Live(status) => Ok(store_moves(status)),
            Vantage::Offline(reason) => process_moves(context, reason),
        }
    }
}

fn store_moves(status: &ControlStatus) -> Outcome {
    let Some(store) = &status.store else { return Outcome::skip("the store is not open") };
    let Some(beat_ms) = store.heartbeat_age_ms else {
        return Outcome::skip("the running node does not tell");
    };
    let evidence = Evidence::new().value("heartbeat_age_ms", beat_ms).value("head_seq", store.head_seq);
    if beat_ms <= BEAT_AGE_MAX_MS {
        return Outcome::ok(format!("the store answered {beat_ms} ms ago")).evidence(evidence);
    }
    Outcome::fail(format!("the store has not answered for {}", age(beat_ms)))
        .evidence(evidence.fact(format!("last answer {} s ago, asked every 2 s", beat_ms / 1000)))
        .effect("every read and write waits; /ready answers 503, and so no traffic is sent here")
        .remedy(stuck_disk())
}

fn stuck_disk() -> Remedy {
    Remedy::text("what the disk does comes first; once it answers the node goes on by itself, else restart it")
        .look("dmesg --level=err,warn | tail -n 50")
}

/// Nobody answers on the control socket: if the data dir is held, its run record says since when.
fn process_moves(context: &Context, silence: &str) -> Result<Outcome, CheckError> {
    let layout = context.layout()?;
    let Ok(LockState::Held(_)) = DataDirLock::probe(layout) else {
        return Ok(match context.asked.mode {
            Mode::Online => Outcome::error(format!("no running node answers: {silence}")),
            Mode::Auto | Mode::Offline => Outcome::skip("no process holds the data dir"),
        });
    };
    let record = RunRecord::load(layout).map_err(|error| CheckError::from_error("read the run record", &error))?;
    let Some(record) = record else { return Ok(Outcome::skip("who holds the data dir has left no run record")) };
    let beat_ms = context.world.clock.now_ms().saturating_sub(record.heartbeat_ms);
    let evidence = Evidence::new().value("pid", record.pid).value("heartbeat_age_ms", beat_ms).fact(format!(
        "pid {}, last sign of life {} ago",
        record.pid,
        age(beat_ms)
    ));
    let allowed = HEARTBEAT_INTERVAL * RECORD_BEATS_MISSED_MAX;
    if record.clean || u128::from(beat_ms) <= allowed.as_millis() {
        return Ok(Outcome::ok("the process that holds the data dir shows signs of life").evidence(evidence));
    }
    Ok(Outcome::fail(format!("the process that holds the data dir stands still: {silence}"))
        .evidence(evidence)
        .effect("it answers nobody, and nobody else can start on this data dir")
        .remedy(
            Remedy::text(
                "state T: somebody stopped it, send CONT; state D: it waits for the disk, see dmesg; else restart it",
            )
            .look(format!("grep -E '^(Name|State)' /proc/{}/status", record.pid)),
        ))
}

/// Whether bad bodies are still withdrawn.
#[derive(Debug)]
pub struct BreakerOpen;

impl Check for BreakerOpen {
    fn about(&self) -> About {
        about(Code::BreakerOpen, "bodies on the disk are good", Severity::Fail)
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let Some(store) = &context.live()?.store else { return Ok(Outcome::skip("the store is not open")) };
        let bad = store.withdrawals_per_minute;
        let evidence = Evidence::new()
            .value("withdrawals_per_minute", bad)
            .value("withdrawals_per_minute_max", WITHDRAWALS_PER_MINUTE_MAX);
        let Some(first) = &store.breaker_open else {
            return Ok(Outcome::ok(format!("{bad} bad bodies within a minute")).evidence(evidence));
        };
        let closes_in_s = store.breaker_closes_in_ms.div_ceil(1000);
        let evidence = evidence
            .value("first_error", first.clone())
            .value("closes_in_ms", store.breaker_closes_in_ms)
            .fact(format!("{bad} bad bodies within a minute (at most {WITHDRAWALS_PER_MINUTE_MAX})"))
            .fact(format!("the first: {first}"))
            .fact(format!("withdrawn again in {closes_in_s} s"));
        let bodies = context.layout()?.bodies();
        Ok(Outcome::fail("so many bodies are bad that the volume must be the cause")
            .evidence(evidence)
            .effect("what is bad is a miss and stays listed: nothing is deleted, and nothing fetched again meanwhile")
            .remedy(
                Remedy::text("is the right volume mounted there, and whole? then the node goes on by itself").look(
                    format!(
                        "ls {}; dmesg --level=err,warn | tail",
                        super::super::context::quoted(&bodies.to_string_lossy())
                    ),
                ),
            ))
    }
}

/// Whether a node that takes traffic has what its peers have.
#[derive(Debug)]
pub struct ReadyButEmpty;

impl Check for ReadyButEmpty {
    fn about(&self) -> About {
        let about = about(Code::ReadyButEmpty, "the running node has what its peers have", Severity::Warn);
        About { needs: &[Code::ConfigInvalid], limit: super::peers::CHECK_LIMIT, ..about }
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let status = context.live()?;
        if !status.readiness.ready {
            return Ok(Outcome::skip("the node is not ready"));
        }
        let Some(store) = &status.store else { return Ok(Outcome::skip("the store is not open")) };
        let fullest = match probes(context)? {
            Err(_) => return Ok(Outcome::ok("no peers are configured: what is here is all there is")),
            Ok(probes) => probes.peers.iter().filter_map(|probe| probe.answer.as_ref().ok()?.kura.as_ref()),
        };
        let fullest = fullest.max_by_key(|kura| kura.artifacts);
        Ok(coverage(context, status, store, fullest))
    }
}

fn coverage(context: &Context, status: &ControlStatus, store: &StoreStatus, fullest: Option<&KuraAnswer>) -> Outcome {
    let theirs = fullest.map_or(0, |kura| kura.artifacts);
    let percent = store.artifacts.saturating_mul(100).checked_div(theirs).unwrap_or(100).min(100);
    let oldest_ms = Some(store.oldest_version_ms).filter(|oldest| *oldest > 0);
    let oldest = oldest_ms.map(|oldest| age(status.now_ms.saturating_sub(oldest)));
    let evidence = Evidence::new()
        .value("artifacts", store.artifacts)
        .value("fullest_peer_artifacts", theirs)
        .value("coverage_percent", percent)
        .value("oldest_version_ms", oldest_ms)
        .value("complete", status.readiness.complete);
    let said = oldest.map_or_else(|| "nothing is here".to_owned(), |oldest| format!("the oldest is {oldest} old"));
    // A node that is full of what is newer has its share, however much the others keep.
    let is_full = status.space.as_ref().is_some_and(|space| {
        space.charged_bytes.saturating_mul(100) >= space.capacity_bytes.saturating_mul(FULL_PERCENT)
    });
    let alone = store.artifacts == 0 && fullest.is_none() && !status.readiness.complete;
    if !alone && (percent >= COVERAGE_WARN_PERCENT || is_full) {
        return Outcome::ok(format!("{} artifacts, {percent} % of the fullest peer's; {said}", store.artifacts))
            .evidence(evidence);
    }
    let message = if alone {
        "the node takes traffic, is empty, and no peer answers".to_owned()
    } else {
        format!("the node takes traffic with {percent} % of what the fullest peer has")
    };
    let reasons = status.readiness.reasons.join(", ");
    let evidence = evidence.fact(format!("{} artifacts here, {theirs} there", store.artifacts)).fact(said);
    Outcome::warn(message)
        .evidence(if reasons.is_empty() { evidence } else { evidence.fact(reasons) })
        .effect("reads that only others could answer miss here, and builds do the work again")
        .remedy(
            Remedy::text(
                "a node fills by itself while a peer answers; a volume can be filled before its node starts, on the \
                 stopped node:",
            )
            .change(context.command("bootstrap", &[])),
        )
}

#[cfg(test)]
#[path = "node_store_tests.rs"]
mod tests;
