//! The shared GET and HEAD: look up, open, choose what to send, count, answer.
//!
//! How it works: what lies in memory is answered at once; else lookup and opening are one hop to the executor. A missing, short or corrupt body found there is an
//! honest miss, since the header is not out yet. A GET that misses is asked of the peers as long as they may have what
//! is not here; a HEAD speaks of this node alone, because who hears yes from it does not send what it has. Reads that
//! come before the store is open wait for it, and are answered by peers meanwhile (see [`super::opening`]).

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use tokio::time::Instant;

use super::body::{ArtifactBody, PeerChunks};
use super::closure;
use super::opening;
use super::problem::{Direction, Problem, Shape};
use super::range::{Conditions, Selection, etag};
use super::rule::Target;
use crate::core::base::ids::ArtifactId;
use crate::core::bootstrap::read_through::{Delivery, Through};
use crate::core::server::metrics::ArtifactResult;
use crate::core::server::node::NodeContext;
use crate::core::store::OpenBody;
use crate::core::store::record::Record;

/// What a look at an artifact found.
enum Found {
    /// The client has it already.
    NotModified(Box<Record>),
    /// Here it is.
    Open(Box<Record>, OpenBody),
}

/// What a read will be answered from.
pub(super) enum Source {
    /// The client has it already.
    NotModified(Box<Record>),
    /// Here, or from a peer and in memory.
    Here(Box<Record>, OpenBody),
    /// A peer, while it sends.
    Peer(Box<Record>, PeerChunks),
}

impl Source {
    /// The whole body, if it is in memory.
    pub(super) fn bytes(&self) -> Option<Bytes> {
        match self {
            Self::Here(_, OpenBody::Inline(bytes)) => Some(bytes.clone()),
            _ => None,
        }
    }

    /// The record alone.
    pub(super) fn into_record(self) -> Box<Record> {
        match self {
            Self::NotModified(record) | Self::Here(record, _) | Self::Peer(record, _) => record,
        }
    }
}

/// Looks for what a peer or a pass has just brought here; it may be replaced or evicted in between.
const LOOKS_MAX: u32 = 3;

/// Answers a GET.
pub async fn get(
    node: &Arc<NodeContext>,
    target: Result<Target, Problem>,
    shape: Shape,
    headers: &HeaderMap,
) -> Response {
    let target = match target {
        Ok(target) => target,
        Err(problem) => return problem.respond(shape, Direction::Read),
    };
    let producer = target.rule.producer;
    match try_get(node, &target, headers).await {
        Ok((response, bytes)) => {
            node.server_metrics.read(producer, ArtifactResult::Ok, bytes);
            response
        }
        Err(problem) => {
            let result = if problem.is_miss() { ArtifactResult::NotFound } else { ArtifactResult::Error };
            node.server_metrics.read(producer, result, 0);
            problem.respond(shape, Direction::Read)
        }
    }
}

/// Answers a HEAD with the headers of the GET. It is no read in the metrics: nothing is served.
pub async fn head(
    node: &Arc<NodeContext>,
    target: Result<Target, Problem>,
    shape: Shape,
    headers: &HeaderMap,
) -> Response {
    let answer = async {
        let target = target?;
        let conditions =
            if target.rule.names_blobs { Conditions::default() } else { Conditions::without_range(headers) };
        let until = opening::patience_ends(&target);
        if let Some(record) = opening::record(node, &target, until).await? {
            let is_known = conditions.not_modified(&record.digest);
            return Ok(if is_known { not_modified(&record) } else { described(&target, &record) });
        }
        Ok(match find(node, &target, conditions).await? {
            Found::NotModified(record) => not_modified(&record),
            Found::Open(record, body) => {
                check_closure(node, &target, &body, until).await?;
                described(&target, &record)
            }
        })
    };
    answer.await.unwrap_or_else(|problem: Problem| bodiless(problem.respond(shape, Direction::Read)))
}

/// A HEAD's answer.
fn described(target: &Target, record: &Record) -> Response {
    let mut response = Response::new(Body::empty());
    describe(response.headers_mut(), target, record);
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(record.size));
    response
}

