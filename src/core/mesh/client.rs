//! Asks peers: one method for each request of the internal plane.
//!
//! Invariants: a page is never read beyond `PEER_PAGE_BYTES_MAX`, whatever the peer announces or sends. Every request
//! carries this store's id, so that the peer knows it can be reached from here.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http::header::{IF_MATCH, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::bulk_frames::{BulkAnswer, BulkDecoder, BulkError, BulkItem, BulkRequest};
use super::feed_frames::{FeedOrder, FeedPageFrames, FrameError, decode_page};
use super::transport::{PeerRequest, PeerResponse, PeerTransport, TransportError, TransportPhase};
use super::wire::{
    DIGEST_PREFIX_LEN, DigestReply, ManifestListing, PAGE_DIGEST_HEADER, PeerErrorBody, STORE_ID_HEADER,
    SetDigestReply, StatusReply, TombstoneListing, VERIFY_HEADER, encode_query, read_manifest_page,
    read_tombstone_page,
};
use crate::core::base::ids::{ArtifactId, Digest, Epoch, Seq, StoreId};
use crate::core::base::limits::{NO_PROGRESS_TIMEOUT, PEER_PAGE_BYTES_MAX};
use crate::core::store::store_handle::StoreHandle;

/// A status is a few hundred bytes from memory; a peer that takes longer is not well.
const STATUS_HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Rows asked of the seed era's listings; its own clients ask for the same.
pub const LISTING_ROWS: usize = 256;

/// How long the end of a bulk answer may come behind its end frame; it usually came with it.
const LAST_CHUNK_WAIT: Duration = Duration::from_secs(1);

const BULK_PATH: &str = "/_internal/bulk";

/// Largest text of an error that is read.
const ERROR_BYTES_MAX: u64 = 16 << 10;

/// A request to a peer that did not give what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PeerError {
    /// The exchange failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The peer answered with an error.
    #[error("{peer} answered {status} to {path}: {message}")]
    Status {
        /// Who.
        peer: String,
        /// To what.
        path: String,
        /// The status.
        status: StatusCode,
        /// What it said.
        message: String,
        /// When to come back, if it said so.
        retry_after: Option<Duration>,
    },
    /// The answer is larger than is taken.
    #[error("{peer} answered {path} with more than {limit} bytes")]
    TooLarge {
        /// Who.
        peer: String,
        /// To what.
        path: String,
        /// Bytes taken at most.
        limit: u64,
    },
    /// The answer does not decode.
    #[error("{peer} answered {path} with something unreadable: {reason}")]
    Malformed {
        /// Who.
        peer: String,
        /// To what.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The peer no longer knows the epoch of the cursor.
    #[error("{peer} does not know the cursor's epoch")]
    CursorVoid {
        /// Who.
        peer: String,
    },
}

impl PeerError {
    /// When the peer, which is busy now, asked to be asked again.
    pub fn busy_for(&self) -> Option<Duration> {
        match self {
            Self::Status { status, retry_after, .. }
                if matches!(*status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) =>
            {
                *retry_after
            }
            _ => None,
        }
    }

    /// Whether the peer could not be reached at all, so that its artifacts wait for it.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Transport(error) if matches!(error.phase, TransportPhase::Dns | TransportPhase::Connect | TransportPhase::Tls))
    }
}

/// What part of a peer's feed is asked for.
#[derive(Debug, Clone, Copy)]
pub struct FeedQuery {
    /// The store the cursor belongs to, and its epoch; none for a first visit.
    pub cursor: Option<(StoreId, Epoch)>,
    /// Rows above this one.
    pub after: Seq,
    /// Rows up to this one, if bounded.
    pub up_to: Option<Seq>,
    /// Only rows whose write the peer itself accepted, and all tombstones.
    pub origin_only: bool,
    /// Bodies up to this size ride along.
    pub inline_up_to: u64,
    /// Only bodies of rows the peer itself accepted ride along.
    pub inline_origin_only: bool,
    /// How long to wait for a row if there is none.
    pub wait: Duration,
    /// Most rows.
    pub rows_max: usize,
    /// Most bytes of records and bodies.
    pub bytes_max: u64,
}

