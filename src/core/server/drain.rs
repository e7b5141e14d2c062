//! Going away in order: new uploads are refused, what is under way ends, and only then do the listeners close.
//!
//! How it works: [`DrainState`] holds one latch and the count of requests in flight. A request takes a
//! [`RequestGuard`] and gives it back when the last byte of its answer is out or its connection is gone.
//!
//! Invariant: draining is final; nothing but a new process takes uploads again.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Whether the node drains, and what is in flight; cheap to clone.
#[derive(Debug, Clone)]
pub struct DrainState {
    started: CancellationToken,
    inflight: Arc<watch::Sender<u64>>,
}

impl Default for DrainState {
    fn default() -> Self {
        Self { started: CancellationToken::new(), inflight: Arc::new(watch::Sender::new(0)) }
    }
}

impl DrainState {
    /// Starts draining; true the first time.
    pub fn begin(&self) -> bool {
        let first = !self.started.is_cancelled();
        self.started.cancel();
        first
    }

    /// Whether new uploads are refused.
    pub fn is_draining(&self) -> bool {
        self.started.is_cancelled()
    }

    /// Resolves once draining has begun.
    pub async fn begun(&self) {
        self.started.cancelled().await;
    }

    /// Counts one request in flight until the guard is dropped.
    pub fn enter(&self) -> RequestGuard {
        self.inflight.send_modify(|count| *count = count.saturating_add(1));
        RequestGuard { inflight: Arc::clone(&self.inflight) }
    }

    /// Requests in flight now.
    pub fn inflight(&self) -> u64 {
        *self.inflight.borrow()
    }

    /// Resolves once no request is in flight.
    pub async fn idle(&self) {
        let mut count = self.inflight.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = count.wait_for(|count| *count == 0).await;
    }
}

/// One request in flight.
#[derive(Debug)]
pub struct RequestGuard {
    inflight: Arc<watch::Sender<u64>>,
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.inflight.send_modify(|count| *count = count.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn idle_waits_for_the_last_guard() {
        let drain = DrainState::default();
        let (one, two) = (drain.enter(), drain.enter());
        drop(one);
        assert_eq!(drain.inflight(), 1);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(5), drain.idle()).await.is_err());
        drop(two);
        drain.idle().await;
        assert_eq!(drain.inflight(), 0);
    }

    #[test]
    fn draining_begins_once_and_stays() {
        let drain = DrainState::default();
        assert!(!drain.is_draining());
        assert!(drain.begin());
        assert!(!drain.begin());
        assert!(drain.is_draining());
    }
}
