//! The shape of the command line: subcommands, what all of them share, and one flag per setting.
//!
//! How it works: subcommands and global arguments are derived; the flags of the settings are added to that from
//! [`SETTINGS`], so that no flag is written down twice. Their values stay texts here: `core::config` reads them, and so
//! all faults of flags, variables and file come in one message.

use std::path::PathBuf;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{
    Arg, ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum, ValueHint,
};

use super::bootstrap::BootstrapArgs;
use super::completions::CompletionsArgs;
use super::doctor::DoctorArgs;
use super::reclaim_staging::ReclaimStagingArgs;
use super::serve::ServeArgs;
use crate::core::config::{Group, Kind, SETTINGS, Setting, Variables};

/// A build-cache mesh node that heals itself, and the toolkit to operate it
#[derive(Debug, Parser)]
#[command(name = "kura", version, max_term_width = 100, arg_required_else_help = true, subcommand_required = true)]
#[command(disable_help_subcommand = true, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What every command understands.
    #[command(flatten)]
    pub global: GlobalArgs,
}

const AFTER_HELP: &str = "Every setting is a flag, a KURA_* variable and a key of the --config file, in that order.\n\
                          `kura serve --help` lists them all.";

/// The commands.
#[derive(Debug, Subcommand)]
#[non_exhaustive]
pub enum Command {
    /// Serve artifacts to build tools and keep peers in sync
    Serve(ServeArgs),
    /// Catch a data dir up from peers
    Bootstrap(BootstrapArgs),
    /// Free what was never committed; never touches data
    ReclaimStaging(ReclaimStagingArgs),
    /// Find out what is wrong with a node, without changing anything
    Doctor(DoctorArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

impl Command {
    /// Whether this is the long-running node, which handles signals itself and logs what it does.
    pub fn is_server(&self) -> bool {
        match self {
            Self::Serve(_) => true,
            Self::Bootstrap(_) | Self::ReclaimStaging(_) | Self::Doctor(_) | Self::Completions(_) => false,
        }
    }
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl ColorChoice {
    /// Whether to colour a stream, given whether it is a terminal.
    pub fn applies(self, terminal: bool, variables: &Variables) -> bool {
        let dumb = variables.get("TERM").is_some_and(|term| term == "dumb");
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => terminal && !dumb && variables.get("NO_COLOR").is_none(),
        }
    }
}

/// What every command understands besides the settings.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// A TOML file with settings [variable: KURA_CONFIG]
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Colour the output
    #[arg(long, global = true, value_name = "auto|always|never", value_enum, default_value_t)]
    #[arg(hide_possible_values = true)]
    pub color: ColorChoice,
    /// Never ask; what would need an answer is refused
    #[arg(long, global = true)]
    pub no_input: bool,
    /// Say less on stderr
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more on stderr; twice for everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

/// Arguments that parsed: the command and the flags of settings, by key.
#[derive(Debug)]
pub struct Invocation {
    /// The derived part.
    pub cli: Cli,
    /// Settings given as flags; repeated ones joined by commas.
    pub flags: Vec<(&'static str, String)>,
}

/// The whole command line, with the settings' flags.
pub fn command() -> clap::Command {
    Cli::command().args(SETTINGS.iter().map(flag))
}

impl Invocation {
    /// Takes what clap matched apart.
    pub fn from_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let cli = Cli::from_arg_matches(matches)?;
        let mut flags = flags(matches);
        let level = match cli.global.verbose {
            0 if cli.global.quiet => Some("error"),
            0 => None,
            1 => Some("info,kura=debug"),
            _ => Some("debug,kura=trace"),
        };
        if let Some(level) = level.filter(|_| !flags.iter().any(|(key, _)| *key == "log_level")) {
            flags.push(("log_level", level.to_owned()));
        }
        Ok(Self { cli, flags })
    }
}

/// The settings given as flags.
pub(super) fn flags(matches: &ArgMatches) -> Vec<(&'static str, String)> {
    let given = |setting: &Setting| {
        let values = matches.try_get_many::<String>(setting.key).ok().flatten()?;
        Some((setting.key, values.map(String::as_str).collect::<Vec<_>>().join(",")))
    };
    SETTINGS.iter().filter_map(given).collect()
}

/// Shown by `-h`; the others only by `--help`.
const COMMON: [&str; 6] = ["data_dir", "tmp_dir", "peers", "discovery_dns_name", "log_level", "log_format"];

fn flag(setting: &Setting) -> Arg {
    let help = format!("{} [default: {}]", setting.help, setting.default_text().replace('`', ""));
    let action = if setting.kind == Kind::Urls { ArgAction::Append } else { ArgAction::Set };
    Arg::new(setting.key)
        .long(setting.flag())
        .aliases(setting.flag_alias())
        .value_name(setting.kind.value_name())
        .value_hint(value_hint(setting.kind))
        .value_parser(AnyText { words: words(setting.kind) })
        .hide_possible_values(true)
        .allow_hyphen_values(setting.key == "metadata_store_max_open_files")
        .help(help)
        .help_heading(heading(setting.group))
        .hide_short_help(!COMMON.contains(&setting.key))
        .action(action)
        .global(true)
}

fn heading(group: Group) -> &'static str {
    match group {
        Group::Storage => "Storage settings",
        Group::Node => "Node settings",
        Group::Mesh => "Mesh settings",
        Group::Process => "Process settings",
    }
}

fn value_hint(kind: Kind) -> ValueHint {
    match kind {
        Kind::Path => ValueHint::DirPath,
        Kind::Url | Kind::Urls => ValueHint::Url,
        Kind::DnsName => ValueHint::Hostname,
        _ => ValueHint::Other,
    }
}

fn words(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Choice(words) => words,
        Kind::LogFilter => &["error", "warn", "info", "debug", "trace"],
        _ => &[],
    }
}

