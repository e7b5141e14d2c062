//! `kura bootstrap`'s run: who can be caught up from, then rounds of passes until they are clean, bounded tries end, or
//! one of the run's own bounds is met. Deletes are exempt from those: a run that was stopped still applies all of them.

use std::time::Duration;

use futures_util::StreamExt;

use super::bounds::{Arrived, CountedProgress, RunBounds, StoppedBy};
use super::engine::{Engine, Peer};
use super::pass::{Pass, PassError, apply_deletes, bootstrap_manifests_from_peer, cursor_key};
use super::progress::Progress;
use super::report::{BootstrapReport, RunLog};
use super::wanted::wanted_elsewhere;
use crate::core::mesh::client::PeerClient;
use crate::core::mesh::discovery::same_url;
use crate::core::mesh::membership::{Member, MemberTable, OwnIdentity, Refusal, Reply};
use crate::core::store::error::StoreError;

/// Passes over one peer in a run: transient trouble heals within a few seconds, the rest is for a later run.
pub const ROUNDS_MAX: u32 = 3;

/// The first and the longest pause between them.
const ROUND_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// Statuses asked at the same time.
const STATUS_CONCURRENCY: usize = 16;

/// Who answered, who did not, and who was refused.
#[derive(Debug, Clone, Default)]
pub struct Handshake {
    /// Peers to catch up from.
    pub usable: Vec<Peer>,
    /// Addresses that did not answer or have no store open, with the reason.
    pub silent: Vec<(String, String)>,
    /// Addresses that answer and are no peers.
    pub refused: Vec<Refusal>,
}

/// Asks every address for its status. `own.node_url` is compared only with addresses that do not answer: a node that
/// runs elsewhere under the same default URL is a fine peer.
pub async fn handshake(client: &PeerClient, own: &OwnIdentity, addresses: Vec<String>) -> Handshake {
    let asked = addresses.into_iter().map(|url| async move {
        let reply = client.status(&url).await.map_err(|error| error.to_string());
        (url, reply)
    });
    let replies: Vec<Reply> = futures_util::stream::iter(asked).buffered(STATUS_CONCURRENCY).collect().await;
    let replies = replies.into_iter().filter(|(url, reply)| reply.is_ok() || !same_url(url, &own.node_url)).collect();
    let mut table = MemberTable::default();
    table.apply(&OwnIdentity { node_url: String::new(), ..own.clone() }, replies, 0);
    let silence = |member: &Member| {
        let reason = member.error.clone().unwrap_or_else(|| "its store is not open yet".to_owned());
        (member.url.clone(), reason)
    };
    Handshake {
        usable: table.members().filter_map(Peer::of).collect(),
        silent: table.members().filter(|member| !member.is_usable()).map(silence).collect(),
        refused: table.refusals().to_vec(),
    }
}

/// How a run goes about it.
#[derive(Debug, Clone)]
pub struct CatchUpOptions {
    /// Look only.
    pub dry_run: bool,
    /// Forget cursors first, never data.
    pub restart: bool,
    /// Peers passed over at the same time.
    pub peers_max: usize,
    /// What ends it early.
    pub bounds: RunBounds,
}

/// What a run came to.
#[derive(Debug)]
pub struct CatchUp {
    /// The report.
    pub report: BootstrapReport,
    /// The error that ended a pass because our own volume is full, if one did.
    pub disk_full: Option<String>,
}

/// Catches up from these peers; `log` counts how it goes.
pub async fn catch_up(
    engine: &Engine,
    handshake: &Handshake,
    (progress, log): (&dyn Progress, &RunLog),
    options: &CatchUpOptions,
) -> Result<CatchUp, StoreError> {
    let started = engine.clock.monotonic();
    if options.restart && !options.dry_run {
        forget_cursors(engine, &handshake.usable).await?;
    }
    engine.set_usable_peers(handshake.usable.clone());
    for (url, reason) in &handshake.silent {
        log.pass_finished(url, Some(reason));
    }
    for refusal in &handshake.refused {
        log.pass_finished(&refusal.url, Some(&refusal.detail));
    }
    let run = Run { engine, progress, log, dry_run: options.dry_run };
    let disk_full = match run.within_bounds(&handshake.usable, options).await {
        Ok(errors) => errors.into_iter().flatten().find(PassError::is_disk_full).map(|error| error.to_string()),
        Err(stopped_by) => {
            log.stopped(stopped_by);
            run.apply_all_deletes(&handshake.usable).await;
            None
        }
    };
    for (id, holder, outcome) in wanted_elsewhere(engine, &handshake.usable).await? {
        log.wanted_elsewhere(&id, &holder, outcome);
    }
    let elapsed = engine.clock.monotonic().saturating_sub(started);
    Ok(CatchUp { report: log.report(elapsed, options.dry_run), disk_full })
}

async fn forget_cursors(engine: &Engine, peers: &[Peer]) -> Result<(), StoreError> {
    let keys: Vec<String> = peers.iter().filter_map(Peer::store_id).map(cursor_key).collect();
    engine.store.call(move |store| keys.iter().try_for_each(|key| store.save_cursor(key, None))).await
}

/// One run: what its passes share.
#[derive(Clone, Copy)]
struct Run<'a> {
    engine: &'a Engine,
    progress: &'a dyn Progress,
    log: &'a RunLog,
    dry_run: bool,
}

impl Run<'_> {
    /// How the last pass over each peer failed, if it did; or the bound that stopped them all.
    async fn within_bounds(
        self,
        peers: &[Peer],
        options: &CatchUpOptions,
    ) -> Result<Vec<Option<PassError>>, StoppedBy> {
        let arrived = Arrived::default();
        let progress = CountedProgress { inner: self.progress, arrived: &arrived };
        let run = Run { progress: &progress, ..self };
        let passes = peers.iter().map(|peer| run.rounds(peer));
        let passes = futures_util::stream::iter(passes).buffer_unordered(options.peers_max.max(1)).collect();
        tokio::select! {
            biased;
            stopped_by = options.bounds.reached(&arrived) => Err(stopped_by),
            errors = passes => Ok(errors),
        }
    }

    /// Applies the deletes of every peer, which a stop may have come before.
    async fn apply_all_deletes(self, peers: &[Peer]) {
        let one = |peer| async move {
            if let Err(error) = apply_deletes(&self.pass(peer, true)).await {
                tracing::warn!(peer = %peer.url, %error, "deletes_not_applied");
            }
        };
        futures_util::stream::iter(peers.iter().map(one)).buffer_unordered(STATUS_CONCURRENCY).collect::<()>().await;
    }

    fn pass<'a>(&'a self, peer: &'a Peer, is_retry: bool) -> Pass<'a> {
        let Run { engine, progress, log, dry_run } = *self;
        Pass { engine, peer, progress, log: Some(log), dry_run, is_retry }
    }

    /// Passes over one peer until one is clean, or it is pointless, or they are used up.
    async fn rounds(&self, peer: &Peer) -> Option<PassError> {
        let mut round = 0;
        loop {
            let error = match bootstrap_manifests_from_peer(&self.pass(peer, round > 0)).await {
                Ok(summary) if summary.is_clean() => return None,
                Ok(_) => None,
                Err(error) => Some(error),
            };
            round += 1;
            let is_final = error.as_ref().is_some_and(|error| {
                error.is_disk_full() || matches!(error, PassError::WantedFull | PassError::Store(_))
            });
            if is_final || round >= ROUNDS_MAX {
                return error;
            }
            tokio::time::sleep(self.engine.backoff(round, ROUND_PAUSE.0, ROUND_PAUSE.1)).await;
        }
    }
}
