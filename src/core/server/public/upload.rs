//! The shared PUT: refuse early, stage while reading, verify, commit, answer.
//!
//! How it works: everything that can refuse a body does so before its first byte is asked for (with
//! `Expect: 100-continue` the client then never sends it): name, length, drain, presence, room in the ledger. Then
//! frames go into a [`BodyWriter`], whose drop frees bytes and reservation on every way out.
//!
//! Invariants: no total timeout, only [`NO_PROGRESS_TIMEOUT`] between two frames; an answer is given only after the
//! commit is durable.
//!
//! Failure: a client that vanishes leaves nothing; what it sent is freed when this future is dropped or ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use http_body::Body as _;
use http_body_util::BodyExt;

use super::problem::{Direction, Problem};
use super::read;
use super::rule::{Rule, Target};
use crate::core::base::limits::{ATTRIBUTE_BYTES_MAX, CONTENT_TYPE_BYTES_MAX, NO_PROGRESS_TIMEOUT};
use crate::core::server::metrics::ArtifactResult;
use crate::core::server::node::NodeContext;
use crate::core::staging::area::AreaKind;
use crate::core::staging::body_writer::{BodySpec, BodyWriter, StagedBody};
use crate::core::staging::budget::BudgetClass;
use crate::core::store::committer::{Carried, CommitOutcome, Operation, Put, PutMode, PutOrigin};

/// The content type of a body that came without one.
pub const DEFAULT_CONTENT_TYPE: &str = "application/octet-stream";

/// A client that has its answer and sends nothing for this long is not going to: its connection closes.
const DISCARD_IDLE_MAX: Duration = Duration::from_secs(2);

/// How long an upload waits for eviction to make room; a batch takes a fraction of it.
const ROOM_WAIT: Duration = Duration::from_secs(5);

/// What came of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It is new, or replaced an older one.
    New,
    /// It was there already and stays as it was.
    Existing,
}

/// Answers a PUT with the statuses of the rule.
pub async fn put(node: &Arc<NodeContext>, target: &Target, headers: &HeaderMap, body: Body) -> Response {
    let rule = target.rule;
    let (outcome, close) = store(node, target, headers, body).await;
    let response = match outcome {
        Ok(stored) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = if stored == Stored::New { rule.created } else { rule.existing };
            response
        }
        Err(problem) => problem.respond(rule.shape, Direction::Write),
    };
    closing(response, close)
}

/// Refuses an upload before its body is taken, and counts it.
pub fn refuse(node: &Arc<NodeContext>, problem: &Problem, rule: Rule, headers: &HeaderMap, body: Body) -> Response {
    node.server_metrics.write(rule.producer, ArtifactResult::Error, 0);
    answer_unread(node, problem, rule, headers, body)
}

/// Answers with a problem and deals with what is left of the body.
pub fn answer_unread(
    node: &Arc<NodeContext>,
    problem: &Problem,
    rule: Rule,
    headers: &HeaderMap,
    body: Body,
) -> Response {
    let close = discard(node, headers, body, rule.discard_max);
    closing(problem.respond(rule.shape, Direction::Write), close)
}

/// Stores a body. The flag says that the connection cannot be used again.
async fn store(
    node: &Arc<NodeContext>,
    target: &Target,
    headers: &HeaderMap,
    mut body: Body,
) -> (Result<Stored, Problem>, bool) {
    let producer = target.rule.producer;
    let writer = match admit(node, target, body.size_hint().exact()).await {
        Ok(Admission::Write(writer)) => writer,
        Ok(Admission::Existing) => {
            node.server_metrics.write(producer, ArtifactResult::Ok, 0);
            return (Ok(Stored::Existing), discard(node, headers, body, target.rule.discard_max));
        }
        Err(problem) => {
            node.server_metrics.write(producer, ArtifactResult::Error, 0);
            return (Err(problem), discard(node, headers, body, target.rule.discard_max));
        }
    };
    match receive_and_commit(node, target, headers, &mut body, *writer).await {
        Ok((stored, bytes)) => {
            node.server_metrics.write(producer, ArtifactResult::Ok, bytes);
            (Ok(stored), false)
        }
        Err(problem) => {
            wake_if_full(node, &problem);
            node.server_metrics.write(producer, ArtifactResult::Error, 0);
            (Err(problem), discard(node, headers, body, target.rule.discard_max))
        }
    }
}

/// What met a full volume although it was admitted has room made for the next one.
pub fn wake_if_full(node: &NodeContext, problem: &Problem) {
    if matches!(problem, Problem::DiskFull) {
        node.space.wake();
    }
}

/// Whether a body is taken at all.
enum Admission {
    /// Here is where it goes.
    Write(Box<BodyWriter>),
    /// Write-once and already there.
    Existing,
}

async fn admit(node: &NodeContext, target: &Target, length: Option<u64>) -> Result<Admission, Problem> {
    let length_max = target.rule.length_max;
    if length.is_some_and(|length| length > length_max) {
        return Err(Problem::TooLarge { limit: length_max });
    }
    if node.drain.is_draining() {
        return Err(Problem::Draining);
    }
    if target.rule.mode == PutMode::WriteOnce && read::lookup(node, target).await?.is_some() {
        return Ok(Admission::Existing);
    }
    // Also for last-writer routes: without a store the bytes would be read for nothing.
    node.store.ready().await?;
    require_room(node, length).await?;
    let sha256 = target.sha256.is_some();
    let spec = BodySpec { area: AreaKind::Uploads, class: BudgetClass::Client, length, length_max, sha256 };
    Ok(Admission::Write(Box::new(node.staging.begin(spec).await?)))
}

