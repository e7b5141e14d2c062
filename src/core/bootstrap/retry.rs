//! Trying again what is wanted: by a pass over a peer that listed it, and in `serve` whenever it is due.
//!
//! How it works: rows are gathered by the holder that is asked first and cut into batches, small artifacts many to a
//! request. What that holder does not deliver is asked for at the others, one by one. In `serve` a [`Retrier`] looks
//! through the table bit by bit and keeps a few batches for each holder under way, so that one that stalls holds up
//! nothing but what it is asked for.
//!
//! Invariants: a batch never waits for an artifact that somebody else is fetching. A holder whose circuit is open is not
//! asked, and an artifact of which nobody can be asked is left as it is noted. A row leaves only by its own version.

use std::collections::{BTreeMap, HashSet};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use super::bulk::{BulkEnd, ask_in_bulk};
use super::engine::{Engine, Peer};
use super::fetch::FetchError;
use super::flight::Flight;
use super::groups::{GROUPS_MAX, cut_into_groups, has_bulk, travels_in_bulk};
use super::holders::fetch_from;
use super::pass::{Pass, PassSummary};
use super::plan::{Action, PlannedItem, decide};
use super::progress::Progress;
use super::report::Outcome;
use super::settle::{ItemEnd, commit};
use super::wanted::{PAGE_ROWS, candidates, next_try_ms, outcome_of, reason, wanted_record};
use crate::core::base::ids::ArtifactId;
use crate::core::store::error::StoreError;
use crate::core::store::wanted::{Wanted, WantedReason};

/// Batches under way for each holder in `serve`: retries go beside what passes fetch and must not crowd it out.
const BATCHES_MAX: usize = 2;

/// Rows looked at in one step of a [`Retrier`]: a table of usual size is seen whole each time, a full one bit by bit.
const SCAN_ROWS_MAX: usize = 4096;

/// A row and what is asked for because of it.
type Asked = (Wanted, PlannedItem);

/// How a row fared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tried {
    id: ArtifactId,
    version_ms: u64,
    end: ItemEnd,
}

impl Tried {
    fn new(row: &Wanted, end: ItemEnd) -> Self {
        Self { id: row.id, version_ms: row.version.version_ms, end }
    }
}

/// Rows that have one holder that is asked first.
#[derive(Debug)]
struct Batch {
    holder: Peer,
    rows: Vec<Wanted>,
}

/// Cuts rows into batches by the first holder that can be asked now; also the rows of which there is none.
fn cut_into_batches(engine: &Engine, peers: &[Peer], rows: Vec<Wanted>) -> (Vec<Batch>, Vec<Wanted>) {
    let (mut by_holder, mut nobody) = (BTreeMap::<String, (Peer, Vec<Wanted>)>::new(), Vec::new());
    for row in rows {
        match first_holder(engine, peers, &row) {
            Some(holder) => {
                let entry = by_holder.entry(holder.url.clone()).or_insert_with(|| (holder.clone(), Vec::new()));
                entry.1.push(row);
            }
            None => nobody.push(row),
        }
    }
    let mut batches = Vec::new();
    for (holder, rows) in by_holder.into_values() {
        let (small, large): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|row| travels_in_bulk(&holder, &item_of(row)));
        let mut rows_of: BTreeMap<ArtifactId, Wanted> = small.into_iter().map(|row| (row.id, row)).collect();
        let groups = cut_into_groups(engine, rows_of.values().map(item_of).collect());
        for group in groups {
            let rows = group.iter().filter_map(|item| rows_of.remove(&item.id)).collect();
            batches.push(Batch { holder: holder.clone(), rows });
        }
        batches.extend(large.into_iter().map(|row| Batch { holder: holder.clone(), rows: vec![row] }));
    }
    (batches, nobody)
}

fn first_holder<'a>(engine: &Engine, peers: &'a [Peer], row: &Wanted) -> Option<&'a Peer> {
    let now = engine.clock.monotonic();
    candidates(peers, row).into_iter().find(|peer| engine.circuits.refusal(&peer.url, now).is_none())
}

fn item_of(row: &Wanted) -> PlannedItem {
    PlannedItem { id: row.id, record: Box::new(wanted_record(row)), body: None, action: Action::Fetch }
}

