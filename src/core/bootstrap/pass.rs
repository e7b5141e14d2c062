//! A pass over one peer: its tombstones, then everything it lists, item by item, to the end whatever fails.
//!
//! How it works: each page is planned against the store in one step, then its items are settled concurrently. An item
//! that does not settle well is recorded, noted durably as wanted, and the pass goes on. Only when the whole page is
//! settled or noted may the source move its cursor.
//!
//! Failure: trouble with listing, with our own store, or a full volume ends the pass; trouble with an artifact never
//! does. A pass ended anywhere repeats at most a page of comparisons, and no fetch that was committed.

use std::collections::BTreeMap;
use std::pin::{Pin, pin};

use super::engine::{Engine, KuraPeer, Peer};
use super::metrics::{ApplyOutcome, ApplySource, ItemType};
use super::progress::Progress;
use super::report::{Outcome, RunLog};
use super::retry::retry_wanted_of;
use super::settle::settle_page;
use super::source::{ManifestSource, PageRows, SourceError};
use super::source_backfill::BackfillSource;
use super::source_feed::{FeedMode, FeedSource};
use super::source_plan::plan_listing;
use super::source_walk::WalkSource;
use super::walk_down::walk_down;
use crate::core::base::ids::StoreId;
use crate::core::mesh::circuit::Refused;
use crate::core::mesh::client::LISTING_ROWS;
use crate::core::store::committer::{CommitOutcome, Operation};
use crate::core::store::error::StoreError;

/// Why a pass ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// Listing could not go on.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Our own store did not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Our own volume is full.
    #[error("the volume is full: {0}")]
    DiskFull(String),
    /// The peer failed too often or is busy: listing on would only note what it does not deliver.
    #[error("{0} is left alone for now")]
    LeftAlone(String),
    /// No more artifacts can be noted as wanted; listing on would lose some.
    #[error("too many artifacts are wanted and not available; listing stops")]
    WantedFull,
}

impl PassError {
    /// Whether freeing space is what helps.
    pub fn is_disk_full(&self) -> bool {
        let store_full = |error: &StoreError| matches!(error, StoreError::StorageFull { .. });
        match self {
            Self::DiskFull(_) => true,
            Self::Store(error) | Self::Source(SourceError::Store(error)) => store_full(error),
            Self::Source(_) | Self::LeftAlone(_) | Self::WantedFull => false,
        }
    }
}

/// Counts of one pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PassSummary {
    /// How many ended how.
    pub outcomes: BTreeMap<Outcome, u64>,
    /// Bytes of bodies that arrived.
    pub bytes: u64,
    /// Rows that were not usable.
    pub skipped: u64,
    /// Items whose holder was busy to the end.
    pub busy: u64,
    /// Whether the peer has no digest, so that all it lists was looked through.
    pub undigested: bool,
}

impl PassSummary {
    /// How many ended so.
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.outcomes.get(&outcome).copied().unwrap_or(0)
    }

    /// Whether nothing is left that another try at this peer could settle.
    pub fn is_clean(&self) -> bool {
        self.count(Outcome::Failed) == 0 && self.count(Outcome::WaitingForPeer) == 0
    }

    /// Adds another page or pass.
    pub fn add(&mut self, other: &Self) {
        other.outcomes.iter().for_each(|(outcome, count)| *self.outcomes.entry(*outcome).or_default() += count);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.skipped = self.skipped.saturating_add(other.skipped);
        self.busy = self.busy.saturating_add(other.busy);
        self.undigested |= other.undigested;
    }

    /// What is left, in words; `None` if nothing.
    pub fn complaint(&self) -> Option<String> {
        let failed = self.count(Outcome::Failed);
        let waiting = self.count(Outcome::WaitingForPeer);
        (!self.is_clean()).then(|| format!("{failed} artifacts failed, {waiting} wait for a peer"))
    }
}

/// A pass over one peer, and who is told.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// What it needs.
    pub engine: &'a Engine,
    /// Over whom.
    pub peer: &'a Peer,
    /// Is told how it goes.
    pub progress: &'a dyn Progress,
    /// Counts, in `kura bootstrap`.
    pub log: Option<&'a RunLog>,
    /// Whether to look only.
    pub dry_run: bool,
    /// Whether this peer was passed over before in this run.
    pub is_retry: bool,
}

