//! A node's clock: the runtime's paused time, with a wall clock that can be set wrong.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use kura::core::base::clock::Clock;
use tokio::time::Instant;

/// Unix milliseconds at the start of each scenario.
pub const START_MS: u64 = 1_760_000_000_000;

#[derive(Debug)]
pub struct SimClock {
    started: Instant,
    skew_ms: AtomicI64,
}

impl SimClock {
    pub fn new(started: Instant) -> Self {
        Self { started, skew_ms: AtomicI64::new(0) }
    }

    /// How far the wall clock is ahead.
    pub fn set_skew_ms(&self, skew_ms: i64) {
        self.skew_ms.store(skew_ms, Ordering::SeqCst);
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> u64 {
        let elapsed = u64::try_from(self.monotonic().as_millis()).expect("a scenario is short");
        (START_MS + elapsed).saturating_add_signed(self.skew_ms.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}
