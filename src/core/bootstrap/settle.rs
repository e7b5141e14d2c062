//! Settling a page of a listing: tombstones, a plan against the store, then each item to its end.
//!
//! How it works: the page is planned in one step, then its items are settled concurrently: from a body that rode along,
//! from the peer that listed it (no more at a time than has room, see [`super::portions`], small ones many to a request, see
//! [`super::groups`]), or from another holder at once. An
//! item that does not settle well is noted durably as wanted before the page counts as settled. One that another pass
//! is fetching is waited for, but not for long: it is then noted too, so that no peer's silence holds up another's page.
//!
//! Failure: trouble with our own store, or a full volume, ends the page; trouble with an artifact never does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;

use super::at_hand::{AtHandEnd, Checked, check_bodies, settle_at_hand, take_at_hand};
use super::engine::{Engine, Peer};
use super::fetch::{FetchError, Fetched, stage_bytes};
use super::holders::fetch_from;
use super::metrics::{ApplyOutcome, ApplySource, ItemType};
use super::pass::{Pass, PassError, PassSummary, apply_tombstone, note_skipped, require_room};
use super::plan::{Action, PlannedItem, decide, plan_page};
use super::portions::settle_in_portions;
use super::report::Outcome;
use super::source::{SourcePage, SourceRow};
use super::wanted::{left_to_retries, note_unsettled};
use crate::core::base::ids::ArtifactId;
use crate::core::mesh::reach::RowEnd;
use crate::core::staging::body_writer::StagedBody;
use crate::core::store::Store;
use crate::core::store::committer::{Carried, CommitOutcome, Operation, Put, PutOrigin};
use crate::core::store::error::StoreError;
use crate::core::store::record::Record;

/// Holders asked besides the one that listed an artifact, before it counts as not settled for now.
const OTHER_HOLDERS_MAX: usize = 8;

/// Items of a page settled at the same time that need no request: as many as one group commit takes.
const WITHOUT_REQUEST_CONCURRENCY: usize = 256;

/// How long a pass waits for an artifact that another pass is fetching. Far below the time after which a silent transfer
/// is given up; on a link where the usual body takes longer, noting a few costs little.
pub(super) const FLIGHT_PATIENCE: Duration = Duration::from_secs(15);

/// How often a holder that is busy is asked again, each time after the rest it asked for.
pub(super) const BUSY_ASKS_MAX: u32 = 3;

/// Unsettled items of a page that are logged one by one; beyond them their number says as much.
const UNSETTLED_TOLD_MAX: usize = 16;

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
    /// Whether it was left to another pass, from which it is on its way.
    pub is_elsewhere: bool,
    /// When its holder, which is busy, asked to be asked again.
    pub retry_after: Option<Duration>,
}

impl ItemEnd {
    fn new(outcome: Outcome, bytes: u64) -> Self {
        let (disk_full, skewed, noted, is_elsewhere) = (false, false, false, false);
        Self { outcome, error: None, bytes, disk_full, skewed, noted, is_elsewhere, retry_after: None }
    }

    /// What the store's word alone settles; `None` for what has to be fetched or adopted.
    pub(super) fn without_request(action: Action) -> Option<Self> {
        match action {
            Action::Skip => Some(Self::present()),
            Action::PassOver => Some(Self::new(Outcome::BeyondCapacity, 0)),
            Action::Refuse => Some(skewed()),
            Action::Adopt | Action::Fetch => None,
        }
    }

    /// Another pass goes for it, and takes its time.
    pub(super) fn elsewhere() -> Self {
        let error = "it is on its way from another peer".to_owned();
        Self { is_elsewhere: true, ..Self::unsettled(Outcome::WaitingForPeer, error) }
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

    /// Whether the artifact, or what beats it, is here.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self.outcome, Outcome::Applied | Outcome::AlreadyPresent)
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
            FetchError::Failed(_) | FetchError::Own(_) => Self::unsettled(Outcome::Failed, text),
            FetchError::Busy { retry_after, .. } => {
                Self { retry_after: Some(retry_after), ..Self::unsettled(Outcome::Failed, text) }
            }
            FetchError::DiskFull(_) => Self { disk_full: true, ..Self::unsettled(Outcome::Failed, text) },
        }
    }
}

