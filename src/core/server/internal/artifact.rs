//! One artifact's body for a peer: found good before the first byte, or verified while it goes out.
//!
//! How it works: an inline body, and a file on its first read up to the store's own bound, is verified by the store as
//! it is opened. A larger file that was not verified in this process is hashed while it goes out, its last chunk held
//! back until the whole proved good: hashing gigabytes first would keep the peer waiting beyond its patience. Such a file
//! goes out as it lies there if it is asked for with `If-Match` and its digest: who does that holds the whole against
//! it, and if it is wrong asks for the first byte with `x-kura-verify`. What was found before is forgotten then, so that
//! the bad copy is found where it lies: by this answer, or, if the peer does not wait for its end, by the next one.
//!
//! Failure: a body found bad is reported to the store, which withdraws it and wants it back. The peer sees a miss, or,
//! after the header, an answer that ends short of its length; never a clean end.

use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::context::InternalContext;
use super::reply::{Refused, answer, empty};
use super::router::Shared;
use crate::core::base::ids::{ArtifactId, Digest};
use crate::core::mesh::wire::{RECORD_HEADER, VERIFY_HEADER};
use crate::core::server::file_reader::{FileReader, ReadContext};
use crate::core::server::public::range::{Conditions, Selection, etag};
use crate::core::store::record::Record;
use crate::core::store::{OpenBody, Store};

/// `GET /_internal/bootstrap/artifacts/{id}`.
pub(super) async fn get(State(context): Shared, Path(id): Path<String>, headers: HeaderMap) -> Response {
    answer(serve(&context, &id, &headers).await)
}

async fn serve(context: &Arc<InternalContext>, id: &str, headers: &HeaderMap) -> Result<Response, Refused> {
    let id: ArtifactId = id.parse().map_err(|_| Refused::bad_request("the id must be 64 lower-case hex digits"))?;
    let conditions = Conditions::parse(headers).map_err(|_| Refused::bad_request("the Range header is malformed"))?;
    let Some(record) = context.store.call(move |store| store.lookup(&id)).await? else {
        return Ok(empty(StatusCode::NOT_FOUND));
    };
    if !is_wanted_version(headers, &record.digest) {
        return Ok(empty(StatusCode::PRECONDITION_FAILED));
    }
    let (opening, is_doubted) = (record.clone(), headers.contains_key(VERIFY_HEADER));
    let slot = context.bodies.take().await?;
    let open = move |store: &Store| {
        if is_doubted {
            store.note_doubted(&opening);
        }
        store.open_body(&opening)
    };
    let Some(body) = context.store.call(open).await? else {
        return Err(lost());
    };
    let selection = match conditions.select(&record.digest, record.size) {
        Ok(selection) => selection,
        Err(_) => return Ok(unsatisfiable(record.size)),
    };
    let range = match &selection {
        Selection::Whole => 0..record.size,
        Selection::Part(range) => range.clone(),
    };
    let body = match body {
        OpenBody::Inline(bytes) => Body::from(slice(&bytes, &range)),
        OpenBody::File(file) => {
            let reading = ReadContext { executor: Arc::clone(&context.executor), store: context.store.clone() };
            let is_checked_there = !is_doubted && names_digest(headers, &record.digest);
            let begin = if is_checked_there { FileReader::unverified } else { FileReader::new };
            let chunks = begin(reading, Box::new(record.clone()), file, range.clone()).into_stream();
            // The place is held until the last byte is out, or the peer is gone.
            Body::from_stream(chunks.inspect(move |_| _ = &slot))
        }
    };
    Ok(respond(&record, body, &selection, &range))
}

fn lost() -> Refused {
    let message = "the artifact's body is not here whole".to_owned();
    Refused { status: StatusCode::NOT_FOUND, code: "body_lost", message }
}

fn is_wanted_version(headers: &HeaderMap, digest: &Digest) -> bool {
    !headers.contains_key(header::IF_MATCH) || is_match(headers, "*") || names_digest(headers, digest)
}

/// Whether the peer has the digest of the body that it asks for, to hold what it gets against.
fn names_digest(headers: &HeaderMap, digest: &Digest) -> bool {
    is_match(headers, &etag(digest))
}

fn is_match(headers: &HeaderMap, tag: &str) -> bool {
    let wanted = headers.get(header::IF_MATCH).and_then(|list| list.to_str().ok()).unwrap_or_default();
    wanted.split(',').any(|item| item.trim() == tag)
}

fn unsatisfiable(size: u64) -> Response {
    let mut response = empty(StatusCode::RANGE_NOT_SATISFIABLE);
    if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    response
}

fn respond(record: &Record, body: Body, selection: &Selection, range: &Range<u64>) -> Response {
    let status = if *selection == Selection::Whole { StatusCode::OK } else { StatusCode::PARTIAL_CONTENT };
    let length = range.end.saturating_sub(range.start);
    let content_range = (status == StatusCode::PARTIAL_CONTENT)
        .then(|| format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), record.size));
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let mut set = |name: http::HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    set(header::CONTENT_TYPE, &record.content_type);
    set(header::CONTENT_LENGTH, &length.to_string());
    set(header::ACCEPT_RANGES, "bytes");
    set(header::ETAG, &etag(&record.digest));
    set(http::HeaderName::from_static(RECORD_HEADER), &hex::encode(record.to_wire_bytes()));
    if let Some(value) = content_range {
        set(header::CONTENT_RANGE, &value);
    }
    response
}

fn slice(bytes: &Bytes, range: &Range<u64>) -> Bytes {
    let index = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(index(range.start)..index(range.end).max(index(range.start)))
}
