//! What `kura bootstrap` says: a line for each phase on stderr, and one report as a table or as JSON.

use std::fmt::Write as _;

use super::table::{HouseTable, short_digest};
use super::words::plural;
use crate::core::base::ids::StoreId;
use crate::core::base::units::ByteSize;
use crate::core::bootstrap::catch_up::Handshake;
use crate::core::bootstrap::engine::PeerSource;
use crate::core::bootstrap::report::{BootstrapReport, ItemReport, PeerReport};
use crate::core::config::Config;
use crate::core::mesh::discovery::Targets;
use crate::core::store::rebuild::RebuildReport;

/// Unsettled artifacts shown to people; JSON has more.
const ITEMS_SHOWN_MAX: usize = 10;

/// A line of a phase: its name in a column of its own.
pub(super) fn phase(name: &str, text: &str) -> String {
    format!("{name:<10} {text}")
}

/// What the sources named.
pub fn resolved(targets: &Targets) -> String {
    let count = u64::try_from(targets.urls.len()).unwrap_or(u64::MAX);
    let trouble = targets.dns_error.as_ref().map_or_else(String::new, |error| format!(" ({error})"));
    phase("resolve", &format!("{}{trouble}", plural(count, "address", "addresses")))
}

/// Who answered and how.
pub fn met(met: &Handshake) -> Vec<String> {
    let usable = met.usable.iter().map(|peer| match &peer.source {
        PeerSource::Seed => format!("{} is a seed-era node", peer.url),
        PeerSource::Kura { store_id, artifacts, .. } => {
            format!("{} is store {store_id} with {}", peer.url, plural(*artifacts, "artifact", "artifacts"))
        }
    });
    let silent = met.silent.iter().map(|(url, reason)| format!("{url} did not answer: {reason}"));
    let refused = met.refused.iter().map(|refusal| format!("{} is refused: {}", refusal.url, refusal.detail));
    usable.chain(silent).chain(refused).map(|text| phase("handshake", &text)).collect()
}

/// The store id a cloned volume got.
pub fn new_identity(store_id: Option<StoreId>) -> String {
    let store_id = store_id.map_or_else(String::new, |store_id| store_id.to_string());
    phase("identity", &format!("this volume is store {store_id} from now on"))
}

/// What making the index anew came to.
pub fn rebuilt(report: &RebuildReport) -> Vec<String> {
    let (artifacts, deletes) =
        (plural(report.artifacts, "artifact", "artifacts"), plural(report.tombstones, "delete", "deletes"));
    let mut lines = vec![
        phase("rebuild", &format!("{artifacts} of {} from body files, {deletes}", ByteSize(report.body_bytes))),
        phase("rebuild", "small bodies lay in the index: they come back from peers"),
    ];
    let unusable = report.unusable.saturating_add(report.unreadable);
    if unusable > 0 {
        lines.push(phase("rebuild", &format!("{} could not be used", plural(unusable, "body file", "body files"))));
    }
    lines
}

/// How the run goes about it.
pub fn plan(met: &Handshake, config: &Config, dry_run: bool) -> Vec<String> {
    let peers = plural(u64::try_from(met.usable.len()).unwrap_or(u64::MAX), "peer", "peers");
    let how = if dry_run { "compare only, change nothing" } else { "deletes first, then what is missing here" };
    let budget = ByteSize(config.tmp_dir_max_bytes);
    vec![
        phase("plan", &format!("{peers}: {how}")),
        phase("reserve", &format!("staging is bounded by {budget}, {} at a time", config.bootstrap_concurrency)),
    ]
}

/// What the phases after the plan came to.
pub fn phases(report: &BootstrapReport) -> Vec<String> {
    let artifacts = |count| plural(count, "artifact", "artifacts");
    if report.dry_run {
        let planned = format!("{} of {} would be fetched", artifacts(report.planned), ByteSize(report.planned_bytes));
        return vec![phase("plan", &planned)];
    }
    let fetched = report.peers.iter().fold(0_u64, |sum, peer| sum.saturating_add(peer.bytes));
    let deletes = plural(report.tombstones_applied, "delete", "deletes");
    vec![
        phase("transfer", &format!("{} in {}", ByteSize(fetched), seconds(report.elapsed_ms))),
        phase("verify", &format!("{} good, {} bad", report.applied, report.bad_copy)),
        phase("commit", &format!("{}, {deletes}", artifacts(report.applied))),
        phase("report", &completeness(report)),
    ]
}