/// Tries a batch; every row has an end then, also those that somebody else is fetching.
async fn try_batch(
    engine: &Engine,
    progress: &dyn Progress,
    peers: &[Peer],
    batch: Batch,
) -> Result<Vec<Tried>, StoreError> {
    let (mut tried, mut flights, mut ours): (Vec<Tried>, Vec<Flight>, Vec<Wanted>) = Default::default();
    for row in batch.rows {
        match engine.flights.try_enter(row.id) {
            Some(flight) => {
                flights.push(flight);
                ours.push(row);
            }
            None => tried.push(Tried::new(&row, ItemEnd { noted: true, ..ItemEnd::elsewhere() })),
        }
    }
    let left = settle_unwanted(engine, ours, &mut tried).await?;
    let left = if left.len() > 1 && has_bulk(&batch.holder) {
        try_in_bulk(engine, progress, &batch.holder, left, &mut tried).await?
    } else {
        left.into_iter().map(|asked| (asked, None)).collect()
    };
    let first = batch.holder.url.as_str();
    let each = left.into_iter().map(|(asked, said)| {
        let said = said.map(|said| (first, said));
        try_one(engine, progress, peers, asked, said)
    });
    let mut each = futures_util::stream::iter(each).buffer_unordered(engine.concurrency.max(1));
    while let Some(end) = each.next().await {
        tried.push(end?);
    }
    Ok(tried)
}

/// What is here by now, or beaten by something newer, is no longer wanted.
async fn settle_unwanted(engine: &Engine, rows: Vec<Wanted>, tried: &mut Vec<Tried>) -> Result<Vec<Asked>, StoreError> {
    let look = move |store: &crate::core::store::Store| {
        let (mut unwanted, mut left) = (Vec::new(), Vec::new());
        for row in rows {
            let item = item_of(&row);
            // What is here under an older version is fetched: a wanted row does not carry all that adopting needs.
            match decide(store.wants(&item.record)?) {
                Action::Fetch | Action::Adopt => left.push((row, item)),
                Action::Skip | Action::PassOver | Action::Refuse => unwanted.push(row),
            }
        }
        let settled: Vec<_> = unwanted.iter().map(|row| (row.id, row.version)).collect();
        store.settle_wanted(&settled)?;
        Ok((unwanted, left))
    };
    let (unwanted, left) = engine.store.call(look).await?;
    tried.extend(unwanted.iter().map(|row| Tried::new(row, ItemEnd::present())));
    Ok(left)
}

/// Asks one holder for all of them; what it does not deliver is given back with what it said.
async fn try_in_bulk(
    engine: &Engine,
    progress: &dyn Progress,
    holder: &Peer,
    left: Vec<Asked>,
    tried: &mut Vec<Tried>,
) -> Result<Vec<(Asked, Option<FetchError>)>, StoreError> {
    let (rows, items): (Vec<_>, Vec<_>) = left.into_iter().unzip();
    let asked = ask_in_bulk(engine, progress, &holder.url, (&items, &|_, _| {})).await?;
    let mut rest = Vec::new();
    for ((row, item), end) in rows.into_iter().zip(items).zip(asked.ends) {
        match end {
            Some(BulkEnd::Ended(end)) => tried.push(ended(engine, row, end).await?),
            Some(BulkEnd::Error(said)) => rest.push(((row, item), Some(said))),
            Some(BulkEnd::Alone) => rest.push(((row, item), None)),
            None => rest.push(((row, item), asked.cut.clone())),
        }
    }
    Ok(rest)
}

/// Asks each holder in turn, but for one that has said something already.
async fn try_one(
    engine: &Engine,
    progress: &dyn Progress,
    peers: &[Peer],
    (row, item): Asked,
    said: Option<(&str, FetchError)>,
) -> Result<Tried, StoreError> {
    let (skipped, mut worst) = said.unzip();
    for holder in candidates(peers, &row).into_iter().filter(|holder| Some(holder.url.as_str()) != skipped) {
        match fetch_from(engine, progress, &holder.url, &item.id, &item.record).await {
            Ok(fetched) => {
                let end = commit(engine, fetched).await?;
                return ended(engine, row, end).await;
            }
            Err(error) => worst = Some(worse(worst, error)),
        }
    }
    still_wanted(engine, row, worst, peers).await
}

