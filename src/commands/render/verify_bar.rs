//! The progress of `--verify all`: a bar on a terminal, elsewhere a line now and then.

use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::commands::printer::Printer;
use crate::core::base::units::ByteSize;
use crate::core::doctor::context::VerifyWatch;
use crate::core::store::integrity::VerifyProgress;

/// Redraws a second at most: small bodies are verified by the ten thousand.
const DRAWS_PER_SECOND: u8 = 10;
/// Between two lines where no bar is drawn.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// A bar over artifacts, with bytes and rate beside it.
#[derive(Debug)]
pub struct VerifyBar {
    bar: ProgressBar,
    is_drawn: bool,
    pace: Mutex<Pace>,
}

/// When something was said last, and where this run began.
#[derive(Debug)]
struct Pace {
    said: Instant,
    began: Option<(Instant, u64)>,
}

impl VerifyBar {
    /// Drawn on stderr if the printer shows bars.
    pub fn new(printer: &Printer) -> Self {
        let is_drawn = printer.interactive;
        let target =
            if is_drawn { ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND) } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        // Fits 80 columns with ten million bodies.
        let template = "verifying {bar:12} {human_pos}/{human_len} {msg} {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, is_drawn, pace: Mutex::new(Pace { said: Instant::now(), began: None }) }
    }
}

fn rate(bytes: u64, over: Duration) -> u64 {
    let ms = u64::try_from(over.as_millis()).unwrap_or(u64::MAX).max(1);
    bytes.saturating_mul(1000) / ms
}

impl VerifyWatch for VerifyBar {
    fn advanced(&self, progress: &VerifyProgress) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        if pace.began.is_none() {
            // What an earlier run verified is not done again, and is no pace of this one.
            self.bar.set_length(progress.artifacts_total);
            self.bar.set_position(progress.artifacts);
            self.bar.reset_eta();
        }
        let (began, at_first) = *pace.began.get_or_insert((Instant::now(), progress.hashed_bytes));
        let interval =
            if self.is_drawn { Duration::from_millis(1000 / u64::from(DRAWS_PER_SECOND)) } else { LINE_INTERVAL };
        if pace.said.elapsed() < interval {
            return;
        }
        pace.said = Instant::now();
        let done = progress.hashed_bytes.saturating_sub(at_first);
        let message = format!("{}, {}/s", ByteSize(progress.hashed_bytes), ByteSize(rate(done, began.elapsed())));
        if self.is_drawn {
            self.bar.set_position(progress.artifacts);
            self.bar.set_message(message);
        } else {
            let (seen, total) = (progress.artifacts, progress.artifacts_total);
            let _ = writeln!(std::io::stderr(), "verified {seen} of {total} bodies, {message}");
        }
    }

    fn ended(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::store::integrity::WalkPlace;

    #[test]
    fn a_bar_that_nobody_watches_is_not_drawn_and_takes_every_position() {
        let bar = VerifyBar::new(&Printer::new(Box::new(std::io::sink()), Box::new(std::io::sink())));
        let at =
            |artifacts| VerifyProgress { artifacts, artifacts_total: 10, hashed_bytes: 5, place: WalkPlace::default() };
        bar.advanced(&at(7));
        assert_eq!((bar.bar.position(), bar.bar.length(), bar.bar.is_hidden()), (7, Some(10), true));
        bar.advanced(&at(10));
        bar.ended();
        assert!(bar.bar.is_finished());
        assert_eq!(rate(500, Duration::from_millis(250)), 2000);
        assert_eq!(rate(500, Duration::ZERO), 500_000);
    }
}
