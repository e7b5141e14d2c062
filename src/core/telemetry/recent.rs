//! The last log lines of this process, kept in memory for whoever asks later.
//!
//! Why: lines go to stderr only, and where those went is known to the supervisor at best. A bundle that somebody else
//! reads needs the minutes before it was made.
//!
//! How it works: each line is copied on its way to stderr. The oldest go first, by bytes.
//!
//! Invariants: memory is bounded by [`KEPT_BYTES_MAX`]; nothing waits for a reader for longer than a copy of it takes.
//! Lines are kept before they are written, so a pipe that nobody empties hides none.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// The schema's name.
pub const SCHEMA: &str = "kura.logs/v1";

/// Lines with what keeping them costs: some two thousand, hours of a quiet node and a minute of a very busy one.
pub const KEPT_BYTES_MAX: usize = 512 << 10;

/// Longer lines are cut: one must not push out all others.
pub const LINE_BYTES_MAX: usize = 4 << 10;

/// What a line takes besides its bytes.
const LINE_COST: usize = 32;

/// What is kept of a line that was cut.
const CUT_MARK: &str = "…";

/// What a process kept of its log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RecentLog {
    /// [`SCHEMA`].
    pub schema: String,
    /// Lines that were kept once and had to go.
    pub dropped: u64,
    /// The lines, oldest first.
    pub lines: Vec<String>,
}

/// Keeps lines.
#[derive(Debug)]
pub struct LogRing {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    lines: VecDeque<Box<str>>,
    bytes: usize,
    dropped: u64,
}

impl LogRing {
    /// Keeps nothing yet.
    pub const fn new() -> Self {
        Self { state: Mutex::new(State { lines: VecDeque::new(), bytes: 0, dropped: 0 }) }
    }

    /// Takes what was logged at once, which is a line or a few.
    pub fn push(&self, logged: &[u8]) {
        let text = String::from_utf8_lossy(logged);
        let lines: Vec<Box<str>> = text.lines().filter(|line| !line.is_empty()).map(kept).collect();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        lines.into_iter().for_each(|line| state.push(line));
    }

    /// Everything that is kept.
    pub fn lines(&self) -> RecentLog {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = state.lines.iter().map(|line| line.to_string()).collect();
        RecentLog { schema: SCHEMA.to_owned(), dropped: state.dropped, lines }
    }
}

impl Default for LogRing {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    fn push(&mut self, line: Box<str>) {
        self.bytes += line.len() + LINE_COST;
        self.lines.push_back(line);
        while self.bytes > KEPT_BYTES_MAX {
            let Some(oldest) = self.lines.pop_front() else { return };
            self.bytes -= oldest.len() + LINE_COST;
            self.dropped += 1;
        }
    }
}

/// A line without colours and what else a terminal would obey, cut to its bound.
fn kept(line: &str) -> Box<str> {
    let mut plain = String::with_capacity(line.len().min(LINE_BYTES_MAX));
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        match char {
            '\u{1b}' => skip_escape(&mut chars),
            '\t' => plain.push(' '),
            char if char.is_control() => {}
            char => plain.push(char),
        }
        if plain.len() > LINE_BYTES_MAX {
            plain.truncate(plain.floor_char_boundary(LINE_BYTES_MAX - CUT_MARK.len()));
            plain.push_str(CUT_MARK);
            break;
        }
    }
    plain.into_boxed_str()
}

/// A colour is `ESC [`, parameters, and a letter.
fn skip_escape(chars: &mut std::str::Chars<'_>) {
    if chars.next() == Some('[') {
        chars.find(|char| ('@'..='~').contains(char));
    }
}

/// Hands lines to a ring and then on.
#[derive(Debug)]
pub struct Copied<'a, W> {
    /// Keeps them.
    pub ring: &'a LogRing,
    /// Where they go.
    pub inner: W,
}

impl<W: Write> Write for Copied<'_, W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.ring.push(line);
        // The rest of a line that is taken in part must not be kept once more.
        self.inner.write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_kept_within_the_bound_and_those_that_went_are_counted() {
        let ring = LogRing::new();
        let line = |number: u32| format!("{number:0>100}");
        (0..10_000).for_each(|number| ring.push(format!("{}\n", line(number)).as_bytes()));
        let kept = ring.lines();
        assert_eq!((kept.schema.as_str(), kept.lines.len()), (SCHEMA, KEPT_BYTES_MAX / (100 + LINE_COST)));
        assert_eq!(kept.dropped + kept.lines.len() as u64, 10_000);
        assert_eq!(kept.lines.last(), Some(&line(9_999)));
    }

    #[test]
    fn a_line_is_plain_text_of_bounded_length() {
        let ring = LogRing::new();
        ring.push(b"\x1b[2m2026\x1b[0m \x1b[32m INFO\x1b[0m a\tb\x07\nsecond\n");
        ring.push("é".repeat(LINE_BYTES_MAX).as_bytes());
        ring.push(&[0xff, b'x']);
        ring.push(b"\x1b[");
        let lines = ring.lines().lines;
        assert_eq!(lines[..2], ["2026  INFO a b", "second"]);
        assert!(lines[2].len() <= LINE_BYTES_MAX && lines[2].ends_with("é…"), "{}", lines[2].len());
        assert_eq!(lines[3..], ["\u{fffd}x", ""]);
    }

    #[test]
    fn what_cannot_be_written_is_kept_all_the_same() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let ring = LogRing::new();
        assert!(Copied { ring: &ring, inner: Closed }.write(b"line\n").is_err());
        let mut both = Vec::new();
        Copied { ring: &ring, inner: &mut both }.write_all(b"other\n").unwrap();
        assert_eq!(
            (ring.lines().lines, both.as_slice()),
            (vec!["line".to_owned(), "other".to_owned()], &b"other\n"[..])
        );
    }
}
