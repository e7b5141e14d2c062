//! The small bodies of a page, many to a request: cut into groups by size, a few of them under way at a time.
//!
//! How it works: a group takes the flights of its items that nobody else goes for, looks at the store once more, and asks
//! the peer that listed them; what a cut stream did not deliver is asked for again, what this holder does not deliver at
//! all is asked for at the others at once. What others were fetching is looked at again when it has come.
//!
//! Invariants: a group never waits for a flight, because it holds some. What is left when everybody was asked ends with
//! the answer of the peer that listed it.

use futures_util::StreamExt;

use super::bulk::{BulkEnd, ask_in_bulk};
use super::engine::{Engine, Peer, PeerSource};
use super::fetch::FetchError;
use super::plan::{Action, PlannedItem, decide};
use super::settle::{BUSY_ASKS_MAX, ItemEnd, PageEnds, other_holders};
use super::wanted::{asks_known, known_end};
use crate::core::base::ids::Digest;
use crate::core::mesh::bulk_frames::{BULK_BODY_BYTES_MAX, BULK_ITEMS_MAX, group_by_size};
use crate::core::store::error::StoreError;

/// Bytes of bodies in a group: long enough that a request costs little beside them, short enough that a page is several
/// groups, which other passes can share.
pub(super) const GROUP_BYTES: u64 = 8 << 20;

/// A group's part of the staging ledger, so that several of them and large bodies find room side by side.
const LEDGER_PARTS: u64 = 8;

/// Groups under way from one peer: one is being sent, one written, one asked for.
pub(super) const GROUPS_MAX: usize = 3;

/// Requests to one holder for what cut streams did not deliver, as long as each delivers something.
const ASKS_MAX: u32 = 4;

/// How often a page is looked through for what other passes were fetching.
const ROUNDS_MAX: u32 = 16;

/// Whether a body comes with others; where there is no digest to name a version by, each is asked for by itself.
pub(super) fn travels_in_bulk(peer: &Peer, item: &PlannedItem) -> bool {
    has_bulk(peer) && item.record.size <= BULK_BODY_BYTES_MAX && item.record.digest != Digest::default()
}

pub(super) fn has_bulk(peer: &Peer) -> bool {
    matches!(&peer.source, PeerSource::Kura { features, .. } if features.bulk)
}

/// Cuts items into groups for one request each.
pub(super) fn cut_into_groups(engine: &Engine, items: Vec<PlannedItem>) -> Vec<Vec<PlannedItem>> {
    let bytes_max = GROUP_BYTES.min(engine.staging.budget_bytes() / LEDGER_PARTS);
    group_by_size(items, |item| item.record.size, BULK_ITEMS_MAX, bytes_max)
}

/// Settles items that travel in bulk.
pub(super) async fn settle_in_bulk(ends: &PageEnds<'_>, items: Vec<PlannedItem>) -> Result<(), StoreError> {
    let engine = ends.pass.engine;
    let (mut left, mut alone) = (items, Vec::new());
    for _ in 0..ROUNDS_MAX {
        if left.len() < 2 {
            break;
        }
        let groups = cut_into_groups(engine, left).into_iter().map(|group| settle_group(ends, group));
        let mut groups = futures_util::stream::iter(groups).buffer_unordered(GROUPS_MAX.min(engine.concurrency.max(1)));
        left = Vec::new();
        while let Some(rest) = groups.next().await {
            let rest = rest?;
            left.extend(rest.taken);
            alone.extend(rest.alone);
        }
        let Some(first) = left.first() else { break };
        if engine.flights.enter_within(first.id, ends.patience()).await.is_none() {
            ends.lose_patience();
            break;
        }
    }
    alone.extend(left);
    ends.settle_each(alone, engine.concurrency).await
}

/// What a group did not settle.
#[derive(Debug, Default)]
struct GroupRest {
    /// Another pass is fetching them.
    taken: Vec<PlannedItem>,
    /// They have to be asked for one by one.
    alone: Vec<PlannedItem>,
}

/// An item, and what the peer that listed it said of it.
type Asking = (PlannedItem, Option<FetchError>);