impl FeedQuery {
    fn path(&self) -> String {
        let mut path = format!(
            "/_internal/feed?order=seq&after={}&max_rows={}&max_bytes={}&inline_up_to={}&wait_ms={}",
            self.after,
            self.rows_max,
            self.bytes_max,
            self.inline_up_to,
            self.wait.as_millis(),
        );
        if let Some((store_id, epoch)) = self.cursor {
            path.push_str(&format!("&store_id={store_id}&epoch={epoch}"));
        }
        if let Some(up_to) = self.up_to {
            path.push_str(&format!("&up_to={up_to}"));
        }
        let switches = [("origin_only", self.origin_only), ("inline_origin_only", self.inline_origin_only)];
        for (name, _) in switches.into_iter().filter(|(_, on)| *on) {
            path.push_str(&format!("&{name}=true"));
        }
        path
    }
}

/// What part of a peer's versions is asked for.
#[derive(Debug, Clone)]
pub struct BackfillQuery {
    /// The store the sequence numbers belong to, and the epoch.
    pub cursor: (StoreId, Epoch),
    /// Rows above this sequence number.
    pub above: Seq,
    /// Rows up to this one.
    pub up_to: Seq,
    /// Where to go on, as the page before said.
    pub position: Option<String>,
    /// Bodies up to this size ride along.
    pub inline_up_to: u64,
    /// Most rows.
    pub rows_max: usize,
    /// Most bytes of records and bodies.
    pub bytes_max: u64,
}

impl BackfillQuery {
    fn path(&self) -> String {
        let (store_id, epoch) = self.cursor;
        let position = self.position.as_deref().map(|at| format!("&position={}", encode_query(at)));
        format!(
            "/_internal/feed?order=version&store_id={store_id}&epoch={epoch}&after={}&up_to={}&max_rows={}&max_bytes={}\
             &inline_up_to={}{}",
            self.above,
            self.up_to,
            self.rows_max,
            self.bytes_max,
            self.inline_up_to,
            position.unwrap_or_default(),
        )
    }
}

/// Asks peers; cheap to clone.
#[derive(Debug, Clone)]
pub struct PeerClient {
    transport: Arc<dyn PeerTransport>,
    store: StoreHandle,
    tenant_id: Arc<str>,
}

impl PeerClient {
    /// A client of the node with this store and tenant.
    pub fn new(transport: Arc<dyn PeerTransport>, store: StoreHandle, tenant_id: &str) -> Self {
        Self { transport, store, tenant_id: tenant_id.into() }
    }

    /// The tenant whose ids this node computes.
    pub fn tenant_id(&self) -> &str {
        &self.tenant_id
    }

    /// Who the peer is and how it does.
    pub async fn status(&self, peer: &str) -> Result<StatusReply, PeerError> {
        let path = "/_internal/status";
        let response = self.send(Method::GET, peer, path, STATUS_HEAD_TIMEOUT).await?;
        let body = whole_body(ok(response, peer, path).await?, peer, path).await?;
        serde_json::from_slice(&body).map_err(|error| malformed(peer, path, error))
    }

    /// A page of its deleted namespaces.
    pub async fn tombstones(
        &self,
        peer: &str,
        after: Option<&str>,
        rows: usize,
    ) -> Result<TombstoneListing, PeerError> {
        let path = format!("/_internal/bootstrap/namespace_tombstones?limit={rows}{}", after_query(after));
        let body = self.get(peer, &path).await?;
        read_tombstone_page(&body).map_err(|error| malformed(peer, &path, error))
    }

    /// A page of its manifests in id order, of one prefix or all.
    pub async fn manifests(
        &self,
        peer: &str,
        after: Option<&str>,
        prefix: &str,
        rows: usize,
    ) -> Result<ManifestListing, PeerError> {
        let prefix = if prefix.is_empty() { String::new() } else { format!("&prefix={prefix}") };
        let path = format!("/_internal/bootstrap/manifests?limit={rows}{}{prefix}", after_query(after));
        let body = self.get(peer, &path).await?;
        read_manifest_page(&body, &self.tenant_id).map_err(|error| malformed(peer, &path, error))
    }

