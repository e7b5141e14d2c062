//! Artifacts that are wanted and not here: noted durably, and tried again with growing pauses.
//!
//! How it works: a page's unsettled items become wanted rows before its cursor moves. Retries ask the holders that
//! listed the artifact, and every kura peer, because those say which version they send.
//!
//! Invariant: a row leaves only when the artifact, or something that beats it, is here.

use std::time::Duration;

use futures_util::StreamExt;

use super::engine::{Engine, Peer};
use super::fetch::{FetchError, fetch_artifact};
use super::pass::{Pass, PassSummary};
use super::plan::{Action, PlannedItem, decide};
use super::progress::Progress;
use super::report::Outcome;
use super::settle::{ItemEnd, commit};
use crate::core::base::ids::{ArtifactId, Digest};
use crate::core::mesh::wire::unhashed_record;
use crate::core::store::error::StoreError;
use crate::core::store::record::{ArtifactKey, Record};
use crate::core::store::wanted::{Wanted, WantedReason};

/// Rows looked at in one step.
const PAGE_ROWS: usize = 256;

/// The first and the longest pause after transport trouble.
const FAILED_PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(120));

/// The first and the longest pause after an answer that there is no good copy: only a new copy helps.
const UNAVAILABLE_PAUSE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3600));

fn reason(outcome: Outcome) -> WantedReason {
    match outcome {
        Outcome::Unavailable => WantedReason::Unavailable,
        Outcome::BadCopy => WantedReason::BadCopy,
        Outcome::WaitingForPeer => WantedReason::WaitingForPeer,
        Outcome::BeyondCapacity => WantedReason::BeyondCapacity,
        Outcome::Failed | Outcome::Applied | Outcome::AlreadyPresent => WantedReason::Failed,
    }
}

fn outcome_of(reason: WantedReason) -> Outcome {
    match reason {
        WantedReason::Unavailable | WantedReason::Withdrawn => Outcome::Unavailable,
        WantedReason::WaitingForPeer => Outcome::WaitingForPeer,
        WantedReason::Failed => Outcome::Failed,
        WantedReason::BadCopy => Outcome::BadCopy,
        WantedReason::BeyondCapacity => Outcome::BeyondCapacity,
    }
}

fn next_try_ms(engine: &Engine, reason: WantedReason, attempts: u32) -> u64 {
    let (first, longest) = match reason {
        WantedReason::Failed | WantedReason::WaitingForPeer | WantedReason::Withdrawn => FAILED_PAUSE,
        WantedReason::Unavailable | WantedReason::BadCopy | WantedReason::BeyondCapacity => UNAVAILABLE_PAUSE,
    };
    let pause = engine.backoff(attempts, first, longest);
    engine.clock.now_ms().saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX))
}

/// Notes a page's unsettled items durably; false if there is no room for more.
pub(super) async fn note_unsettled(
    engine: &Engine,
    holder: &str,
    unsettled: &[(PlannedItem, ItemEnd)],
) -> Result<bool, StoreError> {
    if unsettled.is_empty() {
        return Ok(true);
    }
    let row = |(item, end): &(PlannedItem, ItemEnd)| {
        let reason = reason(end.outcome);
        let next_try_ms = next_try_ms(engine, reason, 0);
        Wanted { error: end.error.clone(), next_try_ms, ..wanted_row(holder, item, reason) }
    };
    let rows: Vec<Wanted> = unsettled.iter().map(row).collect();
    engine.store.call(move |store| store.note_wanted(&rows)).await
}

/// Notes durably an artifact that is fetched beside the feed, which nobody else needs to try meanwhile, or that is left
/// to the retries at once; false if there is no room for more.
pub(super) async fn note_for_later(
    engine: &Engine,
    holder: &str,
    item: &PlannedItem,
    is_fetched: bool,
) -> Result<bool, StoreError> {
    let pause = if is_fetched { UNAVAILABLE_PAUSE.1 } else { Duration::ZERO };
    let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    let next_try_ms = engine.clock.now_ms().saturating_add(pause_ms);
    let error = Some("it is large and fetched beside the feed".to_owned());
    let row = Wanted { error, next_try_ms, ..wanted_row(holder, item, WantedReason::WaitingForPeer) };
    engine.store.call(move |store| store.note_wanted(&[row])).await
}

fn wanted_row(holder: &str, item: &PlannedItem, reason: WantedReason) -> Wanted {
    let name = item.record.name.clone();
    Wanted {
        id: item.id,
        version: item.record.version(),
        size: item.record.size,
        name: (name.producer, name.namespace, name.key),
        holders: vec![holder.to_owned()],
        reason,
        error: None,
        attempts: 1,
        next_try_ms: 0,
    }
}

