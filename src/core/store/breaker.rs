//! The breaker of withdrawals: when too many bodies turn out bad at once, the cause is the volume and not the bodies.
//!
//! How it works: bodies are counted in windows of a minute, each once however many readers find it bad. One more than the bound opens the breaker for
//! [`OPEN_FOR`]: bad bodies are then reported as misses, and nothing is deleted.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::core::base::ids::BodyNo;

/// Most withdrawals in one window: bad sectors hit a few bodies, a lost mount hits all.
pub const WITHDRAWALS_PER_MINUTE_MAX: usize = 60;

/// The window.
const WINDOW: Duration = Duration::from_secs(60);

/// How long withdrawing stays stopped once it was.
const OPEN_FOR: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
struct State {
    window_started: Duration,
    in_window: HashSet<BodyNo>,
    open_until: Option<Duration>,
    first_reason: Option<String>,
}

/// How the breaker stands, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BreakerView {
    /// Bodies found bad in the current window, or in the one that opened it.
    pub per_minute: usize,
    /// The first of them, while the breaker is open.
    pub open: Option<String>,
    /// Until it closes by itself, while it is open.
    pub closes_in: Duration,
}

/// Counts withdrawals and says when to stop.
#[derive(Debug, Default)]
pub(crate) struct Breaker(Mutex<State>);

impl Breaker {
    /// Asks for one withdrawal at a monotonic time; false = leave the artifact alone.
    pub(crate) fn allow(&self, now: Duration, body_no: BodyNo, reason: &str) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.open_until.is_some_and(|until| now < until) {
            return false;
        }
        let was_open = state.open_until.take().is_some();
        if was_open {
            tracing::warn!(first = state.first_reason, "withdraw_breaker_closed");
        }
        if was_open || now.saturating_sub(state.window_started) >= WINDOW {
            *state = State { window_started: now, ..State::default() };
        }
        state.first_reason.get_or_insert_with(|| reason.to_owned());
        state.in_window.insert(body_no);
        let per_minute = state.in_window.len();
        if per_minute <= WITHDRAWALS_PER_MINUTE_MAX {
            return true;
        }
        state.open_until = Some(now + OPEN_FOR);
        tracing::error!(first = state.first_reason, per_minute, "withdraw_breaker_opened");
        false
    }

    /// How it stands.
    pub(crate) fn view(&self, now: Duration) -> BreakerView {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let closes_in = state.open_until.map(|until| until.saturating_sub(now)).unwrap_or_default();
        let is_current = !closes_in.is_zero() || now.saturating_sub(state.window_started) < WINDOW;
        BreakerView {
            per_minute: if is_current { state.in_window.len() } else { 0 },
            open: state.first_reason.clone().filter(|_| !closes_in.is_zero()),
            closes_in,
        }
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
        assert!((0..WITHDRAWALS_PER_MINUTE_MAX as u64).all(|n| breaker.allow(at(1), BodyNo(n), "short")));
        assert!(!breaker.allow(at(1), BodyNo(1000), "missing"));
        assert_eq!(breaker.open_reason(at(2)).as_deref(), Some("short"));
        let view = breaker.view(at(101));
        assert_eq!((view.per_minute, view.closes_in), (WITHDRAWALS_PER_MINUTE_MAX + 1, at(500)));
        assert_eq!(view.open.as_deref(), Some("short"));
        assert!(!breaker.allow(at(600), BodyNo(1001), "missing"));
        assert!(breaker.allow(at(601), BodyNo(1002), "missing"));
        assert_eq!(breaker.open_reason(at(601)), None);
        assert_eq!((breaker.view(at(602)).per_minute, breaker.view(at(602)).open), (1, None));
        assert_eq!(breaker.view(at(700)), BreakerView::default());
    }

    #[test]
    fn a_slow_trickle_never_opens_it() {
        let breaker = Breaker::default();
        assert!((0..1000).all(|n| breaker.allow(Duration::from_secs(2 * n), BodyNo(n), "short")));
    }

    #[test]
    fn one_bad_body_that_many_read_at_once_does_not_open_it() {
        let breaker = Breaker::default();
        assert!((0..1000).all(|_| breaker.allow(Duration::from_secs(1), BodyNo(7), "short")));
    }
}
