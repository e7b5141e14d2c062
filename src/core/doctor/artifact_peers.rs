//! What the peers say of one artifact: each is asked what it knows, and of those that cannot tell one byte of the body.
//!
//! Invariants: a kura peer opens no body for this. Peers, requests at a time, bytes and time are bounded; a peer that
//! does not answer is an entry, not an error.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::Serialize;

use super::checks::peers::{base_url, discover};
use super::context::{Context, Mode, Vantage};
use crate::core::base::ids::{ArtifactId, StoreId};
use crate::core::base::limits::PEER_CONNECT_TIMEOUT;
use crate::core::mesh::transport::{PeerRequest, PeerResponse, PeerTransport, TransportError};
use crate::core::mesh::wire::{RECORD_HEADER, encode_query};
use crate::core::store::explain::{Explanation, ManifestFacts, NameFacts, State};
use crate::core::store::record::Record;

/// Peers asked; a mesh is tens of nodes.
const PEERS_MAX: usize = 256;
/// Peers asked at the same time.
const PEERS_AT_ONCE: usize = 32;
/// How long a peer may take: it reads five rows, or opens one file.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// An explanation is a few kilobytes; a key may have eight.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// What one peer said.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PeerCopy {
    /// Its base URL.
    pub url: String,
    /// What the artifact is to it; `None` if it did not answer.
    pub state: Option<State>,
    /// Its name, if it told one.
    pub name: Option<NameFacts>,
    /// Its manifest, if it told one.
    pub manifest: Option<ManifestFacts>,
    /// What this node would do with that version.
    pub here: Option<&'static str>,
    /// Why it did not answer, or what it said instead.
    pub error: Option<String>,
    #[serde(skip)]
    /// Whose words these are.
    pub store_id: Option<StoreId>,
}

impl PeerCopy {
    fn of(url: &str, told: Explanation) -> Self {
        let error = told.error.or_else(|| told.wanted.and_then(|wanted| wanted.error));
        Self {
            url: url.to_owned(),
            state: Some(told.state),
            name: told.name,
            manifest: told.manifest,
            here: None,
            error,
            store_id: Some(told.store_id),
        }
    }

    fn bare(url: &str, state: Option<State>, error: Option<String>) -> Self {
        Self { url: url.to_owned(), state, name: None, manifest: None, here: None, error, store_id: None }
    }
}

/// Asks all peers that the settings or the running node name; none where nobody may be asked.
pub fn ask(context: &Context, id: &ArtifactId, namespace: Option<&str>) -> Vec<PeerCopy> {
    let Some(transport) = context.world.transport.as_ref().filter(|_| context.asked.mode != Mode::Offline) else {
        return Vec::new();
    };
    context.world.runtime.block_on(async {
        let asked = urls(context).await.into_iter().map(|url| one(transport, url, id, namespace));
        let mut copies: Vec<PeerCopy> =
            futures_util::stream::iter(asked).buffer_unordered(PEERS_AT_ONCE).collect().await;
        copies.sort_by(|one, two| one.url.cmp(&two.url));
        copies
    })
}

async fn urls(context: &Context) -> BTreeSet<String> {
    let (mut urls, mut own) = (BTreeSet::new(), BTreeSet::new());
    if let Ok(config) = context.config() {
        urls.extend(config.peers.iter().map(|url| base_url(url)));
        urls.extend(discover(config).await.0);
        own.insert(base_url(&config.node_url));
    }
    // The settings of this shell may not be those of the node.
    if let Vantage::Live(status) = &context.vantage {
        urls.extend(status.readiness.peers.iter().map(|peer| base_url(&peer.url)));
        own.insert(base_url(&status.node_url));
    }
    urls.into_iter().filter(|url| !own.contains(url)).take(PEERS_MAX).collect()
}

async fn one(transport: &Arc<dyn PeerTransport>, url: String, id: &ArtifactId, namespace: Option<&str>) -> PeerCopy {
    let limit = PEER_CONNECT_TIMEOUT + ANSWER_TIMEOUT;
    match tokio::time::timeout(limit, explained(transport, &url, id, namespace)).await {
        Ok(Ok(copy)) => copy,
        Ok(Err(error)) => {
            let phase = format!("{:?}", error.phase).to_lowercase();
            PeerCopy::bare(&url, None, Some(format!("{phase}: {}", error.message)))
        }
        Err(_) => PeerCopy::bare(&url, None, Some(format!("no answer within {} s", limit.as_secs()))),
    }
}

async fn explained(
    transport: &Arc<dyn PeerTransport>,
    url: &str,
    id: &ArtifactId,
    namespace: Option<&str>,
) -> Result<PeerCopy, TransportError> {
    let namespace = namespace.map(|text| format!("?namespace={}", encode_query(text))).unwrap_or_default();
    let response = send(transport, url, format!("/_internal/explain/{id}{namespace}"), HeaderMap::new()).await?;
    match response.status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return by_its_body(transport, url, id).await,
        status => return Ok(PeerCopy::bare(url, None, Some(format!("it answered {status}")))),
    }
    let body = read(response).await?;
    Ok(match serde_json::from_slice(&body) {
        Ok(told) => PeerCopy::of(url, told),
        Err(error) => PeerCopy::bare(url, None, Some(format!("its answer is not understood: {error}"))),
    })
}

/// Peers that cannot explain serve bodies all the same; one byte of it comes with the record.
async fn by_its_body(
    transport: &Arc<dyn PeerTransport>,
    url: &str,
    id: &ArtifactId,
) -> Result<PeerCopy, TransportError> {
    let headers = HeaderMap::from_iter([(header::RANGE, HeaderValue::from_static("bytes=0-0"))]);
    let response = send(transport, url, format!("/_internal/bootstrap/artifacts/{id}"), headers).await?;
    let record = response.headers.get(RECORD_HEADER).and_then(|value| hex::decode(value.as_bytes()).ok());
    let record = record.and_then(|bytes| Record::from_bytes(&bytes).ok());
    Ok(match response.status {
        // A range of an empty body cannot be satisfied.
        StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => PeerCopy {
            name: record.as_ref().map(|record| NameFacts::from(&record.name)),
            manifest: record.as_ref().map(ManifestFacts::from),
            ..PeerCopy::bare(url, Some(State::Held), None)
        },
        StatusCode::NOT_FOUND => PeerCopy::bare(url, Some(State::Absent), None),
        status => PeerCopy::bare(url, None, Some(format!("it answered {status}"))),
    })
}

async fn send(
    transport: &Arc<dyn PeerTransport>,
    peer: &str,
    path_and_query: String,
    headers: HeaderMap,
) -> Result<PeerResponse, TransportError> {
    let request = PeerRequest {
        method: Method::GET,
        peer: peer.to_owned(),
        path_and_query,
        headers,
        body: Bytes::new(),
        head_timeout: ANSWER_TIMEOUT,
    };
    transport.send(request).await
}

async fn read(mut response: PeerResponse) -> Result<Vec<u8>, TransportError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.body.next().await {
        body.extend_from_slice(&chunk?);
        // Cut short it does not parse, which is said.
        if body.len() > ANSWER_BYTES_MAX {
            break;
        }
    }
    Ok(body)
}
