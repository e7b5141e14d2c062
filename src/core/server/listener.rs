//! One TCP listener: HTTP/1.1 and h2c by prior knowledge on one port, bounded, and closed in order.
//!
//! How it works: each connection is its own task. Cancelling `stop` ends accepting and asks each connection to finish
//! what it is doing; cancelling `abort` drops the rest. TLS and gRPC come in front of, and beside, the router.
//!
//! Invariants: connections, streams and windows are bounded; a connection that sends no request head in time, or takes
//! no byte of an answer in time, is closed. There is no limit on how long a transfer takes.
//!
//! Failure: an accept error (no descriptor left, say) is logged and tried again after a pause; it never ends the node.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use prometheus::IntGauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::connection_watch::{ConnectionWatch, WatchedBody, WatchingExecutor};
use super::watched_stream::{Patience, WatchedStream};
use crate::core::base::limits::NO_PROGRESS_TIMEOUT;

/// Open connections on one listener. Bazel alone opens 100; each idle one costs a few KiB and a descriptor.
const CONNECTIONS_MAX: u64 = 4096;

/// Connections when hardly any descriptor is allowed; below this a node is of no use.
const CONNECTIONS_MIN: u64 = 64;

/// A connection takes one descriptor, and a transfer another for its body: one listener may take a quarter of what the
/// process may open, so that the two listeners together leave half of it to bodies and the index.
const DESCRIPTORS_PER_CONNECTION: u64 = 4;

/// From an open or idle connection to the end of the next request head. It is also how long an idle connection stays
/// open, so it is longer than the pauses of a build tool between two tasks.
const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(120);

/// Rest after a failed accept: the usual cause, no descriptor left, passes when a connection closes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// HTTP/2 flow control and streams, as the seed era has them: one fast stream is not held back by its window.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const STREAMS_MAX: u32 = 128;
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How a listener is told to end.
#[derive(Debug, Clone, Default)]
pub struct Ending {
    /// Ask HTTP/2 clients to go elsewhere; accept and serve on.
    pub away: CancellationToken,
    /// Accept no more; finish what is under way.
    pub stop: CancellationToken,
    /// Drop what is left.
    pub abort: CancellationToken,
}

/// Serves until `stop`, and returns once every connection is gone.
pub async fn serve(listener: TcpListener, app: Router, open: IntGauge, ending: Ending) {
    let connections = TaskTracker::new();
    let permits = Arc::new(Semaphore::new(connections_max()));
    loop {
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            () = ending.stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (app, open, ending) = (app.clone(), open.clone(), ending.clone());
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "nodelay_refused");
                }
                connections.spawn(async move {
                    open.inc();
                    tokio::select! {
                        () = serve_connection(stream, app, &ending) => {}
                        () = ending.abort.cancelled() => {}
                    }
                    open.dec();
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept_failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

fn connections_max() -> usize {
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let connections = (descriptors / DESCRIPTORS_PER_CONNECTION).clamp(CONNECTIONS_MIN, CONNECTIONS_MAX);
    usize::try_from(connections).unwrap_or(usize::MAX)
}

async fn serve_connection<S>(stream: S, app: Router, ending: &Ending)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // The head timeout of the HTTP codec begins once it knows the protocol; until then the stream's own holds.
    let patience = Patience { protocol: REQUEST_HEAD_TIMEOUT, write: NO_PROGRESS_TIMEOUT };
    let watch = Arc::new(ConnectionWatch::default());
    let stream = TokioIo::new(WatchedStream::new(stream, patience, Arc::clone(&watch)));
    let builder = builder(WatchingExecutor { patience: patience.write, connection: Arc::clone(&watch) });
    let app = ServiceExt::<http::Request<Incoming>>::map_response(app, |answer: Response| answer.map(WatchedBody::new));
    let connection = builder.serve_connection(stream, TowerToHyperService::new(app));
    let mut connection = std::pin::pin!(connection);
    // A client that comes back after it was sent away has nowhere else to go.
    let mut sent_away = ending.away.is_cancelled();
    let mut stopping = false;
    let mut before = watch.look();
    let mut idle_look = tokio::time::interval_at(Instant::now() + REQUEST_HEAD_TIMEOUT, REQUEST_HEAD_TIMEOUT);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection_ended");
                }
                return;
            }
            () = ending.stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = ending.away.cancelled(), if !sent_away => {
                sent_away = true;
                // HTTP/1.1 clients are told with their next answer; closing idle ones would race with their requests.
                if watch.is_http2() {
                    connection.as_mut().graceful_shutdown();
                }
            }
            _ = idle_look.tick() => {
                if watch.is_idle_since(before) {
                    tracing::debug!("connection_idle");
                    return;
                }
                before = watch.look();
            }
        }
    }
}

fn builder(executor: WatchingExecutor) -> auto::Builder<WatchingExecutor> {
    let mut builder = auto::Builder::new(executor);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(REQUEST_HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_TIMEOUT);
    builder
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