/// The end of an item that this pass leaves to the retries: `serve` walks a seed-era peer every few seconds, and must
/// not ask for the same missing or bad body each time. The first pass over a peer that came back asks at once.
pub(super) async fn left_to_retries(pass: &Pass<'_>, item: &PlannedItem) -> Result<Option<ItemEnd>, StoreError> {
    if !pass.is_retry || pass.log.is_some() {
        return Ok(None);
    }
    let id = item.id;
    let row = pass.engine.store.call(move |store| store.wanted(&id)).await?;
    let (listed, url, now_ms) = (&item.record, &pass.peer.url, pass.engine.clock.now_ms());
    let is_known = |row: &Wanted| {
        let version = (row.version.version_ms, row.version.logical);
        version >= (listed.version_ms, listed.logical) && row.holders.contains(url) && row.next_try_ms > now_ms
    };
    Ok(row.filter(is_known).map(|row| ItemEnd { noted: true, ..ItemEnd::waiting(outcome_of(row.reason)) }))
}

/// What a wanted row says of its artifact.
pub(super) fn wanted_record(wanted: &Wanted) -> Record {
    let (producer, namespace, key) = wanted.name.clone();
    let name = ArtifactKey { producer, namespace, key };
    let version_ms = wanted.version.version_ms;
    let mut record = unhashed_record(name, String::new(), wanted.size, version_ms, version_ms);
    record.logical = wanted.version.logical;
    record.digest = wanted.version.digest;
    record
}

/// Whom to ask for a wanted artifact: holders that answer now, then the kura peers; seed-era peers that did not list it
/// only if we know the digest it must have.
fn candidates(peers: &[Peer], wanted: &Wanted) -> Vec<String> {
    let listed = |peer: &&Peer| wanted.holders.contains(&peer.url);
    let can_tell = |peer: &&Peer| peer.store_id().is_some() || wanted.version.digest != Digest::default();
    let first = peers.iter().filter(listed);
    let rest = peers.iter().filter(|peer| !listed(peer) && can_tell(peer));
    first.chain(rest).map(|peer| peer.url.clone()).collect()
}

/// Tries again, as part of a pass, what this peer listed and did not deliver. What waits on others is left alone.
pub(super) async fn retry_wanted_of(pass: &Pass<'_>) -> Result<PassSummary, StoreError> {
    let url = pass.peer.url.clone();
    let due = move |wanted: &Wanted| wanted.holders.contains(&url);
    let mut peers = pass.engine.usable_peers().as_ref().clone();
    if !peers.iter().any(|peer| peer.url == pass.peer.url) {
        peers.push(pass.peer.clone());
    }
    let mut summary = PassSummary::default();
    let ends = retry_wanted(pass.engine, pass.progress, &peers, &due).await?;
    for (id, version_ms, end) in ends {
        if end.outcome == Outcome::Applied {
            pass.progress.row_ended(&pass.peer.url, end.row_end(version_ms));
        }
        *summary.outcomes.entry(end.outcome).or_default() += 1;
        summary.bytes = summary.bytes.saturating_add(end.bytes);
        if let Some(log) = pass.log {
            log.settled(&pass.peer.url, &id, end.outcome, end.error.clone(), end.bytes);
        }
    }
    Ok(summary)
}

/// Tries again everything that is due, in `serve`.
pub async fn retry_due(engine: &Engine, progress: &dyn Progress) -> Result<usize, StoreError> {
    let now_ms = engine.clock.now_ms();
    let peers = engine.usable_peers();
    let ends = retry_wanted(engine, progress, &peers, &move |wanted: &Wanted| wanted.next_try_ms <= now_ms).await?;
    Ok(ends.iter().filter(|(_, _, end)| end.outcome == Outcome::Applied).count())
}

/// Id, wanted version and end of everything that was due.
async fn retry_wanted(
    engine: &Engine,
    progress: &dyn Progress,
    peers: &[Peer],
    due: &(dyn Fn(&Wanted) -> bool + Send + Sync),
) -> Result<Vec<(ArtifactId, u64, ItemEnd)>, StoreError> {
    let mut ends = Vec::new();
    let mut after = None;
    loop {
        let rows = engine.store.call(move |store| store.wanted_page(after, PAGE_ROWS)).await?;
        let Some(last) = rows.last().map(|wanted| wanted.id) else {
            return Ok(ends);
        };
        after = Some(last);
        let tried = rows.into_iter().filter(|wanted| due(wanted)).map(|wanted| async move {
            let (id, version_ms) = (wanted.id, wanted.version.version_ms);
            retry_one(engine, progress, peers, wanted).await.map(|end| (id, version_ms, end))
        });
        let mut tried = futures_util::stream::iter(tried).buffer_unordered(engine.concurrency.max(1));
        while let Some(end) = tried.next().await {
            ends.push(end?);
        }
    }
}

