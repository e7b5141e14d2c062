//! What peers have and does not come: their circuits, and what was tried again and again.
//!
//! How it works: circuits and progress are from the running node's answer, artifacts from the rows of what is wanted,
//! read from the index. A holder that is simply gone is another finding; here it is there and does not deliver.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::staging::age;
use crate::core::base::units::ByteSize;
use crate::core::doctor::check::{About, Category, Check, CheckError, Outcome, Pulse, QUICK_LIMIT, Reach};
use crate::core::doctor::context::Context;
use crate::core::doctor::finding::{Code, Evidence, Remedy, Severity};
use crate::core::doctor::live::{ControlStatus, PeerStatus};
use crate::core::store::Store;
use crate::core::store::wanted::{Wanted, WantedReason};

/// Tries after which an artifact is more than unlucky: the pauses between them come to about a minute by then.
const TRIES_STUCK: u32 = 5;
/// Rows read at a time.
const PAGE_ROWS: usize = 1024;

/// Whether what peers have comes.
#[derive(Debug)]
pub struct ReplicationStuck;

impl Check for ReplicationStuck {
    fn about(&self) -> About {
        About {
            code: Code::ReplicationStuck,
            category: Category::Peers,
            title: "what the peers have comes to the running node",
            reach: Reach::Live,
            severity: Severity::Warn,
            fatal: false,
            needs: &[],
            limit: QUICK_LIMIT,
        }
    }

    fn run(&self, context: &Context, pulse: &Pulse) -> Result<Outcome, CheckError> {
        let status = context.live()?;
        if status.readiness.peers.is_empty() {
            return Ok(Outcome::skip("the running node has met no peer"));
        }
        let mut stuck = Stuck::default();
        status.readiness.peers.iter().for_each(|peer| stuck.note_peer(peer));
        stuck.read(context.index()?, pulse)?;
        Ok(stuck.judged(status))
    }
}

/// What does not come, by the peer that should send it.
#[derive(Debug, Default)]
struct Stuck {
    peers: BTreeMap<String, StuckPeer>,
    items: u64,
}

#[derive(Debug, Default)]
struct StuckPeer {
    circuit: Option<String>,
    failures: u32,
    next_try_in_ms: Option<u64>,
    stalled: bool,
    error: Option<String>,
    items: u64,
    oldest: Option<Wanted>,
}

impl Stuck {
    fn note_peer(&mut self, peer: &PeerStatus) {
        let is_open = matches!(peer.circuit.as_str(), "open" | "half_open");
        let stalled = peer.reachable && peer.excused && !peer.bootstrapped;
        if peer.reachable && (is_open || stalled) {
            let entry = self.peers.entry(peer.url.clone()).or_default();
            entry.circuit = is_open.then(|| peer.circuit.clone());
            entry.failures = peer.failures;
            entry.next_try_in_ms = peer.next_try_in_ms;
            entry.stalled = stalled;
            entry.error = peer.last_error.clone();
        }
    }

    fn read(&mut self, store: &Store, pulse: &Pulse) -> Result<(), CheckError> {
        let mut after = None;
        loop {
            let page = store.wanted_page(after, PAGE_ROWS);
            let page = page.map_err(|error| CheckError::from_error("read what is wanted", &error))?;
            let Some(last) = page.last().map(|row| row.id) else { return Ok(()) };
            page.into_iter().filter(is_stuck).for_each(|row| self.note_item(row));
            after = Some(last);
            pulse.beat();
        }
    }

    fn note_item(&mut self, row: Wanted) {
        self.items += 1;
        let Some(holder) = row.holders.first().cloned() else { return };
        let entry = self.peers.entry(holder).or_default();
        entry.items += 1;
        if entry.oldest.as_ref().is_none_or(|oldest| row.version < oldest.version) {
            entry.oldest = Some(row);
        }
    }

    fn judged(&self, status: &ControlStatus) -> Outcome {
        let evidence = Evidence::new().value("peers", status.readiness.peers.len()).value("items", self.items);
        let Some(first) = self.peers.keys().next() else {
            let message = format!("{} peers deliver what is asked of them", status.readiness.peers.len());
            return Outcome::ok(message).evidence(evidence);
        };
        let lines: Vec<(Value, String)> =
            self.peers.iter().map(|(url, peer)| (peer.value(url), peer.line(url, status.now_ms))).collect();
        let total = lines.len() as u64;
        Outcome::warn(format!("{total} peers do not deliver what they have"))
            .evidence(evidence.fact(format!("{} artifacts in vain", self.items)).entries("stuck", &lines, total))
            .effect(
                "what only they hold is missing here; it is asked of the others, and of them again with growing pauses",
            )
            .remedy(
                Remedy::text(format!(
                    "run kura doctor on the node behind {first}: the error says what it could not do; nothing is to be \
                     done here, tries go on by themselves"
                ))
                .look(format!("curl -sS --max-time 10 {first}/_internal/status")),
            )
    }
}

/// Tried more often than bad luck explains, and a peer says that it is there.
fn is_stuck(row: &Wanted) -> bool {
    let delivers = !matches!(row.reason, WantedReason::Unavailable | WantedReason::BeyondCapacity);
    delivers && row.attempts >= TRIES_STUCK
}

