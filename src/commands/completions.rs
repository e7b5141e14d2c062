//! `kura completions`: prints a completion script; the same scripts lie in `completions/`.

use clap::{Args, ValueEnum};

use super::cli;
use super::context::Context;
use super::exit::{CommandError, ExitCode};

/// The shells with a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
    /// PowerShell
    #[value(name = "powershell")]
    PowerShell,
}

impl Shell {
    /// Every shell.
    pub const ALL: [Self; 4] = [Self::Bash, Self::Zsh, Self::Fish, Self::PowerShell];

    /// The script's name in `completions/`, as each shell looks for it.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Bash => "kura.bash",
            Self::Zsh => "_kura",
            Self::Fish => "kura.fish",
            Self::PowerShell => "_kura.ps1",
        }
    }
}

/// Print a completion script for a shell
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

/// The script of a shell.
pub fn script(shell: Shell) -> String {
    let generator = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
        Shell::PowerShell => clap_complete::Shell::PowerShell,
    };
    let mut bytes = Vec::new();
    clap_complete::generate(generator, &mut cli::command(), "kura", &mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Prints the script.
pub async fn run(args: CompletionsArgs, context: &mut Context) -> Result<ExitCode, CommandError> {
    context.answer(&script(args.shell))?;
    Ok(ExitCode::Done)
}