    /// Its digest, or `None` if it is too old to have one or cut it otherwise than asked.
    pub async fn digest(&self, peer: &str) -> Result<Option<DigestReply>, PeerError> {
        let path = format!("/_internal/bootstrap/digest?prefix_len={DIGEST_PREFIX_LEN}");
        let response = self.send(Method::GET, peer, &path, NO_PROGRESS_TIMEOUT).await?;
        if response.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let body = whole_body(ok(response, peer, &path).await?, peer, &path).await?;
        let reply: DigestReply = serde_json::from_slice(&body).map_err(|error| malformed(peer, &path, error))?;
        Ok(Some(reply).filter(|reply| reply.prefix_len == DIGEST_PREFIX_LEN))
    }

    /// What it holds in all, and the head at which it does.
    pub async fn set_digest(&self, peer: &str) -> Result<SetDigestReply, PeerError> {
        let path = "/_internal/digest?prefix_len=0";
        let body = self.get(peer, path).await?;
        let reply: SetDigestReply = serde_json::from_slice(&body).map_err(|error| malformed(peer, path, error))?;
        if reply.prefix_len == 0 { Ok(reply) } else { Err(malformed(peer, path, "another length of prefixes")) }
    }

    /// A page of its feed.
    pub async fn feed(&self, peer: &str, query: &FeedQuery) -> Result<FeedPageFrames, PeerError> {
        self.feed_page(peer, &query.path(), query.wait).await
    }

    /// A page of its versions.
    pub async fn backfill(&self, peer: &str, query: &BackfillQuery) -> Result<FeedPageFrames, PeerError> {
        let path = query.path();
        let page = self.feed_page(peer, &path, Duration::ZERO).await?;
        match page.header.order {
            FeedOrder::Version => Ok(page),
            FeedOrder::Seq => Err(malformed(peer, &path, "the page is not in the order of versions")),
        }
    }

    async fn feed_page(&self, peer: &str, path: &str, wait: Duration) -> Result<FeedPageFrames, PeerError> {
        let response = self.send(Method::GET, peer, path, NO_PROGRESS_TIMEOUT.saturating_add(wait)).await?;
        if response.status == StatusCode::CONFLICT {
            return Err(PeerError::CursorVoid { peer: peer.to_owned() });
        }
        let body = whole_body(ok(response, peer, path).await?, peer, path).await?;
        decode_page(body).map_err(|error: FrameError| malformed(peer, path, error))
    }

    /// An artifact's body, unread, whatever the status.
    pub async fn artifact(&self, peer: &str, id: &ArtifactId) -> Result<PeerResponse, PeerError> {
        self.artifact_by(Method::GET, peer, id).await
    }

    /// As [`Self::artifact`], by GET or by HEAD.
    pub async fn artifact_by(&self, method: Method, peer: &str, id: &ArtifactId) -> Result<PeerResponse, PeerError> {
        let path = format!("/_internal/bootstrap/artifacts/{id}");
        self.send(method, peer, &path, NO_PROGRESS_TIMEOUT).await
    }

    /// Many bodies at once, to be read item by item.
    pub async fn bulk(&self, peer: &str, items: Vec<BulkItem>) -> Result<BulkStream, PeerError> {
        // Ids and numbers always serialize.
        let body = serde_json::to_vec(&BulkRequest { items }).unwrap_or_default();
        let request = self.request(Method::POST, peer, BULK_PATH, NO_PROGRESS_TIMEOUT);
        let headers = with_content_type(request.headers, "application/json");
        let response = self.transport.send(PeerRequest { headers, body: body.into(), ..request }).await?;
        let response = ok(response, peer, BULK_PATH).await?;
        Ok(BulkStream { peer: peer.to_owned(), body: response.body, decoder: BulkDecoder::new() })
    }

    /// A body with this digest from an offset on, unread, whatever the status: 412 if the peer has another version.
    pub async fn artifact_from(
        &self,
        peer: &str,
        id: &ArtifactId,
        digest: &Digest,
        offset: u64,
    ) -> Result<PeerResponse, PeerError> {
        let path = format!("/_internal/bootstrap/artifacts/{id}");
        let mut request = self.request(Method::GET, peer, &path, NO_PROGRESS_TIMEOUT);
        let mut asked = vec![(IF_MATCH, format!("\"{digest}\""))];
        if offset > 0 {
            asked.push((RANGE, format!("bytes={offset}-")));
        }
        for (name, value) in asked {
            if let Ok(value) = HeaderValue::from_str(&value) {
                request.headers.insert(name, value);
            }
        }
        Ok(self.transport.send(request).await?)
    }

