//! `kura doctor`: looks, renders what was found, and turns it into an exit code. Changes nothing.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum, ValueHint};

use super::context::Context;
use super::exit::{CommandError, ExitCode};
use super::render::doctor::{self as render, Style};
use super::render::verify_bar::VerifyBar;
use super::{doctor_artifact as artifact, doctor_bundle};
use crate::core::base::clock::SystemClock;
use crate::core::base::disk::RealDisk;
use crate::core::base::units::DurationArg;
use crate::core::config::{ConfigWarning, nearest};
use crate::core::doctor::check::Category;
use crate::core::doctor::checks;
use crate::core::doctor::context::{Asked, Context as Look, Mode, Settings, Verify, VerifyWatch, World};
use crate::core::doctor::finding::{Code, Severity, Status};
use crate::core::doctor::report::{Conclusion, Report};
use crate::core::doctor::run::{self, Selection, Selector};
use crate::core::doctor::runbook;
use crate::core::mesh::http_transport::HttpTransport;

/// Between two looks of `--wait`.
const WAIT_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// `--output` of the doctor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum DoctorOutput {
    /// Everything, for people
    #[default]
    Table,
    /// Only what is not ok
    Short,
    /// One JSON document
    Json,
}

/// `--fail-on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum FailOn {
    /// Warnings end with exit code 3, too
    Warn,
    /// Only failures do
    #[default]
    Fail,
}

/// `--verify`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum VerifyArg {
    /// Read no bodies
    None,
    /// Read a few
    #[default]
    Sample,
    /// Read each one
    All,
}

/// Find out what is wrong with a node, without changing anything
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 nothing to do, 3 at least one failure, 4 a check could not run, 2 usage.")]
pub struct DoctorArgs {
    /// What to explain instead of checking everything.
    #[command(subcommand)]
    pub subject: Option<DoctorSubject>,
    /// Look at files only: ask neither a running node nor peers
    #[arg(long, global = true, conflicts_with = "online")]
    pub offline: bool,
    /// Insist on a running node: that none answers is an error
    #[arg(long, global = true)]
    pub online: bool,
    /// Run only these checks or categories
    #[arg(long, value_name = "CODE|CATEGORY", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Leave these checks or categories out
    #[arg(long, value_name = "CODE|CATEGORY", value_delimiter = ',')]
    pub skip: Vec<String>,
    /// What ends with exit code 3
    #[arg(long, value_name = "SEVERITY", value_enum, default_value_t)]
    pub fail_on: FailOn,
    /// How many bodies to read and hash
    #[arg(long, value_name = "HOW_MANY", value_enum, default_value_t)]
    pub verify: VerifyArg,
    /// Look again until nothing is found or this long is over, such as 5m
    #[arg(long, value_name = "DURATION")]
    pub wait: Option<DurationArg>,
    /// Also write an archive for somebody else to read: findings, status, settings, metrics, logs, and no secrets
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["from_bundle", "list", "explain"])]
    pub bundle: Option<PathBuf>,
    /// Print the findings of such an archive and look at nothing else
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[arg(conflicts_with_all = ["only", "skip", "wait", "list", "explain", "offline", "online"])]
    pub from_bundle: Option<PathBuf>,
    /// List all checks and look at nothing
    #[arg(long, conflicts_with_all = ["explain", "only", "skip"])]
    pub list: bool,
    /// Print the runbook of a code and look at nothing
    #[arg(long, value_name = "CODE")]
    pub explain: Option<String>,
    /// How to show the result
    #[arg(long, global = true, value_name = "FORMAT", value_enum, default_value_t)]
    pub output: DoctorOutput,
}

/// What can be explained by itself.
#[derive(Debug, Subcommand)]
pub enum DoctorSubject {
    /// Explain one artifact: where it is, whether its bytes match, who has it, and why it is not here
    Artifact(ArtifactArgs),
}

/// One artifact, explained.
#[derive(Debug, Args)]
#[command(after_help = artifact::EXAMPLES)]
pub struct ArtifactArgs {
    /// Its id (64 hex digits), or its producer, namespace and key; without a namespace the producer's usual one
    #[arg(required = true, num_args = 1..=3, value_name = "ID | PRODUCER [NAMESPACE] KEY")]
    pub subject: Vec<String>,
}

