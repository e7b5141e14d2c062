//! `kura reclaim-staging`: frees what was never committed, on a volume with no free byte if need be.
//!
//! How it works: look whether this is a data dir, look whether there is anything to do, lock, plan, ask, apply, measure.
//! The work is `core::staging::reclaim`, the same that a starting node does.
//!
//! Invariants: nothing is written before the first removal, not even a lock file or a log. Without `--yes` or a yes on
//! a terminal nothing is removed.

use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use clap::{Args, ValueEnum};

use super::context::Context;
use super::exit::{CommandError, ExitCode};
use super::free_space::FreeSpace;
use super::printer::OutputFormat;
use super::render::reclaim::{self, Report};
use super::render::reclaim_bar::ReclaimBar;
use crate::core::base::clock::{Clock, SystemClock};
use crate::core::base::disk::{Disk, RealDisk, VolumeSpace};
use crate::core::base::units::{ByteSize, DurationArg};
use crate::core::config::Config;
use crate::core::data_dir::ballast::Ballast;
use crate::core::data_dir::layout::{self, DataDirKind, Layout};
use crate::core::data_dir::lock::{DataDirLock, LockError, LockHolder, LockState};
use crate::core::staging::area::AreaKind;
use crate::core::staging::inventory::{Ownership, StagingFolders, StagingTree};
use crate::core::staging::reclaim::{self as core_reclaim, ReclaimPlan, ReclaimPolicy};

/// A staging area, as a word on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KindArg {
    /// Bodies that clients or peers were sending
    Uploads,
    /// Parts of multipart uploads
    Parts,
    /// Bodies that were being fetched from peers
    Bootstrap,
}

impl KindArg {
    fn area(self) -> AreaKind {
        match self {
            Self::Uploads => AreaKind::Uploads,
            Self::Parts => AreaKind::Parts,
            Self::Bootstrap => AreaKind::Bootstrap,
        }
    }
}

/// Free what was never committed; never touches data
///
/// Removes what lies in the staging areas of the tmp dir and has no live owner. Works on a volume with no free byte,
/// and on data directories of the seed-era system.
#[derive(Debug, Args)]
pub struct ReclaimStagingArgs {
    /// Show what would be freed and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do it without asking
    #[arg(short, long)]
    pub yes: bool,
    /// Only this area; may be given several times
    #[arg(long, value_name = "uploads|parts|bootstrap", value_enum, hide_possible_values = true)]
    pub kind: Vec<KindArg>,
    /// Stop once this much is free: a share of the volume (10%) or a size (5GiB)
    #[arg(long, value_name = "SHARE|SIZE")]
    pub until_free: Option<FreeSpace>,
    /// Do nothing unless less than this is free
    #[arg(long, value_name = "SHARE|SIZE")]
    pub if_below: Option<FreeSpace>,
    /// Only what was not changed for this long, such as 15m or 7d
    #[arg(long, value_name = "DURATION")]
    pub older_than: Option<DurationArg>,
    /// Also give up the space kept in reserve, unless --until-free is reached without it; a node restores it by itself
    #[arg(long)]
    pub release_ballast: bool,
    /// How to print the result
    #[arg(long, value_name = "table|json", value_enum, default_value_t, hide_possible_values = true)]
    pub output: OutputFormat,
}

