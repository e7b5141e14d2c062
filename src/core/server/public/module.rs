//! Tuist modules: `GET` and `HEAD /api/cache/module/{id}`, and their multipart upload by `start`, `part`, `complete`.
//!
//! The artifact is named by `cache_category`, `hash` and `name` of the query; `{id}` is ignored. HEAD answers 204 or
//! 404. An upload keeps its namespace and key from `start` on, so parts and completion need no tenant. Write-once.
//!
//! Bounds, as the seed era has them: 10 MiB for a part (413), 2 GiB together (422). A wrong list of parts keeps the
//! upload (400).

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use http_body::Body as _;
use serde::Deserialize;
use serde_json::json;

use super::problem::{Direction, Problem, Shape};
use super::request::{Query, tuist_namespace};
use super::router::Node;
use super::rule::{Rule, Target};
use super::{read, upload};
use crate::core::server::metrics::{ArtifactResult, Producer};
use crate::core::staging::multipart::MultipartError;

const RULE: Rule = Rule::new(Producer::Module);

/// Longest list of parts in a completion, in bytes of JSON: 10,000 numbers with room to spare.
const COMPLETION_BYTES_MAX: u64 = 256 << 10;

#[derive(Debug, Deserialize)]
struct Completion {
    parts: Vec<u32>,
}

pub(super) fn routes() -> Router<Node> {
    Router::new()
        .route("/api/cache/module/start", reading().merge(post(start)))
        .route("/api/cache/module/part", reading().merge(post(part)))
        .route("/api/cache/module/complete", reading().merge(post(complete)))
        .route("/api/cache/module/{id}", reading())
}

/// GET and HEAD, on every path of one segment: the id may be any word, also one that is a verb above.
fn reading() -> MethodRouter<Node> {
    get(serve).head(exists)
}

fn target(uri: &Uri) -> Result<Target, Problem> {
    let query = Query::parse(uri.query())?;
    let namespace = tuist_namespace(&query)?;
    let category = query.get(&["cache_category"]).unwrap_or("builds");
    RULE.target(namespace, format!("{category}/{}/{}", query.require(&["hash"])?, query.require(&["name"])?))
}

async fn serve(State(node): State<Node>, request: Request) -> Response {
    read::get(&node, target(request.uri()), Shape::Json, request.headers()).await
}

async fn exists(State(node): State<Node>, uri: Uri) -> Response {
    let answer = async { read::exists(&node, &target(&uri)?).await };
    let status = match answer.await {
        Ok(true) => StatusCode::NO_CONTENT,
        Ok(false) => StatusCode::NOT_FOUND,
        Err(problem) => problem.status(),
    };
    status.into_response()
}

async fn start(State(node): State<Node>, uri: Uri) -> Response {
    let answer = async {
        let target = target(&uri)?;
        if node.drain.is_draining() {
            return Err(Problem::Draining);
        }
        if read::lookup(&node, &target).await?.is_some() {
            return Ok(Json(json!({ "upload_id": null })).into_response());
        }
        let upload_id = node.uploads.start(target.name).await?;
        Ok(Json(json!({ "upload_id": upload_id })).into_response())
    };
    answer.await.unwrap_or_else(|problem: Problem| problem.respond(Shape::Json, Direction::Write))
}

async fn part(State(node): State<Node>, request: Request) -> Response {
    let (head, mut body) = request.into_parts();
    let outcome = take_part(&node, &head.uri, &mut body).await;
    let result = if outcome.is_ok() { "ok" } else { "error" };
    node.server_metrics.multipart_parts.with_label_values(&[result]).inc();
    match outcome {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(problem) => {
            upload::wake_if_full(&node, &problem);
            upload::answer_unread(&node, &problem, RULE, &head.headers, body)
        }
    }
}

async fn take_part(node: &Node, uri: &Uri, body: &mut Body) -> Result<(), Problem> {
    let query = Query::parse(uri.query())?;
    let upload_id = query.require(&["upload_id"])?;
    let number = query.require(&["part_number"])?.parse::<u32>();
    let number = number.map_err(|_| Problem::bad_request("part_number must be a number below 2^32"))?;
    upload::require_room(node, body.size_hint().exact()).await?;
    let mut writer = node.uploads.part_writer(upload_id, number, body.size_hint().exact()).await?;
    while let Some(chunk) = upload::next_chunk(body).await? {
        writer.write(chunk).await?;
    }
    writer.finish().await?;
    Ok(())
}

async fn complete(State(node): State<Node>, request: Request) -> Response {
    let (head, mut body) = request.into_parts();
    match try_complete(&node, &head.uri, &mut body).await {
        Ok(bytes) => {
            node.server_metrics.write(Producer::Module, ArtifactResult::Ok, bytes);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(problem) => upload::refuse(&node, &problem, RULE, &head.headers, body),
    }
}

async fn try_complete(node: &Node, uri: &Uri, body: &mut Body) -> Result<u64, Problem> {
    let query = Query::parse(uri.query())?;
    let upload_id = query.require(&["upload_id"])?;
    let document = upload::read_document(body, COMPLETION_BYTES_MAX).await?;
    let completion: Completion = serde_json::from_slice(&document)
        .map_err(|error| Problem::bad_request(format!("the body is not a list of parts: {error}")))?;
    let (name, staged) = node.uploads.complete(upload_id, &completion.parts, false).await?;
    let length = staged.length;
    let target = RULE.target(name.namespace, name.key)?;
    upload::commit(node, &target, upload::DEFAULT_CONTENT_TYPE.to_owned(), BTreeMap::new(), staged).await?;
    Ok(length)
}

impl From<MultipartError> for Problem {
    fn from(error: MultipartError) -> Self {
        match error {
            MultipartError::UnknownUpload { .. } => Self::Missing(error.to_string()),
            MultipartError::TooManyUploads { .. } => Self::UploadSlots(error.to_string()),
            MultipartError::PartTooLong { limit } => Self::TooLarge { limit },
            MultipartError::TotalTooLong { .. } | MultipartError::TooManyParts { .. } => {
                Self::Unprocessable(error.to_string())
            }
            MultipartError::PartsMismatch { .. } | MultipartError::Busy => Self::BadRequest(error.to_string()),
            MultipartError::Staging(error) => error.into(),
        }
    }
}
