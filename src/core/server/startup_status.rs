//! What start-up has done so far: each step by name, with its duration and its error.
//!
//! Invariant: at most [`STEPS_MAX`] steps are kept; the order is the order in which they began.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::core::base::clock::Clock;

/// Steps kept; start-up has far fewer, so this only guards against a loop that names steps.
const STEPS_MAX: usize = 64;

/// How far one step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Under way.
    Running,
    /// Ended well.
    Done,
    /// Ended with an error.
    Failed,
}

/// One step of start-up.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct StepReport {
    /// Its name, a constant of this program.
    pub name: &'static str,
    /// How far it is.
    pub state: StepState,
    /// When it began, Unix milliseconds.
    pub started_at_ms: u64,
    /// How long it took, once it has ended.
    pub duration_ms: Option<u64>,
    /// Why it failed.
    pub error: Option<String>,
}

/// The steps of this process's start-up; readable at any time.
#[derive(Debug)]
pub struct StartupStatus {
    clock: Arc<dyn Clock>,
    steps: Mutex<Vec<StepReport>>,
}

impl StartupStatus {
    /// No step yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, steps: Mutex::new(Vec::new()) }
    }

    /// A copy of the steps so far.
    pub fn steps(&self) -> Vec<StepReport> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs one step: names it, times it, logs it and keeps its outcome.
    ///
    /// # Errors
    /// Those of the step itself.
    pub async fn step<T, E, F>(&self, name: &'static str, work: F) -> Result<T, E>
    where
        E: std::fmt::Display,
        F: Future<Output = Result<T, E>>,
    {
        let began = self.begin(name);
        let outcome = work.await;
        self.end(name, began, outcome.as_ref().err().map(ToString::to_string));
        outcome
    }

    fn begin(&self, name: &'static str) -> Duration {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        if steps.len() < STEPS_MAX {
            let started_at_ms = self.clock.now_ms();
            steps.push(StepReport { name, state: StepState::Running, started_at_ms, duration_ms: None, error: None });
        }
        self.clock.monotonic()
    }

    fn end(&self, name: &'static str, began: Duration, error: Option<String>) {
        let duration = self.clock.monotonic().saturating_sub(began);
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        match &error {
            None => tracing::info!(step = name, duration_ms, "startup_step"),
            Some(error) => tracing::error!(step = name, duration_ms, error, "startup_step_failed"),
        }
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(step) = steps.iter_mut().rev().find(|step| step.name == name) {
            step.state = if error.is_none() { StepState::Done } else { StepState::Failed };
            step.duration_ms = Some(duration_ms);
            step.error = error;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::base::clock::ManualClock;

    #[tokio::test]
    async fn a_step_keeps_its_name_duration_and_error() {
        let clock = Arc::new(ManualClock::at(1_700_000_000_000));
        let status = StartupStatus::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let good: Result<u8, String> = status
            .step("bind_listeners", async {
                clock.advance(Duration::from_millis(7));
                Ok(3)
            })
            .await;
        let bad: Result<u8, String> = status.step("open_store", async { Err("no room".to_owned()) }).await;
        assert_eq!((good, bad), (Ok(3), Err("no room".to_owned())));
        let steps = status.steps();
        assert_eq!((steps[0].name, steps[0].state, steps[0].duration_ms), ("bind_listeners", StepState::Done, Some(7)));
        assert_eq!((steps[1].state, steps[1].error.as_deref()), (StepState::Failed, Some("no room")));
    }
}
