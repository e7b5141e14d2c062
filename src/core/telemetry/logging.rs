//! Logs: one subscriber per process, on stderr only.
//!
//! How it works: text for people (colours only where the caller found a terminal), or JSON, one object a line, for
//! pods. A filter is a level or the list of `target=level` that tracing-subscriber reads.
//!
//! Invariant: nothing is ever logged to a file: on a full volume a log line must not be what fails.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

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

/// Starts logging for this process; a second call is an error and changes nothing.
pub fn start(settings: &LogSettings, colored: bool) -> Result<(), TryInitError> {
    let filter = EnvFilter::try_new(&settings.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    match settings.format {
        LogFormat::Text => {
            let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colored);
            registry.with(lines).try_init()
        }
        LogFormat::Json => {
            let lines = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr);
            registry.with(lines).try_init()
        }
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
