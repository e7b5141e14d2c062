//! The feed: pages of the change log for kura nodes, with a long poll at its end.

use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::StatusCode;

use super::context::InternalContext;
use super::listing::PAGE_ROWS_MAX;
use super::query::Query;
use super::reply::{Refused, answer, bytes, json};
use super::router::Shared;
use crate::core::base::ids::{Epoch, Seq, StoreId};
use crate::core::mesh::feed_frames::{
    FEED_CONTENT_TYPE, FEED_VERSION, FeedHeader, FeedOrder, Frame, FrameStatus, encode, encode_row,
};
use crate::core::mesh::holdings::RANGE_DIGITS;
use crate::core::mesh::wire::SetDigestReply;
use crate::core::store::Store;
use crate::core::store::backfill::BackfillRequest;
use crate::core::store::error::StoreError;
use crate::core::store::set_digest::PREFIX_LEN;
use crate::core::store::walk::{CursorCheck, FeedRequest, FeedRow};

/// Rows in a page when the peer does not say.
const ROWS_DEFAULT: usize = 256;

/// Bytes of records and bodies in a page, whatever the peer asks; with one row more it stays below what a peer takes.
const PAGE_BYTES_MAX: u64 = 16 << 20;

/// Largest body that rides along.
const INLINE_BYTES_MAX: u64 = 64 << 10;

/// Bytes that the row of most artifacts takes without its body.
const ROW_ROOM_BYTES: usize = 320;

/// Longest wait for a new row.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// What a peer asks for.
#[derive(Debug, Clone, Copy)]
struct Asked {
    cursor: Option<(Option<StoreId>, Epoch)>,
    listing: Listing,
    origin_only: bool,
    inline_origin_only: bool,
    wait: Duration,
}

/// Which rows, in which order.
#[derive(Debug, Clone, Copy)]
enum Listing {
    Seq(FeedRequest),
    Version(BackfillRequest),
}

impl Asked {
    fn parse(query: &Query) -> Result<Self, Refused> {
        let rows_max = query.parsed_or("max_rows", ROWS_DEFAULT)?;
        let bytes_max = query.parsed_or("max_bytes", PAGE_BYTES_MAX)?;
        if rows_max == 0 || bytes_max == 0 {
            return Err(Refused::bad_request("max_rows and max_bytes must be greater than 0"));
        }
        let (rows_max, bytes_max) = (rows_max.min(PAGE_ROWS_MAX), bytes_max.min(PAGE_BYTES_MAX));
        let after = Seq(query.parsed_or("after", 0)?);
        let up_to = query.parsed("up_to")?.map(Seq);
        let inline_up_to = query.parsed_or("inline_up_to", 0)?.min(INLINE_BYTES_MAX);
        let listing = match query.filled("order") {
            None | Some("seq") => Listing::Seq(FeedRequest { after, up_to, rows_max, bytes_max, inline_up_to }),
            Some("version") => Listing::Version(BackfillRequest {
                above: after,
                up_to: up_to.unwrap_or(Seq(u64::MAX)),
                below: query.parsed("position")?,
                rows_max,
                bytes_max,
                inline_up_to,
            }),
            Some(_) => return Err(Refused::bad_request("order must be seq or version")),
        };
        let store_id = query.parsed::<StoreId>("store_id")?;
        let wait = Duration::from_millis(query.parsed_or("wait_ms", 0)?);
        Ok(Self {
            cursor: query.parsed::<Epoch>("epoch")?.map(|epoch| (store_id, epoch)),
            listing,
            origin_only: query.parsed_or("origin_only", false)?,
            inline_origin_only: query.parsed_or("inline_origin_only", false)?,
            wait: wait.min(WAIT_MAX),
        })
    }
}

/// `GET /_internal/feed`.
pub(super) async fn feed(State(context): Shared, RawQuery(raw): RawQuery) -> Response {
    answer(page(&context, &Query::parse(raw.as_deref())).await)
}

/// `GET /_internal/digest`.
pub(super) async fn digest(State(context): Shared, RawQuery(raw): RawQuery) -> Response {
    answer(set_digest(&context, &Query::parse(raw.as_deref())).await)
}

async fn set_digest(context: &InternalContext, query: &Query) -> Result<Response, Refused> {
    let prefix_len = query.parsed_or("prefix_len", 0_usize)?;
    if query.filled("prefix").is_some() {
        return deep_digest(context, super::holdings::prefix(query)?, prefix_len).await;
    }
    if prefix_len > PREFIX_LEN {
        return Err(Refused::bad_request("prefix_len must be 0 or 1"));
    }
    let store = context.store.ready().await?;
    let (stats, digest) = (store.stats(), store.set_digest().ok_or(StoreError::NotOpen)?);
    let reply = SetDigestReply::of(&digest, (stats.store_id, stats.epoch), prefix_len, store.stubs());
    Ok(json(StatusCode::OK, &reply))
}

/// The parts of a range: looked up, not known.
async fn deep_digest(context: &InternalContext, prefix: String, prefix_len: usize) -> Result<Response, Refused> {
    if prefix_len != RANGE_DIGITS {
        return Err(Refused::bad_request(format!("with a prefix, prefix_len must be {RANGE_DIGITS}")));
    }
    let reply = context.store.call(move |store| {
        let (stats, digest) = (store.stats(), store.set_digest().ok_or(StoreError::NotOpen)?);
        let reply = SetDigestReply::of(&digest, (stats.store_id, stats.epoch), prefix_len, store.stubs());
        Ok::<_, StoreError>(reply.with_ranges(store.deep_digest(&prefix, prefix_len)?))
    });
    Ok(json(StatusCode::OK, &reply.await?))
}