    /// Has a holder look at its copy, of which one byte comes back if it is good.
    pub async fn verify_artifact(&self, peer: &str, id: &ArtifactId) -> Result<PeerResponse, PeerError> {
        let path = format!("/_internal/bootstrap/artifacts/{id}");
        let mut request = self.request(Method::GET, peer, &path, NO_PROGRESS_TIMEOUT);
        request.headers.insert(RANGE, HeaderValue::from_static("bytes=0-0"));
        request.headers.insert(VERIFY_HEADER, HeaderValue::from_static("1"));
        Ok(self.transport.send(request).await?)
    }

    /// Tells a seed-era peer that a namespace was deleted.
    pub async fn delete_namespace(&self, peer: &str, namespace: &str, version_ms: u64) -> Result<(), PeerError> {
        let namespace = encode_query(namespace);
        let path = format!("/_internal/replicate/namespace?namespace_id={namespace}&version_ms={version_ms}");
        let response = self.send(Method::DELETE, peer, &path, NO_PROGRESS_TIMEOUT).await?;
        if response.status.is_success() { Ok(()) } else { Err(refusal(response, peer, &path).await) }
    }

    /// A JSON answer.
    pub(super) async fn get_json<T: serde::de::DeserializeOwned>(
        &self,
        peer: &str,
        path: &str,
    ) -> Result<T, PeerError> {
        let body = self.get(peer, path).await?;
        serde_json::from_slice(&body).map_err(|error| malformed(peer, path, error))
    }

    async fn get(&self, peer: &str, path: &str) -> Result<Bytes, PeerError> {
        let response = self.send(Method::GET, peer, path, NO_PROGRESS_TIMEOUT).await?;
        whole_body(ok(response, peer, path).await?, peer, path).await
    }

    async fn send(
        &self,
        method: Method,
        peer: &str,
        path: &str,
        head_timeout: Duration,
    ) -> Result<PeerResponse, PeerError> {
        Ok(self.transport.send(self.request(method, peer, path, head_timeout)).await?)
    }

    fn request(&self, method: Method, peer: &str, path: &str, head_timeout: Duration) -> PeerRequest {
        let mut headers = HeaderMap::new();
        let store_id = self.store.current().map(|store| store.stats().store_id);
        if let Some(value) = store_id.and_then(|id| HeaderValue::from_str(&id.to_string()).ok()) {
            headers.insert(STORE_ID_HEADER, value);
        }
        let (peer, path_and_query) = (peer.to_owned(), path.to_owned());
        PeerRequest { method, peer, path_and_query, headers, body: Bytes::new(), head_timeout }
    }
}

/// The items of a bulk answer, one after another.
pub struct BulkStream {
    peer: String,
    body: BoxStream<'static, Result<Bytes, TransportError>>,
    decoder: BulkDecoder,
}

impl std::fmt::Debug for BulkStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BulkStream").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl BulkStream {
    /// The next item, its frame checked; `None` behind the end frame. After an error nothing more comes.
    /// `arrived` is told of each chunk.
    pub async fn next(&mut self, arrived: &(dyn Fn(u64) + Send + Sync)) -> Result<Option<BulkAnswer>, PeerError> {
        loop {
            match self.decoder.next_item() {
                Ok(Some(item)) => return Ok(Some(item)),
                Ok(None) if self.decoder.is_ended() => {
                    // Only a body that was read to its end leaves a connection that can be used again.
                    let _ = tokio::time::timeout(LAST_CHUNK_WAIT, self.body.next()).await;
                    return Ok(None);
                }
                Ok(None) => {}
                Err(error) => return Err(malformed(&self.peer, BULK_PATH, error)),
            }
            match self.body.next().await {
                Some(chunk) => {
                    let chunk = chunk?;
                    arrived(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
                    self.decoder.push(&chunk);
                }
                None => return Err(malformed(&self.peer, BULK_PATH, BulkError::Cut)),
            }
        }
    }
}

fn with_content_type(mut headers: HeaderMap, content_type: &'static str) -> HeaderMap {
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers
}

fn after_query(after: Option<&str>) -> String {
    after.map_or_else(String::new, |after| format!("&after={}", encode_query(after)))
}

