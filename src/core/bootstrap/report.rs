//! What a run of catching up came to: counted while it runs, shown as `kura.bootstrap/v1`.
//!
//! How it works: each end of an item is recorded with the peer it came from. An artifact's own end is that of all peers
//! together: applied once is applied; otherwise what is worst among the peers' answers, so that it is only unavailable
//! when every holder said so.
//!
//! Invariants: the totals count an artifact once, whatever the number of peers. Memory is bounded by
//! [`SEEN_MAX`] and [`UNSETTLED_MAX`]; beyond them counts of what was already here may count an artifact again.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use super::bounds::StoppedBy;
use crate::core::base::ids::{ArtifactId, StoreId};

/// The JSON's schema.
pub const SCHEMA: &str = "kura.bootstrap/v1";

/// Items named in the report.
pub const ITEMS_SHOWN_MAX: usize = 100;

/// Listed artifacts told apart from ones seen before; 16 bytes each.
const SEEN_MAX: usize = 4 << 20;

/// Unsettled artifacts remembered by name; as many as a store keeps wanted rows in practice.
const UNSETTLED_MAX: usize = 100_000;

/// Ends that are not good and were not asked for yet; what is beyond is in the report only.
const FRESH_MAX: usize = 1000;

/// How it ended for one artifact, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Fetched and committed, or its newer version adopted.
    Applied,
    /// Here, or newer, deleted or evicted here.
    AlreadyPresent,
    /// Every known holder answered that it has no good copy.
    Unavailable,
    /// It would be evicted at once.
    BeyondCapacity,
    /// Wrong length or digest.
    BadCopy,
    /// A holder is down.
    WaitingForPeer,
    /// Transport trouble or an error of the peer.
    Failed,
}

/// One peer's part of the report.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PeerReport {
    /// Where it was dialled.
    pub url: String,
    /// Its store; null for seed-era peers.
    pub store_id: Option<StoreId>,
    /// Whether its last pass was clean.
    pub bootstrapped: bool,
    /// Artifacts it listed.
    pub listed: u64,
    /// Applied from it.
    pub applied: u64,
    /// Not needed from it.
    pub already_present: u64,
    /// It said that it has no good copy.
    pub unavailable: u64,
    /// It failed to deliver.
    pub failed: u64,
    /// It delivered wrong bytes.
    pub bad_copy: u64,
    /// Bytes of bodies it delivered.
    pub bytes: u64,
    /// Passes after the first.
    pub retries: u64,
    /// What ended its last pass, if something did.
    pub error: Option<String>,
}

/// An artifact that is not settled well.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ItemReport {
    /// Which artifact.
    pub artifact_id: ArtifactId,
    /// The peer whose answer counts.
    pub peer: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Why.
    pub error: Option<String>,
    /// Tries in this run.
    pub attempts: u32,
}

/// The whole report.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BootstrapReport {
    /// [`SCHEMA`].
    pub schema: String,
    /// Whether everything every peer listed is settled well.
    pub complete: bool,
    /// Deleted namespaces that were new here.
    pub tombstones_applied: u64,
    /// Artifacts applied.
    pub applied: u64,
    /// Bytes of their bodies that were fetched.
    pub applied_bytes: u64,
    /// Artifacts that needed nothing.
    pub already_present: u64,
    /// Artifacts no holder has a good copy of.
    pub unavailable: u64,
    /// Artifacts whose holder is down.
    pub waiting_for_peer: u64,
    /// Artifacts of which only bad copies exist.
    pub bad_copy: u64,
    /// Artifacts that would be evicted at once.
    pub beyond_capacity: u64,
    /// Artifacts that could not be fetched.
    pub failed: u64,
    /// Rows that were not usable.
    pub skipped_rows: u64,
    /// How long it took.
    pub elapsed_ms: u64,
    /// The bound that ended the run before it was done, if one did.
    #[serde(default)]
    pub stopped_by: Option<StoppedBy>,
    /// Whether nothing was changed, only looked at.
    pub dry_run: bool,
    /// Artifacts a dry run would fetch.
    pub planned: u64,
    /// Bytes of them.
    pub planned_bytes: u64,
    /// Each peer.
    pub peers: Vec<PeerReport>,
    /// What is not settled well, the worst first, at most [`ITEMS_SHOWN_MAX`].
    pub items: Vec<ItemReport>,
    /// How many that are in all.
    pub items_total: u64,
}

