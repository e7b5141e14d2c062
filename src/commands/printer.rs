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

    /// Where bars are drawn: stderr if somebody watches, else nowhere.
    pub fn draw_target(&self) -> indicatif::ProgressDrawTarget {
        if self.interactive { indicatif::ProgressDrawTarget::stderr() } else { indicatif::ProgressDrawTarget::hidden() }
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

    /// Writes a question, without ending the line; it is asked even when talk is not wanted.
    pub fn ask(&mut self, question: &str) {
        let _ = self.err.write_all(question.as_bytes()).and_then(|()| self.err.flush());
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    struct ClosedPipe;

    impl Write for ClosedPipe {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn answers_go_to_stdout_and_talk_to_stderr_unless_quiet() {
        let (out, err) = (Sink::default(), Sink::default());
        let mut printer = Printer::new(Box::new(out.clone()), Box::new(err.clone()));
        printer.answer("42\n").unwrap();
        printer.talk("working");
        printer.quiet = true;
        printer.talk("not said");
        assert_eq!(
            (out.0.lock().unwrap().as_slice(), err.0.lock().unwrap().as_slice()),
            (&b"42\n"[..], &b"working\n"[..])
        );
    }

    #[test]
    fn a_closed_pipe_is_a_normal_end() {
        let mut printer = Printer::new(Box::new(ClosedPipe), Box::new(std::io::sink()));
        assert!(printer.answer("nobody reads this").is_ok());
    }

    #[test]
    fn the_width_is_what_the_environment_says_and_prose_stays_narrow() {
        let at = |columns: &str| Variables::from_pairs([("COLUMNS", columns)]);
        assert_eq!(columns(&at("72")), 72);
        let printer = Printer::of_this_process(&GlobalArgs::default(), &at("300"));
        assert_eq!(printer.width, PROSE_COLUMNS_MAX);
    }

    #[test]
    fn bars_are_drawn_only_for_somebody_who_watches() {
        let printer = Printer::new(Box::new(std::io::sink()), Box::new(std::io::sink()));
        assert!(printer.draw_target().is_hidden());
    }
}