async fn page(context: &InternalContext, query: &Query) -> Result<Response, Refused> {
    let mut asked = Asked::parse(query)?;
    let placed = context.store.call(move |store| place(store, asked)).await?;
    let Some(listing) = placed else {
        let message = "the cursor's store or epoch is not known here; start again from 0".to_owned();
        return Err(Refused { status: StatusCode::CONFLICT, code: "cursor_void", message });
    };
    asked.listing = listing;
    if let Listing::Seq(request) = listing {
        wait_for_rows(context, request.after, asked.wait).await?;
    }
    let (instance_id, now_ms) = (context.instance_id, context.clock.now_ms());
    let encoded = context.store.call(move |store| {
        let (mut header, rows) = match asked.listing {
            Listing::Seq(request) => by_seq(store, &request)?,
            Listing::Version(request) => by_version(store, &request)?,
        };
        (header.instance_id, header.now_ms) = (instance_id, now_ms);
        Ok(encode_page(header, rows, &asked))
    });
    Ok(bytes(encoded.await?, FEED_CONTENT_TYPE))
}

fn by_seq(store: &Store, request: &FeedRequest) -> Result<(FeedHeader, Vec<FeedRow>), StoreError> {
    let page = store.feed_page(request)?;
    let header = header(store, page.epoch, page.head_seq, request.after);
    Ok((FeedHeader { next: page.next, ..header }, page.rows))
}

fn by_version(store: &Store, request: &BackfillRequest) -> Result<(FeedHeader, Vec<FeedRow>), StoreError> {
    let page = store.backfill_page(request)?;
    let header = header(store, page.epoch, page.head_seq, request.above);
    let position = page.position.map(|position| position.to_string());
    Ok((FeedHeader { order: FeedOrder::Version, position, ..header }, page.rows))
}

fn header(store: &Store, epoch: Epoch, head_seq: Seq, after: Seq) -> FeedHeader {
    let stats = store.stats();
    FeedHeader {
        version: FEED_VERSION,
        store_id: stats.store_id,
        instance_id: stats.instance_id,
        epoch,
        head_seq,
        after,
        next: after,
        evicted_floor_ms: stats.evicted_floor_ms,
        now_ms: 0,
        order: FeedOrder::Seq,
        position: None,
    }
}

/// The listing as far as its cursor holds here; `None` if the cursor means nothing. In the order of versions it holds
/// only as a whole: below a sequence number that was taken back there may be rows that were not there before.
fn place(store: &Store, asked: Asked) -> Result<Option<Listing>, StoreError> {
    let Some((store_id, epoch)) = asked.cursor else {
        return Ok(Some(asked.listing));
    };
    if store_id.is_some_and(|store_id| store_id != store.stats().store_id) {
        return Ok(None);
    }
    Ok(match asked.listing {
        Listing::Seq(request) => match store.check_cursor(epoch, request.after)? {
            CursorCheck::Valid(after) | CursorCheck::Clamped(after) => {
                Some(Listing::Seq(FeedRequest { after, ..request }))
            }
            CursorCheck::Void => None,
        },
        Listing::Version(request) => match store.check_cursor(epoch, request.up_to)? {
            CursorCheck::Valid(_) => Some(asked.listing),
            CursorCheck::Clamped(_) | CursorCheck::Void => None,
        },
    })
}

/// Waits until the log grows beyond `after`, the wait is over, or the node goes away.
async fn wait_for_rows(context: &InternalContext, after: Seq, wait: Duration) -> Result<(), StoreError> {
    if wait.is_zero() {
        return Ok(());
    }
    let mut head = context.store.ready().await?.head();
    let grown = head.wait_for(|head| *head > after);
    tokio::select! {
        biased;
        // A closed store ends the wait too; the page that follows says so.
        _ = tokio::time::timeout(wait, grown) => {}
        () = context.shutdown.cancelled() => {}
    }
    Ok(())
}

/// About what a row takes in its page: growing one of some megabytes copies it several times.
fn room_for(row: &FeedRow) -> usize {
    match row {
        FeedRow::Put(_, body) => ROW_ROOM_BYTES + body.as_ref().map_or(0, Bytes::len),
        FeedRow::NamespaceDelete(tombstone) => ROW_ROOM_BYTES + tombstone.namespace.len(),
    }
}

fn encode_page(header: FeedHeader, page: Vec<FeedRow>, asked: &Asked) -> Bytes {
    let own = header.store_id;
    let mut bytes = BytesMut::with_capacity(page.iter().map(room_for).sum());
    encode(&Frame::Header(header), &mut bytes);
    let mut rows = 0;
    for row in page {
        let frame = match row {
            FeedRow::Put(record, _) if asked.origin_only && record.origin != own => continue,
            FeedRow::Put(record, body) => {
                let rides = !asked.inline_origin_only || record.origin == own;
                let body = body.as_deref().filter(|_| rides).map(|body| (body, record.digest));
                encode_row(FrameStatus::Ok, &record.to_wire_bytes(), body, &mut bytes);
                rows += 1;
                continue;
            }
            FeedRow::NamespaceDelete(tombstone) => Frame::Tombstone {
                seq: tombstone.seq,
                version_ms: tombstone.version_ms,
                namespace: tombstone.namespace,
            },
        };
        rows += 1;
        encode(&frame, &mut bytes);
    }
    encode(&Frame::End { rows }, &mut bytes);
    bytes.freeze()
}
