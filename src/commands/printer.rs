//! Decides once where words go and how they look: stdout for the answer, stderr for progress and talk.

use std::io::{IsTerminal, Write};

use super::cli::GlobalArgs;
use crate::core::config::Variables;

/// Prose is never wider than this: longer lines are hard to read.
const PROSE_COLUMNS_MAX: usize = 100;

/// Columns where nobody says how wide the terminal is.
const COLUMNS_FALLBACK: usize = 80;

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
    /// Colours on stderr.
    pub color_stderr: bool,
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
        Self { out, err, color: false, color_stderr: false, width: COLUMNS_FALLBACK, quiet: false, interactive: false }
    }

    /// The printer of this process: stdout and stderr, as the flags and the environment want them.
    pub fn of_this_process(global: &GlobalArgs, variables: &Variables) -> Self {
        let dumb = variables.get("TERM").is_some_and(|term| term == "dumb");
        let terminal = std::io::stderr().is_terminal();
        Self {
            out: Box::new(std::io::stdout()),
            err: Box::new(std::io::stderr()),
            color: global.color.applies(std::io::stdout().is_terminal(), variables),
            color_stderr: global.color.applies(terminal, variables),
            width: columns(variables).min(PROSE_COLUMNS_MAX),
            quiet: global.quiet,
            interactive: terminal && !dumb && !global.quiet && global.verbose == 0,
        }
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

/// `COLUMNS` if it says a number, else the width of the terminal on stdout or stderr.
fn columns(variables: &Variables) -> usize {
    let told = variables.get("COLUMNS").and_then(|text| text.to_str()).and_then(|text| text.parse().ok());
    told.filter(|columns| *columns > 0).or_else(terminal_columns).unwrap_or(COLUMNS_FALLBACK)
}

fn terminal_columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout())
        .or_else(|_| rustix::termios::tcgetwinsize(std::io::stderr()))
        .ok()?;
    (size.ws_col > 0).then(|| usize::from(size.ws_col))
}
