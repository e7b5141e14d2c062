//! The breaker of withdrawals: when too many bodies turn out bad at once, the cause is the volume and not the bodies.
//!
//! How it works: withdrawals are counted in windows of a minute. One more than the bound opens the breaker for
//! [`OPEN_FOR`]: bad bodies are then reported as misses, and nothing is deleted.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Most withdrawals in one window: bad sectors hit a few bodies, a lost mount hits all.
pub const WITHDRAWALS_PER_MINUTE_MAX: u32 = 60;

/// The window.
const WINDOW: Duration = Duration::from_secs(60);

/// How long withdrawing stays stopped once it was.
const OPEN_FOR: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
struct State {
    window_started: Duration,
    in_window: u32,
    open_until: Option<Duration>,
    first_reason: Option<String>,
}

/// Counts withdrawals and says when to stop.
#[derive(Debug, Default)]
pub(crate) struct Breaker(Mutex<State>);

impl Breaker {
    /// Asks for one withdrawal at a monotonic time; false = leave the artifact alone.
    pub(crate) fn allow(&self, now: Duration, reason: &str) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.open_until.is_some_and(|until| now < until) {
            return false;
        }
        if state.open_until.take().is_some() || now.saturating_sub(state.window_started) >= WINDOW {
            *state = State { window_started: now, ..State::default() };
        }
        state.first_reason.get_or_insert_with(|| reason.to_owned());
        state.in_window += 1;
        if state.in_window <= WITHDRAWALS_PER_MINUTE_MAX {
            return true;
        }
        state.open_until = Some(now + OPEN_FOR);
        tracing::error!(first = state.first_reason, per_minute = state.in_window, "withdraw_breaker_opened");
        false
    }

    /// The first bad body's reason while the breaker is open.
    pub(crate) fn open_reason(&self, now: Duration) -> Option<String> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.open_until.filter(|until| now < *until).and(state.first_reason.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_above_the_bound_and_closes_again() {
        let breaker = Breaker::default();
        let at = Duration::from_secs;
        assert!((0..WITHDRAWALS_PER_MINUTE_MAX).all(|_| breaker.allow(at(1), "short")));
        assert!(!breaker.allow(at(1), "missing"));
        assert_eq!(breaker.open_reason(at(2)).as_deref(), Some("short"));
        assert!(!breaker.allow(at(600), "missing"));
        assert!(breaker.allow(at(601), "missing"));
        assert_eq!(breaker.open_reason(at(601)), None);
    }

    #[test]
    fn a_slow_trickle_never_opens_it() {
        let breaker = Breaker::default();
        assert!((0..1000).all(|n| breaker.allow(Duration::from_secs(2 * n), "short")));
    }
}
