//! Bodies that rode along with their rows: checked, and committed a page at a time.
//!
//! How it works: while a page is planned, each small body that came with a row to fetch is hashed and made into a put.
//! All puts of the page go to the committer together and are answered together, so that a small artifact costs neither a
//! task nor a sync of its own. What is not as it should be goes the way of artifacts without a body.

use super::engine::Engine;
use super::fetch::{FetchError, mismatch};
use super::flight::{Flight, Flights};
use super::pass::Pass;
use super::plan::{Action, PlannedItem};
use super::settle::{ItemEnd, end_of, replicated_put};
use crate::core::base::ids::{ArtifactId, Digest, Sha256Digest};
use crate::core::mesh::wire::keyed_sha256;
use crate::core::staging::body_writer::{StagedBody, StagedContent};
use crate::core::store::committer::Put;
use crate::core::store::error::StoreError;
use crate::core::store::record::Record;

/// A verified body with its row, ready to be committed.
#[derive(Debug)]
pub(super) struct AtHand {
    id: ArtifactId,
    version_ms: u64,
    bytes: u64,
    put: Put,
    _flight: Flight,
}

/// How it ended for one of them.
#[derive(Debug)]
pub(super) struct AtHandEnd {
    pub(super) id: ArtifactId,
    pub(super) version_ms: u64,
    pub(super) end: ItemEnd,
}

/// Takes out of a page what can be committed at once, and gives back the rest; hashes, so not for an async thread.
pub(super) fn take_at_hand(
    items: Vec<PlannedItem>,
    flights: &Flights,
    inline_max_bytes: u64,
) -> (Vec<AtHand>, Vec<PlannedItem>) {
    let (mut at_hand, mut rest) = (Vec::new(), Vec::new());
    for item in items {
        match prepare(item, flights, inline_max_bytes) {
            Ok(prepared) => at_hand.push(prepared),
            Err(item) => rest.push(item),
        }
    }
    (at_hand, rest)
}

fn prepare(item: PlannedItem, flights: &Flights, inline_max_bytes: u64) -> Result<AtHand, PlannedItem> {
    let Some(bytes) = item.body.clone() else { return Err(item) };
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if item.action != Action::Fetch || length > inline_max_bytes || length != item.record.size {
        return Err(item);
    }
    // Somebody fetches it right now: wait for that, as for every other artifact.
    let Some(flight) = flights.try_enter(item.id) else { return Err(item) };
    let sha256 = needs_sha256(&item.record).then(|| Sha256Digest::of(&bytes));
    let body = StagedBody { length, digest: Digest::of(&bytes), sha256, content: StagedContent::Inline(bytes) };
    if mismatch(&item.record, &body).is_some() {
        // It is asked for by itself: its holder then looks at its own copy, and others may have a good one.
        return Err(PlannedItem { body: None, ..item });
    }
    let PlannedItem { id, mut record, .. } = item;
    record.digest = body.digest;
    let version_ms = record.version_ms;
    Ok(AtHand { id, version_ms, bytes: length, put: replicated_put(*record, body), _flight: flight })
}

fn needs_sha256(record: &Record) -> bool {
    record.sha256.is_some() || keyed_sha256(&record.name).is_some()
}

/// Commits them together; an error is trouble of our own store.
pub(super) async fn settle_at_hand(pass: &Pass<'_>, at_hand: Vec<AtHand>) -> Result<Vec<AtHandEnd>, StoreError> {
    if at_hand.is_empty() {
        return Ok(Vec::new());
    }
    pass.progress.advanced(&pass.peer.url, 0, at_hand.iter().map(|one| one.bytes).sum());
    let (mut seats, mut puts) = (Vec::with_capacity(at_hand.len()), Vec::with_capacity(at_hand.len()));
    for AtHand { id, version_ms, bytes, put, _flight } in at_hand {
        seats.push((id, version_ms, bytes, _flight));
        puts.push(put);
    }
    let engine: &Engine = pass.engine;
    let outcomes = engine.store.commit_replicated(puts).await?;
    let ended = seats.into_iter().zip(outcomes).map(|((id, version_ms, bytes, _), outcome)| {
        let end = match outcome {
            Ok(outcome) => end_of(outcome, bytes),
            Err(error @ StoreError::StorageFull { .. }) => FetchError::DiskFull(error.to_string()).into(),
            Err(error) => return Err(error),
        };
        Ok(AtHandEnd { id, version_ms, end })
    });
    ended.collect()
}
