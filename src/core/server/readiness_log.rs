//! Says in the log what readiness does by itself: each reason once as it begins and ends, and how catching up goes.
//!
//! How it works: once a second the snapshot is held against the one before. While a peer's data is not settled, a line
//! for each such peer comes every [`PROGRESS_INTERVAL`]: numbers that rise are slow, numbers that stand still are stuck.
//!
//! Invariant: a transition shorter than the look is not seen; what lasts is told once, however long it lasts.

use std::sync::Arc;
use std::time::Duration;

use super::node::NodeContext;
use crate::core::mesh::readiness::{PeerProgress, ReadinessSnapshot};
use crate::core::mesh::reasons::Reason;

/// How often the state is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How often catching up is told.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(30);

/// Runs until the node's shutdown.
pub(super) async fn run(node: Arc<NodeContext>) {
    let clock = &node.seams.clock;
    let mut before: Option<ReadinessSnapshot> = None;
    let mut told = clock.monotonic();
    loop {
        let now = node.readiness.snapshot();
        for change in changes(before.as_ref(), &now) {
            tell(&change, clock.now_ms());
        }
        let elapsed = clock.monotonic().saturating_sub(told);
        if elapsed >= PROGRESS_INTERVAL {
            told = clock.monotonic();
            now.peers.iter().filter(|peer| is_under_way(peer)).for_each(|peer| tell_progress(peer, clock.now_ms()));
        }
        before = Some(now);
        tokio::select! {
            biased;
            () = node.shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
    }
}

/// What is new between two looks.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Began(Reason),
    Ended(Reason),
    Ready(bool),
    Complete,
}

fn changes(before: Option<&ReadinessSnapshot>, now: &ReadinessSnapshot) -> Vec<Change> {
    let old = before.map(|before| before.gates.as_slice()).unwrap_or_default();
    let is_in = |reasons: &[Reason], reason: &Reason| reasons.iter().any(|other| other.key() == reason.key());
    let began = now.gates.iter().filter(|reason| !is_in(old, reason)).cloned().map(Change::Began);
    let ended = old.iter().filter(|reason| !is_in(&now.gates, reason)).cloned().map(Change::Ended);
    let mut changes: Vec<Change> = began.chain(ended).collect();
    if before.is_some_and(|before| before.ready) != now.ready {
        changes.push(Change::Ready(now.ready));
    }
    if now.complete && !before.is_some_and(|before| before.complete) {
        changes.push(Change::Complete);
    }
    changes
}

fn tell(change: &Change, now_ms: u64) {
    match change {
        Change::Began(reason) => {
            let (code, peer, detail) = (&reason.code, &reason.peer, &reason.detail);
            tracing::info!(%code, peer = peer.as_deref(), detail = detail.as_deref(), "readiness_reason_began");
        }
        Change::Ended(reason) => {
            let lasted_ms = now_ms.saturating_sub(reason.since_ms);
            tracing::info!(code = %reason.code, peer = reason.peer.as_deref(), lasted_ms, "readiness_reason_ended");
        }
        Change::Ready(true) => tracing::info!("ready"),
        Change::Ready(false) => tracing::warn!("not_ready"),
        Change::Complete => tracing::info!("complete"),
    }
}

fn is_under_way(peer: &PeerProgress) -> bool {
    !peer.bootstrapped
}

fn tell_progress(peer: &PeerProgress, now_ms: u64) {
    let last_advance_s = peer.last_advance_ms.map(|at| now_ms.saturating_sub(at) / 1000);
    tracing::info!(
        peer = %peer.node_url,
        phase = ?peer.phase,
        done = peer.done,
        total = peer.total,
        bytes = peer.bytes,
        rows_per_s = peer.rate,
        eta_s = peer.eta_ms.map(|eta_ms| eta_ms / 1000),
        last_advance_s,
        excused = peer.excused,
        error = peer.last_error.as_deref(),
        "catch_up_progress"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::base::clock::ManualClock;
    use crate::core::mesh::readiness::{DiscoveryRound, PeerFacts, Readiness};

    #[test]
    fn each_reason_is_told_once_as_it_begins_and_once_as_it_ends() {
        let clock = Arc::new(ManualClock::at(1_700_000_000_000));
        let readiness = Readiness::new(true, clock.clone());
        let mut before = None;
        let mut look = || {
            let now = readiness.snapshot();
            let told = changes(before.as_ref(), &now);
            before = Some(now);
            let word = |change: &Change| match change {
                Change::Began(reason) => format!("+{}", reason.code),
                Change::Ended(reason) => format!("-{}", reason.code),
                other => format!("{other:?}"),
            };
            told.iter().map(word).collect::<Vec<_>>()
        };
        assert_eq!(look(), ["+writer_lock_not_held", "+store_not_open", "+discovery_not_done"]);
        readiness.set_lock_held(true);
        readiness.set_store_open(true);
        let url = "http://b:7443";
        let facts = PeerFacts {
            url: url.to_owned(),
            node_url: url.to_owned(),
            region: None,
            reachable: true,
            answered: true,
            complete: true,
            error: None,
        };
        let round = DiscoveryRound { configured: true, observed: true, peers: vec![facts] };
        readiness.update(|machine, now| machine.discovered(round, now));
        assert_eq!(look(), ["+tombstones_pending", "-writer_lock_not_held", "-store_not_open", "-discovery_not_done"]);
        assert_eq!(look(), [""; 0], "what lasts is told once");
        readiness.update(|machine, now| machine.pass_started(url, now));
        readiness.update(|machine, now| machine.tombstones_applied(url, now));
        assert_eq!(look(), ["+catching_up", "-tombstones_pending"]);
        readiness.update(|machine, now| machine.advanced(url, 5, 500, now));
        assert_eq!(look(), [""; 0], "numbers are progress and no transition");
        readiness.update(|machine, _| machine.pass_finished(url, None));
        assert_eq!(look(), ["-catching_up", "Ready(true)", "Complete"]);
        readiness.set_store_stalled(true);
        assert_eq!(look(), ["+store_stalled", "Ready(false)"]);
        readiness.set_store_stalled(false);
        assert_eq!(look(), ["-store_stalled", "Ready(true)"]);
    }
}
