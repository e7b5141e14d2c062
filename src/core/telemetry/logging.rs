//! Logs: one subscriber per process, on stderr only.
//!
//! How it works: text for people (colours only where the caller found a terminal), or JSON, one object a line, for
//! pods. A filter is a level or the list of `target=level` that tracing-subscriber reads. A server's last lines are also
//! kept in memory ([`super::recent`]).
//!
//! Invariant: nothing is ever logged to a file: on a full volume a log line must not be what fails.

use std::io::{Stderr, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use super::recent::{Copied, LogRing};

/// The last lines of this process: like the subscriber there is one.
static RECENT: LogRing = LogRing::new();

/// The last lines of this process, if it keeps them.
pub fn recent() -> &'static LogRing {
    &RECENT
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// Reads the setting's word.
    pub fn read(text: &str) -> Option<Self> {
        match text {
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// How a process logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// A level, or a list of `target=level`.
    pub filter: String,
    /// How lines look.
    pub format: LogFormat,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Text }
    }
}

impl LogSettings {
    /// Checks a filter; the error says what would have been taken.
    pub fn read_filter(text: &str) -> Result<String, String> {
        let expected = || "a level (error, warn, info, debug, trace) or a list such as info,kura=debug".to_owned();
        let levels = ["off", "error", "warn", "info", "debug", "trace"];
        let is_list = text.contains('=') && EnvFilter::try_new(text).is_ok();
        if levels.contains(&text) || is_list { Ok(text.to_owned()) } else { Err(expected()) }
    }
}

/// Where lines go.
#[derive(Debug, Clone, Copy)]
struct Lines {
    are_kept: bool,
}

/// A line on its way.
#[derive(Debug)]
enum Line {
    Plain(Stderr),
    Kept(Copied<'static, Stderr>),
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        if self.are_kept { Line::Kept(Copied { ring: &RECENT, inner: stderr() }) } else { Line::Plain(stderr()) }
    }
}

impl std::io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stderr) => stderr.write(bytes),
            Self::Kept(copied) => copied.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(stderr) => stderr.flush(),
            Self::Kept(copied) => copied.flush(),
        }
    }
}

/// Starts logging for this process; a second call is an error and changes nothing. `are_kept`: for [`recent`].
pub fn start(settings: &LogSettings, colored: bool, are_kept: bool) -> Result<(), TryInitError> {
    let filter = EnvFilter::try_new(&settings.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(Lines { are_kept });
    match settings.format {
        LogFormat::Text => registry.with(lines.with_ansi(colored)).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_levels_or_lists_of_them() {
        for text in ["info", "off", "info,kura::core::mesh=debug", "kura=trace"] {
            assert!(LogSettings::read_filter(text).is_ok(), "{text}");
        }
        for text in ["", "loud", "kura=loud", "5=="] {
            assert!(LogSettings::read_filter(text).is_err(), "{text:?}");
        }
    }
}
