//! Many bodies from one holder by one request, each staged, verified and committed as it arrives.
//!
//! How it works: the frames of the answer are taken one after another. A body is staged before the next frame is read;
//! commits of earlier ones go on meanwhile. What has arrived by the time that the next frame has to be waited for goes to
//! the committer together: bodies inside the index as one batch, whose sync may come later as that of a page, files each
//! by itself.
//!
//! Invariants: one frame is in memory for each request, and bodies of the inline size that wait for the committer. No body
//! waits for another one to arrive. What came before a stream was cut is kept; what did not come is told as not
//! delivered, with the reason.

use futures_util::StreamExt;
use futures_util::future::try_join_all;

use super::engine::Engine;
use super::fetch::{FetchError, Fetched, read_record, stage_bytes};
use super::holders::{REST_DEFAULT, enter, note_fared};
use super::metrics::BodyRequest;
use super::plan::PlannedItem;
use super::progress::Progress;
use super::settle::{ItemEnd, commit, end_of_put, replicated_put};
use crate::core::mesh::bulk_frames::{BulkAnswer, BulkItem};
use crate::core::mesh::client::{BulkStream, PeerError};
use crate::core::mesh::feed_frames::FrameStatus;
use crate::core::staging::body_writer::StagedContent;
use crate::core::store::error::StoreError;

/// Bodies of one answer that wait for the committer: as many as it takes in one group.
const COMMITS_MAX: usize = 256;

/// What a holder's answer made of one item.
#[derive(Debug)]
pub(super) enum BulkEnd {
    /// It came and was committed, or our store no longer wants it.
    Ended(ItemEnd),
    /// It did not come.
    Error(FetchError),
    /// It has to be asked for by itself: it is too large by now, only an older version is there, or it came wrong.
    Alone,
}

/// Is told the end of an item, by its place, as soon as it is settled: a run that is stopped has it in its report.
pub(super) type Settled<'a> = &'a (dyn Fn(usize, &ItemEnd) + Sync);

