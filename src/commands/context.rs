//! What every command is handed besides its own arguments.

use super::cli::GlobalArgs;
use super::exit::{CommandError, ExitCode};
use super::printer::Printer;
use crate::core::config::{Config, ConfigErrors, Resolved};

/// The settings, the printer and the shared flags of one invocation.
#[derive(Debug)]
pub struct Context {
    /// Where words go.
    pub printer: Printer,
    /// The settings, or everything that is wrong with them: `doctor` reports that as a finding, the others end.
    pub settings: Result<Resolved, ConfigErrors>,
    /// The flags every command shares.
    pub global: GlobalArgs,
    /// Whether a question may be asked: stdin and stderr are terminals and `--no-input` is not given.
    pub may_ask: bool,
}

impl Context {
    /// The settings; faults end the command with [`ExitCode::Usage`].
    pub fn resolved(&self) -> Result<&Resolved, CommandError> {
        self.settings.as_ref().map_err(settings_unusable)
    }

    /// The resolved configuration; faults end the command with [`ExitCode::Usage`].
    pub fn config(&self) -> Result<&Config, CommandError> {
        self.resolved().map(|resolved| &resolved.config)
    }

    /// Writes the answer to stdout.
    pub fn answer(&mut self, text: &str) -> Result<(), CommandError> {
        let unwritten = |error| CommandError::new(ExitCode::Unexpected, "cannot write to stdout").caused_by(error);
        self.printer.answer(text).map_err(unwritten)
    }
}

/// All faults of the settings in one error.
pub fn settings_unusable(errors: &ConfigErrors) -> CommandError {
    let lines: Vec<String> = errors.faults().iter().map(ToString::to_string).collect();
    super::usage::usage_error(&lines)
}