/// As [`lookup`], for a client that only asks: before the store is open, what a peer holds is there.
///
/// # Errors
/// The store is not open or failed.
pub async fn exists(node: &NodeContext, target: &Target) -> Result<bool, Problem> {
    match opening::record(node, target, opening::patience_ends(target)).await? {
        Some(_) => Ok(true),
        None => Ok(lookup(node, target).await?.is_some()),
    }
}

/// Whether the artifact is here, without opening its body.
///
/// # Errors
/// The store is not open or failed.
pub async fn lookup(node: &NodeContext, target: &Target) -> Result<Option<Record>, Problem> {
    let id = target.name.artifact_id(&node.config.tenant_id);
    let found = node.store.call(move |store| {
        let found = store.lookup(&id)?;
        if found.is_some() {
            store.note_read(&id);
        }
        Ok(found)
    });
    Ok(found.await?)
}

async fn try_get(node: &Arc<NodeContext>, target: &Target, headers: &HeaderMap) -> Result<(Response, u64), Problem> {
    // Nx takes nothing but 200 and 404, so neither conditions nor ranges are looked at there.
    // What names blobs is looked into each time, and therefore given whole.
    let is_plain = target.rule.shape == Shape::Nx || target.rule.names_blobs;
    let conditions = if is_plain { Conditions::default() } else { Conditions::parse(headers)? };
    let (record, body) = match find_anywhere(node, target, &conditions).await? {
        Source::NotModified(record) => return Ok((not_modified(&record), 0)),
        Source::Here(record, body) => (record, body),
        Source::Peer(record, chunks) => return Ok(from_peer(node, target, &record, chunks)),
    };
    let selection = conditions.select(&record.digest, record.size)?;
    let range = match &selection {
        Selection::Whole => 0..record.size,
        Selection::Part(range) => range.clone(),
    };
    let mut response = Response::new(Body::empty());
    describe(response.headers_mut(), target, &record);
    if selection != Selection::Whole {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let text = format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), record.size);
        insert(response.headers_mut(), header::CONTENT_RANGE, &text);
    }
    let length = range.end.saturating_sub(range.start);
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    let producer = target.rule.producer;
    *response.body_mut() = Body::new(match body {
        OpenBody::Inline(bytes) => {
            let (start, end) = (usize::try_from(range.start), usize::try_from(range.end));
            let part = start.ok().zip(end.ok()).filter(|(start, end)| start <= end && *end <= bytes.len());
            let (start, end) = part.ok_or(Problem::NotFound)?;
            ArtifactBody::inline(node, producer, bytes.slice(start..end))
        }
        OpenBody::File(file) => ArtifactBody::file(node, producer, record, file, range),
    });
    Ok((response, length))
}

/// A long body that comes from a peer goes out whole, whatever range was asked for.
fn from_peer(node: &Arc<NodeContext>, target: &Target, record: &Record, chunks: PeerChunks) -> (Response, u64) {
    let mut response = Response::new(Body::empty());
    describe(response.headers_mut(), target, record);
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(record.size));
    *response.body_mut() = Body::new(ArtifactBody::from_peer(node, target.rule.producer, record.size, chunks));
    (response, record.size)
}

/// A hit that names what cannot be had is a miss.
async fn check_closure(node: &NodeContext, target: &Target, body: &OpenBody, until: Instant) -> Result<(), Problem> {
    let is_hit = !target.rule.names_blobs || closure::is_closed(node, target, body, until).await?;
    if is_hit { Ok(()) } else { Err(Problem::NotFound) }
}

/// Looks here, and then asks the peers if they may have what is not here. What it finds may be given.
async fn find_anywhere(node: &NodeContext, target: &Target, conditions: &Conditions) -> Result<Source, Problem> {
    let until = opening::patience_ends(target);
    if node.store.current().is_none()
        && let Some(source) = opening::find(node, target, conditions, until).await?
    {
        return Ok(source);
    }
    match find_once_open(node, target, conditions, until).await? {
        Source::Here(record, body) => {
            check_closure(node, target, &body, until).await?;
            Ok(Source::Here(record, body))
        }
        // It could not be looked into before it goes out.
        Source::Peer(..) if target.rule.names_blobs => Err(Problem::NotFound),
        source => Ok(source),
    }
}

