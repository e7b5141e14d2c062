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
use super::printer::{OutputFormat, Printer};
use super::render::bootstrap::{self as render, PlainProgress};
use crate::core::base::clock::SystemClock;
use crate::core::base::disk::RealDisk;
use crate::core::base::executor::ThreadExecutor;
use crate::core::base::rng::SystemRng;
use crate::core::bootstrap::catch_up::{CatchUp, CatchUpOptions, Handshake, catch_up, handshake};
use crate::core::bootstrap::open::{OpenError, OpenedDataDir, RunSeams};
use crate::core::bootstrap::report::BootstrapReport;
use crate::core::config::Config;
use crate::core::data_dir::lock::LockError;
use crate::core::mesh::discovery::{PeerSources, SystemResolver, discover_for_run};
use crate::core::mesh::http_transport::HttpTransport;
use crate::core::mesh::membership::{Refusal, RefusalKind};
use crate::core::store::error::StoreError;

/// Blocking jobs at the same time: fetches are bounded far below this.
const BLOCKING_JOBS_MAX: usize = 64;

/// Between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ProgressStyle {
    /// A line every 10 seconds
    #[default]
    Plain,
    /// Nothing
    None,
}

/// Catch a data dir up from peers
///
/// Takes over deletes first and then every artifact the peers list and this data dir lacks. What is here already is
/// never fetched again, so it can be stopped and run again at any time. A running `kura serve` does the same by itself.
#[derive(Debug, Args)]
pub struct BootstrapArgs {
    /// Show what would be fetched and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Artifacts fetched at the same time from one peer; the default is the setting bootstrap-concurrency
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub concurrency: Option<u16>,
    /// Forget how far each peer was followed and list everything again; never forgets data
    #[arg(long)]
    pub restart: bool,
    /// How to show progress
    #[arg(long, value_name = "plain|none", value_enum, default_value_t, hide_possible_values = true)]
    pub progress: ProgressStyle,
    /// How to print the result
    #[arg(long, value_name = "table|json", value_enum, default_value_t, hide_possible_values = true)]
    pub output: OutputFormat,
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
    let seams = seams();
    let sources = sources(&config);
    require_sources(&sources)?;
    let opened = OpenedDataDir::open(&config, &seams, args.dry_run).await.map_err(|error| unopened(&error, &config))?;
    let ended = catch_up_and_report(&args, &config, &opened, &sources, context).await;
    opened.close().await.map_err(|error| store_failed(&error))?;
    ended
}

fn seams() -> RunSeams {
    RunSeams {
        clock: Arc::new(SystemClock::default()),
        rng: Arc::new(SystemRng),
        disk: Arc::new(RealDisk),
        executor: Arc::new(ThreadExecutor::new(tokio::runtime::Handle::current(), BLOCKING_JOBS_MAX)),
        transport: Arc::new(HttpTransport::default()),
    }
}

fn sources(config: &Config) -> PeerSources {
    PeerSources {
        own_url: config.node_url.clone(),
        peers: config.peers.clone(),
        dns_name: config.discovery_dns_name.clone(),
    }
}

fn require_sources(sources: &PeerSources) -> Result<(), CommandError> {
    if sources.peers.is_empty() && sources.dns_name.is_none() {
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
    let printer = &mut context.printer;
    let targets = discover_for_run(sources, &SystemResolver).await;
    printer.talk(&render::resolved(&targets));
    let met = handshake(&opened.engine.client, &opened.own, targets.urls.clone()).await;
    render::met(&met).iter().for_each(|line| printer.talk(line));
    require_peers(&met, targets.dns_error.as_deref())?;
    render::plan(&met, config, args.dry_run).iter().for_each(|line| printer.talk(line));
    let options = CatchUpOptions {
        dry_run: args.dry_run,
        restart: args.restart,
        peers_max: config.bootstrap_max_concurrent_peers,
    };
    let caught_up = with_progress(args, opened, &met, options, printer).await.map_err(|error| store_failed(&error))?;
    render::phases(&caught_up.report).iter().for_each(|line| printer.talk(line));
    let text = match args.output {
        OutputFormat::Json => render::json(&caught_up.report),
        OutputFormat::Table => render::table(&caught_up.report, printer.width),
    };
    context.answer(&text)?;
    exit_code(&caught_up, config)
}

/// Runs the passes, with a line of progress now and then.
async fn with_progress(
    args: &BootstrapArgs,
    opened: &OpenedDataDir,
    met: &Handshake,
    options: CatchUpOptions,
    printer: &mut Printer,
) -> Result<CatchUp, StoreError> {
    let progress = PlainProgress::default();
    let mut running = std::pin::pin!(catch_up(&opened.engine, met, &progress, options));
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + PROGRESS_INTERVAL, PROGRESS_INTERVAL);
    loop {
        tokio::select! {
            ended = &mut running => return ended,
            _ = ticks.tick() => {
                if args.progress == ProgressStyle::Plain {
                    printer.talk(&progress.line());
                }
            }
        }
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
fn exit_code(caught_up: &CatchUp, config: &Config) -> Result<ExitCode, CommandError> {
    if let Some(error) = &caught_up.disk_full {
        return Err(disk_full(error, config));
    }
    Ok(code_of(&caught_up.report))
}

fn code_of(report: &BootstrapReport) -> ExitCode {
    let is_unreached = report.peers.iter().any(|peer| peer.error.is_some());
    if report.failed > 0 || report.waiting_for_peer > 0 || is_unreached {
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
        OpenError::Lock(_) | OpenError::Directories(_) | OpenError::Unreadable { .. } => {
            CommandError::new(ExitCode::Unexpected, chain(error))
        }
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
