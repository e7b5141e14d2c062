//! Decides once where words go and how they look: stdout for the answer, stderr for progress and talk.

use std::io::Write;

/// `--output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum OutputFormat {
    /// For people.
    #[default]
    Table,
    /// One JSON document.
    Json,
}

/// Where a command's words go.
pub struct Printer {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    /// Colours on stdout.
    pub color: bool,
    /// Columns to wrap at, never more than 100 for prose.
    pub width: usize,
    /// `-q`: no talk on stderr but errors.
    pub quiet: bool,
    /// Whether stderr is a terminal that shows bars.
    pub interactive: bool,
}

impl std::fmt::Debug for Printer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Printer").field("color", &self.color).field("width", &self.width).finish_non_exhaustive()
    }
}

impl Printer {
    /// A printer to the given sinks, without colour and 80 columns wide: what tests use.
    pub fn new(out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> Self {
        Self { out, err, color: false, width: 80, quiet: false, interactive: false }
    }

    /// Writes the answer. A closed pipe is a normal end.
    pub fn answer(&mut self, text: &str) -> std::io::Result<()> {
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    }

    /// Writes a line of talk; errors on stderr have nowhere to go and are dropped.
    pub fn talk(&mut self, line: &str) {
        if !self.quiet {
            let _ = writeln!(self.err, "{line}");
        }
    }
}
