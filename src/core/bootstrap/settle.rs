//! Settling a page of a listing: tombstones, a plan against the store, then each item to its end.
//!
//! How it works: the page is planned in one step, then its items are settled concurrently: from a body that rode along,
//! from the peer that listed it, or from another holder at once. An item that does not settle well is noted durably as
//! wanted before the page counts as settled.
//!
//! Failure: trouble with our own store, or a full volume, ends the page; trouble with an artifact never does.

use futures_util::StreamExt;

use super::engine::Engine;
use super::fetch::{FetchError, Fetched, fetch_artifact, stage_bytes};
use super::metrics::{ApplyOutcome, ApplySource, ItemType};
use super::pass::{Pass, PassError, PassSummary, apply_tombstone, note_skipped};
use super::plan::{Action, PlannedItem, decide, plan_page};
use super::report::Outcome;
use super::source::{SourcePage, SourceRow};
use super::wanted::{left_to_retries, note_unsettled};
use crate::core::mesh::reach::RowEnd;
use crate::core::store::committer::{Carried, CommitOutcome, Operation, Put, PutOrigin};
use crate::core::store::error::StoreError;
use crate::core::store::record::Record;

/// Holders asked besides the one that listed an artifact, before it counts as not settled for now.
const OTHER_HOLDERS_MAX: usize = 8;

/// Items of a page settled at the same time whose bodies are here already: as many as one group commit takes, so that
/// a page of small bodies costs a few syncs and not one for every few of them.
const AT_HAND_CONCURRENCY: usize = 256;

/// How it ended for one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemEnd {
    /// In one word.
    pub outcome: Outcome,
    /// Why, unless it ended well.
    pub error: Option<String>,
    /// Bytes of the body that were committed.
    pub bytes: u64,
    /// Whether our own volume is full.
    pub disk_full: bool,
    /// Whether the row is not usable: its version is too far ahead of our clock.
    pub skewed: bool,
    /// Whether it is noted as wanted already, and was not tried.
    pub noted: bool,
}

impl ItemEnd {
    fn new(outcome: Outcome, bytes: u64) -> Self {
        Self { outcome, error: None, bytes, disk_full: false, skewed: false, noted: false }
    }

    pub(super) fn present() -> Self {
        Self::new(Outcome::AlreadyPresent, 0)
    }

    pub(super) fn waiting(outcome: Outcome) -> Self {
        Self::new(outcome, 0)
    }

    fn unsettled(outcome: Outcome, error: String) -> Self {
        Self { error: Some(error), ..Self::new(outcome, 0) }
    }

    /// What it means for progress; an absence that the holder owns up to is settled.
    pub(super) fn row_end(&self, version_ms: u64) -> RowEnd {
        match self.outcome {
            Outcome::Applied => RowEnd::Applied { version_ms },
            Outcome::AlreadyPresent | Outcome::Unavailable | Outcome::BeyondCapacity => RowEnd::Settled,
            Outcome::Failed | Outcome::WaitingForPeer | Outcome::BadCopy => RowEnd::Unsettled,
        }
    }

    /// Whether it has to be noted as wanted. What is beyond capacity is not: it would fill the table with what is not
    /// fetched anyway.
    pub fn is_unsettled(&self) -> bool {
        !self.noted && !matches!(self.outcome, Outcome::Applied | Outcome::AlreadyPresent | Outcome::BeyondCapacity)
    }
}

impl From<FetchError> for ItemEnd {
    fn from(error: FetchError) -> Self {
        let text = error.to_string();
        match error {
            FetchError::Unavailable(_) => Self::unsettled(Outcome::Unavailable, text),
            FetchError::BadCopy(_) => Self::unsettled(Outcome::BadCopy, text),
            FetchError::Unreachable(_) => Self::unsettled(Outcome::WaitingForPeer, text),
            FetchError::Failed(_) => Self::unsettled(Outcome::Failed, text),
            FetchError::DiskFull(_) => Self { disk_full: true, ..Self::unsettled(Outcome::Failed, text) },
        }
    }
}