async fn find_once_open(
    node: &NodeContext,
    target: &Target,
    conditions: &Conditions,
    until: Instant,
) -> Result<Source, Problem> {
    for _ in 0..LOOKS_MAX {
        match find(node, target, conditions.clone()).await {
            Ok(Found::NotModified(record)) => return Ok(Source::NotModified(record)),
            Ok(Found::Open(record, body)) => return Ok(Source::Here(record, body)),
            Err(Problem::NotFound) => {}
            Err(problem) => return Err(problem),
        }
        let through = node.read_through.get(&target.name, delivery(target), until).await?;
        if matches!(through, Through::Here | Through::Brought) {
            continue;
        }
        let nowhere = opening::nowhere(&through);
        return source(through, conditions).ok_or(nowhere);
    }
    Err(Problem::NotFound)
}

/// A body that breaks off fails the build of whoever runs Nx, and what names blobs is looked into first.
pub(super) fn delivery(target: &Target) -> Delivery {
    let is_first_whole = target.rule.shape == Shape::Nx || target.rule.names_blobs;
    if is_first_whole { Delivery::Whole } else { Delivery::Streamed }
}

/// What came of asking the peers, if something did.
pub(super) fn source(through: Through, conditions: &Conditions) -> Option<Source> {
    let (record, source) = match through {
        Through::Here | Through::Brought | Through::Miss | Through::Undecided => return None,
        Through::Whole(record, bytes) => {
            let record = Box::new(Record::clone(&record));
            (record.clone(), Source::Here(record, OpenBody::Inline(bytes)))
        }
        Through::Stream(record, chunks) => (record.clone(), Source::Peer(record, chunks)),
    };
    Some(if conditions.not_modified(&record.digest) { Source::NotModified(record) } else { source })
}

async fn find(node: &NodeContext, target: &Target, conditions: Conditions) -> Result<Found, Problem> {
    let id = target.name.artifact_id(&node.config.tenant_id);
    if let Some(found) = find_in_memory(node, &id, &conditions) {
        return Ok(found);
    }
    let found = node.store.call(move |store| {
        let Some(record) = store.lookup(&id)? else { return Ok(None) };
        store.note_read(&id);
        if conditions.not_modified(&record.digest) {
            return Ok(Some(Found::NotModified(Box::new(record))));
        }
        let opened = store.open_current(record)?;
        Ok(opened.map(|(record, body)| Found::Open(Box::new(record), body)))
    });
    found.await?.ok_or(Problem::NotFound)
}

/// What lies in memory is answered without another thread; `None` says nothing.
fn find_in_memory(node: &NodeContext, id: &ArtifactId, conditions: &Conditions) -> Option<Found> {
    let store = node.store.current()?;
    let (record, body) = store.find_in_memory(id)?;
    store.note_read(id);
    let record = Box::new(record);
    Some(if conditions.not_modified(&record.digest) { Found::NotModified(record) } else { Found::Open(record, body) })
}

fn not_modified(record: &Record) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    insert(response.headers_mut(), header::ETAG, &etag(&record.digest));
    response
}

/// The headers that GET and HEAD share.
fn describe(headers: &mut HeaderMap, target: &Target, record: &Record) {
    insert(headers, header::ETAG, &etag(&record.digest));
    insert(headers, header::CONTENT_TYPE, &record.content_type);
    if target.rule.shape != Shape::Nx {
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    for name in target.rule.returned_attributes {
        if let Some(value) = record.attributes.get(*name) {
            insert(headers, HeaderName::from_static(name), value);
        }
    }
}

/// Values come from what clients sent; one that is no header value is left out rather than failing the read.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn bodiless(mut response: Response) -> Response {
    *response.body_mut() = Body::empty();
    response
}