async fn retry_one(
    engine: &Engine,
    progress: &dyn Progress,
    peers: &[Peer],
    wanted: Wanted,
) -> Result<ItemEnd, StoreError> {
    let (id, settled) = (wanted.id, (wanted.id, wanted.version));
    let _flight = engine.flights.enter(id).await;
    let record = wanted_record(&wanted);
    let listed = record.clone();
    let action = decide(engine.store.call(move |store| store.wants(&listed)).await?);
    // What is here under an older version is fetched: a wanted row does not carry all that adopting needs.
    if matches!(action, Action::Skip | Action::PassOver | Action::Refuse) {
        engine.store.call(move |store| store.settle_wanted(&[settled])).await?;
        return Ok(ItemEnd::present());
    }
    let mut worst: Option<FetchError> = None;
    for holder in candidates(peers, &wanted) {
        match fetch_artifact(engine, progress, &holder, &id, &record).await {
            Ok(fetched) => {
                let end = commit(engine, fetched).await?;
                if let Some(error) = end.error.clone().filter(|_| end.disk_full) {
                    return still_wanted(engine, wanted, Some(FetchError::DiskFull(error)), peers).await;
                }
                // A put settles by itself exactly what it settles, which may be less than is wanted by now.
                if end.outcome != Outcome::Applied {
                    engine.store.call(move |store| store.settle_wanted(&[settled])).await?;
                }
                return Ok(end);
            }
            Err(error) => worst = Some(worse(worst, error)),
        }
    }
    still_wanted(engine, wanted, worst, peers).await
}

/// Of two holders' answers the one that leaves more hope counts: a failure may heal, an absence does not.
fn worse(one: Option<FetchError>, other: FetchError) -> FetchError {
    let rank = |error: &FetchError| match error {
        FetchError::Unavailable(_) => 0,
        FetchError::BadCopy(_) => 1,
        FetchError::Unreachable(_) => 2,
        FetchError::Failed(_) => 3,
        FetchError::DiskFull(_) => 4,
    };
    match one {
        Some(one) if rank(&one) >= rank(&other) => one,
        _ => other,
    }
}

/// Writes the try down. A holder that does not answer now keeps the artifact waiting for it.
async fn still_wanted(
    engine: &Engine,
    mut wanted: Wanted,
    error: Option<FetchError>,
    peers: &[Peer],
) -> Result<ItemEnd, StoreError> {
    let absent = wanted.holders.iter().find(|holder| !peers.iter().any(|peer| peer.url == **holder)).cloned();
    let end = match (error, absent) {
        (Some(error @ (FetchError::Failed(_) | FetchError::DiskFull(_))), _) => ItemEnd::from(error),
        (_, Some(holder)) => FetchError::Unreachable(format!("{holder} is not reachable")).into(),
        (Some(error), None) => error.into(),
        (None, None) => ItemEnd::waiting(outcome_of(wanted.reason)),
    };
    wanted.reason = reason(end.outcome);
    wanted.error = end.error.clone().or(wanted.error);
    wanted.next_try_ms = next_try_ms(engine, wanted.reason, wanted.attempts);
    wanted.attempts = wanted.attempts.saturating_add(1);
    engine.store.call(move |store| store.note_wanted(&[wanted])).await?;
    Ok(end)
}

/// What is wanted from holders that are not among these peers, so that this run cannot settle it: id, holder, outcome.
pub(super) async fn wanted_elsewhere(
    engine: &Engine,
    peers: &[Peer],
) -> Result<Vec<(ArtifactId, String, Outcome)>, StoreError> {
    let mut elsewhere = Vec::new();
    let mut after = None;
    loop {
        let rows = engine.store.call(move |store| store.wanted_page(after, PAGE_ROWS)).await?;
        let Some(last) = rows.last().map(|wanted| wanted.id) else {
            return Ok(elsewhere);
        };
        after = Some(last);
        for wanted in rows {
            let is_here = wanted.holders.iter().any(|holder| peers.iter().any(|peer| peer.url == *holder));
            let outcome = match outcome_of(wanted.reason) {
                Outcome::Failed => Outcome::WaitingForPeer,
                outcome => outcome,
            };
            if let Some(holder) = wanted.holders.into_iter().next().filter(|_| !is_here) {
                elsewhere.push((wanted.id, holder, outcome));
            }
        }
    }
}
