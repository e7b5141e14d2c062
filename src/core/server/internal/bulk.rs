//! Many bodies in one answer, as a stream of frames: each read when it is about to be sent, and never more than a few.
//!
//! How it works: the items asked for are looked up in one step and cut into batches by size. A batch is read and encoded
//! as one job of the executor, at most [`READ_AHEAD`] batches ahead of what the peer takes.
//!
//! Invariants: a body goes out only as the store opened it: whole and verified in this process. The memory of all
//! answers together is bounded by [`super::slots::BULK_STREAMS_MAX`]. A slot ends with its answer, also when the peer goes away.
//!
//! Failure: what is wrong with one item is said in its frame; a peer that finds no slot is told when to come back.

use std::os::unix::fs::FileExt;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, Stream};
use http::{HeaderValue, header};
use tokio::sync::OwnedSemaphorePermit;

use super::context::InternalContext;
use super::reply::{Refused, answer};
use super::router::Shared;
use crate::core::mesh::bulk_frames::{
    BULK_ANSWER_BYTES_MAX, BULK_BODY_BYTES_MAX, BULK_CONTENT_TYPE, BULK_ITEMS_MAX, BULK_VERSION, BulkEncoder,
    BulkHeader, BulkItem, BulkRequest, EncodedItems, group_by_size,
};
use crate::core::mesh::feed_frames::FrameStatus;
use crate::core::store::error::StoreError;
use crate::core::store::record::Record;
use crate::core::store::store_handle::StoreHandle;
use crate::core::store::{OpenBody, Store};

/// Bytes of bodies read in one job, or a single larger one: a job costs little beside them.
const BATCH_BYTES: u64 = 256 << 10;

/// Batches read before the peer has taken the one before: the disk works while the network does.
const READ_AHEAD: usize = 2;

/// `POST /_internal/bulk`.
pub(super) async fn bulk(State(context): Shared, body: Bytes) -> Response {
    answer(serve(&context, &body).await)
}

async fn serve(context: &InternalContext, body: &Bytes) -> Result<Response, Refused> {
    let request: BulkRequest = serde_json::from_slice(body)
        .map_err(|error| Refused::bad_request(format!("the request is malformed: {error}")))?;
    if request.items.len() > BULK_ITEMS_MAX {
        return Err(Refused::bad_request(format!("at most {BULK_ITEMS_MAX} items may be asked for")));
    }
    let slot = context.bulk.take().await?;
    let (found, store_id) =
        context.store.call(move |store| Ok((look_up(store, &request.items), store.stats().store_id))).await?;
    let store = context.store.clone();
    let batches = group_by_size(found, Found::bytes, BULK_ITEMS_MAX, BATCH_BYTES);
    let batches = futures_util::stream::iter(batches).map(move |batch| read(store.clone(), batch)).buffered(READ_AHEAD);
    let mut encoder = BulkEncoder::default();
    let header = encoder.header(&BulkHeader { version: BULK_VERSION, store_id });
    let sending = Sending { batches: batches.boxed(), encoder, is_ended: false, _slot: slot };
    let frames = futures_util::stream::once(async move { Ok(header) }).chain(sending.frames());
    let mut response = Response::new(Body::from_stream(frames));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(BULK_CONTENT_TYPE));
    Ok(response)
}

/// What is left to send.
struct Sending {
    batches: BoxStream<'static, EncodedItems>,
    encoder: BulkEncoder,
    is_ended: bool,
    _slot: OwnedSemaphorePermit,
}

impl Sending {
    fn frames(self) -> impl Stream<Item = std::io::Result<Bytes>> {
        futures_util::stream::unfold(self, |mut sending| async move {
            if sending.is_ended {
                return None;
            }
            let bytes = match sending.batches.next().await {
                Some(batch) => sending.encoder.items(batch),
                None => {
                    sending.is_ended = true;
                    sending.encoder.end()
                }
            };
            Some((Ok(bytes), sending))
        })
    }
}

/// An item asked for, and what is here of it.
#[derive(Debug)]
struct Found {
    place: u32,
    status: FrameStatus,
    record: Option<Box<Record>>,
    with_body: bool,
}

impl Found {
    fn without_record(place: u32, status: FrameStatus) -> Self {
        Self { place, status, record: None, with_body: false }
    }

