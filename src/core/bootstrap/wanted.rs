//! Artifacts that are wanted and not here: noted durably, to be tried again with growing pauses.
//!
//! How it works: a page's unsettled items become wanted rows before its cursor moves. Retries (see [`super::retry`]) ask
//! the holders that listed the artifact, and every kura peer, because those say which version they send.
//!
//! Invariant: a row leaves only when the artifact, or something that beats it, is here.

use std::time::Duration;

use super::engine::{Engine, Peer};
use super::pass::Pass;
use super::plan::PlannedItem;
use super::report::Outcome;
use super::settle::ItemEnd;
use crate::core::base::ids::{ArtifactId, Digest};
use crate::core::mesh::circuit::REST_MAX;
use crate::core::mesh::wire::unhashed_record;
use crate::core::store::error::StoreError;
use crate::core::store::record::{ArtifactKey, Record};
use crate::core::store::wanted::{Wanted, WantedReason};

/// Rows looked at in one step.
pub(super) const PAGE_ROWS: usize = 256;

/// The first and the longest pause after transport trouble.
const FAILED_PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(120));

/// The first and the longest pause after an answer that there is no good copy: only a new copy helps.
const UNAVAILABLE_PAUSE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3600));

pub(super) fn reason(outcome: Outcome) -> WantedReason {
    match outcome {
        Outcome::Unavailable => WantedReason::Unavailable,
        Outcome::BadCopy => WantedReason::BadCopy,
        Outcome::WaitingForPeer => WantedReason::WaitingForPeer,
        Outcome::BeyondCapacity => WantedReason::BeyondCapacity,
        Outcome::Failed | Outcome::Applied | Outcome::AlreadyPresent => WantedReason::Failed,
    }
}

pub(super) fn outcome_of(reason: WantedReason) -> Outcome {
    match reason {
        WantedReason::Unavailable | WantedReason::Withdrawn => Outcome::Unavailable,
        WantedReason::WaitingForPeer => Outcome::WaitingForPeer,
        WantedReason::Failed | WantedReason::Unknown => Outcome::Failed,
        WantedReason::BadCopy => Outcome::BadCopy,
        WantedReason::BeyondCapacity => Outcome::BeyondCapacity,
    }
}

/// When to try again: after a pause that grows with the tries, and no sooner than a busy holder asked for.
pub(super) fn next_try_ms(engine: &Engine, end: &ItemEnd, attempts: u32) -> u64 {
    let (first, longest) = match end.outcome {
        Outcome::Unavailable | Outcome::BadCopy | Outcome::BeyondCapacity => UNAVAILABLE_PAUSE,
        Outcome::Failed | Outcome::WaitingForPeer | Outcome::Applied | Outcome::AlreadyPresent => FAILED_PAUSE,
    };
    let asked_for = end.retry_after.unwrap_or_default().min(REST_MAX);
    let pause = engine.backoff(attempts, first, longest).max(asked_for);
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
        let next_try_ms = next_try_ms(engine, end, 0);
        Wanted { error: end.error.clone(), next_try_ms, ..wanted_row(holder, item, reason(end.outcome)) }
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

/// Whether this pass leaves to the retries what is known to be wanted and not due: `serve` walks a seed-era peer every few
/// seconds, and must not ask for the same missing or bad body each time. The first pass over a peer asks at once.
pub(super) fn asks_known(pass: &Pass<'_>) -> bool {
    pass.is_retry && pass.log.is_none()
}

/// The end of an item that this pass leaves to the retries.
pub(super) async fn left_to_retries(pass: &Pass<'_>, item: &PlannedItem) -> Result<Option<ItemEnd>, StoreError> {
    if !asks_known(pass) {
        return Ok(None);
    }
    let id = item.id;
    let row = pass.engine.store.call(move |store| store.wanted(&id)).await?;
    Ok(row.and_then(|row| known_end(pass, item, row)))
}

/// The end of an item that is left to the retries because of this row.
pub(super) fn known_end(pass: &Pass<'_>, item: &PlannedItem, row: Wanted) -> Option<ItemEnd> {
    let (listed, now_ms) = (&item.record, pass.engine.clock.now_ms());
    let version = (row.version.version_ms, row.version.logical);
    let is_known = version >= (listed.version_ms, listed.logical)
        && row.holders.contains(&pass.peer.url)
        && row.next_try_ms > now_ms;
    is_known.then(|| ItemEnd { noted: true, ..ItemEnd::waiting(outcome_of(row.reason)) })
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
pub(super) fn candidates<'a>(peers: &'a [Peer], wanted: &Wanted) -> Vec<&'a Peer> {
    let listed = |peer: &&Peer| wanted.holders.contains(&peer.url);
    let can_tell = |peer: &&Peer| peer.store_id().is_some() || wanted.version.digest != Digest::default();
    let first = peers.iter().filter(listed);
    let rest = peers.iter().filter(|peer| !listed(peer) && can_tell(peer));
    first.chain(rest).collect()
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
