//! `kura doctor --bundle` and `--from-bundle`: a report that travels, and reading one that came.

use std::fs::File;
use std::path::Path;

use serde_json::{Value, json};

use super::context::Context;
use super::doctor::{DoctorArgs, DoctorOutput, exit_of, fail_on};
use super::exit::{CommandError, ExitCode};
use super::render::doctor::{self as render, Style};
use crate::core::config::{Resolved, SETTINGS};
use crate::core::doctor::bundle::{self, Bundle, BundleHead};
use crate::core::doctor::context::Context as Look;
use crate::core::doctor::redaction::Secrets;
use crate::core::doctor::report::{Report, Summary};

/// Columns of the screens in a bundle: whoever reads them has a terminal of an unknown width.
const SCREEN_COLUMNS: usize = 100;

/// Lines of the node's log on the screen: what happened last, below findings that are to be read first.
const LOG_LINES_SHOWN: usize = 20;

/// Writes the bundle; the file must not exist, and must not lie in the data dir, in which nothing is changed.
pub(super) fn make(
    path: &Path,
    look: &Look,
    report: &Report,
    exit: ExitCode,
    context: &Context,
) -> Result<BundleHead, CommandError> {
    let unwritable = |error: std::io::Error| {
        CommandError::new(ExitCode::Unexpected, format!("cannot write {}", path.display())).caused_by(error)
    };
    let style = Style { color: false, width: SCREEN_COLUMNS };
    let mut parts = bundle::gather(look);
    parts.add("doctor.json", render::json(report)?);
    parts.add("doctor.txt", render::full(report, exit.code(), style));
    parts.add("doctor-short.txt", render::short(report, exit.code(), style));
    parts.add("config.json", settings(context));
    let file = File::create_new(path).map_err(unwritable)?;
    bundle::write(parts, &secrets(), look.world.clock.now_ms(), file).map_err(unwritable)
}

/// Refuses a place in the data dir before anything is looked at.
pub(super) fn check_place(path: &Path, context: &Context) -> Result<(), CommandError> {
    let refuse = |what: String, hint: &str| Err(CommandError::new(ExitCode::Usage, what).hint(hint));
    if path.exists() {
        return refuse(format!("{} exists", path.display()), "name a file that does not exist yet");
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(folder) = folder.canonicalize() else {
        return refuse(format!("there is no folder {}", folder.display()), "make it first, or name another one");
    };
    let data_dir = context.config().ok().and_then(|config| config.data_dir.canonicalize().ok());
    if data_dir.is_some_and(|data_dir| folder.starts_with(data_dir)) {
        return refuse(
            format!("{} lies in the data dir", path.display()),
            "the doctor writes nothing there: name a place elsewhere, such as /tmp",
        );
    }
    Ok(())
}

fn secrets() -> Secrets {
    let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let texts = variables.map(|(name, value)| (name, value.to_string_lossy().into_owned()));
    Secrets::of(texts, |name| name == "KURA_CONFIG" || SETTINGS.iter().any(|setting| setting.variable() == name))
}

/// Every setting with its value and source, or what is wrong with them.
fn settings(context: &Context) -> String {
    let value = match &context.settings {
        Ok(resolved) => resolved_settings(resolved),
        Err(errors) => json!({ "problems": errors.faults().iter().map(ToString::to_string).collect::<Vec<_>>() }),
    };
    format!("{value:#}\n")
}

fn resolved_settings(resolved: &Resolved) -> Value {
    let settings: Vec<Value> = resolved
        .settings
        .iter()
        .map(
            |setting| json!({ "key": setting.key, "value": setting.value, "source": setting.source.name(setting.key) }),
        )
        .collect();
    json!({ "settings": settings, "warnings": resolved.warnings.iter().map(ToString::to_string).collect::<Vec<_>>() })
}

/// Prints the findings of a bundle, with the exit code they had.
pub(super) fn show(path: &Path, args: &DoctorArgs, context: &mut Context) -> Result<ExitCode, CommandError> {
    let unreadable = |error: std::io::Error| {
        CommandError::new(ExitCode::Usage, format!("{} is no bundle that can be read", path.display()))
            .caused_by(error)
            .hint("kura doctor --bundle FILE makes one")
    };
    let bundle = File::open(path).and_then(Bundle::read).map_err(unreadable)?;
    let name = match args.output {
        DoctorOutput::Table => "doctor.txt",
        DoctorOutput::Short => "doctor-short.txt",
        DoctorOutput::Json => "doctor.json",
    };
    let absent = || unreadable(std::io::Error::other(format!("it has no {name}")));
    let text = bundle.text(name).ok_or_else(absent)?;
    let report = bundle.text("doctor.json").ok_or_else(absent)?;
    let summary = serde_json::from_str::<Value>(&report).map(|report| summary(&report));
    let summary = summary.map_err(|error| unreadable(error.into()))?;
    let head = &bundle.head;
    context.printer.talk(&format!("from a bundle of {}, made on {} by kura {}", head.made_at, head.host, head.version));
    context.printer.talk(&format!("also in it: {}", head.files.join(" ")));
    context.answer(&text)?;
    if args.output == DoctorOutput::Table {
        let lines = bundle.text(bundle::NODE_LOG).map(|log| end_of_log(&log, path)).unwrap_or_default();
        context.answer(&lines)?;
    }
    Ok(exit_of(summary.conclusion(fail_on(args.fail_on))))
}

/// The last lines of the node's log, and how to read all of them; nothing where there are none.
fn end_of_log(log: &str, path: &Path) -> String {
    let lines: Vec<&str> = log.lines().collect();
    if lines.is_empty() {
        return String::new();
    }
    let shown = lines.get(lines.len().saturating_sub(LOG_LINES_SHOWN)..).unwrap_or_default();
    let all = format!("tar -xOf {} {}", path.display(), bundle::NODE_LOG);
    let head = format!("\nlog of the node, the last {} of {} lines; all of them: {all}\n", shown.len(), lines.len());
    shown.iter().fold(head, |text, line| text + "  " + line + "\n")
}

fn summary(report: &Value) -> Summary {
    let count = |status: &str| report.pointer(&format!("/summary/{status}")).and_then(Value::as_u64).unwrap_or(0);
    Summary { ok: count("ok"), warn: count("warn"), fail: count("fail"), skip: count("skip"), error: count("error") }
}
