//! The clock seam: wall time for versions, monotonic time for waits and rates.
//!
//! Invariant: nothing in `core` reads the system's clock but through this trait, so a simulation can bend time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where time comes from.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Wall-clock time in Unix milliseconds. May jump in either direction.
    fn now_ms(&self) -> u64;

    /// Time since some fixed instant of this process. Never goes back.
    fn monotonic(&self) -> Duration;
}

/// The machine's own clocks.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { started: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// A clock that moves only when told to.
#[derive(Debug, Default)]
pub struct ManualClock {
    wall_ms: AtomicU64,
    monotonic_ms: AtomicU64,
}

impl ManualClock {
    /// Starts at the given wall time.
    pub fn at(wall_ms: u64) -> Self {
        Self { wall_ms: AtomicU64::new(wall_ms), monotonic_ms: AtomicU64::new(0) }
    }

    /// Moves both clocks on.
    pub fn advance(&self, by: Duration) {
        let ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.wall_ms.fetch_add(ms, Ordering::SeqCst);
        self.monotonic_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// Sets the wall clock alone, in either direction, as an operator or NTP would.
    pub fn set_wall_ms(&self, wall_ms: u64) {
        self.wall_ms.store(wall_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.wall_ms.load(Ordering::SeqCst)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.monotonic_ms.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The contract: monotonic time never goes back, wall time is in milliseconds since 1970.
    fn keeps_the_contract(clock: &dyn Clock, pass_time: impl Fn()) {
        let (wall, monotonic) = (clock.now_ms(), clock.monotonic());
        pass_time();
        assert!(clock.monotonic() > monotonic);
        assert!(clock.now_ms() >= wall);
        assert!(clock.now_ms() > 1_600_000_000_000);
    }

    #[test]
    fn system_and_manual_clock_keep_the_contract() {
        keeps_the_contract(&SystemClock::default(), || std::thread::sleep(Duration::from_millis(2)));
        let manual = ManualClock::at(1_700_000_000_000);
        keeps_the_contract(&manual, || manual.advance(Duration::from_millis(2)));
    }

    #[test]
    fn a_wall_clock_set_back_leaves_monotonic_time_alone() {
        let clock = ManualClock::at(2_000);
        clock.advance(Duration::from_secs(1));
        clock.set_wall_ms(5);
        assert_eq!((clock.now_ms(), clock.monotonic()), (5, Duration::from_secs(1)));
    }
}
