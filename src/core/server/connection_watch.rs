//! What is known of a connection beside its codec, and the end of HTTP/2 streams that stand still.
//!
//! How it works: HTTP/2 gives each stream a window of its own. A client that keeps one closed takes no byte of that
//! answer, while the connection looks alive: the codec has nothing to write, and pings are answered. So each stream's
//! task runs beside a watch ([`WatchingExecutor`]), which the body of its answer tells when a piece was handed out and
//! when the next one is asked for ([`WatchedBody`]). A piece that is not followed by the next question in time ends the
//! task, which resets the stream and frees what its answer holds. The other streams go on.
//!
//! Invariants: only waiting for the client counts, never waiting for the store or a peer. There is no limit on how long
//! a transfer takes. HTTP/1.1 has no windows; there the stream's own watch on writes is enough.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::rt::Executor;
use tokio::time::{Instant, sleep_until};

tokio::task_local! {
    /// The watch of the HTTP/2 stream whose task this is.
    static STREAM: Arc<StreamWatch>;
}

/// Bytes in an idle interval that are no transfer: pings and their answers are a fraction of this.
const IDLE_BYTES_MAX: u64 = 1 << 10;

/// What a connection's parts tell one another; all of it may be read at any time.
#[derive(Debug, Default)]
pub(super) struct ConnectionWatch {
    is_http2: AtomicBool,
    written_bytes: AtomicU64,
    streams: AtomicUsize,
    streams_begun: AtomicU64,
}

/// A look at a connection, to hold the next one against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Look {
    written_bytes: u64,
    streams_begun: u64,
}

impl ConnectionWatch {
    /// The protocol turned out to be HTTP/2.
    pub(super) fn note_http2(&self) {
        self.is_http2.store(true, Ordering::Relaxed);
    }

    /// Whether HTTP/2 is spoken; false until that is known.
    pub(super) fn is_http2(&self) -> bool {
        self.is_http2.load(Ordering::Relaxed)
    }

    /// The other side took bytes.
    pub(super) fn note_written(&self, bytes: usize) {
        self.written_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// What there is to see now.
    pub(super) fn look(&self) -> Look {
        Look {
            written_bytes: self.written_bytes.load(Ordering::Relaxed),
            streams_begun: self.streams_begun.load(Ordering::Relaxed),
        }
    }

    /// Whether an HTTP/2 connection did nothing but keep itself alive since that look. What the codec still holds of an
    /// answered stream, and the client takes nothing of, is no work.
    pub(super) fn is_idle_since(&self, before: Look) -> bool {
        let now = self.look();
        let written = now.written_bytes.saturating_sub(before.written_bytes);
        let begun = now.streams_begun != before.streams_begun;
        self.is_http2() && !begun && self.streams.load(Ordering::Relaxed) == 0 && written < IDLE_BYTES_MAX
    }
}

/// Since when a stream's answer waits for its client.
#[derive(Debug, Default)]
struct StreamWatch {
    waiting_since: Mutex<Option<Instant>>,
}

impl StreamWatch {
    fn set(&self, since: Option<Instant>) {
        *self.waiting_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// Resolves once the client was waited for that long at a stretch.
    async fn stalled(&self, patience: Duration) {
        loop {
            let since = *self.waiting_since.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            if since.is_some_and(|since| now.saturating_duration_since(since) >= patience) {
                return;
            }
            sleep_until(since.unwrap_or(now) + patience).await;
        }
    }
}

/// Runs the streams of one HTTP/2 connection, each under its watch.
#[derive(Debug, Clone)]
pub(super) struct WatchingExecutor {
    /// How long a client may take no byte of an answer.
    pub(super) patience: Duration,
    /// Whose streams they are.
    pub(super) connection: Arc<ConnectionWatch>,
}

impl<F> Executor<F> for WatchingExecutor
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let (patience, running) = (self.patience, Running::enter(&self.connection));
        let watch = Arc::new(StreamWatch::default());
        let watched = Arc::clone(&watch);
        tokio::spawn(STREAM.scope(watch, async move {
            let _running = running;
            tokio::select! {
                biased;
                _ = stream => {}
                () = watched.stalled(patience) => tracing::warn!(patience_s = patience.as_secs(), "stream_stands_still"),
            }
        }));
    }
}

/// One stream in its connection's count.
struct Running(Arc<ConnectionWatch>);

impl Running {
    fn enter(connection: &Arc<ConnectionWatch>) -> Self {
        connection.streams.fetch_add(1, Ordering::Relaxed);
        connection.streams_begun.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connection))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A response body that tells its stream's watch what it waits for.
pub(super) struct WatchedBody {
    inner: Body,
    watch: Option<Arc<StreamWatch>>,
}

impl WatchedBody {
    /// Call within the stream's task; elsewhere nothing is watched.
    pub(super) fn new(inner: Body) -> Self {
        let body = Self { inner, watch: STREAM.try_with(Arc::clone).ok() };
        // The codec asks for the first piece only once the client has room for it.
        body.tell(Some(Instant::now()));
        body
    }

    fn tell(&self, waiting_since: Option<Instant>) {
        if let Some(watch) = &self.watch {
            watch.set(waiting_since);
        }
    }
}

impl http_body::Body for WatchedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        let handed_out = matches!(polled, Poll::Ready(Some(Ok(_))));
        self.tell(handed_out.then(Instant::now));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for WatchedBody {
    fn drop(&mut self) {
        self.tell(None);
    }
}