/// Its body came: whether that settles it.
async fn ended(engine: &Engine, row: Wanted, end: ItemEnd) -> Result<Tried, StoreError> {
    if let Some(error) = end.error.clone().filter(|_| end.disk_full) {
        return still_wanted(engine, row, Some(FetchError::DiskFull(error)), &[]).await;
    }
    let tried = Tried::new(&row, end);
    // A put settles by itself exactly what it settles, which may be less than is wanted by now.
    if tried.end.outcome != Outcome::Applied {
        engine.store.call(move |store| store.settle_wanted(&[(row.id, row.version)])).await?;
    }
    Ok(tried)
}

/// Of two holders' answers the one that leaves more hope counts: a failure may heal, an absence does not.
fn worse(one: Option<FetchError>, other: FetchError) -> FetchError {
    let rank = |error: &FetchError| match error {
        FetchError::Unavailable(_) => 0,
        FetchError::BadCopy(_) => 1,
        FetchError::Unreachable(_) => 2,
        FetchError::Failed(_) => 3,
        FetchError::Busy { .. } => 4,
        FetchError::Own(_) => 5,
        FetchError::DiskFull(_) => 6,
    };
    match one {
        Some(one) if rank(&one) >= rank(&other) => one,
        _ => other,
    }
}

/// Writes the try down. A holder that does not answer now keeps the artifact waiting for it.
async fn still_wanted(
    engine: &Engine,
    mut row: Wanted,
    error: Option<FetchError>,
    peers: &[Peer],
) -> Result<Tried, StoreError> {
    let absent = row.holders.iter().find(|holder| !peers.iter().any(|peer| peer.url == **holder)).cloned();
    let is_settled = |error: &FetchError| matches!(error, FetchError::Unavailable(_) | FetchError::BadCopy(_));
    let end = match (error, absent) {
        (Some(error), _) if !is_settled(&error) => ItemEnd::from(error),
        (_, Some(holder)) => FetchError::Unreachable(format!("{holder} is not reachable")).into(),
        (Some(error), None) => error.into(),
        (None, None) => ItemEnd::waiting(outcome_of(row.reason)),
    };
    let tried = Tried::new(&row, end);
    row.reason = reason(tried.end.outcome);
    row.error = tried.end.error.clone().or(row.error);
    row.next_try_ms = next_try_ms(engine, &tried.end, row.attempts);
    row.attempts = row.attempts.saturating_add(1);
    engine.store.call(move |store| store.note_tried(&[row])).await?;
    Ok(tried)
}

/// Tries again, as part of a pass, what this peer listed and did not deliver. What waits on others is left alone. What is
/// not due is left alone too, but not forgotten: it counts as what it is noted as.
pub(super) async fn retry_wanted_of(pass: &Pass<'_>) -> Result<PassSummary, StoreError> {
    let engine = pass.engine;
    let mut peers = engine.usable_peers().as_ref().clone();
    if !peers.iter().any(|peer| peer.url == pass.peer.url) {
        peers.push(pass.peer.clone());
    }
    let (mut summary, mut after) = (PassSummary::default(), None);
    loop {
        let rows = engine.store.call(move |store| store.wanted_page(after, PAGE_ROWS)).await?;
        let Some(last) = rows.last().map(|row| row.id) else {
            return Ok(summary);
        };
        after = Some(last);
        let of_peer = rows.into_iter().filter(|row| row.holders.contains(&pass.peer.url));
        let (due, later): (Vec<_>, Vec<_>) = of_peer.partition(|row| is_due_in(pass, row));
        let (batches, nobody) = cut_into_batches(engine, &peers, due);
        for row in later.iter().chain(&nobody) {
            note_tried(pass, &mut summary, &Tried::new(row, ItemEnd::waiting(outcome_of(row.reason))));
        }
        let batches = batches.into_iter().map(|batch| try_batch(engine, pass.progress, &peers, batch));
        let mut batches = futures_util::stream::iter(batches).buffer_unordered(GROUPS_MAX);
        while let Some(tried) = batches.next().await {
            tried?.iter().for_each(|tried| note_tried(pass, &mut summary, tried));
        }
    }
}

/// A run that somebody started, and the first pass over a peer, try everything; what waited for the peer is tried as soon
/// as it is passed over. Everything else has its own pauses, so that a peer that comes and goes is not asked each time.
fn is_due_in(pass: &Pass<'_>, row: &Wanted) -> bool {
    pass.log.is_some()
        || !pass.is_retry
        || row.reason == WantedReason::WaitingForPeer
        || row.next_try_ms <= pass.engine.clock.now_ms()
}

