//! The feed: pages of the change log for kura nodes, with a long poll at its end.

use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::StatusCode;

use super::context::InternalContext;
use super::listing::PAGE_ROWS_MAX;
use super::query::Query;
use super::reply::{Refused, answer, bytes};
use super::router::Shared;
use crate::core::base::ids::{Epoch, Seq, StoreId};
use crate::core::mesh::feed_frames::{FEED_CONTENT_TYPE, FEED_VERSION, FeedHeader, Frame, FrameStatus, encode};
use crate::core::store::Store;
use crate::core::store::error::StoreError;
use crate::core::store::walk::{CursorCheck, FeedPage, FeedRequest, FeedRow};

/// Rows in a page when the peer does not say.
const ROWS_DEFAULT: usize = 256;

/// Bytes of records and bodies in a page, whatever the peer asks; with one row more it stays below what a peer takes.
const PAGE_BYTES_MAX: u64 = 16 << 20;

/// Largest body that rides along.
const INLINE_BYTES_MAX: u64 = 64 << 10;

/// Longest wait for a new row.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// What a peer asks for.
#[derive(Debug, Clone, Copy)]
struct Asked {
    cursor: Option<(Option<StoreId>, Epoch)>,
    request: FeedRequest,
    origin_only: bool,
    inline_origin_only: bool,
    wait: Duration,
}

impl Asked {
    fn parse(query: &Query) -> Result<Self, Refused> {
        if query.filled("order").is_some_and(|order| order != "seq") {
            return Err(Refused::bad_request("order must be seq"));
        }
        let rows_max = query.parsed_or("max_rows", ROWS_DEFAULT)?;
        let bytes_max = query.parsed_or("max_bytes", PAGE_BYTES_MAX)?;
        if rows_max == 0 || bytes_max == 0 {
            return Err(Refused::bad_request("max_rows and max_bytes must be greater than 0"));
        }
        let store_id = query.parsed::<StoreId>("store_id")?;
        let wait = Duration::from_millis(query.parsed_or("wait_ms", 0)?);
        Ok(Self {
            cursor: query.parsed::<Epoch>("epoch")?.map(|epoch| (store_id, epoch)),
            request: FeedRequest {
                after: Seq(query.parsed_or("after", 0)?),
                up_to: query.parsed("up_to")?.map(Seq),
                rows_max: rows_max.min(PAGE_ROWS_MAX),
                bytes_max: bytes_max.min(PAGE_BYTES_MAX),
                inline_up_to: query.parsed_or("inline_up_to", 0)?.min(INLINE_BYTES_MAX),
            },
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

async fn page(context: &InternalContext, query: &Query) -> Result<Response, Refused> {
    let mut asked = Asked::parse(query)?;
    let Some(after) = position(context, &asked).await? else {
        let message = "the cursor's store or epoch is not known here; start again from 0".to_owned();
        return Err(Refused { status: StatusCode::CONFLICT, code: "cursor_void", message });
    };
    asked.request.after = after;
    wait_for_rows(context, after, asked.wait).await?;
    let (instance_id, now_ms) = (context.instance_id, context.clock.now_ms());
    let encoded = context.store.call(move |store| {
        let page = store.feed_page(&asked.request)?;
        let stats = store.stats();
        let header = FeedHeader {
            version: FEED_VERSION,
            store_id: stats.store_id,
            instance_id,
            epoch: page.epoch,
            head_seq: page.head_seq,
            after,
            next: page.next,
            evicted_floor_ms: stats.evicted_floor_ms,
            now_ms,
        };
        Ok(encode_page(header, page, &asked))
    });
    Ok(bytes(encoded.await?, FEED_CONTENT_TYPE))
}

/// Where the page begins; `None` if the cursor means nothing here.
async fn position(context: &InternalContext, asked: &Asked) -> Result<Option<Seq>, StoreError> {
    let after = asked.request.after;
    let Some((store_id, epoch)) = asked.cursor else {
        return Ok(Some(after));
    };
    context.store.call(move |store| position_in(store, store_id, epoch, after)).await
}

fn position_in(store: &Store, store_id: Option<StoreId>, epoch: Epoch, after: Seq) -> Result<Option<Seq>, StoreError> {
    if store_id.is_some_and(|store_id| store_id != store.stats().store_id) {
        return Ok(None);
    }
    Ok(match store.check_cursor(epoch, after)? {
        CursorCheck::Valid(seq) | CursorCheck::Clamped(seq) => Some(seq),
        CursorCheck::Void => None,
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

fn encode_page(header: FeedHeader, page: FeedPage, asked: &Asked) -> Bytes {
    let own = header.store_id;
    let mut bytes = BytesMut::new();
    encode(&Frame::Header(header), &mut bytes);
    let mut rows = 0;
    for row in page.rows {
        let frame = match row {
            FeedRow::Put(record, _) if asked.origin_only && record.origin != own => continue,
            FeedRow::Put(record, body) => {
                let rides = !asked.inline_origin_only || record.origin == own;
                let body = body.filter(|_| rides);
                Frame::Row { status: FrameStatus::Ok, record: record.to_wire_bytes().into(), body }
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