/// Plans, asks, frees and reports.
///
/// # Errors
/// What is not a data dir (12), a holder whose staging cannot be told from leftovers (11), or a missing yes (6).
pub async fn run(args: ReclaimStagingArgs, context: &mut Context) -> Result<ExitCode, CommandError> {
    let config = context.config()?.clone();
    let layout = Layout::new(&config.data_dir, &config.tmp_dir);
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    if args.if_below.is_some() && is_yet_to_be_made(&layout)? {
        let volume = volume_above(disk.as_ref(), layout.data_dir()).map_err(|error| unreadable(&layout, error))?;
        return answer(&Report::enough_free(&layout, volume, args.dry_run, false), &args, context);
    }
    let kind = require_data_dir(&layout)?;
    let volume = disk.space(layout.data_dir()).map_err(|error| unreadable(&layout, error))?;
    if args.if_below.is_some_and(|limit| volume.free_bytes >= limit.bytes(&volume)) {
        let is_in_use = matches!(DataDirLock::probe(&layout), Ok(LockState::Held(_)));
        return answer(&Report::enough_free(&layout, volume, args.dry_run, is_in_use), &args, context);
    }
    let held = take_lock(&layout)?;
    let policy = policy(&args, &held, &volume);
    let ballast = Ballast::new(&layout, Arc::clone(&disk));
    let may_release = args.release_ballast && kind == DataDirKind::Kura && ballast.bytes() > 0;
    let tree = StagingFolders::new(&layout, disk);
    let plan = core_reclaim::plan(&policy, &tree);
    let is_in_use = held.holder.is_some();
    let ballast_bytes = if may_release { ballast.bytes() } else { 0 };
    let planned =
        |dry_run| Report::planned(&layout, &plan, volume, dry_run, is_in_use).with_ballast_to_release(ballast_bytes);
    if args.dry_run || (plan.files.is_empty() && !may_release) {
        let code = answer(&planned(args.dry_run), &args, context)?;
        return Ok(if !args.dry_run && plan.failed.total > 0 { ExitCode::Partial } else { code });
    }
    if !args.yes {
        answer(&planned(true), &args, context)?;
        confirm(&args, &config, &plan, ballast_bytes, context)?;
    }
    let mut bar = ReclaimBar::new(&context.printer);
    let outcome = core_reclaim::apply(&policy, plan, &tree, &mut bar).map_err(|error| unreadable(&layout, error))?;
    bar.finish();
    let mut report = Report::done(&layout, &outcome, is_in_use);
    let mut is_partial = outcome.failed.total > 0;
    if may_release && !outcome.is_target_reached {
        match release(&ballast, &tree) {
            Ok((bytes, free_bytes)) => report = report.with_released_ballast(bytes, free_bytes),
            Err(error) => {
                is_partial = true;
                report = report.with_failure(layout.ballast(), &error);
            }
        }
    }
    answer(&report, &args, context)?;
    Ok(if is_partial { ExitCode::Partial } else { ExitCode::Done })
}

/// Bytes of the ballast that was given up, and what is free then.
fn release(ballast: &Ballast, tree: &dyn StagingTree) -> std::io::Result<(u64, u64)> {
    let bytes = ballast.release()?;
    Ok((bytes, tree.space()?.free_bytes))
}

fn answer(report: &Report, args: &ReclaimStagingArgs, context: &mut Context) -> Result<ExitCode, CommandError> {
    let text = match args.output {
        OutputFormat::Json => reclaim::as_json(report),
        OutputFormat::Table => reclaim::as_text(report, context.printer.width),
    };
    context.answer(&text)?;
    Ok(ExitCode::Done)
}

/// With `--if-below` this is a guard before each start, also before the first one: nothing is staged there yet.
fn is_yet_to_be_made(layout: &Layout) -> Result<bool, CommandError> {
    let kind = layout::detect_data_dir(layout).map_err(|error| unreadable(layout, error))?;
    Ok(matches!(kind, DataDirKind::Missing | DataDirKind::Empty))
}

/// The volume on which a path is or would be.
fn volume_above(disk: &dyn Disk, path: &Path) -> std::io::Result<VolumeSpace> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists());
    disk.space(existing.unwrap_or(Path::new("/")))
}

fn require_data_dir(layout: &Layout) -> Result<DataDirKind, CommandError> {
    let path = layout.data_dir().display();
    let what = match layout::detect_data_dir(layout).map_err(|error| unreadable(layout, error))? {
        kind @ (DataDirKind::Kura | DataDirKind::SeedEra) => return Ok(kind),
        DataDirKind::Missing => format!("{path} does not exist"),
        DataDirKind::Empty => format!("{path} is empty"),
        DataDirKind::Foreign => format!("{path} is not a data directory: it holds other things"),
    };
    Err(CommandError::new(ExitCode::NotADataDir, what).hint("name the data directory with --data-dir"))
}

