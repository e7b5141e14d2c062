//! Bodies on their way out: in bounded chunks, verified on their first read, never ended cleanly when they are wrong.
//!
//! How it works: see [`crate::core::server::file_reader`]. A range of a file that was not verified yet costs reading all
//! of it, once, and once more when a peer doubts it.
//!
//! Failure: what the reader finds ends the stream with an error, so HTTP/1.1 closes short of `Content-Length` and HTTP/2
//! resets the stream.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::{self, BoxStream, StreamExt};
use http_body::{Body, Frame, SizeHint};

use crate::core::bootstrap::read_through::ThroughError;
use crate::core::server::file_reader::{BodyError, FileReader, ReadContext};
use crate::core::server::metrics::{EgressResult, Producer};
use crate::core::server::node::NodeContext;
use crate::core::store::FileBody;
use crate::core::store::record::Record;

/// The pieces of a body that a peer is sending.
pub type PeerChunks = BoxStream<'static, Result<Bytes, ThroughError>>;

/// A response body of known length that counts how its sending ended.
pub struct ArtifactBody {
    chunks: BoxStream<'static, Result<Bytes, BodyError>>,
    length: u64,
    sent: u64,
    failed: bool,
    producer: Producer,
    began: Duration,
    node: Arc<NodeContext>,
}

impl std::fmt::Debug for ArtifactBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArtifactBody").field("length", &self.length).field("sent", &self.sent).finish_non_exhaustive()
    }
}

impl ArtifactBody {
    /// A body that is in memory already.
    pub fn inline(node: &Arc<NodeContext>, producer: Producer, bytes: Bytes) -> Self {
        let length = bytes.len() as u64;
        Self::new(node, producer, length, stream::once(std::future::ready(Ok(bytes))))
    }

    /// A body that a peer is sending.
    pub fn from_peer(node: &Arc<NodeContext>, producer: Producer, length: u64, chunks: PeerChunks) -> Self {
        Self::new(node, producer, length, chunks.map(|chunk| Ok(chunk?)))
    }

    /// A part of a body file.
    pub fn file(
        node: &Arc<NodeContext>,
        producer: Producer,
        record: Box<Record>,
        body: FileBody,
        range: Range<u64>,
    ) -> Self {
        let length = range.end.saturating_sub(range.start);
        let context = ReadContext { executor: Arc::clone(&node.seams.executor), store: node.store.clone() };
        let chunks = FileReader::new(context, record, body, range).into_stream();
        Self::new(node, producer, length, chunks)
    }

    fn new(
        node: &Arc<NodeContext>,
        producer: Producer,
        length: u64,
        chunks: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static,
    ) -> Self {
        let began = node.seams.clock.monotonic();
        Self { chunks: chunks.boxed(), length, sent: 0, failed: false, producer, began, node: Arc::clone(node) }
    }
}

impl Body for ArtifactBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let next = std::task::ready!(self.chunks.as_mut().poll_next(cx));
        Poll::Ready(match next {
            Some(Ok(chunk)) => {
                self.sent = self.sent.saturating_add(chunk.len() as u64);
                Some(Ok(Frame::data(chunk)))
            }
            Some(Err(error)) => {
                self.failed = true;
                tracing::warn!(%error, sent = self.sent, length = self.length, "body_reset");
                Some(Err(error))
            }
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.sent >= self.length
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length.saturating_sub(self.sent))
    }
}

impl Drop for ArtifactBody {
    fn drop(&mut self) {
        let result = if self.failed {
            EgressResult::Error
        } else if self.sent >= self.length {
            EgressResult::Ok
        } else {
            EgressResult::Aborted
        };
        let took = self.node.seams.clock.monotonic().saturating_sub(self.began);
        self.node.server_metrics.egress(self.producer, result, self.sent, took);
    }
}