fn malformed(peer: &str, path: &str, error: impl std::fmt::Display) -> PeerError {
    PeerError::Malformed { peer: peer.to_owned(), path: path_only(path), reason: error.to_string() }
}

fn path_only(path: &str) -> String {
    path.split('?').next().unwrap_or(path).to_owned()
}

async fn ok(response: PeerResponse, peer: &str, path: &str) -> Result<PeerResponse, PeerError> {
    if response.status == StatusCode::OK { Ok(response) } else { Err(refusal(response, peer, path).await) }
}

/// What a peer that refused said, as far as it said something.
pub async fn refusal(response: PeerResponse, peer: &str, path: &str) -> PeerError {
    let status = response.status;
    let seconds = retry_after_header(&response.headers);
    let text = bounded_body(response, peer, path, ERROR_BYTES_MAX).await.unwrap_or_default();
    let said = serde_json::from_slice::<PeerErrorBody>(&text).ok();
    let exact = said.as_ref().and_then(|said| said.retry_after_ms).map(Duration::from_millis);
    let message = said.map_or_else(|| String::from_utf8_lossy(&text).chars().take(200).collect(), |said| said.message);
    let retry_after = exact.or(seconds);
    PeerError::Status { peer: peer.to_owned(), path: path_only(path), status, message, retry_after }
}

/// `Retry-After` in seconds; its form as a date is not used between peers.
fn retry_after_header(headers: &HeaderMap) -> Option<Duration> {
    headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// The body as it was sent: what came with a digest has it.
async fn whole_body(response: PeerResponse, peer: &str, path: &str) -> Result<Bytes, PeerError> {
    let digest = response.headers.get(PAGE_DIGEST_HEADER).cloned();
    let body = bounded_body(response, peer, path, PEER_PAGE_BYTES_MAX).await?;
    match digest {
        Some(digest) if digest.as_bytes() != Digest::of(&body).to_string().as_bytes() => {
            Err(malformed(peer, path, "it does not match its digest"))
        }
        _ => Ok(body),
    }
}

async fn bounded_body(response: PeerResponse, peer: &str, path: &str, limit: u64) -> Result<Bytes, PeerError> {
    let too_large = || PeerError::TooLarge { peer: peer.to_owned(), path: path_only(path), limit };
    if content_length(&response.headers).is_some_and(|announced| announced > limit) {
        return Err(too_large());
    }
    let announced = content_length(&response.headers).and_then(|announced| usize::try_from(announced).ok());
    let mut bytes = BytesMut::with_capacity(announced.unwrap_or(0));
    let mut body = response.body;
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        if u64::try_from(bytes.len().saturating_add(chunk.len())).unwrap_or(u64::MAX) > limit {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

/// The announced length of a body.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::core::base::executor::InlineExecutor;

    /// A peer with one page of tombstones, under whatever digest.
    #[derive(Debug)]
    struct OnePage(Option<String>);

    const PAGE: &[u8] = br#"{"tombstones": [{"namespace_id": "ios", "version_ms": 17}], "next_after": null}"#;

    impl PeerTransport for OnePage {
        fn send(&self, _: PeerRequest) -> BoxFuture<'static, Result<PeerResponse, TransportError>> {
            let mut headers = HeaderMap::new();
            if let Some(digest) = &self.0 {
                headers.insert(PAGE_DIGEST_HEADER, HeaderValue::from_str(digest).unwrap());
            }
            let body = futures_util::stream::iter([Ok(Bytes::from_static(PAGE))]).boxed();
            std::future::ready(Ok(PeerResponse { status: StatusCode::OK, headers, body })).boxed()
        }
    }

    fn tombstones(digest: Option<String>) -> Result<TombstoneListing, PeerError> {
        let client = PeerClient::new(Arc::new(OnePage(digest)), StoreHandle::new(Arc::new(InlineExecutor)), "default");
        client.tombstones("http://peer", None, LISTING_ROWS).now_or_never().unwrap()
    }

    #[test]
    fn a_listing_that_changed_on_the_way_is_not_read() {
        for digest in [None, Some(Digest::of(PAGE).to_string())] {
            assert_eq!(tombstones(digest).unwrap().tombstones.len(), 1);
        }
        let changed = tombstones(Some(Digest::of(b"another page").to_string()));
        assert!(matches!(changed, Err(PeerError::Malformed { .. })), "{changed:?}");
    }
}
