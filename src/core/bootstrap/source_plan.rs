//! Where the listing of a kura peer begins: behind its cursor, or with a backfill below its head of now.
//!
//! How it works: the peer is asked for one row behind the cursor, which says whether the cursor still holds and how far
//! the peer's head is ahead. A short way is followed. For a long one, and where there is no cursor, the head of now
//! becomes the place to follow from, and what lies below it is walked, newest version first, unless the peer's digest at
//! that head is ours. A walk that is under way grows by the new gap and begins anew: rows are listed again, nothing is
//! fetched again.
//!
//! Invariants: the head is taken before anything is listed, tombstones included, so that whatever changes meanwhile has
//! a row above it. A cursor that the peer does not know, or that it holds only in part because its log was taken back,
//! is forgotten: rows that were beaten by rows since lost may be back below it.

use super::engine::KuraPeer;
use super::source::SourceError;
use crate::core::base::ids::{Epoch, Seq, StoreId};
use crate::core::mesh::client::{FeedQuery, PeerClient, PeerError};
use crate::core::mesh::feed_frames::FeedHeader;
use crate::core::mesh::wire::SetDigestReply;
use crate::core::store::cursor::{Cursor, Walk};
use crate::core::store::error::StoreError;
use crate::core::store::store_handle::StoreHandle;

/// A gap of this many rows is followed however few the peer has in all: a few pages.
const FOLLOWED_GAP_MIN: u64 = 8192;

/// A gap of up to one in so many of the peer's artifacts is followed too: a walk looks at the keys of all of them.
const FOLLOWED_GAP_SHARE: u64 = 4;

/// The peer's log as of now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    epoch: Epoch,
    seq: Seq,
}

/// Moves the durable cursor of a peer to where the next listing begins, and returns it.
pub(super) async fn plan_listing(
    client: &PeerClient,
    store: &StoreHandle,
    url: &str,
    peer: KuraPeer,
) -> Result<Option<Cursor>, SourceError> {
    let key = peer.store_id.to_string();
    let known = store.call(move |store| Ok::<_, StoreError>(store.cursor(&key).ok().flatten())).await?;
    let held = match known.clone() {
        Some(cursor) => head_behind(client, url, &cursor).await?.map(|head| (cursor, head)),
        None => None,
    };
    let planned = match &held {
        Some((cursor, head)) if is_short(cursor, *head, peer) => Some(cursor.clone()),
        _ if !peer.can_backfill => None,
        _ => Some(walk_or_jump(client, store, (url, peer), known.as_ref().filter(|_| held.is_some())).await?),
    };
    if planned != known {
        tracing::info!(peer = %url, cursor = ?planned, "peer_listing_planned");
        let (key, planned) = (peer.store_id.to_string(), planned.clone());
        store.call(move |store| store.change_cursor(&key, |_| planned)).await?;
    }
    Ok(planned)
}

/// A cursor error as it is handed on; a cursor that means nothing to its peer is forgotten, so that the next pass plans
/// anew.
pub(super) async fn forget_void(
    store: &StoreHandle,
    store_id: StoreId,
    error: PeerError,
) -> Result<PeerError, StoreError> {
    if let PeerError::CursorVoid { peer } = &error {
        tracing::info!(%peer, "feed_cursor_void");
        store.call(move |store| store.change_cursor(&store_id.to_string(), |_| None)).await?;
    }
    Ok(error)
}

/// Whether what is behind the cursor is followed rather than walked.
fn is_short(cursor: &Cursor, head: Head, peer: KuraPeer) -> bool {
    let gap = head.seq.0.saturating_sub(cursor.followed.0);
    !peer.can_backfill || gap <= FOLLOWED_GAP_MIN.max(peer.artifacts / FOLLOWED_GAP_SHARE)
}

/// A walk below the peer's head of now; none where its digest at that head is ours, so that all it has is here.
async fn walk_or_jump(
    client: &PeerClient,
    store: &StoreHandle,
    (url, peer): (&str, KuraPeer),
    cursor: Option<&Cursor>,
) -> Result<Cursor, SourceError> {
    if !peer.can_digest {
        return Ok(walk_from(peer.store_id, head_of(client, url, peer).await?, cursor));
    }
    let theirs = client.set_digest(url).await?;
    check_store(url, peer, theirs.store_id)?;
    let head = Head { epoch: theirs.epoch, seq: theirs.head_seq };
    let names = (theirs.store_id, theirs.epoch);
    let ours = store.call(|store| Ok::<_, StoreError>(store.set_digest())).await?;
    // Only the buckets are compared: each node has a head of its own.
    if ours.is_some_and(|ours| SetDigestReply::of(&ours, names, 0, 0).buckets == theirs.buckets) {
        return Ok(Cursor { store_id: peer.store_id, epoch: head.epoch, followed: head.seq, walk: None });
    }
    Ok(walk_from(peer.store_id, head, cursor))
}

fn walk_from(store_id: StoreId, head: Head, cursor: Option<&Cursor>) -> Cursor {
    let lowest = |cursor: &Cursor| cursor.walk.as_ref().map_or(cursor.followed, |walk| walk.lo_seq);
    let lo_seq = cursor.map_or(Seq(0), lowest);
    let walk = (head.seq > lo_seq).then_some(Walk { lo_seq, hi_seq: head.seq, position: None });
    Cursor { store_id, epoch: head.epoch, followed: head.seq, walk }
}

/// The peer's head if the cursor holds as it is.
async fn head_behind(client: &PeerClient, url: &str, cursor: &Cursor) -> Result<Option<Head>, SourceError> {
    let place = (cursor.store_id, cursor.epoch);
    match client.feed(url, &one_row(Some(place), cursor.followed)).await {
        Ok(page) if page.header.after < cursor.followed => Ok(None),
        Ok(page) => Ok(Some(head_in(&page.header))),
        Err(PeerError::CursorVoid { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn head_of(client: &PeerClient, url: &str, peer: KuraPeer) -> Result<Head, SourceError> {
    let page = client.feed(url, &one_row(None, Seq(0))).await?;
    check_store(url, peer, page.header.store_id)?;
    Ok(head_in(&page.header))
}

/// Another store may be behind the address by now; the next round of statuses says so.
fn check_store(url: &str, peer: KuraPeer, store_id: StoreId) -> Result<(), PeerError> {
    if store_id == peer.store_id { Ok(()) } else { Err(PeerError::CursorVoid { peer: url.to_owned() }) }
}

fn head_in(header: &FeedHeader) -> Head {
    Head { epoch: header.epoch, seq: header.head_seq }
}

fn one_row(cursor: Option<(StoreId, Epoch)>, after: Seq) -> FeedQuery {
    FeedQuery {
        cursor,
        after,
        up_to: None,
        origin_only: false,
        inline_up_to: 0,
        inline_origin_only: false,
        wait: std::time::Duration::ZERO,
        rows_max: 1,
        bytes_max: 1,
    }
}
