//! `kura bootstrap`'s run: who can be caught up from, then rounds of passes until they are clean or bounded tries end.

use std::time::Duration;

use futures_util::StreamExt;

use super::engine::{Engine, Peer};
use super::pass::{Pass, PassError, bootstrap_manifests_from_peer, cursor_key};
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
#[derive(Debug, Clone, Copy)]
pub struct CatchUpOptions {
    /// Look only.
    pub dry_run: bool,
    /// Forget cursors first, never data.
    pub restart: bool,
    /// Peers passed over at the same time.
    pub peers_max: usize,
}

/// What a run came to.
#[derive(Debug)]
pub struct CatchUp {
    /// The report.
    pub report: BootstrapReport,
    /// The error that ended a pass because our own volume is full, if one did.
    pub disk_full: Option<String>,
}

/// Catches up from these peers.
pub async fn catch_up(
    engine: &Engine,
    handshake: &Handshake,
    progress: &dyn Progress,
    options: CatchUpOptions,
) -> Result<CatchUp, StoreError> {
    let started = engine.clock.monotonic();
    if options.restart && !options.dry_run {
        forget_cursors(engine, &handshake.usable).await?;
    }
    engine.set_usable_peers(handshake.usable.clone());
    let log = RunLog::default();
    for (url, reason) in &handshake.silent {
        log.pass_finished(url, Some(reason));
    }
    for refusal in &handshake.refused {
        log.pass_finished(&refusal.url, Some(&refusal.detail));
    }
    let passes = handshake.usable.iter().map(|peer| rounds(engine, peer, progress, &log, options.dry_run));
    let errors: Vec<Option<PassError>> =
        futures_util::stream::iter(passes).buffer_unordered(options.peers_max.max(1)).collect().await;
    let disk_full = errors.into_iter().flatten().find(PassError::is_disk_full).map(|error| error.to_string());
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

/// Passes over one peer until one is clean, or it is pointless, or they are used up.
async fn rounds(
    engine: &Engine,
    peer: &Peer,
    progress: &dyn Progress,
    log: &RunLog,
    dry_run: bool,
) -> Option<PassError> {
    let mut round = 0;
    loop {
        let pass = Pass { engine, peer, progress, log: Some(log), dry_run, is_retry: round > 0 };
        let error = match bootstrap_manifests_from_peer(&pass).await {
            Ok(summary) if summary.is_clean() => return None,
            Ok(_) => None,
            Err(error) => Some(error),
        };
        round += 1;
        let is_final = error
            .as_ref()
            .is_some_and(|error| error.is_disk_full() || matches!(error, PassError::WantedFull | PassError::Store(_)));
        if is_final || round >= ROUNDS_MAX {
            return error;
        }
        tokio::time::sleep(engine.backoff(round, ROUND_PAUSE.0, ROUND_PAUSE.1)).await;
    }
}
