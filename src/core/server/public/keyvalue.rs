//! Xcode's key-value entries: `PUT /api/cache/keyvalue` and `GET /api/cache/keyvalue/{cas_id}`. The last writer wins,
//! and only the entries are stored, as the document that a GET returns.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::put;
use axum::{Router, http};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::problem::{Problem, Shape};
use super::request::{Query, last_segment, tuist_namespace};
use super::router::{Node, readable};
use super::rule::{Rule, Target};
use super::upload;
use crate::core::server::metrics::{ArtifactResult, Producer};
use crate::core::staging::area::AreaKind;
use crate::core::staging::body_writer::BodySpec;
use crate::core::staging::budget::BudgetClass;
use crate::core::store::committer::PutMode;
use crate::core::store::record::Kind;

const RULE: Rule = Rule {
    kind: Kind::Action,
    mode: PutMode::LastWriterWins,
    created: StatusCode::NO_CONTENT,
    existing: StatusCode::NO_CONTENT,
    ..Rule::new(Producer::Xcode)
};

/// What a client sends.
#[derive(Debug, Deserialize)]
struct Document {
    cas_id: String,
    entries: Vec<Entry>,
}

/// What is stored and returned.
#[derive(Debug, Serialize)]
struct Entries {
    entries: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    value: String,
}

pub(super) fn routes() -> Router<Node> {
    Router::new().route("/api/cache/keyvalue", put(store)).route("/api/cache/keyvalue/{cas_id}", readable(RULE, target))
}

fn target(uri: &Uri) -> Result<Target, Problem> {
    let namespace = tuist_namespace(&Query::parse(uri.query())?)?;
    named(namespace, &last_segment(uri.path())?)
}

fn named(namespace: String, cas_id: &str) -> Result<Target, Problem> {
    if cas_id.is_empty() {
        return Err(Problem::bad_request("cas_id must not be empty"));
    }
    RULE.target(namespace, format!("action_cache/{cas_id}"))
}

async fn store(State(node): State<Node>, request: Request) -> Response {
    let (head, mut body) = request.into_parts();
    match try_store(&node, &head.uri, &mut body).await {
        Ok(bytes) => {
            node.server_metrics.write(Producer::Xcode, ArtifactResult::Ok, bytes);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(problem) => refuse(&node, &problem, &head.headers, body),
    }
}

fn refuse(node: &Node, problem: &Problem, headers: &HeaderMap, body: Body) -> Response {
    upload::refuse(node, problem, Rule { shape: Shape::Json, ..RULE }, headers, body)
}

async fn try_store(node: &Node, uri: &http::Uri, body: &mut Body) -> Result<u64, Problem> {
    let namespace = tuist_namespace(&Query::parse(uri.query())?)?;
    if node.drain.is_draining() {
        return Err(Problem::Draining);
    }
    let document = upload::read_document(body, node.config.max_keyvalue_bytes).await?;
    let document: Document = serde_json::from_slice(&document)
        .map_err(|error| Problem::bad_request(format!("the body is not a key-value document: {error}")))?;
    let target = named(namespace, &document.cas_id)?;
    let stored = serde_json::to_vec(&Entries { entries: document.entries })
        .map_err(|error| Problem::Internal(error.to_string()))?;
    store_document(node, &target, stored.into()).await
}

async fn store_document(node: &Node, target: &Target, document: Bytes) -> Result<u64, Problem> {
    let length = document.len() as u64;
    let spec = BodySpec {
        area: AreaKind::Uploads,
        class: BudgetClass::Client,
        length: Some(length),
        length_max: target.rule.length_max,
        sha256: false,
    };
    node.store.ready().await?;
    let mut writer = node.staging.begin(spec).await?;
    writer.write(document).await?;
    let staged = writer.finish().await?;
    upload::commit(node, target, "application/json".to_owned(), std::collections::BTreeMap::new(), staged).await?;
    Ok(length)
}
