//! Says in the log what readiness does by itself: each reason once as it begins and ends, and how catching up goes.
//!
//! How it works: once a second the snapshot is held against the one before. While a peer's data is not settled, a line
//! for each such peer comes every [`PROGRESS_INTERVAL`]: numbers that rise are slow, numbers that stand still are stuck.
//!
//! Invariant: a transition shorter than the look is not seen; what lasts is told once, however long it lasts.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::node::NodeContext;
use crate::core::base::clock::Clock;
use crate::core::mesh::readiness::{PeerProgress, Readiness, ReadinessSnapshot};
use crate::core::mesh::reasons::Reason;

/// How often the state is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How often catching up is told.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(30);

/// Runs until the node's shutdown.
pub(super) async fn run(node: Arc<NodeContext>) {
    watch(&node.readiness, node.seams.clock.as_ref(), &node.shutdown).await;
}

async fn watch(readiness: &Readiness, clock: &dyn Clock, shutdown: &CancellationToken) {
    let mut before: Option<ReadinessSnapshot> = None;
    let mut told = clock.monotonic();
    loop {
        let now = readiness.snapshot();
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
            () = shutdown.cancelled() => return,
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
    use std::io::Write;
    use std::sync::Mutex;

    use tokio::time::Instant;

    use super::*;
    use crate::core::base::clock::ManualClock;
    use crate::core::mesh::readiness::{DiscoveryRound, PeerFacts};

    const PEER: &str = "http://b:7443";

    fn round_with_a_peer() -> DiscoveryRound {
        let facts = PeerFacts {
            url: PEER.to_owned(),
            node_url: PEER.to_owned(),
            region: None,
            reachable: true,
            answered: true,
            complete: true,
            error: None,
        };
        DiscoveryRound { configured: true, observed: true, peers: vec![facts] }
    }

    /// The runtime's own time, which a test may let fly.
    #[derive(Debug)]
    struct RuntimeClock(Instant);

    impl Clock for RuntimeClock {
        fn now_ms(&self) -> u64 {
            1_700_000_000_000 + u64::try_from(self.0.elapsed().as_millis()).unwrap()
        }

        fn monotonic(&self) -> Duration {
            self.0.elapsed()
        }
    }

    /// Where log lines of a test go.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        fn with(&self, word: &str) -> Vec<String> {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            text.lines().filter(|line| line.contains(word)).map(ToOwned::to_owned).collect()
        }
    }

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn catching_up_is_told_every_half_minute_until_it_is_done_and_says_whether_it_moves() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let _logging = tracing::subscriber::set_default(subscriber);
        let clock = Arc::new(RuntimeClock(Instant::now()));
        let readiness = Readiness::new(true, clock.clone());
        readiness.set_lock_held(true);
        readiness.set_store_open(true);
        readiness.update(|machine, now| machine.discovered(round_with_a_peer(), now));
        readiness.update(|machine, now| machine.pass_started(PEER, now));
        readiness.update(|machine, now| machine.tombstones_applied(PEER, now));
        readiness.update(|machine, _| machine.set_total(PEER, 600));
        let shutdown = CancellationToken::new();
        let story = async {
            // It moves for a minute and a half, stands still for another half, and ends.
            for _ in 0..95 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                readiness.update(|machine, now| machine.advanced(PEER, 2, 500, now));
            }
            tokio::time::sleep(Duration::from_secs(30)).await;
            readiness.update(|machine, _| machine.pass_finished(PEER, None));
            tokio::time::sleep(Duration::from_secs(300)).await;
            shutdown.cancel();
        };
        tokio::join!(watch(&readiness, clock.as_ref(), &shutdown), story);
        let told = lines.with("catch_up_progress");
        assert_eq!(told.len(), 4, "{told:#?}");
        assert!(told.iter().all(|line| line.contains("peer=http://b:7443") && line.contains("total=600")), "{told:#?}");
        let figure = |line: &str, name: &str| -> u64 {
            let text = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            text.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no {name} in {line}"))
        };
        assert!((56..=60).contains(&figure(&told[0], "done")), "{told:#?}");
        assert!(figure(&told[0], "eta_s") > 200 && figure(&told[0], "rows_per_s") > 0, "{told:#?}");
        assert!(figure(&told[0], "last_advance_s") <= 1, "{told:#?}");
        assert_eq!(figure(&told[3], "done"), 190, "{told:#?}");
        assert!(figure(&told[3], "last_advance_s") >= 20, "what stands still says since when: {told:#?}");
        assert_eq!(lines.with(" complete").len(), 1);
    }

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
        let (url, round) = (PEER, round_with_a_peer());
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
