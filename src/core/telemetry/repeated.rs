//! Log lines of which each request could bring another one: on a full or failed disk every request is refused, and lines
//! by the thousand hide the one that says why, and push it out of what is kept.
//!
//! How it works: in each window of time the first lines are logged. The first line of a later window says how many were
//! not; the counters of the metrics have all of them.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a window is.
pub const WINDOW: Duration = Duration::from_secs(10);

/// Lines of one kind.
#[derive(Debug)]
pub struct Repeated {
    lines_max: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    began: Option<Instant>,
    seen: u64,
}

impl Repeated {
    /// At most so many lines in a window.
    pub const fn new(lines_max: u64) -> Self {
        Self { lines_max, state: Mutex::new(State { began: None, seen: 0 }) }
    }

    /// One more; how many were left out in the window before if it is to be logged, `None` if it is not.
    pub fn next(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = state.began.is_none_or(|began| now.saturating_duration_since(began) >= WINDOW);
        let mut left_out = 0;
        if is_over {
            left_out = state.seen.saturating_sub(self.lines_max);
            *state = State { began: Some(now), seen: 0 };
        }
        state.seen = state.seen.saturating_add(1);
        (state.seen <= self.lines_max).then_some(left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_logs_its_first_lines_and_the_next_one_says_how_many_were_left_out() {
        let lines = Repeated::new(2);
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let logged: Vec<_> = [0, 1, 2, 9_999, 10_000, 10_001, 10_002].map(|ms| lines.next(at(ms))).into();
        assert_eq!(logged, [Some(0), Some(0), None, None, Some(2), Some(0), None]);
        assert_eq!(lines.next(at(60_000)), Some(1), "however long nothing was asked");
        assert_eq!(lines.next(at(80_000)), Some(0));
    }
}