/// Room for a body on its way in; eviction makes it within a bounded wait, before anything is refused.
pub async fn require_room(node: &NodeContext, length: Option<u64>) -> Result<(), Problem> {
    if node.space.admit(length.unwrap_or(0), ROOM_WAIT).await { Ok(()) } else { Err(Problem::DiskFull) }
}

async fn receive_and_commit(
    node: &NodeContext,
    target: &Target,
    headers: &HeaderMap,
    body: &mut Body,
    writer: BodyWriter,
) -> Result<(Stored, u64), Problem> {
    let staged = receive(body, writer).await?;
    if target.sha256.is_some() && staged.sha256 != target.sha256 {
        return Err(Problem::bad_request("the body's SHA-256 is not the key's"));
    }
    let attributes = attributes(target, headers)?;
    let length = staged.length;
    let stored = commit(node, target, content_type(headers), attributes, staged).await?;
    Ok((stored, length))
}

/// Reads a body to its end into the writer.
///
/// # Errors
/// The body breaks off, stalls or passes its limit; the disk or the ledger is full.
pub async fn receive(body: &mut Body, mut writer: BodyWriter) -> Result<StagedBody, Problem> {
    while let Some(chunk) = next_chunk(body).await? {
        writer.write(chunk).await?;
    }
    Ok(writer.finish().await?)
}

/// The next bytes of a body; `None` at its clean end.
///
/// # Errors
/// The body breaks off or brings no byte for [`NO_PROGRESS_TIMEOUT`].
pub async fn next_chunk(body: &mut Body) -> Result<Option<Bytes>, Problem> {
    loop {
        let frame = tokio::time::timeout(NO_PROGRESS_TIMEOUT, body.frame()).await;
        let frame = frame.map_err(|_| Problem::ClientGone("no byte arrived for a minute".to_owned()))?;
        let Some(frame) = frame else { return Ok(None) };
        let frame = frame.map_err(|error| Problem::ClientGone(error.to_string()))?;
        // Trailers carry nothing a cache wants.
        if let Ok(chunk) = frame.into_data() {
            return Ok(Some(chunk));
        }
    }
}

/// Reads a small body whole, for routes whose body is a document and not an artifact.
///
/// # Errors
/// It passes the limit, breaks off or stalls.
pub async fn read_document(body: &mut Body, limit: u64) -> Result<Vec<u8>, Problem> {
    if body.size_hint().lower() > limit {
        return Err(Problem::TooLarge { limit });
    }
    let mut document = Vec::new();
    while let Some(chunk) = next_chunk(body).await? {
        if (document.len() as u64).saturating_add(chunk.len() as u64) > limit {
            return Err(Problem::TooLarge { limit });
        }
        document.extend_from_slice(&chunk);
    }
    Ok(document)
}

/// Hands a verified body to the committer.
///
/// # Errors
/// The store failed or the disk is full.
pub async fn commit(
    node: &NodeContext,
    target: &Target,
    content_type: String,
    attributes: BTreeMap<String, String>,
    body: StagedBody,
) -> Result<Stored, Problem> {
    let put = Put {
        name: target.name.clone(),
        kind: target.rule.kind,
        content_type,
        attributes,
        carried: Carried::default(),
        body,
        origin: PutOrigin::Local(target.rule.mode),
    };
    match node.store.commit(Operation::Put(Box::new(put))).await? {
        CommitOutcome::Applied(_) => Ok(Stored::New),
        CommitOutcome::AlreadyPresent(_) => Ok(Stored::Existing),
        other => Err(Problem::Internal(format!("a local write came to {other:?}"))),
    }
}

/// The content type to keep: the client's, or the default when it sent none that can be sent back.
pub fn content_type(headers: &HeaderMap) -> String {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kept = given.filter(|text| !text.is_empty() && text.len() <= CONTENT_TYPE_BYTES_MAX);
    kept.unwrap_or(DEFAULT_CONTENT_TYPE).to_owned()
}

fn attributes(target: &Target, headers: &HeaderMap) -> Result<BTreeMap<String, String>, Problem> {
    let mut kept = BTreeMap::new();
    let mut bytes = 0_usize;
    for name in target.rule.returned_attributes {
        let Some(value) = headers.get(*name) else { continue };
        let text = value.to_str().map_err(|_| Problem::bad_request(format!("the header {name} is not ASCII")))?;
        bytes = bytes.saturating_add(name.len()).saturating_add(text.len());
        if bytes > ATTRIBUTE_BYTES_MAX {
            return Err(Problem::bad_request(format!("kept headers pass {ATTRIBUTE_BYTES_MAX} bytes together")));
        }
        kept.insert((*name).to_owned(), text.to_owned());
    }
    Ok(kept)
}

/// Deals with a body nobody wants: up to `discard_max` of it is read and thrown away beside the answer, so that
/// clients which send first and read afterwards get their answer; beyond that the connection closes. A body that
/// waits for `100 Continue` is never asked for. True if the connection closes.
pub fn discard(node: &Arc<NodeContext>, headers: &HeaderMap, mut body: Body, discard_max: u64) -> bool {
    if body.is_end_stream() {
        return false;
    }
    let length = body.size_hint();
    if headers.contains_key(header::EXPECT) {
        return true;
    }
    let shutdown = node.shutdown.clone();
    tokio::spawn(async move {
        let throw_away = async {
            let mut left = discard_max;
            while let Ok(Ok(Some(chunk))) = tokio::time::timeout(DISCARD_IDLE_MAX, next_chunk(&mut body)).await {
                left = left.saturating_sub(chunk.len() as u64);
                if left == 0 {
                    break;
                }
            }
        };
        tokio::select! {
            () = throw_away => {}
            () = shutdown.cancelled() => {}
        }
    });
    length.lower() > discard_max
}

fn closing(mut response: Response, close: bool) -> Response {
    if close {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
