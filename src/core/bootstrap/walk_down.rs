//! The walk down the versions of a kura peer, in turn with the walks over others, to its end or to what has room here.
//!
//! How it works: three pages are under way. One is settled; the one behind it is planned, which hashes the bodies in it;
//! the one behind that is listed. So the committer, the hashing and the peer do not wait for each other. Planned ahead is
//! only what a leading lane listed with bodies. The other lanes plan at their turn, when most of what they list is here.
//!
//! Failure: trouble with listing ends the walk once what was listed before is settled, so that nothing that came is
//! fetched again. Any other trouble ends it at once: the two pages behind are listed again.

use super::lanes::{Height, LaneGuard, height_of, take_above};
use super::pass::{Pass, PassError, PassSummary, note_skipped, require_room};
use super::report::Outcome;
use super::settle::{PlannedRows, plan_rows, settle_page, settle_planned};
use super::source::{ManifestSource, SourceError, SourcePage, SourceRow};
use super::source_backfill::{BackfillSource, WALK_PAGE_BYTES_MAX};

/// From this capacity on the three pages under way are less than a twentieth, and so is what is committed beyond the room
/// and evicted again: up to two and a half pages, because a page is planned before the one in front of it takes room.
const RIDING_CAPACITY_MIN: u64 = 64 * WALK_PAGE_BYTES_MAX;

/// A page that was listed.
enum Ready {
    /// Planned as a whole.
    Planned(PlannedPage),
    /// To be planned piece by piece when their turn comes.
    Listed(SourcePage),
}

struct PlannedPage {
    rows: PlannedRows,
    count: u64,
    top: Height,
    bottom: Height,
    skipped: Vec<String>,
}

/// How a page ended, and how many rows it had.
struct Settled {
    summary: PassSummary,
    rows: u64,
}

impl Settled {
    fn applied(&self) -> u64 {
        self.summary.count(Outcome::Applied)
    }

    /// Whether everything behind it is too old to have room here.
    fn is_beyond_capacity(&self) -> bool {
        self.summary.count(Outcome::BeyondCapacity) > 0 && self.applied() == 0
    }
}

/// Pages to the end of the walk, or of what has room here.
pub(super) async fn walk_down(
    pass: &Pass<'_>,
    walk: &mut BackfillSource,
    summary: &mut PassSummary,
) -> Result<(), PassError> {
    let lane = pass.engine.lanes.join();
    let may_ride = may_ride(pass);
    walk.ride(may_ride && lane.leads());
    let (mut listed, mut ready) = (walk.next_page().await?, None);
    let mut failed = None;
    while listed.is_some() || ready.is_some() {
        if let Some(total) = walk.rows_total() {
            pass.progress.total(&pass.peer.url, total);
        }
        let (settled, planned, page) = tokio::join!(
            settle(pass, &lane, ready.take()),
            plan_ahead(pass, &lane, listed.take()),
            list_ahead(walk, failed.is_some()),
        );
        if let Some(settled) = settled? {
            summary.add(&settled.summary);
            walk.page_settled().await?;
            pass.check_peer(&settled.summary)?;
            if settled.is_beyond_capacity() {
                tracing::info!(peer = %pass.peer.url, "peer_walk_ends_at_the_capacity");
                walk.end().await?;
                return Ok(());
            }
            walk.ride(may_ride && (lane.leads() || settled.applied().saturating_mul(2) > settled.rows));
        }
        ready = planned?;
        match page {
            Ok(page) => listed = page,
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// Whether bodies may come with the rows of a walk: where the pages under way are next to nothing beside what bodies may
/// take here, so that it does not matter if they have no room any more.
fn may_ride(pass: &Pass<'_>) -> bool {
    let capacity = pass.engine.store.current().and_then(|store| store.stats().capacity_bytes);
    capacity.is_none_or(|capacity| capacity >= RIDING_CAPACITY_MIN)
}

async fn list_ahead(walk: &mut BackfillSource, has_failed: bool) -> Result<Option<SourcePage>, SourceError> {
    if has_failed { Ok(None) } else { walk.next_page().await }
}

async fn plan_ahead(pass: &Pass<'_>, lane: &LaneGuard, page: Option<SourcePage>) -> Result<Option<Ready>, PassError> {
    let Some(page) = page else { return Ok(None) };
    let has_bodies = page.rows.iter().any(|row| matches!(row, SourceRow::Artifact(_, Some(_))));
    let is_plain = page.rows.iter().all(|row| matches!(row, SourceRow::Artifact(..)));
    if !has_bodies || !is_plain || !lane.leads() {
        return Ok(Some(Ready::Listed(page)));
    }
    let ends = page.rows.first().map(height_of).zip(page.rows.last().map(height_of));
    let (top, bottom) = ends.unwrap_or_default();
    let artifacts: Vec<_> = page.rows.into_iter().filter_map(SourceRow::into_artifact).collect();
    let count = u64::try_from(artifacts.len()).unwrap_or(u64::MAX);
    let rows = plan_rows(pass, artifacts, page.floor_ms).await?;
    Ok(Some(Ready::Planned(PlannedPage { rows, count, top, bottom, skipped: page.skipped })))
}

async fn settle(pass: &Pass<'_>, lane: &LaneGuard, ready: Option<Ready>) -> Result<Option<Settled>, PassError> {
    Ok(match ready {
        None => None,
        Some(Ready::Planned(page)) => Some(settle_whole(pass, lane, page).await?),
        Some(Ready::Listed(page)) => Some(settle_in_turn(pass, lane, page).await?),
    })
}

/// Settles a planned page. If another lane leads by now it is not cut into pieces for that: its bodies are here.
async fn settle_whole(pass: &Pass<'_>, lane: &LaneGuard, page: PlannedPage) -> Result<Settled, PassError> {
    lane.turn(page.top).await;
    require_room(pass)?;
    let mut summary = settle_planned(pass, page.rows).await?;
    note_skipped(pass, &mut summary, &page.skipped);
    lane.came_down(page.bottom);
    Ok(Settled { summary, rows: page.count })
}

/// Settles a page piece by piece, as far down as the other walks are.
async fn settle_in_turn(pass: &Pass<'_>, lane: &LaneGuard, mut page: SourcePage) -> Result<Settled, PassError> {
    let mut summary = PassSummary::default();
    let rows = u64::try_from(page.rows.len()).unwrap_or(u64::MAX);
    while let Some(top) = page.rows.first().map(height_of) {
        let height = lane.turn(top).await;
        let piece = take_above(&mut page, height);
        let bottom = piece.rows.last().map_or(top, height_of);
        summary.add(&settle_page(pass, piece).await?);
        lane.came_down(bottom);
    }
    note_skipped(pass, &mut summary, &page.skipped);
    Ok(Settled { summary, rows })
}