/// Asks one holder for these items; what became of each, in their order.
///
/// # Errors
/// Trouble of our own store.
pub(super) async fn ask_in_bulk(
    engine: &Engine,
    progress: &dyn Progress,
    holder: &str,
    (items, settled): (&[PlannedItem], Settled<'_>),
) -> Result<BulkAsked, StoreError> {
    let mut asked = BulkAsked { ends: items.iter().map(|_| None).collect(), cut: None };
    let permit = match enter(engine, holder).await {
        Ok(permit) => permit,
        Err(error) => {
            asked.cut = Some(error);
            return Ok(asked);
        }
    };
    engine.metrics.bodies_requested(BodyRequest::Bulk);
    let wanted = items.iter().map(|item| BulkItem::new(item.id, item.record.version())).collect();
    match engine.client.bulk(holder, wanted).await {
        Ok(stream) => take_answers(engine, progress, holder, (items, settled), stream, &mut asked).await?,
        Err(error) => asked.cut = Some(error.into()),
    }
    note_fared(engine, holder, permit, asked.cut.as_ref());
    Ok(asked)
}

/// What became of a request.
#[derive(Debug)]
pub(super) struct BulkAsked {
    /// For each item what the holder made of it; `None` if it was not delivered.
    pub(super) ends: Vec<Option<BulkEnd>>,
    /// Why not all were delivered.
    pub(super) cut: Option<FetchError>,
}

/// The place of an item, and its verified body or why there is none.
pub(super) type Staged = (usize, Result<Fetched, BulkEnd>);

/// The ends of items by their places, and why the answer was cut.
type Ends = Vec<Result<(usize, BulkEnd), FetchError>>;

async fn take_answers(
    engine: &Engine,
    progress: &dyn Progress,
    holder: &str,
    (items, told): (&[PlannedItem], Settled<'_>),
    stream: BulkStream,
    asked: &mut BulkAsked,
) -> Result<(), StoreError> {
    let answers = futures_util::stream::unfold(Some(stream), move |stream| async move {
        let mut stream = stream?;
        match stream.next(&|bytes| progress.advanced(holder, 0, bytes)).await {
            Ok(None) => None,
            Ok(Some(answer)) => Some((Ok(answer), Some(stream))),
            Err(error) => Some((Err(error), None)),
        }
    });
    let stage = |answer: Result<BulkAnswer, PeerError>| async move {
        let answer = answer?;
        let place = usize::try_from(answer.place).unwrap_or(usize::MAX);
        let item = items.get(place).ok_or_else(|| unasked(holder))?;
        Ok::<Staged, FetchError>((place, stage_answer(engine, holder, item, answer).await))
    };
    let settle = |staged| settle_together(engine, staged);
    let staged = answers.then(stage).ready_chunks(COMMITS_MAX);
    let mut settled = staged.map(settle).buffer_unordered(COMMITS_MAX).boxed();
    while let Some(ends) = settled.next().await {
        for end in ends? {
            match end {
                Ok((place, end)) => {
                    let Some(slot) = asked.ends.get_mut(place) else { continue };
                    match &end {
                        BulkEnd::Ended(end) if end.is_settled() && slot.is_none() => told(place, end),
                        _ => {}
                    }
                    *slot = Some(end);
                }
                Err(error) => asked.cut = Some(error),
            }
        }
    }
    if asked.cut.is_none() && asked.ends.iter().any(Option::is_none) {
        asked.cut = Some(FetchError::Failed(format!("{holder} left out items it was asked for")));
    }
    Ok(())
}

/// Commits what is in memory as one batch, and files beside it: their data has to be synced before.
pub(super) async fn settle_together(
    engine: &Engine,
    staged: Vec<Result<Staged, FetchError>>,
) -> Result<Ends, StoreError> {
    let (mut ends, mut batch, mut files) = (Vec::with_capacity(staged.len()), Vec::new(), Vec::new());
    for staged in staged {
        match staged {
            Err(error) => ends.push(Err(error)),
            Ok((place, Err(end))) => ends.push(Ok((place, end))),
            Ok((place, Ok(fetched))) if is_in_memory(&fetched) => batch.push((place, fetched)),
            Ok((place, Ok(fetched))) => {
                files.push(async move { Ok::<_, StoreError>((place, commit(engine, fetched).await?)) });
            }
        }
    }
    let (places, batch): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
    let (batched, files) = tokio::try_join!(commit_together(engine, batch), try_join_all(files))?;
    let ended = places.into_iter().zip(batched).chain(files);
    ends.extend(ended.map(|(place, end)| Ok((place, BulkEnd::Ended(end)))));
    Ok(ends)
}

/// Commits verified bodies as one batch; the ends are in their order.
async fn commit_together(engine: &Engine, batch: Vec<Fetched>) -> Result<Vec<ItemEnd>, StoreError> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let bytes: Vec<u64> = batch.iter().map(|fetched| fetched.body.length).collect();
    let puts = batch.into_iter().map(|fetched| replicated_put(fetched.record, fetched.body)).collect();
    let outcomes = engine.store.commit_replicated(puts).await?;
    outcomes.into_iter().zip(bytes).map(|(outcome, bytes)| end_of_put(outcome, bytes)).collect()
}

fn is_in_memory(fetched: &Fetched) -> bool {
    matches!(fetched.body.content, StagedContent::Inline(_))
}

fn unasked(holder: &str) -> FetchError {
    FetchError::Failed(format!("{holder} answered for an item it was not asked for"))
}

async fn stage_answer(
    engine: &Engine,
    holder: &str,
    item: &PlannedItem,
    answer: BulkAnswer,
) -> Result<Fetched, BulkEnd> {
    let unavailable = |why: &str| FetchError::Unavailable(format!("{holder} {why}"));
    let error = match answer.status {
        FrameStatus::Ok | FrameStatus::Superseded => return stage_body(engine, holder, item, answer).await,
        // Only an older version is there; whether that one is worth something is looked at when it is asked for.
        FrameStatus::Evicted if !answer.record.is_empty() => return Err(BulkEnd::Alone),
        FrameStatus::Evicted => unavailable("has no good copy"),
        FrameStatus::Corrupt => unavailable("found its copy bad"),
        FrameStatus::Busy => {
            FetchError::Busy { detail: format!("{holder} cannot read it now"), retry_after: REST_DEFAULT }
        }
        FrameStatus::Other(code) => unavailable(&format!("answered with status {code}")),
    };
    Err(BulkEnd::Error(error))
}

async fn stage_body(engine: &Engine, holder: &str, item: &PlannedItem, answer: BulkAnswer) -> Result<Fetched, BulkEnd> {
    let tenant_id = engine.client.tenant_id();
    let record = read_record(&answer.record, tenant_id, &item.id, holder).map_err(BulkEnd::Error)?;
    if record.version() < item.record.version() {
        return Err(BulkEnd::Alone);
    }
    let size = u64::try_from(answer.body.len()).unwrap_or(u64::MAX);
    if size == 0 && record.size > 0 {
        return Err(BulkEnd::Alone);
    }
    if size != record.size {
        let why = format!("{holder} sent {size} bytes, its record says {}", record.size);
        return Err(BulkEnd::Error(FetchError::BadCopy(why)));
    }
    stage_bytes(engine, record, answer.body, holder).await.map_err(|error| match error {
        // Its holder is to look at its own copy.
        FetchError::BadCopy(_) => BulkEnd::Alone,
        error => BulkEnd::Error(error),
    })
}