/// Settles a page: tombstones, a plan, then the items concurrently. What did not settle is noted before this returns.
pub(super) async fn settle_page(pass: &Pass<'_>, page: SourcePage) -> Result<PassSummary, PassError> {
    let mut summary = PassSummary::default();
    note_skipped(pass, &mut summary, &page.skipped);
    let mut artifacts = Vec::new();
    for row in page.rows {
        match row {
            SourceRow::Artifact(record, body) => artifacts.push((record, body)),
            SourceRow::Tombstone { namespace, version_ms } => apply_tombstone(pass, namespace, version_ms).await?,
        }
    }
    let tenant_id = pass.engine.client.tenant_id().to_owned();
    let items = pass.engine.store.call(move |store| plan_page(store, &tenant_id, artifacts)).await?;
    if pass.dry_run {
        items.iter().for_each(|item| look_at(pass, item));
        return Ok(summary);
    }
    let settle = |item: PlannedItem| async move {
        let end = bootstrap_artifact_from_peer(pass, item.clone()).await;
        (item, end)
    };
    let (to_fetch, at_hand): (Vec<_>, Vec<_>) = items.into_iter().partition(PlannedItem::needs_request);
    let to_fetch = futures_util::stream::iter(to_fetch.into_iter().map(settle));
    let at_hand = futures_util::stream::iter(at_hand.into_iter().map(settle));
    let mut settled = futures_util::stream::select(
        to_fetch.buffer_unordered(pass.engine.concurrency.max(1)),
        at_hand.buffer_unordered(AT_HAND_CONCURRENCY),
    );
    let (mut unsettled, mut disk_full) = (Vec::new(), None);
    while let Some((item, end)) = settled.next().await {
        let end = end?;
        note_end(pass, &mut summary, &item, &end);
        if end.disk_full {
            disk_full.clone_from(&end.error);
        }
        if end.is_unsettled() {
            unsettled.push((item, end));
        }
    }
    if !note_unsettled(pass.engine, &pass.peer.url, &unsettled).await? {
        return Err(PassError::WantedFull);
    }
    disk_full.map_or(Ok(summary), |error| Err(PassError::DiskFull(error)))
}

/// What a dry run says of an item.
fn look_at(pass: &Pass<'_>, item: &PlannedItem) {
    let Some(log) = pass.log else { return };
    match item.action {
        Action::Fetch => log.planned(&pass.peer.url, &item.id, item.record.size),
        Action::Refuse => log.skipped(1),
        Action::PassOver => log.settled(&pass.peer.url, &item.id, Outcome::BeyondCapacity, None, 0),
        Action::Adopt | Action::Skip => log.settled(&pass.peer.url, &item.id, Outcome::AlreadyPresent, None, 0),
    }
}

fn note_end(pass: &Pass<'_>, summary: &mut PassSummary, item: &PlannedItem, end: &ItemEnd) {
    pass.progress.row_ended(&pass.peer.url, end.row_end(item.record.version_ms));
    if end.skewed {
        let row = format!("{}: version {} is too far ahead of our clock", item.id, item.record.version_ms);
        note_skipped(pass, summary, &[row]);
        return;
    }
    if end.is_unsettled() {
        let error = end.error.as_deref().unwrap_or_default();
        tracing::warn!(peer = %pass.peer.url, artifact = %item.id, outcome = ?end.outcome, %error, "artifact_not_settled");
    }
    let outcome = match end.outcome {
        Outcome::Applied => ApplyOutcome::Applied,
        Outcome::AlreadyPresent | Outcome::Unavailable | Outcome::BeyondCapacity => ApplyOutcome::IgnoredStale,
        _ => ApplyOutcome::Error,
    };
    pass.engine.metrics.applied(ApplySource::Bootstrap, ItemType::Artifact, outcome);
    *summary.outcomes.entry(end.outcome).or_default() += 1;
    summary.bytes = summary.bytes.saturating_add(end.bytes);
    if let Some(log) = pass.log {
        log.settled(&pass.peer.url, &item.id, end.outcome, end.error.clone(), end.bytes);
    }
}

