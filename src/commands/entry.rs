//! From arguments and environment to the process's exit code: what `main` calls.
//!
//! Signals: `serve` handles them itself. The other commands leave SIGINT and SIGTERM to the kernel, so that the shell
//! sees a real death by signal (130, 143); nothing they do needs a farewell. Only as the first process of a container,
//! where the kernel ignores unhandled signals, they are caught here and become the same exit code.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};

use tokio::signal::unix::{SignalKind, signal};

use super::cli::{Command, Invocation};
use super::context::Context;
use super::exit::{CommandError, ExitCode};
use super::printer::Printer;
use super::usage::{self, Parsed};
use super::{bootstrap, completions, doctor, fatal, reclaim_staging, serve};
use crate::core::config::{self, ConfigFile, Inputs, Machine, Resolved, Source, Variables};
use crate::core::telemetry::logging;

/// How long blocking work may go on after a command has ended.
const RUNTIME_SHUTDOWN_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// A shell reports death by a signal as this plus its number.
const SIGNAL_EXIT_BASE: u8 = 128;

/// Runs what the arguments ask for and returns the exit code.
pub fn run(args: &[OsString], variables: Variables) -> u8 {
    let json = wants_json(args, &variables);
    let color = usage::raw_color(args);
    let colored = color.applies(std::io::stderr().is_terminal(), &variables);
    match usage::parse(args) {
        Parsed::Show(text) => show(&text),
        Parsed::Faulty { faults, flags, config } => {
            let settings = resolve(flags, variables, config);
            let more = settings.err().map(|errors| errors.faults().to_vec()).unwrap_or_default();
            let all: Vec<String> = faults.into_iter().chain(more.iter().map(ToString::to_string)).collect();
            fail(&usage::usage_error(&all), json, colored)
        }
        Parsed::Run(invocation) => match start(*invocation, variables) {
            Ok(code) => code,
            Err(error) => fail(&error, json, colored),
        },
    }
}

fn start(invocation: Invocation, variables: Variables) -> Result<u8, CommandError> {
    let Invocation { cli, flags } = invocation;
    let mut printer = Printer::of_this_process(&cli.global, &variables);
    let settings = resolve(flags, variables, cli.global.config.clone());
    let threads = settings.as_ref().map_or(2, |resolved| resolved.config.tokio_worker_threads);
    if let Ok(resolved) = &settings {
        start_logging(resolved, &cli.command, &mut printer)?;
    }
    let may_ask = !cli.global.no_input && std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    let mut context = Context { printer, settings, global: cli.global, may_ask };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let runtime = runtime
        .map_err(|error| CommandError::new(ExitCode::Unexpected, "cannot start the runtime").caused_by(error))?;
    let ended = runtime.block_on(run_until_signalled(cli.command, &mut context));
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN_TIMEOUT);
    ended
}

async fn run_until_signalled(command: Command, context: &mut Context) -> Result<u8, CommandError> {
    let is_first_process = std::process::id() == 1;
    if command.is_server() || !is_first_process {
        return dispatch(command, context).await.map(ExitCode::code);
    }
    tokio::select! {
        ended = dispatch(command, context) => ended.map(ExitCode::code),
        code = stop_signal() => Ok(code),
    }
}

async fn dispatch(command: Command, context: &mut Context) -> Result<ExitCode, CommandError> {
    match command {
        Command::Serve(args) => serve::run(args, context).await,
        Command::Bootstrap(args) => bootstrap::run(args, context).await,
        Command::ReclaimStaging(args) => reclaim_staging::run(args, context).await,
        Command::Doctor(args) => doctor::run(args, context).await,
        Command::Completions(args) => completions::run(args, context).await,
    }
}

/// Waits for SIGINT or SIGTERM; forever if they cannot be listened for.
async fn stop_signal() -> u8 {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    let kind = tokio::select! {
        _ = interrupt.recv() => SignalKind::interrupt(),
        _ = terminate.recv() => SignalKind::terminate(),
    };
    SIGNAL_EXIT_BASE.saturating_add(u8::try_from(kind.as_raw_value()).unwrap_or(0))
}

fn resolve(
    flags: Vec<(&'static str, String)>,
    variables: Variables,
    config: Option<std::path::PathBuf>,
) -> Result<Resolved, config::ConfigErrors> {
    let path = config.or_else(|| variables.config_file().map(std::path::PathBuf::from));
    let file = path.as_deref().map(ConfigFile::read);
    config::resolve(&Inputs { flags, variables, file, machine: Machine::of_this_process() })
}

/// Commands talk through the printer, so by default only their warnings are logged; `serve` logs what it does.
fn start_logging(resolved: &Resolved, command: &Command, printer: &mut Printer) -> Result<(), CommandError> {
    let mut settings = resolved.log.clone();
    if !command.is_server() && resolved.source("log_level") == Some(&Source::Default) {
        settings.filter = "warn".to_owned();
    }
    let already = |error| CommandError::new(ExitCode::Unexpected, "cannot start logging").caused_by(error);
    logging::start(&settings, printer.color_stderr, command.is_server()).map_err(already)?;
    for setting in &resolved.settings {
        let (value, source) = (setting.value.as_deref().unwrap_or_default(), setting.source.name(setting.key));
        tracing::debug!(key = setting.key, value, source, "setting_resolved");
    }
    for warning in &resolved.warnings {
        if command.is_server() {
            tracing::warn!(%warning, "setting_ignored");
        } else {
            printer.talk(&format!("warning: {warning}"));
        }
    }
    Ok(())
}

/// Prints a help or version text where it belongs; a closed pipe is a normal end.
fn show(text: &clap::Error) -> u8 {
    let _ = text.print();
    if text.use_stderr() { ExitCode::Usage.code() } else { ExitCode::Done.code() }
}

/// Says why on stderr, which has nowhere else to go, and returns the code.
fn fail(error: &CommandError, json: bool, colored: bool) -> u8 {
    let _ = std::io::stderr().write_all(fatal::render(error, json, colored).as_bytes());
    error.exit.code()
}

/// Whether the last words are for a program: the answer or the log was asked for in JSON.
fn wants_json(args: &[OsString], variables: &Variables) -> bool {
    let output = usage::raw_value(args, "--output").is_some_and(|format| matches!(format.as_str(), "json" | "jsonl"));
    let log_format = usage::raw_value(args, "--log-format").map(OsString::from);
    let log_format = log_format.or_else(|| variables.get("KURA_LOG_FORMAT").cloned());
    output || log_format.is_some_and(|format| format == "json")
}