/// What became of a page's items so far; told by whatever settles them, side by side.
#[derive(Debug)]
pub(super) struct PageEnds<'a> {
    /// The pass that settles the page.
    pub(super) pass: &'a Pass<'a>,
    noted: Mutex<Noted>,
    /// Set once an item of this page did not come from elsewhere in time: no other is waited for then.
    is_impatient: AtomicBool,
}

#[derive(Debug, Default)]
struct Noted {
    summary: PassSummary,
    unsettled: Vec<(PlannedItem, ItemEnd)>,
    disk_full: Option<String>,
}

impl<'a> PageEnds<'a> {
    fn new(pass: &'a Pass<'a>) -> Self {
        Self { pass, noted: Mutex::default(), is_impatient: AtomicBool::new(false) }
    }

    /// How long to wait for an artifact that is on its way from elsewhere.
    pub(super) fn patience(&self) -> Duration {
        if self.is_impatient.load(Ordering::Relaxed) { Duration::ZERO } else { FLIGHT_PATIENCE }
    }

    /// An artifact did not come from elsewhere in time.
    pub(super) fn lose_patience(&self) {
        self.is_impatient.store(true, Ordering::Relaxed);
    }

    /// Takes note of an end.
    pub(super) fn note(&self, item: PlannedItem, end: ItemEnd) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let is_told = noted.unsettled.len() < UNSETTLED_TOLD_MAX;
        note_end(self.pass, &mut noted.summary, (&item.id, item.record.version_ms), &end, is_told);
        if end.disk_full {
            noted.disk_full.clone_from(&end.error);
        }
        if end.is_unsettled() {
            noted.unsettled.push((item, end));
        }
    }

    /// Takes note of an end of which nothing is left to do.
    pub(super) fn note_settled(&self, item: &PlannedItem, end: &ItemEnd) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        note_end(self.pass, &mut noted.summary, (&item.id, item.record.version_ms), end, false);
    }

    /// Takes note of the ends of what was at hand, the usual ones together. Where the volume is full the page ends, and
    /// is listed again.
    fn note_at_hand(&self, ended: &[AtHandEnd]) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let is_usual = |ended: &&AtHandEnd| ended.end.outcome == Outcome::Applied && self.pass.log.is_none();
        let (applied, others): (Vec<_>, Vec<_>) = ended.iter().partition(is_usual);
        let ends: Vec<_> = applied.iter().map(|ended| ended.end.row_end(ended.version_ms)).collect();
        self.pass.progress.rows_ended(&self.pass.peer.url, &ends);
        let count = u64::try_from(applied.len()).unwrap_or(u64::MAX);
        self.pass.engine.metrics.many_applied(ApplySource::Bootstrap, ItemType::Artifact, ApplyOutcome::Applied, count);
        if count > 0 {
            *noted.summary.outcomes.entry(Outcome::Applied).or_default() += count;
        }
        let bytes = applied.iter().fold(0_u64, |bytes, ended| bytes.saturating_add(ended.end.bytes));
        noted.summary.bytes = noted.summary.bytes.saturating_add(bytes);
        for ended in others {
            note_end(self.pass, &mut noted.summary, (&ended.id, ended.version_ms), &ended.end, true);
            noted.disk_full = ended.end.error.clone().or(noted.disk_full.take());
        }
    }

    /// Each by itself, at most so many at the same time.
    pub(super) async fn settle_each(&self, items: Vec<PlannedItem>, concurrency: usize) -> Result<(), StoreError> {
        let settle = |item: PlannedItem| async move {
            let end = bootstrap_artifact_from_peer(self.pass, item.clone(), self.patience()).await?;
            if end.is_elsewhere {
                self.lose_patience();
            }
            self.note(item, end);
            Ok::<_, StoreError>(())
        };
        let mut settled =
            futures_util::stream::iter(items.into_iter().map(settle)).buffer_unordered(concurrency.max(1));
        while let Some(end) = settled.next().await {
            end?;
        }
        Ok(())
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
    if !artifacts.is_empty() {
        require_room(pass)?;
    }
    let planned = plan_rows(pass, artifacts, page.floor_ms).await?;
    if pass.dry_run {
        planned.items.iter().for_each(|item| look_at(pass, item));
        return Ok(summary);
    }
    summary.add(&settle_planned(pass, planned).await?);
    Ok(summary)
}

/// A page's rows with what is to be done about each.
#[derive(Debug, Default)]
pub(super) struct PlannedRows {
    checked: Vec<Checked>,
    items: Vec<PlannedItem>,
}

