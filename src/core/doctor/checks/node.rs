//! The running process, as it describes itself.

use crate::core::data_dir::run_record::RunRecord;
use crate::core::doctor::check::{About, Category, Check, CheckError, Outcome, Pulse, QUICK_LIMIT, Reach};
use crate::core::doctor::context::{Context, Mode, Vantage};
use crate::core::doctor::finding::{Code, Evidence, Remedy, Severity};
use crate::core::doctor::live::{ControlStatus, PeerStatus};

fn about(code: Code, title: &'static str) -> About {
    About {
        code,
        category: Category::Node,
        title,
        reach: Reach::Live,
        severity: Severity::Fail,
        fatal: false,
        needs: &[],
        limit: QUICK_LIMIT,
    }
}

/// Whether the running node still writes to its index.
#[derive(Debug)]
pub struct IndexWriteStopped;

impl Check for IndexWriteStopped {
    fn about(&self) -> About {
        // A process that met a disk on which it could not start answers nobody: then its record tells.
        About { reach: Reach::Offline, ..about(Code::IndexWriteStopped, "the running node writes to its index") }
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        if let Vantage::Offline(silence) = &context.vantage {
            return Ok(last_process_wrote(context, silence));
        }
        let Some(store) = &context.live()?.store else { return Ok(Outcome::skip("the store is not open")) };
        let Some(reason) = &store.write_stopped else {
            return Ok(Outcome::ok("the index takes writes")
                .evidence(Evidence::new().value("head_seq", store.head_seq).value("artifacts", store.artifacts)));
        };
        Ok(Outcome::fail("the running node has stopped writing to its index")
            .evidence(Evidence::new().value("reason", reason.clone()).value("head_seq", store.head_seq).fact(reason))
            .effect("reads go on; uploads, deletes and catching up fail, and what is written elsewhere is missing here")
            .remedy(
                Remedy::text(
                    "mend the disk that the reason names; the node then opens its index anew within a minute, and if it \
                     does not, restart it",
                )
                .look("dmesg --level=err,warn | tail -n 50"),
            ))
    }
}

/// What the last process that held the data dir left word of.
fn last_process_wrote(context: &Context, silence: &str) -> Outcome {
    let record = context.layout.as_ref().and_then(|layout| RunRecord::load(layout).ok().flatten());
    let Some((record, trouble)) = record.and_then(|record| Some((record.clone(), record.trouble?))) else {
        return match context.asked.mode {
            Mode::Online => Outcome::error(format!("no running node answers: {silence}")),
            Mode::Auto | Mode::Offline => Outcome::skip(format!("asks a running node: {silence}")),
        };
    };
    let ago = super::staging::age(context.world.clock.now_ms().saturating_sub(trouble.at_ms));
    Outcome::fail("the last process could not write to its index")
        .evidence(
            Evidence::new()
                .value("reason", trouble.reason.clone())
                .value("at_ms", trouble.at_ms)
                .value("pid", record.pid)
                .fact(&trouble.reason)
                .fact(format!("pid {}, {ago} ago", record.pid)),
        )
        .effect("kura serve ends at each start until the disk takes writes again; nothing acknowledged is touched")
        .remedy(
            Remedy::text(
                "mend the disk that the reason names; one that has no space though its filesystem has some lies on \
                 something that is full (a thin pool, a sparse image): make room there; then start the node:",
            )
            .change(context.command("serve", &[])),
        )
}

/// Uploads in parts at which to warn, in percent of those that may be open.
const SLOTS_WARN_PERCENT: u64 = 90;

/// Whether uploads in parts can still be opened.
#[derive(Debug)]
pub struct UploadSlots;

impl Check for UploadSlots {
    fn about(&self) -> About {
        let about = about(Code::UploadSlots, "uploads in parts can be opened");
        About { category: Category::Staging, severity: Severity::Warn, ..about }
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let staging = context.live()?.staging;
        let (open, max, idle_s) = (staging.uploads_open, staging.uploads_max, staging.uploads_idle_max_s);
        if max == 0 {
            return Ok(Outcome::skip("the running node does not tell"));
        }
        let message = format!("{open} of {max} uploads in parts are open");
        let evidence = Evidence::new().value("open", open).value("max", max).value("idle_max_s", idle_s);
        if open.saturating_mul(100) < max.saturating_mul(SLOTS_WARN_PERCENT) {
            return Ok(Outcome::ok(message).evidence(evidence));
        }
        let idle = super::staging::age(idle_s.saturating_mul(1000));
        Ok(Outcome::warn(message)
            .evidence(evidence.fact(format!("the longest without progress for {idle}")))
            .effect("once all are open, new uploads in parts are refused until one ends or expires")
            .remedy(Remedy::text(
                "idle ones expire by themselves (--multipart-upload-ttl-ms); look for clients that begin uploads and \
                 never complete them",
            )))
    }
}

