//! A peer that speaks only the seed era's contract, with faults to order.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use kura::core::base::ids::ArtifactId;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What happens to one artifact's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 500.
    Refused,
    /// The connection breaks in the middle.
    Cut,
    /// Half of the body comes, and then nothing any more.
    Stalled,
    /// The body is longer than the manifest says.
    Longer,
    /// 404.
    Lost,
}

/// An artifact of the peer.
#[derive(Debug, Clone)]
pub struct Artifact {
    pub producer: &'static str,
    pub namespace: String,
    pub key: String,
    pub body: Vec<u8>,
    pub version_ms: u64,
    pub fault: Option<Fault>,
}

/// What the peer holds, how it behaves and what it was asked.
#[derive(Debug, Default)]
pub struct Inner {
    pub tenant_id: String,
    pub artifacts: BTreeMap<String, Artifact>,
    pub tombstones: BTreeMap<String, u64>,
    pub has_digest: bool,
    pub is_stuck: bool,
    pub extra_rows: Vec<Value>,
    pub body_requests: Vec<String>,
    pub pages: usize,
    pub deletes: Vec<String>,
}

/// A running peer; stopped when dropped.
pub struct SeedPeer {
    pub url: String,
    inner: Arc<Mutex<Inner>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for SeedPeer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Shared = State<(Arc<Mutex<Inner>>, String)>;

impl SeedPeer {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let inner = Inner { tenant_id: "default".to_owned(), has_digest: true, ..Inner::default() };
        let inner = Arc::new(Mutex::new(inner));
        let router = Router::new()
            .route("/_internal/status", get(status))
            .route("/_internal/bootstrap/manifests", get(manifests))
            .route("/_internal/bootstrap/digest", get(digest))
            .route("/_internal/bootstrap/namespace_tombstones", get(tombstones))
            .route("/_internal/bootstrap/artifacts/{id}", get(artifact))
            .route("/_internal/replicate/namespace", delete(delete_namespace))
            .with_state((Arc::clone(&inner), url.clone()));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, inner, task }
    }

    /// Looks at or changes the peer.
    pub fn with<R>(&self, change: impl FnOnce(&mut Inner) -> R) -> R {
        change(&mut self.inner.lock().unwrap())
    }

    /// Adds an artifact and gives back its id.
    pub fn add(&self, artifact: Artifact) -> String {
        let id = ArtifactId::compute(artifact.producer, "default", &artifact.namespace, &artifact.key).to_string();
        self.with(|inner| inner.artifacts.insert(id.clone(), artifact));
        id
    }

    /// Adds `count` gradle artifacts of `size` bytes each.
    pub fn fill(&self, count: usize, size: usize) -> Vec<String> {
        (0..count).map(|n| self.add(gradle(&format!("key-{n}"), vec![n as u8; size]))).collect()
    }

    pub fn body_requests(&self) -> usize {
        self.with(|inner| inner.body_requests.len())
    }
}

/// A plain artifact.
pub fn gradle(key: &str, body: Vec<u8>) -> Artifact {
    let namespace = "android".to_owned();
    Artifact { producer: "gradle", namespace, key: key.to_owned(), body, version_ms: 1_750_000_000_000, fault: None }
}

async fn status(State((inner, url)): Shared) -> Response {
    let tenant_id = inner.lock().unwrap().tenant_id.clone();
    axum::Json(json!({"region": "eu-west", "tenant_id": tenant_id, "node_url": url})).into_response()
}

fn query(raw: Option<String>, name: &str) -> Option<String> {
    let raw = raw?;
    let mut pairs = url::form_urlencoded::parse(raw.as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned()).filter(|value| !value.is_empty())
}

fn row(id: &str, artifact: &Artifact) -> Value {
    json!({
        "artifact_id": id, "producer": artifact.producer, "namespace_id": artifact.namespace, "key": artifact.key,
        "content_type": "application/octet-stream", "inline": false, "segment_id": "s", "segment_offset": 0,
        "size": artifact.body.len(), "version_ms": artifact.version_ms, "created_at_ms": artifact.version_ms,
    })
}

