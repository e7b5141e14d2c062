//! One artifact's body for a peer: verified whole before the first byte, or a 404.
//!
//! How it works: an inline body, and a file on its first read up to the store's own bound, is verified by the store as
//! it is opened. A larger file that was not verified in this process is hashed here before the answer begins; so what
//! is sent is known to be good, also for a peer that takes any clean end for a whole body.
//!
//! Failure: a body found bad is reported to the store, which withdraws it and wants it back; the peer sees a miss.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::context::InternalContext;
use super::reply::{Refused, answer, empty};
use super::router::Shared;
use crate::core::base::executor::{StoreExecutor, run};
use crate::core::base::ids::{ArtifactId, Digest};
use crate::core::mesh::wire::RECORD_HEADER;
use crate::core::server::public::range::{Conditions, Selection, etag};
use crate::core::store::record::Record;
use crate::core::store::{FileBody, OpenBody};

/// Bytes read in one step: large enough for disks, small enough to hold many of.
const READ_BYTES: u64 = 256 << 10;

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
    let opening = record.clone();
    let Some(body) = context.store.call(move |store| store.open_body(&opening)).await? else {
        return Err(lost());
    };
    let selection = match conditions.select(&record.digest, record.size) {
        Ok(selection) => selection,
        Err(_) => return Ok(unsatisfiable(record.size)),
    };
    let body = whole(context, &record, body).await?;
    Ok(respond(context, &record, body, selection))
}

fn lost() -> Refused {
    let message = "the artifact's body is not here whole".to_owned();
    Refused { status: StatusCode::NOT_FOUND, code: "body_lost", message }
}

fn is_wanted_version(headers: &HeaderMap, digest: &Digest) -> bool {
    let Some(wanted) = headers.get(header::IF_MATCH) else { return true };
    let tag = etag(digest);
    wanted.to_str().is_ok_and(|list| list.split(',').map(str::trim).any(|item| item == "*" || item == tag))
}

fn unsatisfiable(size: u64) -> Response {
    let mut response = empty(StatusCode::RANGE_NOT_SATISFIABLE);
    if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    response
}

/// The body, known to be whole and good; or a 404, once the store knows what was found.
async fn whole(context: &InternalContext, record: &Record, body: OpenBody) -> Result<OpenBody, Refused> {
    let OpenBody::File(file) = body else { return Ok(body) };
    if file.verified {
        return Ok(OpenBody::File(file));
    }
    let (handle, length) = (Arc::clone(&file.file), file.length);
    let hashed = run(context.executor.as_ref(), move || hash_file(&handle, length)).await;
    let hashed = hashed.map_err(|lost| internal(&lost))?.map_err(|error| internal(&error))?;
    let record = record.clone();
    if hashed != Some(record.digest) {
        let found = hashed.map_or_else(|| "it is short".to_owned(), |digest| format!("its digest is {digest}"));
        let report = move |store: &crate::core::store::Store| {
            store.report_bad_body(&record, &found);
            Ok(())
        };
        context.store.call(report).await?;
        return Err(lost());
    }
    let noted = context.store.call(move |store| {
        store.note_verified(&record);
        Ok(())
    });
    noted.await?;
    Ok(OpenBody::File(FileBody { verified: true, ..file }))
}

fn internal(error: &dyn std::error::Error) -> Refused {
    let message = format!("failed to read the body: {error}");
    Refused { status: StatusCode::INTERNAL_SERVER_ERROR, code: "internal", message }
}

/// The digest of a file's first `length` bytes; `None` if it is shorter. Blocks.
fn hash_file(file: &File, length: u64) -> std::io::Result<Option<Digest>> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0_u8; usize::try_from(READ_BYTES).unwrap_or(0)];
    let mut offset = 0;
    while offset < length {
        let want = usize::try_from((length - offset).min(READ_BYTES)).unwrap_or(0);
        let Some(part) = buffer.get_mut(..want) else { return Ok(None) };
        match file.read_exact_at(part, offset) {
            Ok(()) => hasher.update(part),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        };
        offset += want as u64;
    }
    Ok(Some(Digest(*hasher.finalize().as_bytes())))
}

fn respond(context: &InternalContext, record: &Record, body: OpenBody, selection: Selection) -> Response {
    let (status, range) = match selection {
        Selection::Whole => (StatusCode::OK, 0..record.size),
        Selection::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
    };
    let length = range.end.saturating_sub(range.start);
    let content_range = (status == StatusCode::PARTIAL_CONTENT)
        .then(|| format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), record.size));
    let body = match body {
        OpenBody::Inline(bytes) => Body::from(slice(&bytes, &range)),
        OpenBody::File(file) => Body::from_stream(read_range(Arc::clone(&context.executor), file.file, range)),
    };
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

/// Reads a range of a file piece by piece. An error ends the stream as an error, so the response is reset.
fn read_range(
    executor: Arc<dyn StoreExecutor>,
    file: Arc<File>,
    range: Range<u64>,
) -> impl futures_util::Stream<Item = std::io::Result<Bytes>> {
    futures_util::stream::unfold((executor, file, range), |(executor, file, range)| async move {
        if range.is_empty() {
            return None;
        }
        let want = (range.end - range.start).min(READ_BYTES);
        let (handle, offset) = (Arc::clone(&file), range.start);
        let read = run(executor.as_ref(), move || {
            let mut buffer = vec![0_u8; usize::try_from(want).unwrap_or(0)];
            handle.read_exact_at(&mut buffer, offset).map(|()| Bytes::from(buffer))
        });
        let read = read.await.unwrap_or_else(|lost| Err(std::io::Error::other(lost)));
        let end = if read.is_ok() { range.end } else { 0 };
        Some((read, (executor, file, range.start + want..end)))
    })
}
