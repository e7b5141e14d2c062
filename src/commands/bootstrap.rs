//! `kura bootstrap`: catches a data dir up from peers, and proves what it got.
//!
//! How it works: addresses are resolved, peers asked who they are, and the engine of `core::bootstrap`, the same that
//! a starting node uses, makes its passes. What comes out is one report, as a table or as JSON `kura.bootstrap/v1`.
//!
//! Failure: killed at any moment it leaves a data dir that the next run, or `kura serve`, goes on with.

use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::context::Context;
use super::exit::{CommandError, ExitCode};
use super::free_space::FreeSpace;
use super::printer::Printer;
use super::render::bootstrap as render;
use super::render::bootstrap_progress::{Bars, RunProgress};
use crate::core::base::clock::{Clock, SystemClock};
use crate::core::base::disk::{Disk as _, RealDisk};
use crate::core::base::executor::ThreadExecutor;
use crate::core::base::rng::SystemRng;
use crate::core::base::units::{ByteRate, ByteSize, DurationArg};
use crate::core::bootstrap::bounds::{MinFree, RunBounds, StoppedBy};
use crate::core::bootstrap::catch_up::{CatchUp, CatchUpOptions, Handshake, catch_up, handshake};
use crate::core::bootstrap::open::{OpenError, OpenMode, OpenedDataDir, RunSeams};
use crate::core::bootstrap::report::{BootstrapReport, RunLog};
use crate::core::config::Config;
use crate::core::data_dir::lock::LockError;
use crate::core::mesh::discovery::{PeerSources, SystemResolver, discover_for_run};
use crate::core::mesh::http_transport::HttpTransport;
use crate::core::mesh::membership::{Refusal, RefusalKind};
use crate::core::mesh::rate_limit::{RATE_BYTES_MIN, RateLimitedTransport};
use crate::core::mesh::transport::PeerTransport;
use crate::core::store::error::StoreError;

/// Blocking jobs at the same time: fetches are bounded far below this.
const BLOCKING_JOBS_MAX: usize = 64;

/// Between two looks at a run, for its bars and its lines of JSON.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ProgressStyle {
    /// Bars on a terminal, else plain lines
    #[default]
    Auto,
    /// Bars
    Bar,
    /// A line every 10 seconds
    Plain,
    /// Nothing
    None,
}

/// How the result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum BootstrapOutput {
    /// For people
    #[default]
    Table,
    /// One JSON document at the end
    Json,
    /// Lines of JSON while it goes on: `status`, `item_error` and, at the end, `summary`
    Jsonl,
}

/// Catch a data dir up from peers
///
/// Takes over deletes first and then every artifact the peers list and this data dir lacks. What is here already is
/// never fetched again, so it can be stopped and run again at any time. A running `kura serve` does the same by itself.
#[derive(Debug, Args)]
pub struct BootstrapArgs {
    /// Make the index anew from body files and deletes on record first; works without peers too
    #[arg(long, conflicts_with = "dry_run")]
    pub rebuild_index: bool,
    /// Give a cloned volume a store id of its own first; works without peers too
    #[arg(long, conflicts_with = "dry_run")]
    pub new_identity: bool,
    /// Show what would be fetched and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Artifacts fetched at the same time from one peer; the default is the setting bootstrap-concurrency
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub concurrency: Option<u16>,
    /// Take no more than this from all peers together, such as 200MiB/s
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub limit_rate: Option<ByteRate>,
    /// Stop with exit code 10 when less than this is free: a share of the volume (10%) or a size (5GiB)
    #[arg(long, value_name = "SHARE|SIZE")]
    pub min_free: Option<FreeSpace>,
    /// Stop with exit code 5 after this many bytes of bodies
    #[arg(long, value_name = "SIZE")]
    pub max_bytes: Option<ByteSize>,
    /// Stop with exit code 5 after this long, such as 15m
    #[arg(long, value_name = "DURATION")]
    pub deadline: Option<DurationArg>,
    /// Forget how far each peer was followed and list everything again; never forgets data
    #[arg(long)]
    pub restart: bool,
    /// How to show progress
    #[arg(long, value_name = "auto|bar|plain|none", value_enum, default_value_t, hide_possible_values = true)]
    pub progress: ProgressStyle,
    /// How to print the result
    #[arg(long, value_name = "table|json|jsonl", value_enum, default_value_t, hide_possible_values = true)]
    pub output: BootstrapOutput,
}

fn parse_rate(text: &str) -> Result<ByteRate, String> {
    let rate: ByteRate = text.parse().map_err(|error: crate::core::base::units::ParseUnitError| error.to_string())?;
    if rate.0 < RATE_BYTES_MIN {
        return Err(format!("the slowest rate is {}: below it peers give up", ByteRate(RATE_BYTES_MIN)));
    }
    Ok(rate)
}