fn completeness(report: &BootstrapReport) -> String {
    match (report.complete, report.stopped_by) {
        (true, _) => "complete".to_owned(),
        (false, Some(stopped_by)) => format!("not complete, stopped by {}", stopped_by.flag()),
        (false, None) => "not complete".to_owned(),
    }
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

/// The report as JSON.
pub fn json(report: &BootstrapReport) -> String {
    // Strings, numbers and lists of them always serialize.
    let mut text = serde_json::to_string_pretty(report).unwrap_or_default();
    text.push('\n');
    text
}

/// A line of JSON for programs that follow a run: `status`, `item_error` or `summary`.
pub fn json_line(message_type: &str, body: &impl serde::Serialize) -> String {
    let mut object = serde_json::Map::new();
    object.insert("message_type".to_owned(), message_type.into());
    // Structs of strings, numbers and lists of them always serialize, to objects.
    if let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(body) {
        object.extend(fields);
    }
    format!("{}\n", serde_json::Value::Object(object))
}

/// The report for people.
pub fn table(report: &BootstrapReport, width: usize) -> String {
    let mut text = summary(report);
    text.push('\n');
    text.push_str(&peers(&report.peers, width));
    for peer in &report.peers {
        if let Some(error) = &peer.error {
            let _ = writeln!(text, "  {}: {error}", peer.url);
        }
    }
    if !report.items.is_empty() {
        text.push('\n');
        text.push_str(&items(report, width));
    }
    text
}

fn summary(report: &BootstrapReport) -> String {
    let mut text = String::new();
    let artifacts = |count| plural(count, "artifact", "artifacts");
    if report.dry_run {
        let size = ByteSize(report.planned_bytes);
        let _ = writeln!(text, "dry run: {} of {size} would be fetched", artifacts(report.planned));
        return text;
    }
    let head = completeness(report);
    let (applied, size) = (artifacts(report.applied), ByteSize(report.applied_bytes));
    let _ = writeln!(text, "{head}: {applied} of {size} applied, {} already here", report.already_present);
    let left = [
        (report.failed, "failed"),
        (report.waiting_for_peer, "waiting for a peer"),
        (report.bad_copy, "only as a bad copy"),
        (report.unavailable, "unavailable"),
        (report.beyond_capacity, "beyond capacity"),
        (report.skipped_rows, "rows skipped"),
    ];
    let left: Vec<String> =
        left.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    if !left.is_empty() {
        let _ = writeln!(text, "left: {}", left.join(", "));
    }
    text
}

fn peers(peers: &[PeerReport], width: usize) -> String {
    let table = HouseTable::new(width).words("peer").words("clean").numbers("listed").numbers("applied");
    let mut table = table.numbers("here").numbers("failed").numbers("bytes");
    for peer in peers {
        table.row([
            peer.url.clone(),
            if peer.bootstrapped { "yes" } else { "no" }.to_owned(),
            peer.listed.to_string(),
            peer.applied.to_string(),
            peer.already_present.to_string(),
            (peer.failed + peer.bad_copy + peer.unavailable).to_string(),
            ByteSize(peer.bytes).to_string(),
        ]);
    }
    table.render()
}

fn items(report: &BootstrapReport, width: usize) -> String {
    let mut table = HouseTable::new(width).words("artifact").words("outcome").words("reason");
    for item in report.items.iter().take(ITEMS_SHOWN_MAX) {
        table.row(item_row(item));
    }
    let mut text = table.render();
    let shown = u64::try_from(report.items.len().min(ITEMS_SHOWN_MAX)).unwrap_or(u64::MAX);
    if report.items_total > shown {
        let _ = writeln!(text, "and {} more: --output json names up to 100", report.items_total - shown);
    }
    text
}

fn item_row(item: &ItemReport) -> [String; 3] {
    let outcome = serde_json::to_value(item.outcome).ok().and_then(|value| value.as_str().map(str::to_owned));
    let outcome = outcome.unwrap_or_default().replace('_', " ");
    [short_digest(&item.artifact_id.to_string()), outcome, item.error.clone().unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::base::ids::ArtifactId;
    use crate::core::bootstrap::report::{Outcome, RunLog};

    #[test]
    fn the_table_names_what_is_left_and_why() {
        let log = RunLog::default();
        log.pass_started("http://b:7443", None, false);
        log.settled("http://b:7443", &ArtifactId([0xab; 32]), Outcome::Failed, Some("it answered 500".to_owned()), 0);
        log.settled("http://b:7443", &ArtifactId([0xcd; 32]), Outcome::Applied, None, 2048);
        log.pass_finished("http://b:7443", Some("1 artifacts failed, 0 wait for a peer"));
        let text = table(&log.report(std::time::Duration::from_millis(1500), false), 90);
        let expected = "not complete: 1 artifact of 2 KiB applied, 0 already here\n\
            left: 1 failed\n\
            \n\
            peer           clean  listed  applied  here  failed  bytes\n\
            http://b:7443  no          2        1     0       1  2 KiB\n\
            \x20 http://b:7443: 1 artifacts failed, 0 wait for a peer\n\
            \n\
            artifact           outcome  reason\n\
            abababab…abababab  failed   it answered 500\n";
        assert_eq!(text, expected);
    }
}
