//! Bodies that rode along with their rows: checked, and committed a page at a time.
//!
//! How it works: while a page is planned, each small body that came with a row to fetch is hashed. When the page is
//! settled those that nobody else is fetching are made into puts, which go to the committer together and are answered
//! together, so that a small artifact costs neither a task nor a sync of its own. What is not as it should be goes the way
//! of artifacts without a body.

use super::engine::Engine;
use super::fetch::mismatch;
use super::flight::{Flight, Flights};
use super::pass::Pass;
use super::plan::{Action, PlannedItem};
use super::settle::{ItemEnd, end_of_put, replicated_put};
use crate::core::base::ids::{ArtifactId, Digest, Sha256Digest};
use crate::core::mesh::wire::keyed_sha256;
use crate::core::staging::body_writer::{StagedBody, StagedContent};
use crate::core::store::committer::Put;
use crate::core::store::error::StoreError;
use crate::core::store::record::Record;

/// A row whose small body came along and is the right one.
#[derive(Debug)]
pub(super) struct Checked {
    item: PlannedItem,
    body: StagedBody,
}

/// One that is ours to commit.
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

/// Takes out of a page what came with a good body, and gives back the rest; hashes, so not for an async thread.
pub(super) fn check_bodies(items: Vec<PlannedItem>, inline_max_bytes: u64) -> (Vec<Checked>, Vec<PlannedItem>) {
    let (mut checked, mut rest) = (Vec::new(), Vec::new());
    for item in items {
        match check_body(item, inline_max_bytes) {
            Ok(good) => checked.push(good),
            Err(item) => rest.push(item),
        }
    }
    (checked, rest)
}

fn check_body(item: PlannedItem, inline_max_bytes: u64) -> Result<Checked, PlannedItem> {
    let Some(bytes) = item.body.clone() else { return Err(item) };
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if item.action != Action::Fetch || length > inline_max_bytes || length != item.record.size {
        return Err(item);
    }
    let sha256 = needs_sha256(&item.record).then(|| Sha256Digest::of(&bytes));
    let body = StagedBody { length, digest: Digest::of(&bytes), sha256, content: StagedContent::Inline(bytes) };
    if mismatch(&item.record, &body).is_some() {
        // It is asked for by itself: its holder then looks at its own copy, and others may have a good one.
        return Err(PlannedItem { body: None, ..item });
    }
    Ok(Checked { item, body })
}

/// Takes those that nobody is fetching right now, and gives back the rest: they wait as every other artifact.
pub(super) fn take_at_hand(checked: Vec<Checked>, flights: &Flights) -> (Vec<AtHand>, Vec<PlannedItem>) {
    let (mut at_hand, mut rest) = (Vec::with_capacity(checked.len()), Vec::new());
    for Checked { item, body } in checked {
        match flights.try_enter(item.id) {
            Some(flight) => at_hand.push(to_put(item, body, flight)),
            None => rest.push(item),
        }
    }
    (at_hand, rest)
}

fn to_put(item: PlannedItem, body: StagedBody, flight: Flight) -> AtHand {
    let PlannedItem { id, mut record, .. } = item;
    record.digest = body.digest;
    let (version_ms, bytes) = (record.version_ms, body.length);
    AtHand { id, version_ms, bytes, put: replicated_put(*record, body), _flight: flight }
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
        Ok(AtHandEnd { id, version_ms, end: end_of_put(outcome, bytes)? })
    });
    ended.collect()
}