/// Plans rows, and looks at the bodies that came with them.
pub(super) async fn plan_rows(
    pass: &Pass<'_>,
    artifacts: Vec<(Box<Record>, Option<Bytes>)>,
    floor_ms: u64,
) -> Result<PlannedRows, StoreError> {
    let inline_max_bytes = pass.engine.staging.inline_max_bytes();
    let dry_run = pass.dry_run;
    let planned = move |store: &Store| {
        let items = plan_page(store, artifacts, floor_ms)?;
        let (checked, items) = if dry_run { (Vec::new(), items) } else { check_bodies(items, inline_max_bytes) };
        Ok(PlannedRows { checked, items })
    };
    pass.engine.store.call(planned).await
}

/// Brings planned rows to their ends. The plan may be a page old: what is fetched or committed is looked at again.
pub(super) async fn settle_planned(pass: &Pass<'_>, planned: PlannedRows) -> Result<PassSummary, PassError> {
    let (at_hand, on_their_way) = take_at_hand(planned.checked, &pass.engine.flights);
    let ends = PageEnds::new(pass);
    ends.note_at_hand(&settle_at_hand(pass, at_hand).await?);
    let items = planned.items.into_iter().chain(on_their_way);
    let (to_fetch, others): (Vec<_>, Vec<_>) = items.partition(PlannedItem::needs_request);
    tokio::try_join!(ends.settle_each(others, WITHOUT_REQUEST_CONCURRENCY), settle_in_portions(&ends, to_fetch))?;
    let noted = ends.noted.into_inner().unwrap_or_else(PoisonError::into_inner);
    if noted.unsettled.len() > UNSETTLED_TOLD_MAX {
        tracing::warn!(peer = %pass.peer.url, artifacts = noted.unsettled.len(), "artifacts_of_a_page_not_settled");
    }
    if !note_unsettled(pass.engine, &pass.peer.url, &noted.unsettled).await? {
        return Err(PassError::WantedFull);
    }
    let Some(error) = noted.disk_full else { return Ok(noted.summary) };
    pass.engine.space.wake();
    Err(PassError::DiskFull(error))
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

fn note_end(
    pass: &Pass<'_>,
    summary: &mut PassSummary,
    (id, version_ms): (&ArtifactId, u64),
    end: &ItemEnd,
    is_told: bool,
) {
    pass.progress.row_ended(&pass.peer.url, end.row_end(version_ms));
    if end.skewed {
        let row = format!("{id}: version {version_ms} is too far ahead of our clock");
        note_skipped(pass, summary, &[row]);
        return;
    }
    if end.is_unsettled() && is_told {
        let error = end.error.as_deref().unwrap_or_default();
        tracing::warn!(peer = %pass.peer.url, artifact = %id, outcome = ?end.outcome, %error, "artifact_not_settled");
    }
    let outcome = match end.outcome {
        Outcome::Applied => ApplyOutcome::Applied,
        Outcome::AlreadyPresent | Outcome::Unavailable | Outcome::BeyondCapacity => ApplyOutcome::IgnoredStale,
        _ => ApplyOutcome::Error,
    };
    pass.engine.metrics.applied(ApplySource::Bootstrap, ItemType::Artifact, outcome);
    *summary.outcomes.entry(end.outcome).or_default() += 1;
    summary.busy = summary.busy.saturating_add(u64::from(end.retry_after.is_some()));
    summary.bytes = summary.bytes.saturating_add(end.bytes);
    if let Some(log) = pass.log {
        log.settled(&pass.peer.url, id, end.outcome, end.error.clone(), end.bytes);
    }
}

/// One artifact: from the body that rode along, from the peer that listed it, or from another holder at once. An
/// error of this function is trouble of our own store; everything else is an end of the item. For one that is on its way
/// already this waits, but not beyond its patience.
pub(super) async fn bootstrap_artifact_from_peer(
    pass: &Pass<'_>,
    item: PlannedItem,
    patience: Duration,
) -> Result<ItemEnd, StoreError> {
    if let Some(end) = ItemEnd::without_request(item.action) {
        return Ok(end);
    }
    let engine = pass.engine;
    let flight = engine.flights.enter_within(item.id, patience).await;
    if flight.is_none() && item.body.is_none() {
        return Ok(ItemEnd::elsewhere());
    }
    let mut action = item.action;
    // Since the page was planned another pass may have brought it. A body that rode along costs nothing more, and the
    // committer looks again by itself.
    if item.body.is_none() {
        let record = item.record.clone();
        action = decide(engine.store.call(move |store| store.wants(&record)).await?);
    }
    match ItemEnd::without_request(action) {
        Some(end) => return Ok(end),
        None if action == Action::Adopt => {
            match engine.store.commit(Operation::AdoptVersion(item.record.clone())).await? {
                // The bytes that were here went, or others took their place.
                CommitOutcome::BodyNeeded => {}
                adopted => return Ok(end_of(adopted, 0)),
            }
        }
        None => {}
    }
    match left_to_retries(pass, &item).await? {
        Some(end) => Ok(end),
        None => fetch_and_commit(pass, item).await,
    }
}

async fn fetch_and_commit(pass: &Pass<'_>, item: PlannedItem) -> Result<ItemEnd, StoreError> {
    let (engine, url) = (pass.engine, pass.peer.url.as_str());
    let fetched = match item.body.clone() {
        Some(bytes) => {
            pass.progress.advanced(url, 0, u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            stage_bytes(engine, *item.record.clone(), bytes, url).await
        }
        None => fetch_from(engine, pass.progress, url, &item.id, &item.record).await,
    };
    let mut error = match fetched {
        Ok(fetched) => return commit(engine, fetched).await,
        Err(error @ FetchError::DiskFull(_)) => return Ok(error.into()),
        Err(error) => error,
    };
    for other in other_holders(engine, url) {
        if let Ok(fetched) = fetch_from(engine, pass.progress, &other.url, &item.id, &item.record).await {
            tracing::info!(artifact = %item.id, peer = %url, holder = %other.url, "artifact_from_another_holder");
            return commit(engine, fetched).await;
        }
    }
    for _ in 0..BUSY_ASKS_MAX {
        if !matches!(error, FetchError::Busy { .. }) {
            break;
        }
        match fetch_from(engine, pass.progress, url, &item.id, &item.record).await {
            Ok(fetched) => return commit(engine, fetched).await,
            Err(again) => error = again,
        }
    }
    Ok(error.into())
}

/// Only kura peers: they say which version they send. A seed-era peer is asked for what it listed itself, in its own
/// pass.
pub(super) fn other_holders(engine: &Engine, url: &str) -> Vec<Peer> {
    let peers = engine.usable_peers();
    let others = peers.iter().filter(|peer| peer.url != url && peer.store_id().is_some());
    others.take(OTHER_HOLDERS_MAX).cloned().collect()
}

/// Commits a verified body under the version its peer gave it.
pub(super) async fn commit(engine: &Engine, fetched: Fetched) -> Result<ItemEnd, StoreError> {
    let bytes = fetched.body.length;
    let put = replicated_put(fetched.record, fetched.body);
    end_of_put(engine.store.commit(Operation::Put(Box::new(put))).await, bytes)
}

/// How a put ended for its item; an error is trouble of our own store other than a full volume.
pub(super) fn end_of_put(outcome: Result<CommitOutcome, StoreError>, bytes: u64) -> Result<ItemEnd, StoreError> {
    match outcome {
        Ok(outcome) => Ok(end_of(outcome, bytes)),
        Err(error @ StoreError::StorageFull { .. }) => Ok(FetchError::DiskFull(error.to_string()).into()),
        Err(error) => Err(error),
    }
}

/// The put of a peer's record with its verified body.
pub(super) fn replicated_put(record: Record, body: StagedBody) -> Put {
    let Record { name, kind, content_type, attributes, version_ms, logical, created_at_ms, origin, .. } = record;
    let Record { flags, expires_at_ms, unknown, .. } = record;
    let carried = Carried { flags, expires_at_ms, unknown };
    let origin = PutOrigin::Replicated { version_ms, logical, created_at_ms, origin };
    Put { name, kind, content_type, attributes, carried, body, origin }
}

pub(super) fn end_of(outcome: CommitOutcome, bytes: u64) -> ItemEnd {
    match outcome {
        CommitOutcome::Applied(_) => ItemEnd::new(Outcome::Applied, bytes),
        CommitOutcome::ClockSkew { .. } => skewed(),
        _ => ItemEnd::new(Outcome::AlreadyPresent, 0),
    }
}

fn skewed() -> ItemEnd {
    ItemEnd { skewed: true, ..ItemEnd::new(Outcome::AlreadyPresent, 0) }
}
