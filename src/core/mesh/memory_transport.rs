//! The transport without sockets: each node's router is called directly, through links that can be made to fail.
//!
//! How it works: nodes attach their router under their base URL. A rule sees each request and may answer with a
//! [`LinkFault`], by which the link refuses, delays, cuts, corrupts or stalls. A node that is taken away or replaced
//! resets the exchanges under way with it, as a killed process does.
//!
//! Invariant: what a caller sees is what sockets would show it: a body shorter than its `Content-Length` ends with an
//! error, and silence ends after the same bounds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::transport::{PeerRequest, PeerResponse, PeerTransport, TransportError, TransportPhase};
use crate::core::base::limits::NO_PROGRESS_TIMEOUT;

/// What a link does to one exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkFault {
    /// The connection is refused.
    Refuse,
    /// The answer comes later.
    Delay(Duration),
    /// The answer never comes.
    StallHead,
    /// The peer is not asked; this status comes back with an empty body.
    Status(http::StatusCode),
    /// The body ends with an error after this many bytes.
    CutBodyAfter(u64),
    /// The body stops after this many bytes, without an end.
    StallBodyAfter(u64),
    /// The byte at this offset of the body arrives changed.
    CorruptByteAt(u64),
    /// The byte at this offset arrives changed, and the body ends with an error after so many bytes.
    CorruptAndCut(u64, u64),
    /// Each piece of the body comes after this pause.
    SlowBody(Duration),
}

/// Decides what happens to a request, by its sender's and receiver's place in the network.
pub type LinkRule = Arc<dyn Fn(&PeerRequest) -> Option<LinkFault> + Send + Sync>;

/// A node at its URL.
#[derive(Clone)]
struct Attached {
    router: Router,
    /// Cancelled once it is taken away.
    gone: CancellationToken,
}

/// Nodes and the links between them; cheap to clone. Each clone may carry a rule of its own on top of the shared one.
#[derive(Clone, Default)]
pub struct MemoryTransport {
    nodes: Arc<Mutex<HashMap<String, Attached>>>,
    rule: Arc<Mutex<Option<LinkRule>>>,
}

impl std::fmt::Debug for MemoryTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryTransport").finish_non_exhaustive()
    }
}

impl MemoryTransport {
    /// A network without nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a node at a base URL, or (with `None`) takes it away: its connections are then refused.
    pub fn attach(&self, url: &str, router: Option<Router>) {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let attached = router.map(|router| Attached { router, gone: CancellationToken::new() });
        let former = match attached {
            Some(attached) => nodes.insert(url.to_owned(), attached),
            None => nodes.remove(url),
        };
        if let Some(former) = former {
            former.gone.cancel();
        }
    }

    /// The same nodes behind links of their own, for instance those of one sender.
    #[must_use]
    pub fn with_own_links(&self) -> Self {
        Self { nodes: Arc::clone(&self.nodes), rule: Arc::default() }
    }

    /// Sets or clears the rule of these links.
    pub fn set_rule(&self, rule: Option<LinkRule>) {
        *self.rule.lock().unwrap_or_else(PoisonError::into_inner) = rule;
    }

    fn fault(&self, request: &PeerRequest) -> Option<LinkFault> {
        let rule = self.rule.lock().unwrap_or_else(PoisonError::into_inner).clone();
        rule.and_then(|rule| rule(request))
    }

    fn node(&self, url: &str) -> Option<Attached> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).get(url).cloned()
    }
}

impl PeerTransport for MemoryTransport {
    fn send(&self, request: PeerRequest) -> BoxFuture<'static, Result<PeerResponse, TransportError>> {
        let (fault, node) = (self.fault(&request), self.node(&request.peer));
        Box::pin(exchange(request, fault, node))
    }
}

async fn exchange(
    request: PeerRequest,
    fault: Option<LinkFault>,
    node: Option<Attached>,
) -> Result<PeerResponse, TransportError> {
    let peer = request.peer.clone();
    let head_timeout = request.head_timeout;
    let late = || transport_error(&peer, TransportPhase::Response, "nothing arrived", 0);
    match &fault {
        Some(LinkFault::Refuse) => {
            return Err(transport_error(&peer, TransportPhase::Connect, "connection refused", 0));
        }
        Some(LinkFault::Status(status)) => return Ok(bare_response(*status)),
        Some(LinkFault::Delay(time)) if *time >= head_timeout => {
            tokio::time::sleep(head_timeout).await;
            return Err(late());
        }
        Some(LinkFault::Delay(time)) => tokio::time::sleep(*time).await,
        Some(LinkFault::StallHead) => {
            tokio::time::sleep(head_timeout).await;
            return Err(late());
        }
        _ => {}
    }
    let node = node.ok_or_else(|| transport_error(&peer, TransportPhase::Connect, "connection refused", 0))?;
    let Attached { router, gone } = node;
    let asked = router.oneshot(http_request(request)?);
    let response = tokio::select! {
        biased;
        () = gone.cancelled() => return Err(transport_error(&peer, TransportPhase::Response, "connection reset", 0)),
        response = tokio::time::timeout(head_timeout, asked) => response.map_err(|_| late())?,
    };
    let response = response.unwrap_or_else(|never| match never {});
    let (parts, body) = response.into_parts();
    let announced = announced_length(&parts.headers);
    let start = Receiving { body: body.into_data_stream(), announced, fault, peer, gone, received: 0, ended: false };
    let body = receive(start);
    Ok(PeerResponse { status: parts.status, headers: parts.headers, body })
}