impl StuckPeer {
    fn value(&self, url: &str) -> Value {
        let oldest = self.oldest.as_ref().map(|row| {
            let (producer, namespace, key) = &row.name;
            json!({
                "artifact_id": row.id.to_string(), "producer": producer, "namespace": namespace, "key": key,
                "size_bytes": row.size, "version_ms": row.version.version_ms, "attempts": row.attempts,
                "next_try_ms": row.next_try_ms, "error": row.error,
            })
        });
        json!({
            "peer": url, "circuit": self.circuit, "failures": self.failures, "next_try_in_ms": self.next_try_in_ms,
            "items": self.items, "oldest": oldest, "error": self.error,
        })
    }

    fn line(&self, url: &str, now_ms: u64) -> String {
        let mut parts = Vec::new();
        if let Some(circuit) = &self.circuit {
            parts.push(format!("circuit {circuit} after {} failures", self.failures));
        }
        if self.stalled {
            parts.push("no progress for 2 minutes".to_owned());
        }
        if let Some(in_ms) = self.next_try_in_ms {
            parts.push(format!("next try in {} s", in_ms.div_ceil(1000)));
        }
        if self.items > 0 {
            parts.push(format!("{} artifacts", self.items));
        }
        let item = self.oldest.as_ref().map(|row| oldest_line(row, now_ms));
        let error = self.error.as_ref().filter(|_| item.is_none()).map(|error| format!("last error: {error}"));
        format!("{url}: {}", parts.into_iter().chain(item).chain(error).collect::<Vec<_>>().join(", "))
    }
}

fn oldest_line(row: &Wanted, now_ms: u64) -> String {
    let (producer, _, key) = &row.name;
    let written = age(now_ms.saturating_sub(row.version.version_ms));
    let next = row.next_try_ms.saturating_sub(now_ms).div_ceil(1000);
    let error = row.error.as_deref().unwrap_or("no error noted");
    let size = ByteSize(row.size);
    let tries = row.attempts;
    format!("the oldest {producer} {key:?} ({size}, {written} old), {tries} tries, next in {next} s: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::base::ids::{ArtifactId, Digest, Version};
    use crate::core::doctor::finding::Status;

    fn peer(circuit: &str, excused: bool) -> PeerStatus {
        PeerStatus {
            url: "http://a:7443".to_owned(),
            reachable: true,
            excused,
            circuit: circuit.to_owned(),
            failures: 6,
            next_try_in_ms: Some(1_500),
            last_error: Some("500".to_owned()),
            ..PeerStatus::default()
        }
    }

    fn wanted(version_ms: u64, attempts: u32, reason: WantedReason) -> Wanted {
        Wanted {
            id: ArtifactId([u8::try_from(attempts).unwrap(); 32]),
            version: Version { version_ms, logical: 0, digest: Digest::default() },
            size: 2 << 20,
            name: ("metro".to_owned(), String::new(), format!("key-{version_ms}")),
            holders: vec!["http://a:7443".to_owned()],
            reason,
            error: Some("I/O error".to_owned()),
            attempts,
            next_try_ms: 12_000,
        }
    }

    fn judged(peers: &[PeerStatus], rows: &[Wanted]) -> Outcome {
        let mut stuck = Stuck::default();
        peers.iter().for_each(|peer| stuck.note_peer(peer));
        rows.iter().filter(|row| is_stuck(row)).for_each(|row| stuck.note_item(row.clone()));
        stuck.judged(&ControlStatus { now_ms: 10_000, ..ControlStatus::default() })
    }

    #[test]
    fn bad_luck_and_what_nobody_has_are_quiet_and_so_is_a_peer_that_is_gone() {
        let gone = PeerStatus { reachable: false, ..peer("open", true) };
        let rows = [wanted(1, 4, WantedReason::Failed), wanted(2, 40, WantedReason::Unavailable)];
        assert_eq!(judged(&[peer("closed", false), gone], &rows).status, Status::Ok);
    }

    #[test]
    fn an_open_circuit_and_a_peer_that_stands_still_are_told_with_the_next_try() {
        let outcome = judged(&[peer("open", true)], &[]);
        let line =
            "http://a:7443: circuit open after 6 failures, no progress for 2 minutes, next try in 2 s, last error: 500";
        assert_eq!((outcome.status, outcome.evidence.details()), (Status::Warn, [line.to_owned()].as_slice()));
    }

    #[test]
    fn of_what_was_tried_in_vain_the_oldest_is_named_with_its_tries() {
        let rows = [wanted(9_000, 5, WantedReason::Failed), wanted(4_000, 7, WantedReason::WaitingForPeer)];
        let outcome = judged(&[], &rows);
        let line = "http://a:7443: 2 artifacts, the oldest metro \"key-4000\" (2 MiB, 6 s old), 7 tries, next in 2 s: I/O error";
        assert_eq!(outcome.evidence.details(), [line]);
        assert_eq!(outcome.evidence.values()["stuck"][0]["oldest"]["attempts"], 7);
    }
}