/// Looks and says what was found.
///
/// # Errors
/// Unknown codes, and an unwritable stdout. What is wrong with the node is an answer and no error.
pub async fn run(args: DoctorArgs, context: &mut Context) -> Result<ExitCode, CommandError> {
    if let Some(DoctorSubject::Artifact(subject)) = &args.subject {
        return artifact::run(&args, subject, context).await;
    }
    if let Some(code) = &args.explain {
        return explain(code, context);
    }
    if args.list {
        return list(args.output, context);
    }
    if let Some(path) = &args.from_bundle {
        return doctor_bundle::show(path, &args, context);
    }
    if let Some(path) = &args.bundle {
        doctor_bundle::check_place(path, context)?;
    }
    let selection = Selection { only: selectors(&args.only)?, skip: selectors(&args.skip)? };
    let (looked, report) = look_until_clean(&args, &selection, context).await?;
    let exit = exit_of(report.summary.conclusion(fail_on(args.fail_on)));
    if let Some(path) = &args.bundle {
        let head = doctor_bundle::make(path, &looked, &report, exit, context)?;
        context.printer.talk(&format!("wrote {} ({} files, no secrets)", path.display(), head.files.len()));
    }
    let style = Style { color: context.printer.color, width: context.printer.width };
    let text = match args.output {
        DoctorOutput::Table => render::full(&report, exit.code(), style),
        DoctorOutput::Short => render::short(&report, exit.code(), style),
        DoctorOutput::Json => render::json(&report)?,
    };
    context.answer(&text)?;
    Ok(exit)
}

pub(super) fn exit_of(conclusion: Conclusion) -> ExitCode {
    match conclusion {
        Conclusion::Clean => ExitCode::Done,
        Conclusion::Findings => ExitCode::Findings,
        Conclusion::Incomplete => ExitCode::ChecksIncomplete,
    }
}

pub(super) fn fail_on(argument: FailOn) -> Severity {
    match argument {
        FailOn::Warn => Severity::Warn,
        FailOn::Fail => Severity::Fail,
    }
}

/// Looks once, or with `--wait` until nothing is found or the time is up. The last look is the answer.
async fn look_until_clean(
    args: &DoctorArgs,
    selection: &Selection,
    context: &mut Context,
) -> Result<(Arc<Look>, Report), CommandError> {
    let started = std::time::Instant::now();
    let limit = args.wait.map_or(std::time::Duration::ZERO, |wait| wait.0);
    let mut said = String::new();
    loop {
        let (looked, report) = look(args, selection.clone(), context).await?;
        let left = limit.saturating_sub(started.elapsed());
        if left.is_zero() || report.summary.conclusion(fail_on(args.fail_on)) == Conclusion::Clean {
            return Ok((looked, report));
        }
        let found = open_codes(&report, args.fail_on);
        if found != said {
            context.printer.talk(&format!("waiting for {found}"));
            said = found;
        }
        tokio::time::sleep(left.min(WAIT_PAUSE)).await;
    }
}

/// The codes for which a run is not clean.
fn open_codes(report: &Report, on: FailOn) -> String {
    let is_open = |status| match status {
        Status::Fail | Status::Error => true,
        Status::Warn => on == FailOn::Warn,
        Status::Ok | Status::Skip => false,
    };
    let open = report.checks.iter().filter(|finding| is_open(finding.status));
    open.map(|finding| finding.code.as_str()).collect::<Vec<_>>().join(", ")
}

/// The checks block, each on a thread of its own, and are waited for on one of the runtime's blocking threads.
async fn look(args: &DoctorArgs, selection: Selection, context: &Context) -> Result<(Arc<Look>, Report), CommandError> {
    let (settings, unread) = settings_of(context);
    let asked = Asked { mode: mode(args), verify: verify(args.verify) };
    let world = World { positions: positions(context), watch: watch(args, context), ..world() };
    let looked = tokio::task::spawn_blocking(move || {
        let look = Arc::new(Look::new(settings, asked, world).with_unread(unread));
        let report = run::run(&look, &selection, &checks::ALL);
        (look, report)
    });
    looked.await.map_err(|error| CommandError::new(ExitCode::Unexpected, "the doctor itself failed").caused_by(error))
}