async fn manifests(State((inner, _)): Shared, RawQuery(raw): RawQuery) -> Response {
    let mut inner = inner.lock().unwrap();
    inner.pages += 1;
    let limit: usize = query(raw.clone(), "limit").unwrap().parse().unwrap();
    let after = query(raw.clone(), "after").unwrap_or_default();
    let prefix = query(raw, "prefix").unwrap_or_default();
    let listed = inner.artifacts.iter().filter(|(id, _)| id.as_str() > after.as_str() && id.starts_with(&prefix));
    let mut rows: Vec<Value> = listed.clone().take(limit).map(|(id, artifact)| row(id, artifact)).collect();
    let more = listed.count() > rows.len();
    let last = rows.last().map(|row| row["artifact_id"].clone());
    let mut next = if more { last.unwrap() } else { Value::Null };
    if inner.is_stuck {
        next = json!("0".repeat(64));
    }
    if after.is_empty() {
        rows.extend(inner.extra_rows.clone());
    }
    axum::Json(json!({"manifests": rows, "next_after": next})).into_response()
}

async fn digest(State((inner, _)): Shared, RawQuery(raw): RawQuery) -> Response {
    let inner = inner.lock().unwrap();
    if !inner.has_digest {
        return StatusCode::NOT_FOUND.into_response();
    }
    let length: usize = query(raw, "prefix_len").unwrap().parse().unwrap();
    let mut buckets: BTreeMap<String, (u64, Sha256)> = BTreeMap::new();
    for (id, artifact) in &inner.artifacts {
        let (count, hasher) = buckets.entry(id[..length].to_owned()).or_default();
        *count += 1;
        hasher.update(id.as_bytes());
        hasher.update(artifact.version_ms.to_le_bytes());
    }
    let buckets: Vec<Value> = buckets
        .into_iter()
        .map(|(prefix, (count, hasher))| {
            json!({"prefix": prefix, "count": count, "hash": hex::encode(hasher.finalize())})
        })
        .collect();
    axum::Json(json!({"prefix_len": length, "buckets": buckets})).into_response()
}

async fn tombstones(State((inner, _)): Shared) -> Response {
    let inner = inner.lock().unwrap();
    let rows: Vec<Value> = inner
        .tombstones
        .iter()
        .map(|(namespace, version_ms)| json!({"namespace_id": namespace, "version_ms": version_ms}))
        .collect();
    axum::Json(json!({"tombstones": rows, "next_after": null})).into_response()
}

async fn artifact(State((inner, _)): Shared, Path(id): Path<String>) -> Response {
    let mut inner = inner.lock().unwrap();
    inner.body_requests.push(id.clone());
    let Some(artifact) = inner.artifacts.get(&id) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let body = artifact.body.clone();
    match artifact.fault {
        None => body.into_response(),
        Some(Fault::Lost) => {
            (StatusCode::NOT_FOUND, axum::Json(json!({"message": "bytes are missing"}))).into_response()
        }
        Some(Fault::Refused) => {
            (StatusCode::INTERNAL_SERVER_ERROR, axum::Json(json!({"message": "segment read failed"}))).into_response()
        }
        Some(Fault::Longer) => [body, b"and more".to_vec()].concat().into_response(),
        Some(Fault::Cut) => cut(body),
        Some(Fault::Stalled) => stalled(body),
    }
}

/// Promises the whole and breaks off after half of it.
fn cut(body: Vec<u8>) -> Response {
    let length = body.len();
    let half = body[..length / 2].to_vec();
    let chunks = futures_util::stream::unfold(0, move |step| {
        let half = half.clone();
        async move {
            match step {
                0 => Some((Ok(half), 1)),
                _ => {
                    tokio::task::yield_now().await;
                    Some((Err(std::io::Error::other("broken off")), 2))
                }
            }
        }
    });
    let mut response = Body::from_stream(chunks).into_response();
    response.headers_mut().insert("content-length", length.into());
    response
}

/// Promises the whole, sends half of it and stays silent.
fn stalled(body: Vec<u8>) -> Response {
    use futures_util::StreamExt;
    let length = body.len();
    let half = futures_util::stream::iter([Ok::<_, std::io::Error>(body[..length / 2].to_vec())]);
    let mut response = Body::from_stream(half.chain(futures_util::stream::pending())).into_response();
    response.headers_mut().insert("content-length", length.into());
    response
}

async fn delete_namespace(State((inner, _)): Shared, RawQuery(raw): RawQuery, _: HeaderMap) -> StatusCode {
    let namespace = query(raw, "namespace_id").unwrap_or_default();
    inner.lock().unwrap().deletes.push(namespace);
    StatusCode::NO_CONTENT
}
