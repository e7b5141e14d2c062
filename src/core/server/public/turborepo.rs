//! Turborepo's remote cache under `/v8/artifacts`: artifacts with their tag and duration, a batch query, the status
//! and the events it reports. The last writer wins.
//!
//! With signatures on, a GET must return the tag that came with the PUT, or Turborepo takes the answer for a miss; so
//! tag, duration and dirty hash are kept as attributes and returned as they came. Events are taken and dropped.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, options, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::problem::{Direction, Problem, Shape};
use super::read;
use super::request::{Query, last_segment};
use super::router::{Node, artifact};
use super::rule::{Rule, Target};
use super::upload;
use crate::core::server::metrics::Producer;
use crate::core::store::committer::PutMode;
use crate::core::store::record::Record;

const TAG: &str = "x-artifact-tag";
const DURATION: &str = "x-artifact-duration";
const DIRTY_HASH: &str = "x-artifact-dirty-hash";

const RULE: Rule = Rule {
    mode: PutMode::LastWriterWins,
    // It asks once more after an error, so it waits twice.
    patience: Duration::from_secs(15),
    returned_attributes: &[TAG, DURATION, DIRTY_HASH],
    ..Rule::new(Producer::Turborepo)
};

/// Longest batch query or list of events, in bytes; a repository of thousands of tasks stays far below.
const DOCUMENT_BYTES_MAX: u64 = 1 << 20;

/// Hashes answered in one batch query; each costs a lookup.
const HASHES_MAX: usize = 4096;

#[derive(Debug, Deserialize)]
struct BatchQuery {
    hashes: Vec<String>,
}

pub(super) fn routes() -> Router<Node> {
    Router::new()
        .route("/v8/artifacts", post(query).merge(options(preflight)))
        .route("/v8/artifacts/status", get(status).merge(options(preflight)))
        .route("/v8/artifacts/events", post(events).merge(options(preflight)))
        .route("/v8/artifacts/{hash}", artifact(RULE, target).merge(options(preflight)))
}

fn namespace(uri: &Uri) -> Result<String, Problem> {
    let query = Query::parse(uri.query())?;
    Ok(query.get(&["slug"]).or_else(|| query.get(&["teamId"])).unwrap_or_default().to_owned())
}

fn target(uri: &Uri) -> Result<Target, Problem> {
    RULE.target(namespace(uri)?, last_segment(uri.path())?)
}

async fn status() -> Json<Value> {
    Json(json!({ "status": "enabled" }))
}

/// Without these headers a client that sends preflights leaves its token out of the real request.
async fn preflight() -> impl IntoResponse {
    let allowed = "Authorization, Content-Type, User-Agent, x-artifact-tag, x-artifact-duration, x-artifact-dirty-hash, \
                   x-artifact-client-ci, x-artifact-client-interactive";
    let headers: [(HeaderName, &str); 3] = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, PUT, POST, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, allowed),
    ];
    (StatusCode::NO_CONTENT, headers)
}

async fn events(request: Request) -> Response {
    let answer = async {
        let events: Vec<Value> = document(request.into_body()).await?;
        tracing::debug!(events = events.len(), "turborepo_events");
        Ok(StatusCode::OK.into_response())
    };
    respond(answer.await)
}

async fn query(State(node): State<Node>, request: Request) -> Response {
    respond(try_query(&node, request).await)
}

async fn try_query(node: &Node, request: Request) -> Result<Response, Problem> {
    let namespace = namespace(request.uri())?;
    let query: BatchQuery = document(request.into_body()).await?;
    if query.hashes.len() > HASHES_MAX {
        return Err(Problem::bad_request(format!("more than {HASHES_MAX} hashes in one query")));
    }
    let mut answers = Map::new();
    for hash in query.hashes {
        let target = RULE.target(namespace.clone(), hash.clone())?;
        let found = read::lookup(node, &target).await?;
        answers.insert(hash, found.as_ref().map_or(Value::Null, describe));
    }
    Ok(Json(Value::Object(answers)).into_response())
}

fn describe(record: &Record) -> Value {
    let duration = record.attributes.get(DURATION).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    json!({ "size": record.size, "taskDurationMs": duration, "tag": record.attributes.get(TAG) })
}

async fn document<T: serde::de::DeserializeOwned>(mut body: Body) -> Result<T, Problem> {
    let bytes = upload::read_document(&mut body, DOCUMENT_BYTES_MAX).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Problem::bad_request(format!("the body is not as expected: {error}")))
}

fn respond(answer: Result<Response, Problem>) -> Response {
    answer.unwrap_or_else(|problem| problem.respond(Shape::Json, Direction::Write))
}