/// The settings as the checks take them, and what was set and has no effect.
pub(super) fn settings_of(context: &Context) -> (Settings, Vec<ConfigWarning>) {
    let settings = match &context.settings {
        Ok(resolved) => Settings::Resolved(Arc::new(resolved.config.clone())),
        Err(errors) => Settings::Invalid {
            problems: errors.faults().iter().map(ToString::to_string).collect(),
            data_dir: errors.folders().data_dir.clone(),
            tmp_dir: errors.folders().tmp_dir.clone(),
        },
    };
    let unread = context.settings.as_ref().map(|resolved| resolved.warnings.clone()).unwrap_or_default();
    (settings, unread)
}

/// Where positions are kept: the user's cache folder, and never the data dir, in which nothing is written.
fn positions(context: &Context) -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")))?;
    let folder = cache.join("kura").join("doctor");
    let data_dir = context.config().ok().map(|config| config.data_dir.clone())?;
    (!folder.starts_with(data_dir)).then_some(folder)
}

fn watch(args: &DoctorArgs, context: &Context) -> Option<Arc<dyn VerifyWatch>> {
    let is_long = args.verify == VerifyArg::All && !context.printer.quiet;
    is_long.then(|| Arc::new(VerifyBar::new(&context.printer)) as Arc<dyn VerifyWatch>)
}

pub(super) fn mode(args: &DoctorArgs) -> Mode {
    match (args.offline, args.online) {
        (true, _) => Mode::Offline,
        (false, true) => Mode::Online,
        (false, false) => Mode::Auto,
    }
}

fn verify(argument: VerifyArg) -> Verify {
    match argument {
        VerifyArg::None => Verify::None,
        VerifyArg::Sample => Verify::Sample,
        VerifyArg::All => Verify::All,
    }
}

pub(super) fn world() -> World {
    World {
        clock: Arc::new(SystemClock::default()),
        disk: Arc::new(RealDisk),
        transport: Some(Arc::new(HttpTransport::default())),
        runtime: tokio::runtime::Handle::current(),
        root: "/".into(),
        positions: None,
        watch: None,
    }
}

fn selectors(texts: &[String]) -> Result<Vec<Selector>, CommandError> {
    let known = || Code::ALL.iter().map(|code| code.as_str()).chain(Category::ALL.map(Category::as_str));
    texts
        .iter()
        .map(|text| text.parse::<Selector>().map_err(|error| unknown(&error.to_string(), text, known())))
        .collect()
}

fn explain(code: &str, context: &mut Context) -> Result<ExitCode, CommandError> {
    let known = Code::ALL.iter().map(|code| code.as_str());
    let parsed: Code = code
        .parse()
        .map_err(|error: crate::core::doctor::finding::UnknownCode| unknown(&error.to_string(), code, known))?;
    let section = runbook::section(parsed)
        .ok_or_else(|| CommandError::new(ExitCode::Unexpected, format!("the runbook has no section for {parsed}")))?;
    context.answer(&format!("{section}\n"))?;
    Ok(ExitCode::Done)
}

fn unknown<'a>(what: &str, typed: &str, known: impl Iterator<Item = &'a str>) -> CommandError {
    let typed = typed.to_ascii_uppercase().replace('-', "_");
    let close = known.collect::<Vec<_>>();
    let hint = match nearest(&typed, close.iter().copied()).or_else(|| nearest(&typed.to_lowercase(), close)) {
        Some(name) => format!("did you mean {name}? all of them: kura doctor --list"),
        None => "all codes and categories: kura doctor --list".to_owned(),
    };
    CommandError::new(ExitCode::Usage, what).hint(hint)
}

fn list(output: DoctorOutput, context: &mut Context) -> Result<ExitCode, CommandError> {
    let abouts: Vec<_> = checks::ALL.iter().map(|check| check.about()).collect();
    let text = match output {
        DoctorOutput::Json => render::list_json(&abouts)?,
        DoctorOutput::Table | DoctorOutput::Short => render::list(&abouts, context.printer.width),
    };
    context.answer(&text)?;
    Ok(ExitCode::Done)
}
