//! The transport over sockets.
//!
//! How it works: one pooled client for all peers, HTTP/1.1, straight to the peer: no proxy, no redirect, no
//! decompression. Connecting is bounded by `PEER_CONNECT_TIMEOUT`, the head by the request's own bound, and the body by
//! `NO_PROGRESS_TIMEOUT` for each piece.
//!
//! Failure: what the library says is kept as text; where it happened is told by [`TransportPhase`].

use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt};

use bytes::Bytes;

use super::transport::{PeerRequest, PeerResponse, PeerTransport, TransportError, TransportPhase};
use crate::core::base::limits::{NO_PROGRESS_TIMEOUT, PEER_CONNECT_TIMEOUT};

/// Idle connections kept for each peer: what one pass fetches at the same time, and the long poll.
const IDLE_CONNECTIONS_PER_PEER_MAX: usize = 20;

/// Idle connections are closed before the other side does so at an awkward moment.
const IDLE_CONNECTION_AGE_MAX: Duration = Duration::from_secs(20);

/// The transport over sockets; cheap to clone.
#[derive(Debug, Clone)]
pub struct HttpTransport {
    /// Making a client reads the system's settings; if that failed, every exchange says so.
    client: Result<reqwest::Client, TransportError>,
    no_progress: Duration,
}

impl Default for HttpTransport {
    fn default() -> Self {
        Self::with_no_progress_timeout(NO_PROGRESS_TIMEOUT)
    }
}

impl HttpTransport {
    /// With another bound for silence inside a body than the house's.
    pub fn with_no_progress_timeout(no_progress: Duration) -> Self {
        let built = reqwest::Client::builder()
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(PEER_CONNECT_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_PER_PEER_MAX)
            .pool_idle_timeout(IDLE_CONNECTION_AGE_MAX)
            .tcp_nodelay(true)
            .build();
        let client = built.map_err(|error| transport_error("", &error, TransportPhase::Connect, 0));
        Self { client, no_progress }
    }
}

impl PeerTransport for HttpTransport {
    fn send(&self, request: PeerRequest) -> BoxFuture<'static, Result<PeerResponse, TransportError>> {
        Box::pin(exchange(self.client.clone(), request, self.no_progress))
    }
}

async fn exchange(
    client: Result<reqwest::Client, TransportError>,
    request: PeerRequest,
    no_progress: Duration,
) -> Result<PeerResponse, TransportError> {
    let client = client?;
    let PeerRequest { method, peer, path_and_query, headers, body, head_timeout } = request;
    let mut sent = client.request(method, format!("{peer}{path_and_query}")).headers(headers);
    if !body.is_empty() {
        sent = sent.body(body);
    }
    let answered = tokio::time::timeout(head_timeout, sent.send()).await;
    let response = answered
        .map_err(|_| silence(&peer, TransportPhase::Response, head_timeout, 0))?
        .map_err(|error| transport_error(&peer, &error, phase_of(&error), 0))?;
    let (status, headers) = (response.status(), response.headers().clone());
    let body = response.bytes_stream().boxed();
    Ok(PeerResponse { status, headers, body: with_progress(body, peer, no_progress) })
}

/// Ends a body with an error when it fails or brings nothing for too long.
fn with_progress(
    body: BoxStream<'static, reqwest::Result<Bytes>>,
    peer: String,
    no_progress: Duration,
) -> BoxStream<'static, Result<Bytes, TransportError>> {
    let start = (body, 0_u64, false);
    let stream = futures_util::stream::unfold(start, move |(mut body, received, ended)| {
        let peer = peer.clone();
        async move {
            if ended {
                return None;
            }
            let item = match tokio::time::timeout(no_progress, body.next()).await {
                Err(_) => Err(silence(&peer, TransportPhase::Body, no_progress, received)),
                Ok(None) => return None,
                Ok(Some(Err(error))) => Err(transport_error(&peer, &error, TransportPhase::Body, received)),
                Ok(Some(Ok(chunk))) => Ok(chunk),
            };
            let length = item.as_ref().map_or(0, |chunk| u64::try_from(chunk.len()).unwrap_or(u64::MAX));
            let ended = item.is_err();
            Some((item, (body, received.saturating_add(length), ended)))
        }
    });
    stream.boxed()
}

fn silence(peer: &str, phase: TransportPhase, waited: Duration, received_bytes: u64) -> TransportError {
    let message = format!("nothing arrived for {} s", waited.as_secs_f32());
    TransportError { peer: peer.to_owned(), phase, message, received_bytes }
}

fn phase_of(error: &reqwest::Error) -> TransportPhase {
    if error.is_dns() {
        TransportPhase::Dns
    } else if error.is_connect() {
        TransportPhase::Connect
    } else {
        TransportPhase::Response
    }
}

/// The innermost cause says the most ("connection refused"), the outer ones only repeat the URL.
fn transport_error(peer: &str, error: &reqwest::Error, phase: TransportPhase, received_bytes: u64) -> TransportError {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    TransportError { peer: peer.to_owned(), phase, message: cause.to_string(), received_bytes }
}