impl Pass<'_> {
    /// Whether the peer is asked for more bodies behind a page that went like this.
    pub(super) fn check_peer(&self, settled: &PassSummary) -> Result<(), PassError> {
        if settled.busy > 0 {
            return Err(PassError::LeftAlone(self.peer.url.clone()));
        }
        self.check_circuit()
    }

    /// Whether the peer is asked for bodies now; a dry run asks for none.
    fn check_circuit(&self) -> Result<(), PassError> {
        let refusal = self.engine.circuits.refusal(&self.peer.url, self.engine.clock.monotonic());
        match refusal {
            Some(Refused::Open { .. }) if !self.dry_run => Err(PassError::LeftAlone(self.peer.url.clone())),
            _ => Ok(()),
        }
    }
}

/// One pass over a peer, reported from beginning to end. An error or an unclean summary means: retry the peer.
pub async fn bootstrap_manifests_from_peer(pass: &Pass<'_>) -> Result<PassSummary, PassError> {
    pass_beside(pass, pin!(std::future::pending())).await
}

/// A pass; while it walks what a kura peer held, `beside` follows what the peer writes. Its error ends the pass.
pub(super) async fn pass_beside<F>(pass: &Pass<'_>, beside: Pin<&mut F>) -> Result<PassSummary, PassError>
where
    F: Future<Output = Result<(), PassError>> + Send,
{
    let (engine, url) = (pass.engine, pass.peer.url.as_str());
    let started = engine.clock.monotonic();
    pass.progress.started(url);
    if let Some(log) = pass.log {
        log.pass_started(url, pass.peer.store_id(), pass.is_retry);
    }
    let result = run_pass(pass, beside).await;
    let complaint = match &result {
        Ok(summary) => summary.complaint(),
        Err(error) => Some(error.to_string()),
    };
    pass.progress.finished(url, complaint.as_deref());
    if let Some(log) = pass.log {
        log.pass_finished(url, complaint.as_deref());
    }
    engine.metrics.pass(complaint.is_none(), engine.clock.monotonic().saturating_sub(started));
    match &complaint {
        // A seed-era peer is walked every few seconds; only a walk that says something new is worth a line.
        None if pass.is_retry && result.as_ref().is_ok_and(|summary| summary.count(Outcome::Applied) == 0) => {
            tracing::debug!(peer = %url, summary = ?result, "peer_pass_clean");
        }
        None => tracing::info!(peer = %url, summary = ?result, "peer_pass_clean"),
        Some(error) => tracing::warn!(peer = %url, %error, "peer_pass_unclean"),
    }
    result
}

async fn run_pass<F>(pass: &Pass<'_>, beside: Pin<&mut F>) -> Result<PassSummary, PassError>
where
    F: Future<Output = Result<(), PassError>> + Send,
{
    let mut summary = PassSummary::default();
    let Some(peer) = pass.peer.kura() else {
        take_tombstones(pass, &mut summary).await?;
        pass.check_circuit()?;
        let mut source = WalkSource::begin(pass.engine, &pass.peer.url).await?;
        summary.undigested = !source.has_digest();
        drain(pass, &mut source, &mut summary).await?;
        if summary.is_clean() && !pass.dry_run {
            source.is_walked(pass.engine);
        }
        return Ok(summary);
    };
    if pass.dry_run {
        look(pass, peer, &mut summary).await?;
        return Ok(summary);
    }
    let (Engine { client, store, .. }, url) = (pass.engine, pass.peer.url.as_str());
    // Before the tombstones: a delete that comes behind the head is met by the feed.
    let planned = plan_listing(client, store, url, peer).await?;
    take_tombstones(pass, &mut summary).await?;
    pass.check_circuit()?;
    // Before listing: what fails while listing was tried just now.
    summary.add(&retry_wanted_of(pass).await?);
    let mut source = FeedSource::begin(client, store, (url, peer), FeedMode::Pass).await?;
    drain(pass, &mut source, &mut summary).await?;
    let walk = planned.and_then(|cursor| BackfillSource::begin(pass.engine, (url, peer), cursor, true));
    if let Some(mut walk) = walk {
        let mut walking = pin!(walk_down(pass, &mut walk, &mut summary));
        tokio::select! {
            biased;
            walked = &mut walking => walked?,
            followed = beside => {
                followed?;
                walking.await?;
            }
        }
    }
    Ok(summary)
}

/// What a pass would list, without moving the cursor.
async fn look(pass: &Pass<'_>, peer: KuraPeer, summary: &mut PassSummary) -> Result<(), PassError> {
    let (Engine { client, store, .. }, url) = (pass.engine, pass.peer.url.as_str());
    take_tombstones(pass, summary).await?;
    let mut source = FeedSource::begin(client, store, (url, peer), FeedMode::Look).await?;
    drain(pass, &mut source, summary).await?;
    let key = cursor_key(peer.store_id);
    let cursor = store.call(move |store| store.cursor(&key)).await?;
    let walk = cursor.and_then(|cursor| BackfillSource::begin(pass.engine, (url, peer), cursor, false));
    if let Some(mut walk) = walk {
        drain(pass, &mut walk, summary).await?;
    }
    Ok(())
}

async fn take_tombstones(pass: &Pass<'_>, summary: &mut PassSummary) -> Result<(), PassError> {
    apply_tombstones(pass, summary).await?;
    pass.progress.tombstones_applied(&pass.peer.url);
    require_room(pass)
}

/// Whether the volume has room for bodies; deletes need none. A pass that ends for this is tried again like any other.
pub(super) fn require_room(pass: &Pass<'_>) -> Result<(), PassError> {
    if pass.dry_run || pass.engine.space.may_catch_up() {
        return Ok(());
    }
    Err(PassError::DiskFull("catching up rests until eviction has freed space".to_owned()))
}

/// Pages to the end of the source. The next one is listed while this one is settled, so that neither the peer nor our
/// disk waits for the other.
async fn drain<S: ManifestSource>(pass: &Pass<'_>, source: &mut S, summary: &mut PassSummary) -> Result<(), PassError> {
    let mut listed = source.next_page().await?;
    while let Some(page) = listed {
        if let Some(total) = source.rows_total() {
            pass.progress.total(&pass.peer.url, total);
        }
        let (settled, next) = tokio::join!(settle_page(pass, page), source.next_page());
        let settled = settled?;
        summary.add(&settled);
        source.page_settled().await?;
        pass.check_peer(&settled)?;
        listed = next?;
    }
    Ok(())
}

/// Only the deletes of a peer.
pub(super) async fn apply_deletes(pass: &Pass<'_>) -> Result<(), PassError> {
    apply_tombstones(pass, &mut PassSummary::default()).await
}

/// All tombstones of the peer, page by page. They are exempt from every stop.
async fn apply_tombstones(pass: &Pass<'_>, summary: &mut PassSummary) -> Result<(), PassError> {
    let url = pass.peer.url.as_str();
    let (mut after, mut rows): (Option<String>, _) = (None, PageRows::new(LISTING_ROWS));
    loop {
        let page = match pass.engine.client.tombstones(url, after.as_deref(), rows.get()).await {
            Err(error) if rows.are_refused(&error) => continue,
            listed => listed.map_err(SourceError::from)?,
        };
        let is_empty = page.tombstones.is_empty() && page.skipped.is_empty();
        note_skipped(pass, summary, &page.skipped);
        for tombstone in page.tombstones {
            apply_tombstone(pass, tombstone.namespace_id, tombstone.version_ms).await?;
        }
        pass.progress.advanced(url, 0, 0);
        match (page.next_after, after) {
            (None, _) => return Ok(()),
            (Some(next), before) if is_empty || before.as_ref().is_some_and(|before| next <= *before) => {
                let after = before.unwrap_or_default();
                return Err(SourceError::Unadvancing { peer: url.to_owned(), after, next }.into());
            }
            (Some(next), _) => after = Some(next),
        }
    }
}

pub(super) fn note_skipped(pass: &Pass<'_>, summary: &mut PassSummary, skipped: &[String]) {
    if let Some(first) = skipped.first() {
        tracing::warn!(peer = %pass.peer.url, rows = skipped.len(), %first, "peer_rows_skipped");
    }
    summary.skipped = summary.skipped.saturating_add(u64::try_from(skipped.len()).unwrap_or(u64::MAX));
    if let Some(log) = pass.log {
        log.skipped(skipped.len());
    }
}

pub(super) async fn apply_tombstone(pass: &Pass<'_>, namespace: String, version_ms: u64) -> Result<(), PassError> {
    if pass.dry_run || version_ms == 0 {
        return Ok(());
    }
    let operation = Operation::DeleteNamespace { namespace, version_ms: Some(version_ms) };
    let outcome = match pass.engine.store.commit(operation).await? {
        CommitOutcome::Deleted { .. } => {
            pass.log.inspect(|log| log.tombstone_applied());
            ApplyOutcome::Applied
        }
        _ => ApplyOutcome::IgnoredOlder,
    };
    pass.engine.metrics.applied(ApplySource::Bootstrap, ItemType::NamespaceDelete, outcome);
    Ok(())
}

/// The cursor key of a kura peer.
pub(super) fn cursor_key(store_id: StoreId) -> String {
    store_id.to_string()
}

#[cfg(test)]
#[path = "pass_tests.rs"]
mod tests;