fn http_request(request: PeerRequest) -> Result<http::Request<Body>, TransportError> {
    let mut built = http::Request::builder().method(request.method).uri(&request.path_and_query);
    if let Some(headers) = built.headers_mut() {
        *headers = request.headers;
    }
    built
        .body(Body::from(request.body))
        .map_err(|error| transport_error(&request.peer, TransportPhase::Connect, &error.to_string(), 0))
}

fn bare_response(status: http::StatusCode) -> PeerResponse {
    PeerResponse { status, headers: http::HeaderMap::new(), body: futures_util::stream::empty().boxed() }
}

fn announced_length(headers: &http::HeaderMap) -> Option<u64> {
    headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// What is left to do with a body that is being received.
struct Receiving {
    body: axum::body::BodyDataStream,
    announced: Option<u64>,
    fault: Option<LinkFault>,
    peer: String,
    gone: CancellationToken,
    received: u64,
    ended: bool,
}

fn receive(start: Receiving) -> BoxStream<'static, Result<Bytes, TransportError>> {
    futures_util::stream::unfold(start, |mut state| async move {
        let item = state.next().await?;
        state.ended = item.is_err();
        Some((item, state))
    })
    .boxed()
}

impl Receiving {
    async fn next(&mut self) -> Option<Result<Bytes, TransportError>> {
        if self.ended {
            return None;
        }
        let allowed = match self.fault {
            Some(
                LinkFault::CutBodyAfter(bytes) | LinkFault::StallBodyAfter(bytes) | LinkFault::CorruptAndCut(_, bytes),
            ) => bytes.saturating_sub(self.received),
            _ => u64::MAX,
        };
        if allowed == 0 {
            return Some(Err(self.break_off().await));
        }
        let pause = match self.fault {
            Some(LinkFault::SlowBody(pause)) => pause,
            _ => Duration::ZERO,
        };
        let body = &mut self.body;
        let next = async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            body.next().await
        };
        let arrived = tokio::select! {
            biased;
            () = self.gone.cancelled() => return Some(Err(self.error("connection reset"))),
            arrived = tokio::time::timeout(NO_PROGRESS_TIMEOUT, next) => arrived,
        };
        match arrived {
            Err(_) => Some(Err(self.error("nothing arrived"))),
            Ok(Some(Err(error))) => Some(Err(self.error(&error.to_string()))),
            Ok(Some(Ok(chunk))) => Some(Ok(self.take(chunk, allowed))),
            Ok(None) if self.announced.is_some_and(|announced| announced > self.received) => {
                Some(Err(self.error("the connection closed before the announced length")))
            }
            Ok(None) => None,
        }
    }

    async fn break_off(&mut self) -> TransportError {
        if matches!(self.fault, Some(LinkFault::StallBodyAfter(_))) {
            tokio::time::sleep(NO_PROGRESS_TIMEOUT).await;
            return self.error("nothing arrived");
        }
        self.error("connection reset")
    }

    fn take(&mut self, chunk: Bytes, allowed: u64) -> Bytes {
        let mut chunk = chunk.slice(..chunk.len().min(usize::try_from(allowed).unwrap_or(usize::MAX)));
        if let Some(LinkFault::CorruptByteAt(offset) | LinkFault::CorruptAndCut(offset, _)) = self.fault {
            chunk = corrupt(chunk, offset.checked_sub(self.received));
        }
        self.received = self.received.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        chunk
    }

    fn error(&self, message: &str) -> TransportError {
        transport_error(&self.peer, TransportPhase::Body, message, self.received)
    }
}

/// Changes one byte, if the chunk holds it.
fn corrupt(chunk: Bytes, offset: Option<u64>) -> Bytes {
    let mut bytes = chunk.to_vec();
    let index = offset.and_then(|offset| usize::try_from(offset).ok()).unwrap_or(usize::MAX);
    match bytes.get_mut(index) {
        Some(byte) => {
            *byte ^= 0xff;
            bytes.into()
        }
        None => chunk,
    }
}

fn transport_error(peer: &str, phase: TransportPhase, message: &str, received_bytes: u64) -> TransportError {
    TransportError { peer: peer.to_owned(), phase, message: message.to_owned(), received_bytes }
}