/// What one peer said of an unsettled artifact.
#[derive(Debug, Clone)]
struct Answer {
    peer: String,
    outcome: Outcome,
    error: Option<String>,
}

/// How a listed artifact counts in the totals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counted {
    /// As planned, unsettled or nothing yet.
    Listed,
    /// As applied.
    Applied,
    /// As already present.
    Present,
}

#[derive(Debug, Default)]
struct Unsettled {
    answers: Vec<Answer>,
    attempts: u32,
}

#[derive(Debug, Default)]
struct State {
    peers: BTreeMap<String, PeerReport>,
    /// By the first bytes of the id: how the artifact was counted last.
    seen: HashMap<u64, Counted>,
    unsettled: HashMap<ArtifactId, Unsettled>,
    already_present: u64,
    applied: u64,
    applied_bytes: u64,
    tombstones_applied: u64,
    skipped_rows: u64,
    planned: u64,
    planned_bytes: u64,
    fresh: Vec<ItemReport>,
    stopped_by: Option<StoppedBy>,
}

/// Counts a run while it goes on; shared by its passes.
#[derive(Debug, Default)]
pub struct RunLog {
    state: Mutex<State>,
}

impl RunLog {
    fn with<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A pass over a peer begins; what its last one said of single artifacts no longer counts.
    pub fn pass_started(&self, url: &str, store_id: Option<StoreId>, is_retry: bool) {
        self.with(|state| {
            let peer = state.peer(url);
            peer.store_id = store_id;
            (peer.error, peer.bootstrapped) = (None, false);
            (peer.listed, peer.already_present, peer.unavailable, peer.failed, peer.bad_copy) = (0, 0, 0, 0, 0);
            peer.retries += u64::from(is_retry);
            for unsettled in state.unsettled.values_mut() {
                unsettled.answers.retain(|answer| answer.peer != url);
            }
        });
    }

    /// A pass ended: `None` clean.
    pub fn pass_finished(&self, url: &str, error: Option<&str>) {
        self.with(|state| {
            let peer = state.peer(url);
            peer.bootstrapped = error.is_none();
            peer.error = error.map(str::to_owned);
        });
    }

    /// One artifact listed by one peer came to an end, after `bytes` of its body arrived.
    pub fn settled(&self, url: &str, id: &ArtifactId, outcome: Outcome, error: Option<String>, bytes: u64) {
        self.with(|state| {
            state.peer(url).count(outcome, bytes);
            match outcome {
                Outcome::Applied => state.count_applied(id, bytes),
                Outcome::AlreadyPresent => state.count_present(id),
                _ => state.note_unsettled(url, id, outcome, error),
            }
        });
    }

    /// An artifact is wanted from a holder that is no part of this run, and did not come from another.
    pub fn wanted_elsewhere(&self, id: &ArtifactId, holder: &str, outcome: Outcome) {
        let error = Some("listed by this peer in an earlier run".to_owned());
        self.with(|state| {
            if !state.unsettled.contains_key(id) {
                state.note_unsettled(holder, id, outcome, error);
            }
        });
    }

    /// A deleted namespace was new here.
    pub fn tombstone_applied(&self) {
        self.with(|state| state.tombstones_applied += 1);
    }

    /// Rows of a peer were not usable.
    pub fn skipped(&self, rows: usize) {
        self.with(|state| {
            state.skipped_rows = state.skipped_rows.saturating_add(u64::try_from(rows).unwrap_or(u64::MAX))
        });
    }

    /// A dry run would fetch this.
    pub fn planned(&self, url: &str, id: &ArtifactId, bytes: u64) {
        self.with(|state| {
            state.peer(url).listed += 1;
            if state.count(id, Counted::Listed).is_none() {
                state.planned += 1;
                state.planned_bytes = state.planned_bytes.saturating_add(bytes);
            }
        });
    }

    /// The run was stopped before it was done.
    pub fn stopped(&self, stopped_by: StoppedBy) {
        self.with(|state| {
            state.stopped_by = Some(stopped_by);
            for peer in state.peers.values_mut().filter(|peer| !peer.bootstrapped && peer.error.is_none()) {
                peer.error = Some(format!("the pass was stopped by {}", stopped_by.flag()));
            }
        });
    }

    /// The ends that were not good since this was asked last, as far as there was room for them.
    pub fn take_fresh(&self) -> Vec<ItemReport> {
        self.with(|state| std::mem::take(&mut state.fresh))
    }

