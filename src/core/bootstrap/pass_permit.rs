//! The right to pass over a peer. Few passes run at the same time, and one that stands still lets the next one in.
//!
//! How it works: a pass tells its progress through [`Moving`], which counts. As long as the count rises the pass keeps
//! its permit; one that brought nothing for [`STILL_MAX`] goes on without, and takes a free one again once it moves.
//!
//! Invariants: a peer that answers waits for at most as many intervals as there are stuck ones for each permit. Passes
//! without a permit stand still, so they cost a connection each and no memory that grows.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::progress::Progress;
use crate::core::mesh::reach::RowEnd;

/// A pass that brings no row, page or byte for this long lets another one have its permit. Far below the time after
/// which a silent transfer is given up, far above the pause between two chunks of a slow one.
pub(super) const STILL_MAX: Duration = Duration::from_secs(5);

/// Passes progress on, and counts what moves.
#[derive(Debug)]
pub(super) struct Moving<'a> {
    told: &'a dyn Progress,
    moves: AtomicU64,
}

impl<'a> Moving<'a> {
    /// Nothing moved yet.
    pub(super) fn new(told: &'a dyn Progress) -> Self {
        Self { told, moves: AtomicU64::new(0) }
    }

    fn moved(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
    }
}

impl Progress for Moving<'_> {
    fn started(&self, peer: &str) {
        self.told.started(peer);
    }

    fn tombstones_applied(&self, peer: &str) {
        self.moved();
        self.told.tombstones_applied(peer);
    }

    fn total(&self, peer: &str, rows: u64) {
        self.told.total(peer, rows);
    }

    fn advanced(&self, peer: &str, rows: u64, bytes: u64) {
        self.moved();
        self.told.advanced(peer, rows, bytes);
    }

    fn row_ended(&self, peer: &str, end: RowEnd) {
        self.moved();
        self.told.row_ended(peer, end);
    }

    fn rows_ended(&self, peer: &str, ends: &[RowEnd]) {
        self.moved();
        self.told.rows_ended(peer, ends);
    }

    fn finished(&self, peer: &str, error: Option<&str>) {
        self.told.finished(peer, error);
    }
}

/// Runs a pass once it is allowed to, and lends its permit on while it stands still.
pub(super) async fn with_permit<T>(
    passes: &Semaphore,
    peer: &str,
    moving: &Moving<'_>,
    pass: impl Future<Output = T>,
) -> T {
    // The semaphore is never closed.
    let mut permit = passes.acquire().await.ok();
    let mut pass = std::pin::pin!(pass);
    let mut before = moving.moves.load(Ordering::Relaxed);
    loop {
        tokio::select! {
            biased;
            end = pass.as_mut() => return end,
            () = tokio::time::sleep(STILL_MAX) => {}
        }
        let now = moving.moves.load(Ordering::Relaxed);
        match (now == before, permit.is_some()) {
            (true, true) => {
                tracing::warn!(%peer, still_s = STILL_MAX.as_secs(), "pass_permit_lent");
                permit = None;
            }
            (false, false) => permit = passes.try_acquire().ok(),
            _ => {}
        }
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::bootstrap::progress::NoProgress;
    use futures_util::future::{join, join_all, select};
    use tokio::time::{Instant, sleep};

    const PERMITS: usize = 8;

    async fn stuck(passes: &Semaphore) {
        let moving = Moving::new(&NoProgress);
        with_permit(passes, "stuck", &moving, std::future::pending::<()>()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_good_peer_passes_although_more_peers_than_permits_are_stuck() {
        let passes = Semaphore::new(PERMITS);
        let bad = join_all((0..2 * PERMITS).map(|_| stuck(&passes)));
        let good = async {
            sleep(Duration::from_millis(1)).await;
            let moving = Moving::new(&NoProgress);
            with_permit(&passes, "good", &moving, async { Instant::now() }).await
        };
        let began = Instant::now();
        let (bad, good) = (std::pin::pin!(bad), std::pin::pin!(good));
        match select(bad, good).await {
            futures_util::future::Either::Right((ended, _)) => assert_eq!(ended - began, 2 * STILL_MAX),
            futures_util::future::Either::Left(_) => panic!("the stuck ones never end"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pass_that_moves_keeps_its_permit_however_slow_it_is() {
        let passes = Semaphore::new(1);
        let moving = Moving::new(&NoProgress);
        let slow = with_permit(&passes, "slow", &moving, async {
            for _ in 0..20 {
                sleep(STILL_MAX - Duration::from_secs(1)).await;
                moving.advanced("slow", 0, 1);
                assert_eq!(passes.available_permits(), 0);
            }
        });
        slow.await;
        assert_eq!(passes.available_permits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pass_that_moves_again_takes_a_free_permit_again() {
        let passes = Semaphore::new(1);
        let moving = Moving::new(&NoProgress);
        let pass = with_permit(&passes, "late", &moving, async {
            sleep(3 * STILL_MAX).await;
            assert_eq!(passes.available_permits(), 1, "lent");
            for _ in 0..6 {
                moving.advanced("late", 1, 0);
                sleep(STILL_MAX / 2).await;
            }
            assert_eq!(passes.available_permits(), 0, "taken again");
        });
        join(pass, async {}).await;
        assert_eq!(passes.available_permits(), 1);
    }
}
