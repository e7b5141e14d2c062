//! One artifact, explained, as a screen and as JSON.
//!
//! How it works: the verdict as a sentence, below it facts by label, then a table of the peers. Only what is known has a
//! line, so that a screen about something that is not here is short.

use super::doctor::{Style, painted, wrapped};
use super::table::short_digest;
use crate::commands::exit::{CommandError, ExitCode};
use crate::core::base::units::ByteSize;
use crate::core::doctor::artifact::{ArtifactReport, Verdict};
use crate::core::doctor::artifact_peers::PeerCopy;
use crate::core::doctor::run::rfc3339;
use crate::core::store::explain::{BodyFacts, Explanation, ManifestFacts, State};

/// Columns of a label with its gap.
const LABEL_COLUMNS: usize = 14;
/// A longer address pushes what stands behind it to the right, alone.
const URL_COLUMNS_MAX: usize = 32;

/// The whole answer.
pub fn full(report: &ArtifactReport, exit: u8, style: Style) -> String {
    let mut out = header(report, style);
    let (sign, color) = sign(report.verdict);
    let sign = painted(&format!("{sign:<6}"), color, style);
    out.push_str(&format!("\n  {sign}{}\n", wrapped(&report.message, 8, 8, style.width)));
    for (label, text) in facts(report, style.width) {
        let lead = format!("        {label:<LABEL_COLUMNS$}");
        let at = 8 + LABEL_COLUMNS;
        out.push_str(&format!("{lead}{}\n", wrapped(&text, at, at, style.width)));
    }
    if let Some(next) = &report.next {
        let at = 8 + LABEL_COLUMNS;
        // Commands are never wrapped, so that they can be pasted.
        let is_command = ["kura ", "dmesg "].iter().any(|verb| next.starts_with(verb));
        let next = if is_command { next.clone() } else { wrapped(next, at, at, style.width) };
        out.push_str(&format!("        {:<LABEL_COLUMNS$}{next}\n", "next"));
    }
    out.push('\n');
    out.push_str(&peers(&report.peers, style.width));
    out.push_str(&format!("exit {exit}\n"));
    out
}

/// One line.
pub fn short(report: &ArtifactReport) -> String {
    let holders = report.peers.iter().filter(|peer| peer.state == Some(State::Held)).count();
    let peers = if report.peers.is_empty() {
        String::new()
    } else {
        format!(" · {holders} of {} peers have it", report.peers.len())
    };
    format!("{}  {}{peers}\n", report.artifact_id, report.message)
}

/// `kura.doctor-artifact/v1`.
pub fn json(report: &ArtifactReport) -> Result<String, CommandError> {
    let text = serde_json::to_string_pretty(report);
    let text = text.map_err(|error| CommandError::new(ExitCode::Unexpected, "cannot write JSON").caused_by(error))?;
    Ok(format!("{text}\n"))
}

fn header(report: &ArtifactReport, style: Style) -> String {
    let place = report.data_dir.as_deref().unwrap_or("no data dir");
    let line =
        format!("kura doctor artifact · {} · {place} · {} ({})", report.version, report.vantage, report.vantage_reason);
    let mut out = format!("{}\n\n", wrapped(&line, 0, 2, style.width));
    if let Some(name) = &report.name {
        out.push_str(&format!("{} {:?} {:?}\n", name.producer, name.namespace, name.key));
    }
    out.push_str(&format!("{}\n", report.artifact_id));
    out
}

fn sign(verdict: Verdict) -> (&'static str, &'static str) {
    match verdict {
        Verdict::Here => ("ok", "32"),
        Verdict::BodyBad | Verdict::ManifestUnreadable => ("FAIL", "1;31"),
        Verdict::BodyUnreadable | Verdict::Unknown => ("ERR", "1;35"),
        _ => ("miss", "1;33"),
    }
}

fn facts(report: &ArtifactReport, width: usize) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(here) = &report.here {
        facts.extend(here.body.as_ref().map(|body| ("body", place(body))));
        if let Some(manifest) = &here.manifest {
            facts.extend(manifest_facts(manifest, width));
        }
        facts.extend(traces(here));
    }
    if let Some(actual) = report.body.as_ref().and_then(|body| body.actual.as_ref()) {
        facts.push(("actual digest", fitting(actual, width)));
    }
    if let Some(partial) = &report.partial {
        let (durable, size) = (ByteSize(partial.durable_bytes), ByteSize(partial.size));
        facts.push(("being fetched", format!("{durable} of {size} are durable in {}", partial.path)));
    }
    facts
}