async fn settle_group(ends: &PageEnds<'_>, items: Vec<PlannedItem>) -> Result<GroupRest, StoreError> {
    let (engine, peer) = (ends.pass.engine, ends.pass.peer);
    let (mut rest, mut flights, mut ours) = (GroupRest::default(), Vec::new(), Vec::new());
    for item in items {
        match engine.flights.try_enter(item.id) {
            Some(flight) => {
                flights.push(flight);
                ours.push(item);
            }
            None => rest.taken.push(item),
        }
    }
    let to_fetch = plan_again(ends, ours, &mut rest).await?;
    let mut left: Vec<Asking> = to_fetch.into_iter().map(|item| (item, None)).collect();
    let others = other_holders(engine, &peer.url);
    for holder in std::iter::once(peer).chain(others.iter().filter(|other| has_bulk(other))) {
        left = ask_holder(ends, holder, left, &mut rest).await?;
    }
    for _ in 0..BUSY_ASKS_MAX {
        let (busy, done): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|(_, error)| matches!(error, Some(FetchError::Busy { .. })));
        left = done;
        let again = busy.into_iter().map(|(item, _)| (item, None)).collect();
        left.extend(ask_holder(ends, peer, again, &mut rest).await?);
    }
    let are_all_asked = others.iter().all(has_bulk);
    for (item, error) in left {
        match error {
            Some(error) if are_all_asked => ends.note(item, error.into()),
            _ => rest.alone.push(item),
        }
    }
    Ok(rest)
}

/// Since the page was planned another pass may have brought some of them, and some are left to the retries.
async fn plan_again(
    ends: &PageEnds<'_>,
    items: Vec<PlannedItem>,
    rest: &mut GroupRest,
) -> Result<Vec<PlannedItem>, StoreError> {
    let (pass, asks_known) = (ends.pass, asks_known(ends.pass));
    let look = move |store: &crate::core::store::Store| {
        let one = |item: PlannedItem| {
            let known = if asks_known { store.wanted(&item.id)? } else { None };
            Ok((decide(store.wants(&item.record)?), known, item))
        };
        items.into_iter().map(one).collect::<Result<Vec<_>, StoreError>>()
    };
    let mut to_fetch = Vec::new();
    for (action, known, item) in pass.engine.store.call(look).await? {
        let end = ItemEnd::without_request(action);
        match end.or_else(|| known.and_then(|row| known_end(pass, &item, row))) {
            Some(end) => ends.note(item, end),
            None if action == Action::Fetch => to_fetch.push(item),
            None => rest.alone.push(item),
        }
    }
    Ok(to_fetch)
}

/// Asks one holder until it has said something of every item, or delivers nothing more.
async fn ask_holder(
    ends: &PageEnds<'_>,
    holder: &Peer,
    asking: Vec<Asking>,
    rest: &mut GroupRest,
) -> Result<Vec<Asking>, StoreError> {
    let pass = ends.pass;
    let (mut undelivered, mut left) = (asking, Vec::new());
    for ask in 1..=ASKS_MAX {
        if undelivered.is_empty() {
            break;
        }
        let (items, errors): (Vec<_>, Vec<_>) = undelivered.into_iter().unzip();
        let told = |place: usize, end: &ItemEnd| {
            if let Some(item) = items.get(place) {
                ends.note_settled(item, end);
            }
        };
        let asked = ask_in_bulk(pass.engine, pass.progress, &holder.url, (&items, &told)).await?;
        let is_last = ask == ASKS_MAX || asked.ends.iter().all(Option::is_none);
        undelivered = Vec::new();
        for ((item, error), end) in items.into_iter().zip(errors).zip(asked.ends) {
            match end {
                Some(BulkEnd::Ended(end)) if end.is_settled() => {}
                Some(BulkEnd::Ended(end)) => ends.note(item, end),
                Some(BulkEnd::Alone) => rest.alone.push(item),
                Some(BulkEnd::Error(full @ FetchError::DiskFull(_))) => ends.note(item, full.into()),
                Some(BulkEnd::Error(said)) => left.push((item, error.or(Some(said)))),
                None if is_last => left.push((item, error.or_else(|| asked.cut.clone()))),
                None => undelivered.push((item, error)),
            }
        }
    }
    left.extend(undelivered);
    Ok(left)
}