/// Catches up and reports.
///
/// # Errors
/// Exit codes 10 to 14 as the README's table says. What could not be fetched is in the report, with exit code 5 or 15.
pub async fn run(args: BootstrapArgs, context: &mut Context) -> Result<ExitCode, CommandError> {
    let mut config = context.config()?.clone();
    if let Some(concurrency) = args.concurrency {
        config.bootstrap_concurrency = usize::from(concurrency);
    }
    let seams = seams(&args);
    let sources = sources(&config);
    let cures = args.new_identity || args.rebuild_index;
    if !cures {
        require_sources(&sources)?;
    }
    let mode = OpenMode { dry_run: args.dry_run, new_identity: args.new_identity, rebuild_index: args.rebuild_index };
    let opened = OpenedDataDir::open(&config, &seams, mode).await.map_err(|error| unopened(&error, &config))?;
    if let Some(rebuilt) = &opened.report.rebuilt {
        render::rebuilt(rebuilt).iter().for_each(|line| context.printer.talk(line));
    }
    if args.new_identity {
        context.printer.talk(&render::new_identity(opened.own.store_id));
    }
    let ended = if cures && !has_sources(&sources) {
        opened.close().await.map_err(|error| store_failed(&error))?;
        return Ok(ExitCode::Done);
    } else {
        catch_up_and_report(&args, &config, &opened, &sources, context).await
    };
    opened.close().await.map_err(|error| store_failed(&error))?;
    ended
}

fn seams(args: &BootstrapArgs) -> RunSeams {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let mut transport: Arc<dyn PeerTransport> = Arc::new(HttpTransport::default());
    if let Some(rate) = args.limit_rate {
        transport = Arc::new(RateLimitedTransport::new(transport, Arc::clone(&clock), rate.0));
    }
    RunSeams {
        clock,
        rng: Arc::new(SystemRng),
        disk: Arc::new(RealDisk),
        executor: Arc::new(ThreadExecutor::new(tokio::runtime::Handle::current(), BLOCKING_JOBS_MAX)),
        transport,
    }
}

fn sources(config: &Config) -> PeerSources {
    PeerSources {
        own_url: config.node_url.clone(),
        peers: config.peers.clone(),
        dns_name: config.discovery_dns_name.clone(),
    }
}

fn has_sources(sources: &PeerSources) -> bool {
    !sources.peers.is_empty() || sources.dns_name.is_some()
}

fn require_sources(sources: &PeerSources) -> Result<(), CommandError> {
    if !has_sources(sources) {
        return Err(CommandError::new(ExitCode::NoPeer, "no peer is configured")
            .hint("name one with `--peer URL`, or a DNS name with `--discover NAME`"));
    }
    Ok(())
}

async fn catch_up_and_report(
    args: &BootstrapArgs,
    config: &Config,
    opened: &OpenedDataDir,
    sources: &PeerSources,
    context: &mut Context,
) -> Result<ExitCode, CommandError> {
    let targets = discover_for_run(sources, &SystemResolver).await;
    context.printer.talk(&render::resolved(&targets));
    let met = handshake(&opened.engine.client, &opened.own, targets.urls.clone()).await;
    render::met(&met).iter().for_each(|line| context.printer.talk(line));
    require_peers(&met, targets.dns_error.as_deref())?;
    render::plan(&met, config, args.dry_run).iter().for_each(|line| context.printer.talk(line));
    let options = CatchUpOptions {
        dry_run: args.dry_run,
        restart: args.restart,
        peers_max: config.bootstrap_max_concurrent_peers,
        bounds: bounds(args, config)?,
    };
    let caught_up = with_progress(args, opened, &met, &options, context).await?;
    let report = &caught_up.report;
    render::phases(report).iter().for_each(|line| context.printer.talk(line));
    let text = match args.output {
        BootstrapOutput::Json => render::json(report),
        BootstrapOutput::Jsonl => render::json_line("summary", report),
        BootstrapOutput::Table => render::table(report, context.printer.width),
    };
    context.answer(&text)?;
    exit_code(&caught_up, args, config)
}