    fn bytes(&self) -> u64 {
        self.record.as_ref().filter(|_| self.with_body).map_or(0, |record| record.size)
    }
}

/// Blocks.
fn look_up(store: &Store, items: &[BulkItem]) -> Vec<Found> {
    let mut room = BULK_ANSWER_BYTES_MAX;
    let look = |(place, item): (usize, &BulkItem)| {
        let mut found = look_up_one(store, u32::try_from(place).unwrap_or(u32::MAX), item);
        if let Some(record) = found.record.as_ref().filter(|_| found.status != FrameStatus::Evicted) {
            found.with_body = record.size <= BULK_BODY_BYTES_MAX.min(room);
            room = room.saturating_sub(found.bytes());
        }
        found
    };
    items.iter().enumerate().map(look).collect()
}

fn look_up_one(store: &Store, place: u32, item: &BulkItem) -> Found {
    match store.lookup(&item.id) {
        Ok(Some(record)) if record.version() >= item.version() => {
            let is_asked = record.version() == item.version();
            let status = if is_asked { FrameStatus::Ok } else { FrameStatus::Superseded };
            Found { place, status, record: Some(Box::new(record)), with_body: false }
        }
        Ok(older) => Found { record: older.map(Box::new), ..Found::without_record(place, FrameStatus::Evicted) },
        Err(error) => {
            tracing::warn!(artifact = %item.id, %error, "bulk_item_not_looked_up");
            Found::without_record(place, FrameStatus::Busy)
        }
    }
}

async fn read(store: StoreHandle, batch: Vec<Found>) -> EncodedItems {
    let places: Vec<u32> = batch.iter().map(|found| found.place).collect();
    let encoded = store.call(move |store| Ok(encode(store, batch))).await;
    encoded.unwrap_or_else(|error| {
        tracing::warn!(%error, "bulk_items_not_read");
        let mut busy = EncodedItems::default();
        places.into_iter().for_each(|place| busy.push(place, FrameStatus::Busy, &[], &[]));
        busy
    })
}

/// Blocks.
fn encode(store: &Store, batch: Vec<Found>) -> EncodedItems {
    let mut encoded = EncodedItems::default();
    for Found { place, status, record, with_body } in batch {
        match record {
            None => encoded.push(place, status, &[], &[]),
            Some(record) if !with_body => encoded.push(place, status, &record.to_wire_bytes(), &[]),
            Some(record) => {
                let asked = record.version();
                match open(store, *record) {
                    Opened::Whole(now, body) => {
                        let status = if now.version() == asked { status } else { FrameStatus::Superseded };
                        encoded.push(place, status, &now.to_wire_bytes(), &body);
                    }
                    Opened::Lost => encoded.push(place, FrameStatus::Corrupt, &[], &[]),
                    Opened::NotNow => encoded.push(place, FrameStatus::Busy, &[], &[]),
                }
            }
        }
    }
    encoded
}

/// How opening and reading a body went.
enum Opened {
    /// Its record by now, and its body unless that became too large.
    Whole(Box<Record>, Bytes),
    /// It is not here whole; the store knows.
    Lost,
    /// Something else is wrong that says nothing of the body.
    NotNow,
}

fn open(store: &Store, record: Record) -> Opened {
    let key = record.name.key.clone();
    let not_now = |error: &dyn std::error::Error| {
        tracing::warn!(key, %error, "bulk_item_not_read");
        Opened::NotNow
    };
    let (record, body) = match store.open_current(record) {
        Ok(Some(opened)) => opened,
        Ok(None) => return Opened::Lost,
        Err(error) => return not_now(&error as &StoreError),
    };
    if record.size > BULK_BODY_BYTES_MAX {
        return Opened::Whole(Box::new(record), Bytes::new());
    }
    let file = match body {
        OpenBody::Inline(bytes) => return Opened::Whole(Box::new(record), bytes),
        OpenBody::File(file) => file,
    };
    let mut bytes = vec![0_u8; usize::try_from(file.length).unwrap_or(0)];
    match file.file.read_exact_at(&mut bytes, 0) {
        Ok(()) => Opened::Whole(Box::new(record), bytes.into()),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            store.report_bad_body(&record, "it became short");
            Opened::Lost
        }
        Err(error) => not_now(&error),
    }
}