    /// The report of everything so far.
    pub fn report(&self, elapsed: std::time::Duration, dry_run: bool) -> BootstrapReport {
        self.with(|state| state.report(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX), dry_run))
    }
}

impl PeerReport {
    fn count(&mut self, outcome: Outcome, bytes: u64) {
        self.listed += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        match outcome {
            Outcome::Applied => self.applied += 1,
            Outcome::AlreadyPresent => self.already_present += 1,
            Outcome::Unavailable => self.unavailable += 1,
            Outcome::BadCopy => self.bad_copy += 1,
            Outcome::Failed | Outcome::WaitingForPeer => self.failed += 1,
            Outcome::BeyondCapacity => {}
        }
    }
}

impl State {
    fn peer(&mut self, url: &str) -> &mut PeerReport {
        let named = || PeerReport { url: url.to_owned(), ..PeerReport::default() };
        self.peers.entry(url.to_owned()).or_insert_with(named)
    }

    /// Remembers how an artifact counts and gives back how it counted before.
    fn count(&mut self, id: &ArtifactId, counted: Counted) -> Option<Counted> {
        let [a, b, c, d, e, f, g, h, ..] = id.0;
        let short = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        if self.seen.len() >= SEEN_MAX && !self.seen.contains_key(&short) {
            return None;
        }
        self.seen.insert(short, counted)
    }

    /// Of two passes the one that found it present may be heard before the one that had just applied it.
    fn count_applied(&mut self, id: &ArtifactId, bytes: u64) {
        self.unsettled.remove(id);
        self.applied += 1;
        self.applied_bytes = self.applied_bytes.saturating_add(bytes);
        if self.count(id, Counted::Applied) == Some(Counted::Present) {
            self.already_present -= 1;
        }
    }

    fn count_present(&mut self, id: &ArtifactId) {
        self.unsettled.remove(id);
        match self.count(id, Counted::Present) {
            Some(Counted::Present) => {}
            Some(Counted::Applied) => {
                self.count(id, Counted::Applied);
            }
            Some(Counted::Listed) | None => self.already_present += 1,
        }
    }

    fn note_unsettled(&mut self, url: &str, id: &ArtifactId, outcome: Outcome, error: Option<String>) {
        if self.unsettled.len() >= UNSETTLED_MAX && !self.unsettled.contains_key(id) {
            return;
        }
        let unsettled = self.unsettled.entry(*id).or_default();
        unsettled.attempts += 1;
        if self.fresh.len() < FRESH_MAX {
            let (artifact_id, peer, attempts) = (*id, url.to_owned(), unsettled.attempts);
            self.fresh.push(ItemReport { artifact_id, peer, outcome, error: error.clone(), attempts });
        }
        unsettled.answers.retain(|answer| answer.peer != url);
        unsettled.answers.push(Answer { peer: url.to_owned(), outcome, error });
    }

    fn items(&self) -> Vec<ItemReport> {
        let item = |(id, unsettled): (&ArtifactId, &Unsettled)| {
            let worst = unsettled.answers.iter().max_by_key(|answer| answer.outcome)?;
            Some(ItemReport {
                artifact_id: *id,
                peer: worst.peer.clone(),
                outcome: worst.outcome,
                error: worst.error.clone(),
                attempts: unsettled.attempts,
            })
        };
        let mut items: Vec<ItemReport> = self.unsettled.iter().filter_map(item).collect();
        items.sort_by(|one, other| other.outcome.cmp(&one.outcome).then(one.artifact_id.cmp(&other.artifact_id)));
        items
    }