fn note_tried(pass: &Pass<'_>, summary: &mut PassSummary, tried: &Tried) {
    let end = &tried.end;
    if end.outcome == Outcome::Applied {
        pass.progress.row_ended(&pass.peer.url, end.row_end(tried.version_ms));
    }
    *summary.outcomes.entry(end.outcome).or_default() += 1;
    summary.bytes = summary.bytes.saturating_add(end.bytes);
    if let Some(log) = pass.log {
        log.settled(&pass.peer.url, &tried.id, end.outcome, end.error.clone(), end.bytes);
    }
}

/// A batch under way: its holder, its artifacts, how they fared.
type Running<'a> = BoxFuture<'a, (String, Vec<ArtifactId>, Result<Vec<Tried>, StoreError>)>;

/// Keeps what is due under way in `serve`, a few batches for each holder.
pub(super) struct Retrier<'a> {
    engine: &'a Engine,
    progress: &'a dyn Progress,
    /// Where the last step stopped looking.
    after: Option<ArtifactId>,
    running: FuturesUnordered<Running<'a>>,
    holders: BTreeMap<String, usize>,
    artifacts: HashSet<ArtifactId>,
}

impl<'a> Retrier<'a> {
    pub(super) fn new(engine: &'a Engine, progress: &'a dyn Progress) -> Self {
        let (holders, artifacts) = (BTreeMap::new(), HashSet::new());
        Self { engine, progress, after: None, running: FuturesUnordered::new(), holders, artifacts }
    }

    /// Whether a batch is under way.
    pub(super) fn is_running(&self) -> bool {
        !self.running.is_empty()
    }

    /// Starts what is due and whose holders have room.
    pub(super) async fn start_due(&mut self) -> Result<(), StoreError> {
        let peers = self.engine.usable_peers();
        let due = self.look_for_due().await?;
        let (batches, _) = cut_into_batches(self.engine, &peers, due);
        for batch in batches {
            let under_way = self.holders.entry(batch.holder.url.clone()).or_default();
            if *under_way >= BATCHES_MAX {
                continue;
            }
            *under_way += 1;
            let ids: Vec<ArtifactId> = batch.rows.iter().map(|row| row.id).collect();
            self.artifacts.extend(&ids);
            let (engine, progress, peers) = (self.engine, self.progress, std::sync::Arc::clone(&peers));
            self.running.push(Box::pin(async move {
                let holder = batch.holder.url.clone();
                (holder, ids, try_batch(engine, progress, &peers, batch).await)
            }));
        }
        Ok(())
    }

    async fn look_for_due(&mut self) -> Result<Vec<Wanted>, StoreError> {
        let now_ms = self.engine.clock.now_ms();
        let (mut due, mut seen) = (Vec::new(), 0);
        while seen < SCAN_ROWS_MAX {
            let after = self.after;
            let rows = self.engine.store.call(move |store| store.wanted_page(after, PAGE_ROWS)).await?;
            seen += rows.len().max(1);
            self.after = rows.last().map(|row| row.id);
            due.extend(rows.into_iter().filter(|row| row.next_try_ms <= now_ms && !self.artifacts.contains(&row.id)));
            if self.after.is_none() {
                break;
            }
        }
        Ok(due)
    }

    /// Waits for a batch to end; how many of it arrived. `None` without waiting if none is under way.
    pub(super) async fn next_end(&mut self) -> Option<Result<usize, StoreError>> {
        let (holder, ids, tried) = self.running.next().await?;
        ids.iter().for_each(|id| {
            self.artifacts.remove(id);
        });
        if let Some(under_way) = self.holders.get_mut(&holder) {
            *under_way = under_way.saturating_sub(1);
        }
        self.holders.retain(|_, under_way| *under_way > 0);
        Some(tried.map(|tried| tried.iter().filter(|tried| tried.end.outcome == Outcome::Applied).count()))
    }
}

/// Tries everything that is due once, and waits for it.
#[cfg(test)]
pub(crate) async fn retry_due(engine: &Engine, progress: &dyn Progress) -> Result<usize, StoreError> {
    let (mut retrier, mut arrived) = (Retrier::new(engine, progress), 0);
    retrier.start_due().await?;
    while let Some(count) = retrier.next_end().await {
        arrived += count?;
    }
    Ok(arrived)
}
