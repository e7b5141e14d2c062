//! Exit codes: one enum for the whole binary, and the error that every command ends with.
//!
//! Invariant: the code never depends on the output format, and only `main` turns it into a process exit.

/// What the process ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// Done, or nothing to do.
    Done = 0,
    /// Unexpected error.
    Unexpected = 1,
    /// Usage.
    Usage = 2,
    /// Doctor: at least one failure.
    Findings = 3,
    /// Doctor: no failure, but a check could not run.
    ChecksIncomplete = 4,
    /// Some items failed; a retry may help.
    Partial = 5,
    /// Needs `--yes`, or a safety rule stopped it.
    Refused = 6,
    /// Disk full.
    DiskFull = 10,
    /// The data dir is in use.
    InUse = 11,
    /// Not a kura data dir, or missing.
    NotADataDir = 12,
    /// No peer usable.
    NoPeer = 13,
    /// Incompatible version, tenant or format.
    Incompatible = 14,
    /// Data failed verification and no good copy was found.
    BadCopy = 15,
}

impl ExitCode {
    /// All codes with their meaning, in the order of the README's table.
    pub const ALL: [(Self, &'static str); 13] = [
        (Self::Done, "done, or nothing to do"),
        (Self::Unexpected, "unexpected error"),
        (Self::Usage, "usage"),
        (Self::Findings, "doctor: at least one failure"),
        (Self::ChecksIncomplete, "doctor: no failure, but a check could not run"),
        (Self::Partial, "partial: some items failed, a retry may help"),
        (Self::Refused, "refused: needs `--yes`, or a safety rule stopped it"),
        (Self::DiskFull, "disk full"),
        (Self::InUse, "data dir in use (pid, host, since are shown)"),
        (Self::NotADataDir, "not a kura data dir, or missing"),
        (Self::NoPeer, "no peer usable"),
        (Self::Incompatible, "incompatible version, tenant or format"),
        (Self::BadCopy, "data failed verification and no good copy was found"),
    ];

    /// The number.
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// What a shell reports when a signal ended the process; not ours to return but as the first process of a container.
const SIGNAL_ENDS: (&str, &str) = ("130, 143", "SIGINT, SIGTERM");

/// The README's table of exit codes.
pub fn markdown_table() -> String {
    let rows = ExitCode::ALL.iter().map(|(code, meaning)| (code.code().to_string(), *meaning));
    let ends = [(SIGNAL_ENDS.0.to_owned(), SIGNAL_ENDS.1)];
    let lines = rows.chain(ends).map(|(code, meaning)| format!("| {code} | {meaning} |\n"));
    format!("| exit | meaning |\n|---|---|\n{}", lines.collect::<String>())
}

/// A command that did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct CommandError {
    /// The exit code.
    pub exit: ExitCode,
    /// What failed, on which path or peer, and why; a lower-case fragment.
    pub what: String,
    /// What to do, best a command.
    pub hint: Option<String>,
    /// The chain below, printed once.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync + 'static>>,
}

impl CommandError {
    /// An error without hint or source.
    pub fn new(exit: ExitCode, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), hint: None, source: None }
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }
}
