//! The transport seam: one HTTP exchange with a peer, its body streamed, over sockets or in memory.
//!
//! Invariants: there is no total timeout; connecting is bounded by `PEER_CONNECT_TIMEOUT`, and a response (head and
//! body alike) that brings no byte for `NO_PROGRESS_TIMEOUT` is an error.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use http::{HeaderMap, Method, StatusCode};

/// Where in an exchange something went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TransportPhase {
    /// The host name.
    Dns,
    /// The connection.
    Connect,
    /// TLS.
    Tls,
    /// Waiting for the response's head.
    Response,
    /// Within the response's body.
    Body,
}

/// An exchange that did not end well on the transport level. A status code of any kind is not one.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{phase:?} error with {peer}: {message}")]
pub struct TransportError {
    /// The peer's base URL.
    pub peer: String,
    /// Where it went wrong.
    pub phase: TransportPhase,
    /// What went wrong.
    pub message: String,
    /// Bytes of the body that had arrived.
    pub received_bytes: u64,
}

/// A request to a peer.
#[derive(Debug)]
pub struct PeerRequest {
    /// The method.
    pub method: Method,
    /// The peer's base URL, without a trailing slash.
    pub peer: String,
    /// Path and query, starting with a slash, already percent-encoded.
    pub path_and_query: String,
    /// Extra headers.
    pub headers: HeaderMap,
    /// The body; internal requests have small ones.
    pub body: Bytes,
    /// How long the head may take; longer than the default for long polls.
    pub head_timeout: std::time::Duration,
}

/// A peer's answer.
pub struct PeerResponse {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body. Ends with an error if it is cut short of `Content-Length` or stalls.
    pub body: BoxStream<'static, Result<Bytes, TransportError>>,
}

impl std::fmt::Debug for PeerResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerResponse").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Carries requests to peers.
pub trait PeerTransport: Send + Sync + std::fmt::Debug {
    /// One exchange. Dropping the future or the body ends it.
    fn send(&self, request: PeerRequest) -> BoxFuture<'static, Result<PeerResponse, TransportError>>;
}

#[cfg(test)]
#[path = "transport_tests.rs"]
mod tests;