fn place(body: &BodyFacts) -> String {
    let number = format!("number {}, extent {:x}", body.body_no, body.extent);
    match &body.path {
        Some(path) => format!("file {path} ({number})"),
        None => format!("inside the index ({number})"),
    }
}

/// A digest whole if the line has room for it; JSON always has it whole.
fn fitting(digest: &str, width: usize) -> String {
    if 8 + LABEL_COLUMNS + digest.len() <= width { digest.to_owned() } else { short_digest(digest) }
}

fn manifest_facts(manifest: &ManifestFacts, width: usize) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("size", format!("{} ({} bytes), {}", ByteSize(manifest.size), manifest.size, manifest.content_type)),
        ("digest", fitting(&manifest.digest.to_string(), width)),
        ("version", version(manifest)),
        ("received", format!("{}, row {}", rfc3339(manifest.received_at_ms), manifest.seq)),
        ("written at", format!("store {}", manifest.origin)),
    ];
    facts.extend(manifest.expires_at_ms.map(|at| ("expires", rfc3339(at))));
    facts.extend(manifest.attributes.iter().map(|(key, value)| ("attribute", format!("{key} = {value}"))));
    facts
}

fn version(manifest: &ManifestFacts) -> String {
    let logical = if manifest.logical == 0 { String::new() } else { format!(".{}", manifest.logical) };
    format!("{} ({}{logical})", rfc3339(manifest.version_ms), manifest.version_ms)
}

/// What is left of it, and what is noted of it.
fn traces(here: &Explanation) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(stub) = &here.stub {
        facts.push(("stub", format!("{}, version {}", stub.reason, rfc3339(stub.version_ms))));
    }
    if let Some(version_ms) = here.tombstone_version_ms {
        facts.push(("tombstone", format!("its namespace, up to {}", rfc3339(version_ms))));
    }
    if let Some(wanted) = &here.wanted {
        facts.push(("wanted", format!("version {}, {}", rfc3339(wanted.version.version_ms), ByteSize(wanted.size))));
        facts.push(("holders", wanted.holders.join(" ")));
        facts.push(("next try", rfc3339(wanted.next_try_ms)));
        facts.extend(wanted.error.as_ref().map(|error| ("last error", error.clone())));
    }
    if here.evicted_floor_ms > 0 {
        facts.push(("floor", format!("versions up to {} count as evicted", rfc3339(here.evicted_floor_ms))));
    }
    facts
}

/// One entry for each peer, wrapped under itself: a table would break addresses and times at 80 columns.
fn peers(peers: &[PeerCopy], width: usize) -> String {
    if peers.is_empty() {
        return String::new();
    }
    let longest = peers.iter().map(|peer| peer.url.chars().count()).max().unwrap_or(0);
    let columns = longest.min(URL_COLUMNS_MAX);
    let mut out = "peers\n".to_owned();
    for peer in peers {
        let lead = format!("  {:<columns$}  ", peer.url);
        let (start, indent) = (lead.chars().count(), columns + 4);
        out.push_str(&format!("{lead}{}\n", wrapped(&peer_line(peer), start, indent, width)));
    }
    out.push('\n');
    out
}

fn peer_line(peer: &PeerCopy) -> String {
    let mut parts = vec![peer.state.map_or("no answer".to_owned(), words)];
    if let Some(manifest) = &peer.manifest {
        let digest = short_digest(&manifest.digest.to_string());
        parts.push(format!("{}, {}, {digest}", ByteSize(manifest.size), rfc3339(manifest.version_ms)));
    }
    parts.extend(peer.here.map(|here| format!("this node: {here}")));
    parts.extend(peer.error.clone());
    parts.join(" · ")
}

fn words(state: State) -> String {
    match state {
        State::Held => "yes",
        State::Deleted => "deleted",
        State::Expired => "expired",
        State::Unreadable => "unreadable",
        State::Wanted => "wanted",
        State::Evicted => "evicted",
        State::Withdrawn => "withdrawn",
        State::NamespaceDeleted => "no (deleted)",
        State::BelowFloor => "no (evicted?)",
        State::Absent => "no",
        State::Unknown => "unknown",
    }
    .to_owned()
}

#[cfg(test)]
#[path = "doctor_artifact_tests.rs"]
mod tests;
