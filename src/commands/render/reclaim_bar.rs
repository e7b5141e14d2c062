//! The progress of a reclaim: a bar on a terminal, nothing elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::commands::printer::Printer;
use crate::core::staging::reclaim::{Amount, ReclaimProgress};

/// Redraws a second at most: hundreds of thousands of small files must not be slowed by drawing.
const DRAWS_PER_SECOND: u8 = 10;

/// A bar over files, with the bytes freed beside it.
#[derive(Debug)]
pub struct ReclaimBar {
    bar: ProgressBar,
}

impl ReclaimBar {
    /// Drawn on stderr if the printer shows bars.
    pub fn new(printer: &Printer) -> Self {
        let target = if printer.interactive {
            ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND)
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        let style = ProgressStyle::with_template("{bar:30} {human_pos}/{human_len} files  {msg} freed  {eta} left");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        Self { bar }
    }

    /// Takes the bar off the screen.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl ReclaimProgress for ReclaimBar {
    fn started(&mut self, planned: Amount) {
        self.bar.set_length(planned.files);
    }

    fn advanced(&mut self, removed: Amount) {
        self.bar.set_position(removed.files);
        self.bar.set_message(crate::core::base::units::ByteSize(removed.bytes).to_string());
    }
}