    fn report(&self, elapsed_ms: u64, dry_run: bool) -> BootstrapReport {
        let mut items = self.items();
        let count = |outcome: Outcome| {
            u64::try_from(items.iter().filter(|item| item.outcome == outcome).count()).unwrap_or(u64::MAX)
        };
        let peers: Vec<PeerReport> = self.peers.values().cloned().collect();
        let (failed, waiting_for_peer) = (count(Outcome::Failed), count(Outcome::WaitingForPeer));
        let (bad_copy, unavailable) = (count(Outcome::BadCopy), count(Outcome::Unavailable));
        let beyond_capacity = count(Outcome::BeyondCapacity);
        // Where nobody was caught up from nothing was proven.
        let reached = !peers.is_empty() && peers.iter().all(|peer| peer.error.is_none());
        let items_total = u64::try_from(items.len()).unwrap_or(u64::MAX);
        items.truncate(ITEMS_SHOWN_MAX);
        BootstrapReport {
            schema: SCHEMA.to_owned(),
            complete: reached && self.stopped_by.is_none() && failed + waiting_for_peer + bad_copy == 0,
            tombstones_applied: self.tombstones_applied,
            applied: self.applied,
            applied_bytes: self.applied_bytes,
            already_present: self.already_present,
            unavailable,
            waiting_for_peer,
            bad_copy,
            beyond_capacity,
            failed,
            skipped_rows: self.skipped_rows,
            elapsed_ms,
            stopped_by: self.stopped_by,
            dry_run,
            planned: self.planned,
            planned_bytes: self.planned_bytes,
            peers,
            items,
            items_total,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: ArtifactId = ArtifactId([7; 32]);

    #[test]
    fn totals_count_an_artifact_once_whatever_the_number_of_peers() {
        let log = RunLog::default();
        log.settled("a", &ID, Outcome::Applied, None, 10);
        log.settled("b", &ArtifactId([9; 32]), Outcome::AlreadyPresent, None, 0);
        log.settled("a", &ArtifactId([9; 32]), Outcome::Applied, None, 10);
        for peer in ["b", "c", "d"] {
            log.settled(peer, &ID, Outcome::AlreadyPresent, None, 0);
            log.settled(peer, &ArtifactId([8; 32]), Outcome::AlreadyPresent, None, 0);
        }
        let report = log.report(std::time::Duration::from_millis(5), false);
        assert_eq!((report.applied, report.applied_bytes, report.already_present), (2, 20, 1));
        assert!(report.complete && report.peers.len() == 4 && report.peers[1].already_present == 3);
    }

    #[test]
    fn an_artifact_is_unavailable_only_when_every_holder_says_so() {
        let log = RunLog::default();
        log.settled("a", &ID, Outcome::Unavailable, Some("404".to_owned()), 0);
        assert_eq!(log.report(std::time::Duration::ZERO, false).unavailable, 1);
        log.settled("b", &ID, Outcome::Failed, Some("reset".to_owned()), 0);
        let report = log.report(std::time::Duration::ZERO, false);
        assert_eq!((report.unavailable, report.failed, report.items[0].peer.as_str()), (0, 1, "b"));
        log.pass_started("b", None, true);
        log.settled("b", &ID, Outcome::Unavailable, None, 0);
        assert_eq!(log.report(std::time::Duration::ZERO, false).unavailable, 1);
        log.settled("c", &ID, Outcome::Applied, None, 1);
        let report = log.report(std::time::Duration::ZERO, false);
        assert_eq!((report.items_total, report.applied), (0, 1));
    }

    #[test]
    fn a_run_in_which_nobody_was_caught_up_from_is_not_complete() {
        let log = RunLog::default();
        assert!(!log.report(std::time::Duration::ZERO, false).complete, "no peer at all");
        log.pass_finished("http://refused", Some("it holds tenant b, not a"));
        assert!(!log.report(std::time::Duration::ZERO, false).complete, "only one that was refused");
        log.pass_finished("http://refused", None);
        assert!(log.report(std::time::Duration::ZERO, false).complete);
    }

    #[test]
    fn the_report_has_the_fields_of_its_schema() {
        let log = RunLog::default();
        log.pass_started("http://a", None, false);
        log.settled("http://a", &ID, Outcome::BadCopy, Some("wrong length".to_owned()), 0);
        log.pass_finished("http://a", Some("1 artifact is not settled"));
        let json = serde_json::to_value(log.report(std::time::Duration::ZERO, false)).unwrap();
        let fields = [
            "schema",
            "complete",
            "tombstones_applied",
            "applied",
            "applied_bytes",
            "already_present",
            "unavailable",
            "waiting_for_peer",
            "bad_copy",
            "beyond_capacity",
            "failed",
            "skipped_rows",
            "elapsed_ms",
            "peers",
            "items",
            "items_total",
        ];
        fields.iter().for_each(|field| assert!(json.get(field).is_some(), "{field}"));
        let peer = [
            "url",
            "store_id",
            "bootstrapped",
            "listed",
            "applied",
            "already_present",
            "unavailable",
            "failed",
            "bad_copy",
            "bytes",
            "retries",
            "error",
        ];
        peer.iter().for_each(|field| assert!(json["peers"][0].get(field).is_some(), "{field}"));
        assert_eq!(json["items"][0]["outcome"], "bad_copy");
        assert_eq!(json["complete"], false);
    }
}
