//! Large bodies of a followed feed, fetched beside it: one slow transfer must not hold back the small rows behind it.
//!
//! How it works: an artifact to fetch is noted durably as wanted, so that the cursor may pass its row, and a task goes
//! for it. A task that ends well takes the row away with its commit; one that does not notes how it ended, and the
//! retries go on from there.
//!
//! Invariants: at most as many tasks at a time as a pass has fetches; what is beyond is left to the retries at once.
//! Tasks end with their follower; the pass that comes next tries again what they left.

use tokio::task::JoinSet;

use super::engine::{Engine, Peer};
use super::pass::{Pass, PassError};
use super::plan::{Action, PlannedItem, plan_page};
use super::progress::NoProgress;
use super::settle::{FLIGHT_PATIENCE, ItemEnd, bootstrap_artifact_from_peer};
use super::source::{SourcePage, SourceRow};
use super::wanted::{note_for_later, note_unsettled};
use crate::core::store::error::StoreError;

/// Bodies above this are fetched beside the feed: on a slow link this one is a few seconds, and a write of a note and a
/// task are nothing beside it.
pub const BESIDE_BYTES_MIN: u64 = 4 << 20;

/// Takes the rows with large bodies out of a page.
pub fn take_large(page: &mut SourcePage) -> Vec<SourceRow> {
    let is_large =
        |row: &mut SourceRow| matches!(row, SourceRow::Artifact(record, None) if record.size > BESIDE_BYTES_MIN);
    page.rows.extract_if(.., is_large).collect()
}

/// Notes these rows and sends tasks for them; returns without waiting for a body.
///
/// # Errors
/// Trouble of our own store, or no room for another note.
pub async fn fetch_beside(pass: &Pass<'_>, rows: Vec<SourceRow>, tasks: &mut JoinSet<()>) -> Result<(), PassError> {
    while tasks.try_join_next().is_some() {}
    if rows.is_empty() {
        return Ok(());
    }
    let artifacts = rows.into_iter().filter_map(|row| match row {
        SourceRow::Artifact(record, body) => Some((record, body)),
        SourceRow::Tombstone { .. } => None,
    });
    let (engine, url, artifacts) = (pass.engine, pass.peer.url.as_str(), artifacts.collect());
    let items = engine.store.call(move |store| plan_page(store, artifacts, 0)).await?;
    for item in items {
        if item.action != Action::Fetch {
            let noted = item.clone();
            let end = bootstrap_artifact_from_peer(pass, item, FLIGHT_PATIENCE).await?;
            if end.is_unsettled() && !note_unsettled(engine, url, &[(noted, end)]).await? {
                return Err(PassError::WantedFull);
            }
            continue;
        }
        let has_room = tasks.len() < engine.concurrency.max(1);
        if !note_for_later(engine, url, &item, has_room).await? {
            return Err(PassError::WantedFull);
        }
        if has_room {
            tasks.spawn(fetch_one(engine.clone(), pass.peer.clone(), item));
        }
    }
    Ok(())
}

async fn fetch_one(engine: Engine, peer: Peer, item: PlannedItem) {
    let (id, noted) = (item.id, item.clone());
    let pass = Pass { engine: &engine, peer: &peer, progress: &NoProgress, log: None, dry_run: false, is_retry: false };
    if let Err(error) = settle(&pass, item, noted).await {
        tracing::warn!(peer = %peer.url, artifact = %id, %error, "large_artifact_not_settled");
    }
}

async fn settle(pass: &Pass<'_>, item: PlannedItem, noted: PlannedItem) -> Result<(), StoreError> {
    let end: ItemEnd = bootstrap_artifact_from_peer(pass, item, FLIGHT_PATIENCE).await?;
    if end.is_unsettled() {
        let error = end.error.as_deref().unwrap_or_default();
        tracing::warn!(peer = %pass.peer.url, artifact = %noted.id, outcome = ?end.outcome, %error, "artifact_not_settled");
        // There is a row of it already, so there is room.
        note_unsettled(pass.engine, &pass.peer.url, &[(noted, end)]).await?;
        return Ok(());
    }
    // Another follower may have brought it before the note was written; then no commit takes the note away.
    let settled = (noted.id, noted.record.version());
    pass.engine.store.call(move |store| store.settle_wanted(&[settled])).await
}