fn bounds(args: &BootstrapArgs, config: &Config) -> Result<RunBounds, CommandError> {
    let min_free = match args.min_free {
        None => None,
        Some(wanted) => {
            let volume = RealDisk.space(&config.data_dir).map_err(|error| {
                let what = format!("cannot measure the volume of {}", config.data_dir.display());
                CommandError::new(ExitCode::Unexpected, what).caused_by(error)
            })?;
            let executor = Arc::new(ThreadExecutor::new(tokio::runtime::Handle::current(), 1));
            let (bytes, path) = (wanted.bytes(&volume), config.data_dir.clone());
            Some(MinFree { bytes, path, disk: Arc::new(RealDisk), executor })
        }
    };
    let (max_bytes, deadline) = (args.max_bytes.map(|size| size.0), args.deadline.map(|duration| duration.0));
    Ok(RunBounds { min_free, max_bytes, deadline })
}

/// Runs the passes and shows how they go.
async fn with_progress(
    args: &BootstrapArgs,
    opened: &OpenedDataDir,
    met: &Handshake,
    options: &CatchUpOptions,
    context: &mut Context,
) -> Result<CatchUp, CommandError> {
    let (progress, log) = (RunProgress::default(), RunLog::default());
    let mut display = Display::new(args, &context.printer);
    let mut running = std::pin::pin!(catch_up(&opened.engine, met, (&progress, &log), options));
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    let ended = loop {
        tokio::select! {
            ended = &mut running => break ended,
            _ = looks.tick() => display.look(&progress, &log, context)?,
        }
    };
    display.finish(&log, context)?;
    ended.map_err(|error| store_failed(&error))
}

/// What of a run is shown while it goes on.
struct Display {
    bars: Option<Bars>,
    is_plain: bool,
    has_lines: bool,
    looks: u32,
}

impl Display {
    /// A line every 10 seconds.
    const LOOKS_PER_LINE: u32 = 100;

    fn new(args: &BootstrapArgs, printer: &Printer) -> Self {
        let has_bars = match args.progress {
            ProgressStyle::Auto => printer.interactive,
            ProgressStyle::Bar => !printer.quiet,
            ProgressStyle::Plain | ProgressStyle::None => false,
        };
        let is_plain = match args.progress {
            ProgressStyle::Auto => !has_bars,
            ProgressStyle::Plain => true,
            ProgressStyle::Bar | ProgressStyle::None => false,
        };
        let has_lines = args.output == BootstrapOutput::Jsonl;
        Self { bars: has_bars.then(Bars::default), is_plain, has_lines, looks: 0 }
    }

    fn look(&mut self, progress: &RunProgress, log: &RunLog, context: &mut Context) -> Result<(), CommandError> {
        if let Some(bars) = &mut self.bars {
            bars.draw(progress);
        }
        let is_due = self.looks.is_multiple_of(Self::LOOKS_PER_LINE);
        if is_due && self.has_lines {
            context.answer(&render::json_line("status", &progress.status()))?;
        }
        if is_due && self.is_plain && self.looks > 0 {
            context.printer.talk(&progress.line());
        }
        self.looks = self.looks.wrapping_add(1);
        self.tell_errors(log, context)
    }

    fn tell_errors(&self, log: &RunLog, context: &mut Context) -> Result<(), CommandError> {
        if !self.has_lines {
            return Ok(());
        }
        log.take_fresh().iter().try_for_each(|item| context.answer(&render::json_line("item_error", item)))
    }

    fn finish(&self, log: &RunLog, context: &mut Context) -> Result<(), CommandError> {
        self.bars.iter().for_each(Bars::finish);
        self.tell_errors(log, context)
    }
}

/// 13 or 14 if nobody can be caught up from.
fn require_peers(met: &Handshake, dns_error: Option<&str>) -> Result<(), CommandError> {
    if !met.usable.is_empty() {
        return Ok(());
    }
    let refused = met.refused.iter().map(|refusal| format!("{}: {}", refusal.url, refusal.detail));
    let silent = met.silent.iter().map(|(url, reason)| format!("{url}: {reason}"));
    let mut reasons: Vec<String> = refused.chain(silent).chain(dns_error.map(str::to_owned)).collect();
    if reasons.is_empty() {
        reasons.push("only this node itself was found".to_owned());
    }
    let what = format!("no peer is usable: {}", reasons.join("; "));
    let is_incompatible = met.silent.is_empty() && met.refused.iter().any(is_incompatibility);
    if is_incompatible {
        return Err(CommandError::new(ExitCode::Incompatible, what).hint(
            "all nodes of a mesh share one tenant and a protocol version: check KURA_TENANT_ID and the versions",
        ));
    }
    Err(CommandError::new(ExitCode::NoPeer, what).hint("`kura doctor --online` says which part of the way fails"))
}

fn is_incompatibility(refusal: &Refusal) -> bool {
    matches!(refusal.kind, RefusalKind::Tenant | RefusalKind::Protocol)
}