/// Whether the node takes traffic.
#[derive(Debug)]
pub struct NotReady;

impl Check for NotReady {
    fn about(&self) -> About {
        about(Code::NotReady, "the running node takes traffic")
    }

    fn run(&self, context: &Context, _pulse: &Pulse) -> Result<Outcome, CheckError> {
        let status = context.live()?;
        let state = word(&status.readiness.readiness, &status.readiness.state);
        if status.readiness.ready {
            return Ok(Outcome::ok(format!("the node is ready ({state})")).evidence(evidence(status)));
        }
        if status.readiness.state == "draining" {
            return Ok(Outcome::warn("the node is draining")
                .evidence(evidence(status).fact(format!("{} requests in flight", status.inflight_requests)))
                .effect("new uploads are refused; the process ends when the last request has")
                .remedy(Remedy::text("start a new process once this one has ended; draining is final")));
        }
        Ok(Outcome::fail(format!("the node is not ready ({state})"))
            .evidence(evidence(status))
            .effect("/ready answers 503, so no traffic is sent here")
            .remedy(remedy(status)))
    }
}

fn word<'a>(first: &'a str, second: &'a str) -> &'a str {
    if first.is_empty() { second } else { first }
}

fn evidence(status: &ControlStatus) -> Evidence {
    let readiness = &status.readiness;
    let waiting: Vec<&PeerStatus> = readiness.peers.iter().filter(|peer| !peer.bootstrapped).collect();
    let peers: Vec<String> = waiting.iter().map(|peer| peer_line(peer, status.now_ms)).collect();
    let mut evidence = Evidence::new()
        .value("state", readiness.state.clone())
        .value("readiness", readiness.readiness.clone())
        .value("reasons", readiness.reasons.clone())
        .value("store_open", status.store.is_some());
    if !readiness.reasons.is_empty() {
        evidence = evidence.fact(format!("closed: {}", readiness.reasons.join(", ")));
    }
    if let Some(step) = status.startup.iter().rev().find(|step| step.state != "done") {
        let error = step.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
        evidence = evidence
            .value("step", step.name.clone())
            .value("step_state", step.state.clone())
            .value("step_started_at_ms", step.started_at_ms)
            .fact(format!("start-up step {} {}{error}", step.name, step.state));
    }
    if peers.is_empty() { evidence } else { evidence.list("peers", &peers, waiting.len() as u64) }
}

/// One peer: done of total, rate, last advance, last error. What tells slow from stuck.
fn peer_line(peer: &PeerStatus, now_ms: u64) -> String {
    let total = peer.total.map_or_else(|| "?".to_owned(), |total| total.to_string());
    let mut line = format!("{} {}: {} of {total} rows, {}/s", peer.url, peer.phase, peer.done, peer.rate);
    if let Some(last) = peer.last_advance_ms {
        let ago = super::staging::age(now_ms.saturating_sub(last));
        line.push_str(&format!(", last moved {ago} ago"));
    }
    if let Some(error) = &peer.last_error {
        line.push_str(&format!(", last error: {error}"));
    }
    line
}

/// Follows the first gate that is closed.
fn remedy(status: &ControlStatus) -> Remedy {
    if let Some(step) = status.startup.iter().find(|step| step.state == "failed") {
        return Remedy::text(format!("start-up failed at {}; its error says why, the log says more", step.name));
    }
    if status.store.is_none() {
        return Remedy::text("the store is still being opened; if the step does not change, look at the disk");
    }
    if status.readiness.peers.iter().any(|peer| peer.last_error.is_some()) {
        return Remedy::text("run the doctor on the peer that the error names; the node retries by itself");
    }
    Remedy::text("wait while the rows go up; a peer that stands still for 2 minutes is excused by itself")
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