/// One artifact: from the body that rode along, from the peer that listed it, or from another holder at once. An
/// error of this function is trouble of our own store; everything else is an end of the item.
pub(super) async fn bootstrap_artifact_from_peer(pass: &Pass<'_>, item: PlannedItem) -> Result<ItemEnd, StoreError> {
    match item.action {
        Action::Skip => return Ok(ItemEnd::new(Outcome::AlreadyPresent, 0)),
        Action::PassOver => return Ok(ItemEnd::new(Outcome::BeyondCapacity, 0)),
        Action::Refuse => return Ok(skewed()),
        Action::Adopt | Action::Fetch => {}
    }
    let engine = pass.engine;
    let _flight = engine.flights.enter(item.id).await;
    let mut action = item.action;
    // Since the page was planned another pass may have brought it. A body that rode along costs nothing more, and the
    // committer looks again by itself.
    if item.body.is_none() {
        let record = item.record.clone();
        action = decide(engine.store.call(move |store| store.wants(&record)).await?);
    }
    match action {
        Action::Skip => Ok(ItemEnd::new(Outcome::AlreadyPresent, 0)),
        Action::PassOver => Ok(ItemEnd::new(Outcome::BeyondCapacity, 0)),
        Action::Refuse => Ok(skewed()),
        Action::Adopt => {
            let adopted = engine.store.commit(Operation::AdoptVersion(item.record)).await?;
            Ok(end_of(adopted, 0))
        }
        Action::Fetch => match left_to_retries(pass, &item).await? {
            Some(end) => Ok(end),
            None => fetch_and_commit(pass, item).await,
        },
    }
}

async fn fetch_and_commit(pass: &Pass<'_>, item: PlannedItem) -> Result<ItemEnd, StoreError> {
    let (engine, url) = (pass.engine, pass.peer.url.as_str());
    let fetched = match item.body {
        Some(bytes) => {
            pass.progress.advanced(url, 0, u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            stage_bytes(engine, *item.record.clone(), bytes, url).await
        }
        None => fetch_artifact(engine, pass.progress, url, &item.id, &item.record).await,
    };
    let error = match fetched {
        Ok(fetched) => return commit(engine, fetched).await,
        Err(error @ FetchError::DiskFull(_)) => return Ok(error.into()),
        Err(error) => error,
    };
    for other in other_holders(engine, url) {
        if let Ok(fetched) = fetch_artifact(engine, pass.progress, &other, &item.id, &item.record).await {
            tracing::info!(artifact = %item.id, peer = %url, holder = %other, "artifact_from_another_holder");
            return commit(engine, fetched).await;
        }
    }
    Ok(error.into())
}

/// Only kura peers: they say which version they send. A seed-era peer is asked for what it listed itself, in its own
/// pass.
fn other_holders(engine: &Engine, url: &str) -> Vec<String> {
    let peers = engine.usable_peers();
    let others = peers.iter().filter(|peer| peer.url != url && peer.store_id().is_some());
    others.take(OTHER_HOLDERS_MAX).map(|peer| peer.url.clone()).collect()
}

/// Commits a verified body under the version its peer gave it.
pub(super) async fn commit(engine: &Engine, fetched: Fetched) -> Result<ItemEnd, StoreError> {
    let bytes = fetched.body.length;
    let Record { name, kind, content_type, attributes, version_ms, logical, created_at_ms, origin, .. } =
        fetched.record;
    let Record { flags, expires_at_ms, unknown, .. } = fetched.record;
    let carried = Carried { flags, expires_at_ms, unknown };
    let origin = PutOrigin::Replicated { version_ms, logical, created_at_ms, origin };
    let put = Put { name, kind, content_type, attributes, carried, body: fetched.body, origin };
    match engine.store.commit(Operation::Put(Box::new(put))).await {
        Ok(outcome) => Ok(end_of(outcome, bytes)),
        Err(error @ StoreError::StorageFull { .. }) => Ok(FetchError::DiskFull(error.to_string()).into()),
        Err(error) => Err(error),
    }
}

fn end_of(outcome: CommitOutcome, bytes: u64) -> ItemEnd {
    match outcome {
        CommitOutcome::Applied(_) => ItemEnd::new(Outcome::Applied, bytes),
        CommitOutcome::ClockSkew { .. } => skewed(),
        _ => ItemEnd::new(Outcome::AlreadyPresent, 0),
    }
}

fn skewed() -> ItemEnd {
    ItemEnd { skewed: true, ..ItemEnd::new(Outcome::AlreadyPresent, 0) }
}
