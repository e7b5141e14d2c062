//! A heartbeat on the path that every read takes: a node whose store hangs says so, instead of looking ready and silent.
//!
//! How it works: every [`BEAT_INTERVAL`] one lookup goes the way of a client's. One that is not answered within
//! [`ANSWER_WAIT`] marks the store as stalled, which closes `/ready`; the answer, whenever it comes, opens it again.
//!
//! Invariants: at most one lookup of this kind waits at a time. The probes never wait for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::node::NodeContext;
use crate::core::base::ids::ArtifactId;

/// Pause between two beats.
const BEAT_INTERVAL: Duration = Duration::from_secs(2);

/// A lookup takes microseconds, and waits for a thread a little while when a disk is busy. A client that waits this
/// long has gone.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// An id that no artifact has.
const NOBODY: ArtifactId = ArtifactId([0; 32]);

/// When the store last answered a beat.
#[derive(Debug, Default)]
pub struct LastBeat(Mutex<Option<Duration>>);

impl LastBeat {
    /// Notes an answer at a monotonic time.
    fn note(&self, now: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// It is asked for the first time: from now on it counts.
    fn begin(&self, now: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(now);
    }

    /// How long ago the store answered last, or was first asked without an answer since; nothing before that.
    pub fn age(&self, now: Duration) -> Duration {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.map(|last| now.saturating_sub(last)).unwrap_or_default()
    }
}

/// Runs until the node's shutdown.
pub(super) async fn run(node: Arc<NodeContext>) {
    tokio::select! {
        biased;
        () = node.shutdown.cancelled() => {}
        () = beat_forever(&node) => {}
    }
}

async fn beat_forever(node: &NodeContext) {
    loop {
        tokio::time::sleep(BEAT_INTERVAL).await;
        // Without a store there is nothing that could hang; readiness says so by itself.
        if node.store.current().is_some() {
            beat(node).await;
        }
    }
}

async fn beat(node: &NodeContext) {
    let began = node.seams.clock.monotonic();
    node.store_beat.begin(began);
    let lookup = node.store.call(|store| {
        store.sample_memory();
        store.lookup(&NOBODY)
    });
    let mut lookup = std::pin::pin!(lookup);
    if tokio::time::timeout(ANSWER_WAIT, lookup.as_mut()).await.is_ok() {
        return node.store_beat.note(node.seams.clock.monotonic());
    }
    tracing::error!(waited_s = ANSWER_WAIT.as_secs(), "store_stalled");
    node.readiness.set_store_stalled(true);
    // An error is an answer, too.
    let _ = lookup.await;
    node.store_beat.note(node.seams.clock.monotonic());
    node.readiness.set_store_stalled(false);
    let stalled_ms = node.seams.clock.monotonic().saturating_sub(began).as_millis();
    tracing::warn!(stalled_ms = u64::try_from(stalled_ms).unwrap_or(u64::MAX), "store_answers_again");
}
