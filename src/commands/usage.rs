//! Arguments to an [`Invocation`], or one message that names everything wrong with them.
//!
//! How it works: clap stops at the first unknown flag. So an unknown one is noted, taken out, and the rest parsed
//! again, until nothing unknown is left; then the settings are resolved too, and all faults are told together.

use std::ffi::OsString;

use clap::ValueEnum;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::cli::{self, ColorChoice, Invocation};
use super::exit::{CommandError, ExitCode};

/// Unknown flags noted before the rest of the line is taken for garbage.
const UNKNOWN_FLAGS_MAX: usize = 32;

/// What the arguments turned out to be.
#[derive(Debug)]
pub enum Parsed {
    /// A command to run.
    Run(Box<Invocation>),
    /// A text that was asked for, or the help of a bare `kura`.
    Show(clap::Error),
    /// Faults, and the settings' flags that could still be read.
    Faulty {
        /// What is wrong, a fragment each.
        faults: Vec<String>,
        /// Flags of settings, by key.
        flags: Vec<(&'static str, String)>,
        /// The `--config` file, if it could be read off.
        config: Option<std::path::PathBuf>,
    },
}

/// Parses the arguments, the program's name first.
pub fn parse(args: &[OsString]) -> Parsed {
    let color = match raw_color(args) {
        ColorChoice::Auto => clap::ColorChoice::Auto,
        ColorChoice::Always => clap::ColorChoice::Always,
        ColorChoice::Never => clap::ColorChoice::Never,
    };
    let mut rest = args.to_vec();
    let mut faults = Vec::new();
    loop {
        let error = match cli::command().color(color).try_get_matches_from(&rest) {
            Ok(matches) if faults.is_empty() => match Invocation::from_matches(&matches) {
                Ok(mut invocation) => {
                    keep_peers_before_the_command(&rest, &mut invocation.flags);
                    return Parsed::Run(Box::new(invocation));
                }
                Err(error) => error,
            },
            Ok(_) => break,
            Err(error) => error,
        };
        if is_answer(&error) && faults.is_empty() {
            return Parsed::Show(error);
        }
        faults.push(fragment(&error));
        let removed = error.kind() == ErrorKind::UnknownArgument && remove(&mut rest, &error);
        if !removed || faults.len() >= UNKNOWN_FLAGS_MAX {
            break;
        }
    }
    let readable = cli::command().ignore_errors(true).try_get_matches_from(&rest).ok();
    let flags = readable.as_ref().map(cli::flags).unwrap_or_default();
    let config = readable.and_then(|matches| matches.get_one("config").cloned());
    Parsed::Faulty { faults, flags, config }
}

/// A flag given before and after the command counts only once for clap, the later one; peers are a list and all count.
fn keep_peers_before_the_command(args: &[OsString], flags: &mut [(&'static str, String)]) {
    let Some((_, urls)) = flags.iter_mut().find(|(key, _)| *key == "peers") else { return };
    let all: Vec<String> = raw_values(args, &["--peer", "--peers"]);
    if all.len() > 1 {
        *urls = all.join(",");
    }
}

/// What follows a flag in any of its spellings, each time it is given.
fn raw_values(args: &[OsString], flags: &[&str]) -> Vec<String> {
    let texts: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    let value = |(at, text): (usize, &std::borrow::Cow<'_, str>)| match text.split_once('=') {
        Some((name, value)) if flags.contains(&name) => Some(value.to_owned()),
        _ if flags.contains(&&**text) => texts.get(at + 1).map(|next| next.to_string()),
        _ => None,
    };
    texts.iter().enumerate().filter_map(value).collect()
}

/// What follows a flag, as far as it can be told before, or without, the arguments being valid.
pub fn raw_value(args: &[OsString], flag: &str) -> Option<String> {
    raw_values(args, &[flag]).pop()
}

/// `--color` as it stands in the arguments.
pub fn raw_color(args: &[OsString]) -> ColorChoice {
    raw_value(args, "--color").and_then(|word| ColorChoice::from_str(&word, false).ok()).unwrap_or_default()
}

/// One error for all faults: a single one as it is, more as a list.
pub fn usage_error(faults: &[String]) -> CommandError {
    let what = match faults {
        [only] => only.clone(),
        many => format!("{} faults on the command line and in the settings:\n  {}", many.len(), many.join("\n  ")),
    };
    CommandError::new(ExitCode::Usage, what).hint("kura --help, or kura <command> --help")
}

/// Help and version were asked for; a bare `kura` gets its help too, on stderr and with exit 2.
fn is_answer(error: &clap::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    )
}

/// clap's message as a fragment: without its label, usage and tips, but with what it suggests.
fn fragment(error: &clap::Error) -> String {
    let rendered = error.to_string();
    let first = rendered.split("\n\n").next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    let words: Vec<&str> = first.split_whitespace().collect();
    let suggestion = match error.get(ContextKind::SuggestedArg).or_else(|| error.get(ContextKind::SuggestedSubcommand))
    {
        Some(ContextValue::String(name)) => format!("; did you mean '{name}'?"),
        Some(ContextValue::Strings(names)) if !names.is_empty() => {
            format!("; did you mean '{}'?", names.join("' or '"))
        }
        _ => String::new(),
    };
    format!("{}{suggestion}", words.join(" "))
}

/// Takes the unknown argument out, with the value that seems to belong to it. False if it cannot be found.
fn remove(args: &mut Vec<OsString>, error: &clap::Error) -> bool {
    let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidArg) else { return false };
    let is_it = |arg: &OsString| {
        let text = arg.to_string_lossy();
        text == *unknown || text.split_once('=').is_some_and(|(name, _)| name == *unknown)
    };
    let Some(position) = args.iter().skip(1).position(is_it).map(|found| found + 1) else { return false };
    let removed = args.remove(position);
    let takes_value = unknown.starts_with("--") && !removed.to_string_lossy().contains('=');
    let is_value = args.get(position).is_some_and(|next| {
        let next = next.to_string_lossy();
        !next.starts_with('-') && cli::command().find_subcommand(next.as_ref()).is_none()
    });
    if takes_value && is_value {
        args.remove(position);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(args: &[&str]) -> Vec<String> {
        let all: Vec<OsString> = ["kura"].iter().chain(args).map(OsString::from).collect();
        match parse(&all) {
            Parsed::Faulty { faults, .. } => faults,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_unknown_flag_is_named() {
        assert_eq!(
            faults(&["completions", "bash", "--data-dri", "/x", "--wat=1", "--region", "eu"]),
            ["unexpected argument '--data-dri' found; did you mean '--data-dir'?", "unexpected argument '--wat' found",]
        );
    }

    #[test]
    fn settings_survive_beside_an_unknown_flag() {
        let all: Vec<OsString> = ["kura", "--nope", "completions", "bash", "--port", "x"].map(OsString::from).into();
        let Parsed::Faulty { faults, flags, .. } = parse(&all) else { panic!() };
        assert_eq!((faults.len(), flags), (1, vec![("port", "x".to_owned())]));
    }

    #[test]
    fn peers_before_and_after_the_command_all_count() {
        let all = ["kura", "--peer", "http://a:1", "completions", "bash", "--peers=http://b:2,http://c:3"];
        let all: Vec<OsString> = all.map(OsString::from).into();
        let Parsed::Run(invocation) = parse(&all) else { panic!() };
        assert_eq!(invocation.flags, [("peers", "http://a:1,http://b:2,http://c:3".to_owned())]);
    }

    #[test]
    fn an_unknown_command_is_a_fault() {
        assert_eq!(faults(&["complete"]).len(), 1);
        assert!(faults(&["completions", "tcsh"])[0].starts_with("invalid value 'tcsh' for '<SHELL>'"));
    }
}