/// The exit code of a run that has its report.
fn exit_code(caught_up: &CatchUp, args: &BootstrapArgs, config: &Config) -> Result<ExitCode, CommandError> {
    if let (Some(StoppedBy::MinFree), Some(wanted)) = (caught_up.report.stopped_by, args.min_free) {
        return Err(disk_full(&format!("stopped: less than {wanted} is free"), config));
    }
    if let Some(error) = &caught_up.disk_full {
        return Err(disk_full(error, config));
    }
    Ok(code_of(&caught_up.report))
}

fn code_of(report: &BootstrapReport) -> ExitCode {
    let is_unreached = report.peers.iter().any(|peer| peer.error.is_some());
    let is_stopped = report.stopped_by.is_some();
    // A run that was stopped early may not have come to its first peer.
    if report.peers.is_empty() && !is_stopped {
        ExitCode::NoPeer
    } else if report.failed > 0 || report.waiting_for_peer > 0 || is_unreached || is_stopped {
        ExitCode::Partial
    } else if report.bad_copy > 0 {
        ExitCode::BadCopy
    } else {
        ExitCode::Done
    }
}

fn disk_full(error: &str, config: &Config) -> CommandError {
    let hint = format!("kura reclaim-staging --yes --data-dir {}", config.data_dir.display());
    CommandError::new(ExitCode::DiskFull, error.to_owned()).hint(hint)
}

fn store_failed(error: &StoreError) -> CommandError {
    let exit = match error {
        StoreError::StorageFull { .. } => ExitCode::DiskFull,
        StoreError::Incompatible { .. } => ExitCode::Incompatible,
        _ => ExitCode::Unexpected,
    };
    CommandError::new(exit, error.to_string())
}

/// Which code a data dir that cannot be used ends with.
fn unopened(error: &OpenError, config: &Config) -> CommandError {
    if error.is_disk_full() {
        return disk_full(&error.to_string(), config);
    }
    match error {
        OpenError::Missing { .. } => CommandError::new(ExitCode::NotADataDir, error.to_string())
            .hint("a dry run makes none; without `--dry-run` it is created"),
        OpenError::NotADataDir { .. } => CommandError::new(ExitCode::NotADataDir, error.to_string())
            .hint("give an empty or missing directory with `--data-dir`"),
        OpenError::SeedEra { .. } => CommandError::new(ExitCode::Incompatible, error.to_string())
            .hint("catch up from its nodes into a new directory with `--data-dir`"),
        OpenError::Lock(LockError::Held { .. }) => CommandError::new(ExitCode::InUse, error.to_string())
            .hint("a running `kura serve` catches up by itself: look at its /ready, or ask `kura doctor --online`"),
        OpenError::Store(error) => store_failed(error),
        OpenError::Lock(_) | OpenError::Directories(_) | OpenError::Unreadable { .. } | OpenError::Identity { .. } => {
            CommandError::new(ExitCode::Unexpected, chain(error))
        }
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::base::ids::ArtifactId;
    use crate::core::bootstrap::report::Outcome;

    const PEER: &str = "http://a:7443";

    /// The code of a run over one peer: what ended its last pass, how its artifacts ended.
    fn code(error: Option<&str>, outcomes: &[Outcome]) -> ExitCode {
        let log = RunLog::default();
        log.pass_started(PEER, None, false);
        for (number, outcome) in (0..).zip(outcomes) {
            log.settled(PEER, &ArtifactId([number; 32]), *outcome, None, 0);
        }
        log.pass_finished(PEER, error);
        code_of(&log.report(Duration::ZERO, false))
    }

    #[test]
    fn only_a_clean_pass_over_every_peer_is_done() {
        use Outcome::{AlreadyPresent, Applied, BadCopy, BeyondCapacity, Failed, Unavailable, WaitingForPeer};
        assert_eq!(code(None, &[Applied, AlreadyPresent, Unavailable, BeyondCapacity]), ExitCode::Done);
        assert_eq!(code(None, &[Applied, BadCopy]), ExitCode::BadCopy);
        assert_eq!(code(None, &[BadCopy, Failed]), ExitCode::Partial);
        assert_eq!(code(None, &[WaitingForPeer]), ExitCode::Partial);
        assert_eq!(code(Some("connection refused"), &[Applied, BadCopy]), ExitCode::Partial, "it may have had more");
        assert_eq!(code_of(&RunLog::default().report(Duration::ZERO, false)), ExitCode::NoPeer);
    }

    #[test]
    fn a_run_that_was_stopped_is_partial_even_before_its_first_peer() {
        let log = RunLog::default();
        log.stopped(StoppedBy::Deadline);
        assert_eq!(code_of(&log.report(Duration::ZERO, false)), ExitCode::Partial);
    }
}