/// Takes any text, and offers words to completions: what is wrong with a text is told with all other faults.
#[derive(Debug, Clone)]
struct AnyText {
    words: &'static [&'static str],
}

impl TypedValueParser for AnyText {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        if self.words.is_empty() {
            return None;
        }
        Some(Box::new(self.words.iter().map(|word| PossibleValue::new(*word))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Invocation, clap::Error> {
        let all = ["kura"].iter().chain(args);
        command().try_get_matches_from(all).and_then(|matches| Invocation::from_matches(&matches))
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn settings_are_flags_before_and_after_the_command() {
        let before = parse(&["--data-dir", "/d", "completions", "bash"]).unwrap();
        let after = parse(&["completions", "bash", "--data-dir=/d"]).unwrap();
        assert_eq!(before.flags, [("data_dir", "/d".to_owned())]);
        assert_eq!(before.flags, after.flags);
    }

    #[test]
    fn peers_repeat_and_both_spellings_count() {
        let given =
            parse(&["completions", "bash", "--peer", "http://a:1", "--peers", "http://b:2,http://c:3"]).unwrap();
        assert_eq!(given.flags, [("peers", "http://a:1,http://b:2,http://c:3".to_owned())]);
        let given = parse(&["completions", "bash", "--discover", "kura.svc"]).unwrap();
        assert_eq!(given.flags, [("discovery_dns_name", "kura.svc".to_owned())]);
    }

    #[test]
    fn verbosity_is_a_log_level_unless_one_is_given() {
        let level = |args: &[&str]| {
            let all: Vec<&str> = ["completions", "bash"].iter().chain(args).copied().collect();
            parse(&all).unwrap().flags.iter().find(|(key, _)| *key == "log_level").map(|(_, text)| text.clone())
        };
        assert_eq!(level(&["-v"]).as_deref(), Some("info,kura=debug"));
        assert_eq!(level(&["-vv"]).as_deref(), Some("debug,kura=trace"));
        assert_eq!(level(&["-q"]).as_deref(), Some("error"));
        assert_eq!(level(&["-v", "--log-level", "warn"]).as_deref(), Some("warn"));
        assert_eq!(level(&[]), None);
        assert!(parse(&["completions", "bash", "-q", "-v"]).is_err());
    }
}