fn unreadable(layout: &Layout, error: std::io::Error) -> CommandError {
    let what = format!("cannot look at {}", layout.data_dir().display());
    CommandError::new(ExitCode::Unexpected, what).caused_by(error)
}

/// What proves that something has no owner.
struct Held {
    ownership: Ownership,
    /// The live server beside which we work.
    holder: Option<LockHolder>,
    /// Held until the end; `None` beside a live server.
    _lock: Option<DataDirLock>,
}

fn take_lock(layout: &Layout) -> Result<Held, CommandError> {
    match DataDirLock::try_acquire_without_writing(layout) {
        Ok(lock) => Ok(Held { ownership: Ownership::Nobody, holder: None, _lock: Some(lock) }),
        Err(LockError::Held { path, holder }) => match core_reclaim::ownership_beside(layout, &holder) {
            Some(ownership) => Ok(Held { ownership, holder: Some(*holder), _lock: None }),
            None => Err(in_use(LockError::Held { path, holder })),
        },
        Err(error) => Err(CommandError::new(ExitCode::Unexpected, "cannot lock the data directory").caused_by(error)),
    }
}

fn in_use(error: LockError) -> CommandError {
    CommandError::new(ExitCode::InUse, format!("the holder does not lock what it stages: {error}"))
        .hint("stop the holder first; a starting node frees dead staging by itself")
}

fn policy(args: &ReclaimStagingArgs, held: &Held, volume: &VolumeSpace) -> ReclaimPolicy {
    let mut kinds: Vec<AreaKind> = args.kind.iter().map(|kind| kind.area()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    // Partial bodies go only by the name of their area.
    let keeps_partials = !kinds.contains(&AreaKind::Bootstrap);
    ReclaimPolicy {
        keeps_partials,
        kinds,
        ownership: held.ownership,
        now_ms: SystemClock::default().now_ms(),
        older_than: args.older_than.map(|duration| duration.0),
        until_free_bytes: args.until_free.map(|target| target.bytes(volume)),
    }
}

/// Asks on a terminal; elsewhere names the command that does it.
fn confirm(
    args: &ReclaimStagingArgs,
    config: &Config,
    plan: &ReclaimPlan,
    ballast_bytes: u64,
    context: &mut Context,
) -> Result<(), CommandError> {
    let command = command_with_yes(args, config);
    if !context.may_ask {
        return Err(CommandError::new(ExitCode::Refused, "nothing was removed: this needs --yes").hint(command));
    }
    let planned = plan.planned();
    let bytes = ByteSize(planned.bytes.saturating_add(ballast_bytes));
    let what = if ballast_bytes > 0 { " and the ballast" } else { "" };
    context.printer.ask(&format!("Remove {} files{what} and free {bytes}? [y/N] ", planned.files));
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    if read.is_ok() && matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    Err(CommandError::new(ExitCode::Refused, "nothing was removed").hint(command))
}

/// The same request with `--yes`, ready to paste.
fn command_with_yes(args: &ReclaimStagingArgs, config: &Config) -> String {
    let mut words = vec!["kura reclaim-staging --yes".to_owned()];
    words.push(format!("--data-dir {}", quoted(&config.data_dir.display().to_string())));
    if config.tmp_dir != config.data_dir.join("tmp") {
        words.push(format!("--tmp-dir {}", quoted(&config.tmp_dir.display().to_string())));
    }
    words.extend(args.kind.iter().map(|kind| format!("--kind {}", kind.area().name())));
    words.extend(args.until_free.map(|target| format!("--until-free {target}")));
    words.extend(args.if_below.map(|limit| format!("--if-below {limit}")));
    words.extend(args.release_ballast.then(|| "--release-ballast".to_owned()));
    words.extend(args.older_than.map(|age| format!("--older-than {age}")));
    words.join(" ")
}

/// Quotes a path for a shell if it needs that.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}
